//! The giving side: a listener that answers members of the cluster straight from the segments on disk.
//!
//! Nothing is hashed, checked or kept in memory for a segment that nobody asks for, so a node serves thousands of segments
//! for the price of one socket. What is said on a connection is [`super::serve`]'s.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::accept::{Listening, UploaderError};
use super::back::DialBack;
use super::serve::{Closed, Connection as _, Peer, another, serve};
use super::source::{OnSent, SegmentSource};
use crate::link::{Link, Lobby, Security, Visit};

/// Connections served at once; more are closed at once.
const MAX_CONNECTIONS: usize = 512;
/// Connections at once of which nothing is known yet; see [`Lobby`].
const MAX_STRANGERS: usize = 128;
/// Connections at once that were given a segment and may ask for another; more end those that have waited longest.
const MAX_RESTING: usize = 128;
/// Bytes that are read and sent together.
const BATCH_BYTES: usize = 256 << 10;
/// The same when many are connected, so that memory stays bounded.
const SMALL_BATCH_BYTES: usize = 128 << 10;
/// Bytes of all connections' batches from where on they become smaller.
const ALL_BATCHES_BYTES: usize = 32 << 20;

/// Serves segments to other nodes until it is dropped.
pub struct Uploader(Listening);

impl Uploader {
    /// Listens on `addr` and serves what `source` finds to those who make a link of this `security`, before anything else
    /// that they say is looked at.
    pub async fn bind(
        addr: SocketAddr,
        security: Security,
        source: Arc<dyn SegmentSource>,
        on_sent: OnSent,
    ) -> Result<Self, UploaderError> {
        let host = Host {
            back: DialBack::new(security.clone()),
            security,
            source,
            on_sent,
            strangers: Lobby::new(MAX_STRANGERS),
            peers: Semaphore::new(MAX_CONNECTIONS),
            resting: Lobby::new(MAX_RESTING),
        };
        let host = Arc::new(host);
        let listening = Listening::start(addr, move |stream, peer| {
            let place = host.strangers.enter(peer.ip());
            let host = host.clone();
            Some(async move { host.receive(stream, peer.ip(), place).await })
        });
        listening.await.map(Self)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }
}

/// What all connections share.
struct Host {
    security: Security,
    back: DialBack,
    source: Arc<dyn SegmentSource>,
    on_sent: OnSent,
    strangers: Lobby,
    peers: Semaphore,
    resting: Lobby,
}

impl Host {
    /// Serves one connection once it is known to be a member's: one segment after the other.
    async fn receive(&self, stream: TcpStream, peer: IpAddr, place: Visit) -> Result<(), Closed> {
        stream.set_nodelay(true)?;
        stream.acknowledge_at_once();
        let mut link = self.security.receive(stream, place).await?;
        let mut input = Vec::new();
        while self.serve(&mut link, &mut input, peer).await? {
            link.rest();
            let place = self.resting.enter(peer);
            let asks = tokio::select! {
                asks = another(&mut link, &mut input) => asks?,
                () = place.displaced() => false,
            };
            if !asks || !self.security.knows(link.key_id()) {
                break;
            }
        }
        Ok(())
    }

    async fn serve(
        &self,
        link: &mut Link<TcpStream>,
        input: &mut Vec<u8>,
        peer: IpAddr,
    ) -> Result<bool, Closed> {
        let batch = || batch_bytes(MAX_CONNECTIONS - self.peers.available_permits());
        let _peer = self.peers.try_acquire()?;
        let (source, on_sent) = (&*self.source, &self.on_sent);
        let member = Peer::Member(&self.back, peer);
        serve(link, input, source, on_sent, batch, member).await
    }
}

/// Bytes of one batch while so many are connected.
fn batch_bytes(connections: usize) -> usize {
    (ALL_BATCHES_BYTES / connections.max(1)).clamp(SMALL_BATCH_BYTES, BATCH_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_as_peers_come() {
        assert_eq!(batch_bytes(0), BATCH_BYTES);
        assert_eq!(batch_bytes(1), BATCH_BYTES);
        assert_eq!(batch_bytes(192), (32 << 20) / 192);
        assert_eq!(batch_bytes(MAX_CONNECTIONS), SMALL_BATCH_BYTES);
    }
}
