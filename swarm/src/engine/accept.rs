//! Accepting connections until nobody wants the listener any longer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::serve::Closed;

/// Does with each connection what `receive` says; `None` closes it at once, for lack of room.
pub(super) async fn accept<F>(
    listener: TcpListener,
    receive: impl Fn(TcpStream, SocketAddr) -> Option<F>,
) where
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
