//! Segments between nodes: [`Engine`] takes them with librqbit, [`Uploader`] gives them.
//!
//! Every segment is a torrent of its own that is open only while it is taken. librqbit runs on a single-threaded
//! runtime in a thread of its own (measured: half the processor time of the multi-threaded one, and its work never
//! delays ours), without listener, DHT, local discovery or trackers: it dials the holder that the coordinator named
//! and nobody else. Between members of a cluster both sides speak over links ([`crate::link`]). [`PlainListener`] gives whole
//! files to other BitTorrent clients, and a [`Stranger`] is one of whom a file is taken.

mod accept;
mod ask;
mod back;
mod extensions;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod kept;
mod metadata;
mod pex;
mod plain;
mod requests;
mod serve;
mod source;
mod storage;
pub(crate) mod stranger;
mod take;
mod uploader;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use librqbit::{ConnectionOptions, PeerConnectionOptions, Session, SessionOptions};
use librqbit_core::Id20;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::gate::{CloseOnDrop, Gate};
use crate::inventory::{Answer, Question};
use crate::link::{LinkError, Security};
use crate::metainfo;
use crate::segment::{PieceHashes, SegmentIo};
use crate::verify::piece_count;

use forward::Forwarder;
use storage::{BLOCK_BYTES, Transfer};

pub use accept::UploaderError;
pub use ask::AskError;
pub use back::{Back, Examined, examine};
pub use plain::PlainListener;
pub use source::{OnSent, SegmentSource, Served};
pub use stranger::{Described, Stranger, StrangerError, Unusable};
pub use uploader::Uploader;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above librqbit's keep-alive interval of 120 s, which it cannot be told to shorten; silence is noticed by [`take`].
const READ_WRITE_TIMEOUT: Duration = Duration::from_secs(150);
/// Blocks asked for ahead: 4 MiB, a millisecond at 32 Gbit/s, and with 16 segments at once still bounded memory.
const REQUEST_WINDOW: usize = 256;

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

impl Take {
    /// Name of the segment in messages and of its torrent.
    fn name(&self) -> String {
        format!("{}.{}", self.snapshot, self.index)
    }

    fn invalid(&self, message: &str) -> TakeError {
        TakeError::Invalid {
            segment: self.name(),
            message: message.to_owned(),
        }
    }

    /// Piece hashes come from another node by way of the coordinator: they must fit the plan that we made ourselves.
    fn check(&self) -> Result<(), TakeError> {
        if self.len == 0 || self.len != self.io.size() {
            return Err(self.invalid("its length is not that of the plan"));
        }
        if !self.piece_bytes.is_power_of_two() || (self.piece_bytes as usize) < BLOCK_BYTES {
            return Err(self.invalid("its piece length is not a power of two of at least 16 KiB"));
        }
        if self.pieces.as_slice().len() as u64 != piece_count(self.len, self.piece_bytes) {
            return Err(self.invalid("the number of piece hashes does not fit its length"));
        }
        Ok(())
    }
}

/// Why the engine does not start.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The thread or its runtime could not be had.
    #[error("cannot start the BitTorrent engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// librqbit refused to start.
    #[error(
        "cannot start the BitTorrent engine: {0} (it also wants the system's CA certificates to be installed)"
    )]
    Session(String),
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
    /// The holder is reached but does not prove to be a member of the cluster, or does not take us for one.
    #[error("segment {segment} cannot be taken from {holder}: {source}")]
    Link {
        /// Name of the segment.
        segment: String,
        /// Who it was to be taken from.
        holder: SocketAddr,
        /// Why.
        source: LinkError,
    },
    /// The holder is connected but sends nothing, or next to nothing.
    #[error(
        "{holder} is silent or too slow: {received} of {len} bytes of segment {segment} after {seconds} s"
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

impl TakeError {
    /// Whether there was no link to the holder, or none that lasted or carried anything.
    #[must_use]
    pub fn is_of_the_link(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. } | Self::Link { .. } | Self::Stalled { .. }
        )
    }
}

