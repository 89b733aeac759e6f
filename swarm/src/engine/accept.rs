//! Listening for peers, and accepting their connections until nobody wants the listener any longer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::serve::Closed;

/// Why nobody is served.
#[derive(Debug, Error)]
pub enum UploaderError {
    /// The address cannot be bound.
    #[error("cannot listen for peers on {addr}: {source}; is another agent running on this node?")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A listener that serves until it is dropped.
pub(super) struct Listening {
    pub(super) addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Listening {
    /// Listens on `addr` and does with each connection what `receive` says; `None` closes it at once, for lack of room.
    pub(super) async fn start<F>(
        addr: SocketAddr,
        receive: impl Fn(TcpStream, SocketAddr) -> Option<F> + Send + 'static,
    ) -> Result<Self, UploaderError>
    where
        F: Future<Output = Result<(), Closed>> + Send + 'static,
    {
        let error = |source| UploaderError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(error)?;
        let addr = listener.local_addr().map_err(error)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, receive));
        Ok(Self {
            addr,
            _tasks: tasks,
        })
    }
}

async fn accept<F>(listener: TcpListener, receive: impl Fn(TcpStream, SocketAddr) -> Option<F>)
where
    F: Future<Output = Result<(), Closed>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only burn the processor.
                warn!(%error, "cannot accept a peer");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Some(served) = receive(stream, peer) else {
            debug!(%peer, "too many peers, closing");
            continue;
        };
        connections.spawn(async move {
            match served.await {
                Ok(()) => {}
                Err(reason @ Closed::Read(_)) => warn!(%peer, %reason, "peer connection closed"),
                Err(reason) => debug!(%peer, %reason, "peer connection closed"),
            }
        });
        // What it has said already is looked at before the next one may displace it.
        tokio::task::yield_now().await;
    }
}
