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
        // What it has said already is looked at before the next one may displace it.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use modelcache_swarm::link::{LinkError, Mode};
    use modelcache_swarm::secret::{Key, KeySetter, Keyring, Keys, Purpose};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;

    use super::*;

    fn key(number: u8) -> Key {
        Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap()
    }

    fn member(ring: Keyring) -> (KeySetter, Security) {
        let (setter, keys) = Keys::set_by_hand(ring);
        let security = Security::new(keys, Purpose::Coordination, Mode::Encrypted);
        (setter, security)
    }

    /// A listener of which what it hands out is told, by the peer's address, and its setter of keys.
    async fn listener(ring: Keyring) -> (SocketAddr, KeySetter, mpsc::Receiver<SocketAddr>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (setter, security) = member(ring);
        let mut listener = SecureListener::new(socket, security).unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let (link, peer) = listener.accept().await;
                drop(link);
                tell.send(peer).await.unwrap();
            }
        });
        (address, setter, told)
    }

    async fn dial(to: SocketAddr, number: u8) -> Result<SocketAddr, LinkError> {
        let (_setter, security) = member(Keyring::new(key(number), None));
        let stream = TcpStream::connect(to).await?;
        let own = stream.local_addr()?;
        security.dial(stream).await?;
        Ok(own)
    }

    #[tokio::test]
    async fn only_members_are_handed_out() {
        let (address, _setter, mut told) = listener(Keyring::new(key(1), None)).await;
        let bittorrent = [&b"\x13BitTorrent protocol"[..], &[0; 48]].concat();
        let http = b"GET /v1/coordinate HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        for said in [bittorrent, http] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&said).await.unwrap();
            let mut heard = Vec::new();
            // A reset is an answer too.
            let _ = stream.read_to_end(&mut heard).await;
            assert!(heard.is_empty(), "{heard:?}");
        }
        let own = dial(address, 1).await.unwrap();
        assert_eq!(told.recv().await, Some(own));
    }

    #[tokio::test]
    async fn a_stolen_key_is_worth_nothing_after_the_overlap() {
        let both = Keyring::new(key(2), Some(key(1)));
        let (address, setter, mut told) = listener(both).await;
        let own = dial(address, 1).await.unwrap();
        assert_eq!(told.recv().await, Some(own));
        setter.set(Keyring::new(key(2), None));
        let refused = dial(address, 1).await;
        assert!(matches!(refused, Err(LinkError::UnknownKey)), "{refused:?}");
        let own = dial(address, 2).await.unwrap();
        assert_eq!(told.recv().await, Some(own));
    }

    #[tokio::test]
    async fn silent_connections_keep_no_member_out() {
        let (address, _setter, mut told) = listener(Keyring::new(key(1), None)).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_STRANGERS + 50 {
            let flood = TcpSocket::new_v4().unwrap();
            flood.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            silent.push(flood.connect(address).await.unwrap());
        }
        let own = dial(address, 1).await.unwrap();
        assert_eq!(told.recv().await, Some(own));
    }
}
