//! Segments between nodes: [`Engine`] takes them with librqbit, [`Uploader`] gives them.

mod uploader;

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::segment::{PieceHashes, SegmentIo};

pub use uploader::{OnSent, SegmentSource, Served, Uploader, UploaderError};

/// One segment to take from one holder.
#[derive(Clone)]
pub struct Take {
    /// Name of the snapshot.
    pub snapshot: String,
    /// Segment index.
    pub index: u32,
    /// Length of the segment in bytes.
    pub len: u64,
    /// Piece length in bytes.
    pub piece_bytes: u32,
    /// One SHA-1 a piece.
    pub pieces: PieceHashes,
    /// Where the holder's uploader listens.
    pub holder: SocketAddr,
    /// Where the bytes go.
    pub io: Arc<dyn SegmentIo>,
}

/// Why the engine does not start.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Threads or sockets could not be had.
    #[error("cannot start the BitTorrent engine: {0}")]
    Start(String),
}

/// Why a segment was not taken.
#[derive(Debug, Error)]
pub enum TakeError {
    /// The request contradicts itself.
    #[error("segment {segment} cannot be taken: {message}")]
    Invalid {
        /// Name of the segment.
        segment: String,
        /// What is wrong.
        message: String,
    },
    /// The holder could not be reached, does not serve the segment, or went away.
    #[error(
        "lost {holder} with {received} of {len} bytes of segment {segment}: it is down, unreachable or no longer serves the segment"
    )]
    Lost {
        /// Name of the segment.
        segment: String,
        /// Who it was taken from.
        holder: SocketAddr,
        /// Checked bytes until then.
        received: u64,
        /// Length of the segment.
        len: u64,
    },
    /// The holder is connected but sends nothing, or next to nothing.
    #[error(
        "{holder} is silent or too slow, with {received} of {len} bytes of segment {segment} after {seconds} s"
    )]
    Stalled {
        /// Name of the segment.
        segment: String,
        /// Who it was taken from.
        holder: SocketAddr,
        /// Checked bytes until then.
        received: u64,
        /// Length of the segment.
        len: u64,
        /// Seconds since the start.
        seconds: u64,
    },
    /// The holder sent bytes that are not what the piece hashes say.
    #[error("{holder} sent wrong bytes for piece {piece} of segment {segment}")]
    WrongBytes {
        /// Name of the segment.
        segment: String,
        /// Who it was taken from.
        holder: SocketAddr,
        /// Which piece.
        piece: u32,
    },
    /// The bytes could not be written here.
    #[error("cannot write segment {segment}: {source}")]
    Io {
        /// Name of the segment.
        segment: String,
        /// What the disk said.
        source: std::io::Error,
    },
    /// The engine itself failed.
    #[error("the BitTorrent engine failed on segment {segment}: {message}")]
    Engine {
        /// Name of the segment.
        segment: String,
        /// What it said.
        message: String,
    },
}

/// The receiving side: one librqbit session in a thread of its own.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Starts the thread. It ends when the last clone is dropped.
    pub fn start() -> Result<Self, EngineError> {
        Ok(Self {})
    }

    /// Takes one segment; `on_bytes` is called with the bytes of each piece whose hash matched. Dropping the future
    /// cancels: nothing is written to `io` afterwards.
    pub async fn take(
        &self,
        _request: Take,
        _on_bytes: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), TakeError> {
        todo!()
    }
}
