//! A listener that hands out only streams of members of the cluster, encrypted.

use std::io;
use std::net::SocketAddr;

use axum::serve::Listener;
use modelcache_swarm::link::{Link, Lobby, Security};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Handshakes at once; see [`Lobby`].
const MAX_STRANGERS: usize = 256;

/// Links that wait for the server, which takes them at once.
const QUEUE: usize = 16;

/// Accepts links.
pub struct SecureListener {
    addr: SocketAddr,
    links: mpsc::Receiver<(Link<TcpStream>, SocketAddr)>,
    /// Ends the task that accepts when this is dropped.
    _accepting: JoinSet<()>,
}

impl SecureListener {
    /// Lets in those who make a link with `security`. Must be called within a tokio runtime.
    pub fn new(listener: TcpListener, security: Security) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let (ready, links) = mpsc::channel(QUEUE);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, security, ready));
        Ok(Self {
            addr,
            links,
            _accepting: accepting,
        })
    }
}

impl Listener for SecureListener {
    type Io = Link<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.links.recv().await {
            Some(link) => link,
            // The task that accepts is gone, which happens only at the end of the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.addr)
    }
}

async fn accept(
    mut listener: TcpListener,
    security: Security,
    ready: mpsc::Sender<(Link<TcpStream>, SocketAddr)>,
) {
    let strangers = Lobby::new(MAX_STRANGERS);
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        // axum's own way of accepting, which waits when the system has no more descriptors.
        let (stream, peer) = Listener::accept(&mut listener).await;
        let place = strangers.enter(peer.ip());
        let (security, ready) = (security.clone(), ready.clone());
        handshakes.spawn(async move {
            // Orders are small and urgent.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY cannot be set");
            }
            match security.receive(stream, place).await {
                Ok(link) => drop(ready.send((link, peer)).await),
                Err(error) => tracing::debug!(%peer, %error, "no link"),
            }
        });
    }
}
