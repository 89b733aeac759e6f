//! What the giving side needs to know of this node.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::inventory::Answer;
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
    /// The torrent's info dictionary, for peers who may know its hash only. Members of a cluster know it.
    pub metadata: Option<Arc<[u8]>>,
}

/// Knows which segments this node serves.
pub trait SegmentSource: Send + Sync + 'static {
    /// The segment with this info hash, if it is held here. Must answer from memory, without blocking.
    fn find(&self, info_hash: [u8; 20]) -> Option<Served>;

    /// If clients that take this torrent may be told of each other (BEP 11): where else it can be had. Must answer from memory.
    fn exchange(&self, _info_hash: [u8; 20]) -> Option<Vec<SocketAddr>> {
        None
    }

    /// How this node stands with the snapshot that has this [`crate::inventory::topic`], if it has a part in it, with
    /// the piece hashes of those of `wants` that it holds. Must answer from memory. A source of mere segments has nothing
    /// to say.
    fn answer(&self, _topic: [u8; 20], _wants: &[u32]) -> Option<Answer> {
        None
    }
}

/// Called with the info hash and the number of payload bytes that were just sent.
pub type OnSent = Arc<dyn Fn([u8; 20], u64) + Send + Sync>;