/// The receiving side: one librqbit session in a thread of its own. Clones share it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Handle,
    session: Arc<Session>,
    forwarder: Arc<Forwarder>,
    /// One lock for each segment that is being taken: librqbit knows a torrent only once.
    turns: Mutex<HashMap<[u8; 20], Arc<tokio::sync::Mutex<()>>>>,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Engine {
    /// Starts the thread. It ends when the last clone is dropped. Blocks for some milliseconds. Holders are reached over
    /// links of this `security` only.
    pub fn start(security: Security) -> Result<Self, EngineError> {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || run_thread(&ready, stopped, security))?;
        let Started {
            runtime,
            session,
            forwarder,
        } = started
            .recv()
            .map_err(|_| EngineError::Session("its thread ended".to_owned()))??;
        Ok(Self {
            inner: Arc::new(Inner {
                runtime,
                session,
                forwarder,
                turns: Mutex::default(),
                _stop: stop,
            }),
        })
    }

    /// Takes one segment; `on_bytes` is called with the bytes of each piece that matched its hash and is written.
    ///
    /// Dropping the future cancels: nothing is written to the segment afterwards. The same segment may be asked for
    /// again at once, from another holder too.
    pub async fn take(
        &self,
        request: Take,
        on_bytes: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), TakeError> {
        request.check()?;
        let segment = request.name();
        let gate = Gate::new(request.io.clone());
        let _close = CloseOnDrop(gate.clone());
        let cancel = CancellationToken::new();
        let _cancel = cancel.clone().drop_guard();
        let (results, pieces) = tokio::sync::mpsc::unbounded_channel();
        let transfer = Transfer::new(request.len, request.piece_bytes, gate, results);
        let info_hash = metainfo::info_hash(
            &request.snapshot,
            request.index,
            request.len,
            request.piece_bytes,
            &request.pieces,
        );
        let work = take::Work {
            session: self.inner.session.clone(),
            forwarder: self.inner.forwarder.clone(),
            turn: self.turn(info_hash),
            info_hash,
            request,
            transfer,
            pieces,
            cancel,
        };
        self.inner
            .runtime
            .spawn(work.run(on_bytes))
            .await
            .unwrap_or_else(|error| {
                Err(TakeError::Engine {
                    segment,
                    message: error.to_string(),
                })
            })
    }

    /// Asks the node that serves at `holder` what it has of a snapshot.
    pub async fn ask(
        &self,
        holder: SocketAddr,
        snapshot: &str,
        question: &Question,
    ) -> Result<Answer, AskError> {
        ask::ask(self.inner.forwarder.security(), holder, snapshot, question).await
    }

    /// The lock that orders takes of the same segment.
    fn turn(&self, info_hash: [u8; 20]) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self
            .inner
            .turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(info_hash).or_default().clone()
    }
}

/// What the engine's thread gives to those who use it.
struct Started {
    runtime: Handle,
    session: Arc<Session>,
    forwarder: Arc<Forwarder>,
}

/// The engine's thread: sends the session, or why there is none, and drives it until nobody wants it any more.
fn run_thread(
    ready: &mpsc::Sender<Result<Started, EngineError>>,
    stopped: oneshot::Receiver<()>,
    security: Security,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async {
        match start(security).await {
            Ok(started) => {
                let token = started.session.cancellation_token().clone();
                let _ = ready.send(Ok(started));
                // An error too: it means that the other end was dropped.
                let _ = stopped.await;
                token.cancel();
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    });
}

async fn start(security: Security) -> Result<Started, EngineError> {
    // It admits librqbit to the forwarder, so it must be unknown to others.
    let peer_id = wire::peer_id();
    let forwarder = Arc::new(Forwarder::start(security, peer_id).await?);
    let session = Session::new_with_opts(PathBuf::new(), session_options(peer_id))
        .await
        .map_err(|error| EngineError::Session(format!("{error:#}")))?;
    Ok(Started {
        runtime: Handle::current(),
        session,
        forwarder,
    })
}

/// A session that talks to nobody but the peers it is given.
fn session_options(peer_id: [u8; 20]) -> SessionOptions {
    SessionOptions {
        peer_id: Some(Id20::new(peer_id)),
        dht: None,
        disable_trackers: true,
        disable_local_service_discovery: true,
        persistence: None,
        listen: None,
        connect: Some(ConnectionOptions {
            peer_opts: Some(PeerConnectionOptions {
                connect_timeout: Some(CONNECT_TIMEOUT),
                read_write_timeout: Some(READ_WRITE_TIMEOUT),
                max_request_window: Some(REQUEST_WINDOW),
                ..PeerConnectionOptions::default()
            }),
            ..ConnectionOptions::default()
        }),
        // The check is void (see the storage), so there is no reason to queue for it.
        concurrent_init_limit: Some(64),
        ..SessionOptions::default()
    }
}

#[cfg(test)]
mod tests;
