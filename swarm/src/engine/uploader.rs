//! The giving side: a listener that answers BitTorrent peers straight from the segments on disk.
//!
//! It speaks the part of BEP 3 that a holder of everything needs. Nothing is hashed, checked or kept in memory for a
//! segment that nobody asks for, so a node serves thousands of segments for the price of one socket.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::wire::{self, HANDSHAKE_BYTES, Message, Request, WireError};
use crate::link::{Link, LinkError, Security};
use crate::segment::SegmentIo;
use crate::verify::piece_count;

/// Connections served at once; more are closed at once.
const MAX_CONNECTIONS: usize = 512;
/// Connections at once of which nothing is known yet; more are closed at once.
const MAX_STRANGERS: usize = 128;
/// Requests of one peer that wait to be answered; librqbit asks for a few hundred blocks ahead.
const MAX_QUEUED: usize = 4096;
/// Bytes read and sent together; with [`MAX_CONNECTIONS`] it bounds the memory.
const BATCH_BYTES: usize = 128 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

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
    #[error("cannot listen for peers on {addr}: {source}; is another agent running on this node?")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Why a connection ended, for the log.
#[derive(Debug, Error)]
enum Closed {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("too many peers at once")]
    Full(#[from] TryAcquireError),
    #[error("nothing moved for too long")]
    Idle,
    #[error("asks for a segment that is not served here")]
    Unknown,
    #[error("asks for more than {MAX_QUEUED} blocks ahead")]
    Greedy,
    #[error("cannot read the segment: {0}")]
    Read(io::Error),
}

/// Serves segments to other nodes until it is dropped.
pub struct Uploader {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Uploader {
    /// Listens on `addr` and serves what `source` finds; with `security` only to those who make a link, before anything
    /// else that they say is looked at.
    pub async fn bind(
        addr: SocketAddr,
        security: Option<Security>,
        source: Arc<dyn SegmentSource>,
        on_sent: OnSent,
    ) -> Result<Self, UploaderError> {
        let error = |source| UploaderError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(error)?;
        let addr = listener.local_addr().map_err(error)?;
        let mut tasks = JoinSet::new();
        let host = Host {
            security,
            source,
            on_sent,
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            peers: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        };
        tasks.spawn(accept(listener, Arc::new(host)));
        Ok(Self {
            addr,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

/// What all connections share.
struct Host {
    security: Option<Security>,
    source: Arc<dyn SegmentSource>,
    on_sent: OnSent,
    strangers: Arc<Semaphore>,
    peers: Arc<Semaphore>,
}

async fn accept(listener: TcpListener, host: Arc<Host>) {
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
        let Ok(stranger) = host.strangers.clone().try_acquire_owned() else {
            debug!(%peer, "too many peers of which nothing is known, closing");
            continue;
        };
        let host = host.clone();
        connections.spawn(async move {
            match host.receive(stream, stranger).await {
                Ok(()) => {}
                Err(reason @ Closed::Read(_)) => warn!(%peer, %reason, "peer connection closed"),
                Err(reason) => debug!(%peer, %reason, "peer connection closed"),
            }
        });
    }
}

impl Host {
    /// Serves one connection once it is known to be a member's.
    async fn receive(
        &self,
        stream: TcpStream,
        stranger: OwnedSemaphorePermit,
    ) -> Result<(), Closed> {
        stream.set_nodelay(true)?;
        acknowledge_at_once(&stream);
        let Some(security) = &self.security else {
            let _peer = self.peers.try_acquire()?;
            drop(stranger);
            return serve(stream, &*self.source, &self.on_sent).await;
        };
        let link = security.accept(stream).await?;
        let _peer = self.peers.try_acquire()?;
        drop(stranger);
        serve(link, &*self.source, &self.on_sent).await
    }
}

/// The way to one peer.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Connection for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Connection for Link<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref()
    }
}

/// Serves one connection until the peer leaves.
async fn serve(
    mut stream: impl Connection,
    source: &dyn SegmentSource,
    on_sent: &OnSent,
) -> Result<(), Closed> {
    let mut hello = [0; HANDSHAKE_BYTES];
    timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut hello))
        .await
        .map_err(|_| Closed::Idle)??;
    let info_hash = wire::parse_handshake(&hello)?;
    let served = source.find(info_hash).ok_or(Closed::Unknown)?;
    acknowledge_at_once(stream.socket());

    let pieces = piece_count(served.len, served.piece_bytes);
    let mut out = wire::handshake(&info_hash, &wire::peer_id());
    out.extend(wire::greeting(u32::try_from(pieces).unwrap_or(u32::MAX)));
    send(&mut stream, &out).await?;

    let mut input = Vec::new();
    let mut queue = VecDeque::new();
    loop {
        while queue.is_empty() {
            input.reserve(4 << 10);
            let read = timeout(IDLE_TIMEOUT, stream.read_buf(&mut input))
                .await
                .map_err(|_| Closed::Idle)??;
            if read == 0 {
                return Ok(());
            }
            acknowledge_at_once(stream.socket());
            take_messages(&mut input, &mut queue, &served)?;
        }
        let (bytes, payload) = read_batch(&served, &mut queue).await?;
        send(&mut stream, &bytes).await?;
        on_sent(info_hash, payload);
    }
}

/// librqbit sends each request in a packet of its own and leaves Nagle's algorithm on: without this, its next request
/// waits up to 40 ms for the acknowledgement of the one before. The kernel forgets it now and then, so it is said
/// again after each read; when it cannot be said, things are only slower.
pub(super) fn acknowledge_at_once(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_tcp_quickack(true);
}

async fn send(stream: &mut impl Connection, bytes: &[u8]) -> Result<(), Closed> {
    let sent = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(IDLE_TIMEOUT, sent)
        .await
        .map_err(|_| Closed::Idle)??;
    Ok(())
}

/// Moves the complete messages of `input` into `queue`.
fn take_messages(
    input: &mut Vec<u8>,
    queue: &mut VecDeque<(u64, Request)>,
    served: &Served,
) -> Result<(), Closed> {
    let mut taken = 0;
    while let Some((message, len)) = wire::parse(&input[taken..])? {
        taken += len;
        if let Message::Request(request) = message {
            let offset = wire::locate(request, served.len, served.piece_bytes)?;
            if queue.len() == MAX_QUEUED {
                return Err(Closed::Greedy);
            }
            queue.push_back((offset, request));
        }
    }
    input.drain(..taken);
    Ok(())
}

/// Reads the next requests' blocks, framed, and how many of the bytes are payload.
async fn read_batch(
    served: &Served,
    queue: &mut VecDeque<(u64, Request)>,
) -> Result<(Vec<u8>, u64), Closed> {
    let mut batch = Vec::new();
    let mut payload = 0;
    while let Some(&(_, request)) = queue.front()
        && (batch.is_empty() || payload + request.len as usize <= BATCH_BYTES)
    {
        payload += request.len as usize;
        batch.extend(queue.pop_front());
    }
    let io = served.io.clone();
    let bytes = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::with_capacity(payload + batch.len() * 13);
        for (offset, request) in batch {
            bytes.extend_from_slice(&wire::piece_header(request));
            let start = bytes.len();
            bytes.resize(start + request.len as usize, 0);
            io.read_at(offset, &mut bytes[start..])?;
        }
        Ok(bytes)
    })
    .await
    .map_err(|error| Closed::Read(io::Error::other(error)))?
    .map_err(Closed::Read)?;
    Ok((bytes, payload as u64))
}
