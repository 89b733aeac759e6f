//! One connection of the giving side: what a peer asks for is read from the segments and sent.
//!
//! It speaks the part of BEP 3 that a holder of everything needs, and with peers that are no members that of BEP 9 and 11.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::TryAcquireError;
use tokio::time::{Instant, timeout};

use super::ask::{self, AskError};
use super::back::DialBack;
use super::extensions::Extensions;
use super::metadata::TooMany;
use super::pex::{Exchange, Roster};
use super::source::{OnSent, SegmentSource, Served};
use super::storage::BLOCK_BYTES;
use super::wire::{self, HANDSHAKE_BYTES, Message, PIECE_HEADER_BYTES, Request, WireError};
use crate::buffers::Buffer;
use crate::link::{Link, LinkError};
use crate::verify::piece_count;

/// Requests of one peer that wait to be answered; librqbit asks for a few hundred blocks ahead.
const MAX_QUEUED: usize = 4096;
/// A receiver asks for a block whenever it has got one. Answered one by one they would cost both sides several times as
/// much, so that fewer than this wait for each other...
const FEW: usize = 8;
/// ... for so long: a quarter of the time that a receiver's window lasts at 2 Gbit/s.
const GATHER: Duration = Duration::from_millis(4);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that has not asked for anything for so long is not served any longer, whatever else it says.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// Why a connection ended, for the log.
#[derive(Debug, Error)]
pub(super) enum Closed {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("asks, but not as a node of this version does: {0}")]
    Question(#[from] AskError),
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
    #[error(transparent)]
    Metadata(#[from] TooMany),
    #[error("cannot read the segment: {0}")]
    Read(io::Error),
}

/// The way to one peer.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has the kernel acknowledge what has arrived now instead of with the next bytes that are sent.
    fn acknowledge_at_once(&self);
}

impl Connection for Link<TcpStream> {
    fn acknowledge_at_once(&self) {
        self.get_ref().acknowledge_at_once();
    }
}

impl Connection for TcpStream {
    fn acknowledge_at_once(&self) {
        // When it cannot be said, things are only slower.
        let _ = SockRef::from(self).set_tcp_quickack(true);
    }
}

/// Who is served, and from where it comes.
#[derive(Clone, Copy)]
pub(super) enum Peer<'a> {
    /// A member of the cluster. It is dialled when it asks for it.
    Member(&'a DialBack, IpAddr),
    /// Anybody. All of them are on the roster.
    Client(&'a Roster, IpAddr),
}

/// Serves what one handshake asks for, of which `input` may have the beginning. `batch` says how many bytes may be read at once.
///
/// Whether the peer may ask for something else now, see [`another`]: a member that was given all of a segment. Else it has left.
pub(super) async fn serve(
    stream: &mut impl Connection,
    input: &mut Vec<u8>,
    source: &dyn SegmentSource,
    on_sent: &OnSent,
    batch: impl Fn() -> usize,
    peer: Peer<'_>,
) -> Result<bool, Closed> {
    stream.acknowledge_at_once();
    let mut hello = [0; HANDSHAKE_BYTES];
    let (begun, rest) = hello.split_at_mut(input.len().min(HANDSHAKE_BYTES));
    begun.copy_from_slice(&input[..begun.len()]);
    input.drain(..begun.len());
    timeout(HANDSHAKE_TIMEOUT, stream.read_exact(rest))
        .await
        .map_err(|_| Closed::Idle)??;
    let info_hash = wire::parse_handshake(&hello)?;
    let Some(served) = source.find(info_hash) else {
        let mut answered = ask::answer(stream, source, info_hash).await?;
        if let (false, Peer::Member(back, asker)) = (answered, peer) {
            answered = back.answer(stream, info_hash, asker).await?;
        }
        return if answered {
            Ok(false)
        } else {
            Err(Closed::Unknown)
        };
    };
    stream.acknowledge_at_once();

    let pieces = piece_count(served.len, served.piece_bytes);
    let mut out = wire::handshake(&info_hash, &wire::peer_id());
    let info = served.metadata.clone();
    let pex = match peer {
        Peer::Client(roster, client) if source.exchange(info_hash).is_some() => {
            Some(Exchange::new(roster.clone(), info_hash, client))
        }
        _ => None,
    };
    let extensions = info
        .filter(|_| wire::knows_extensions(&hello))
        .map(|info| Extensions::new(info, pex));
    let greeting = wire::greeting(u32::try_from(pieces).unwrap_or(u32::MAX));
    if let Some(extensions) = &extensions {
        wire::know_extensions(&mut out);
        out.extend(extensions.hello(MAX_QUEUED / 8));
    }
    out.extend(greeting);
    send(stream, &out).await?;

    let mut out = Buffer::default();
    let mut requests = Requests {
        input: std::mem::take(input),
        extensions,
        ..Requests::default()
    };
    requests.take_messages(&served)?;
    while requests.gather(stream, &served).await? {
        requests.tell(stream, source, &mut out).await?;
        let batch = batch();
        let blocks = requests.take(batch);
        if blocks.is_empty() {
            continue;
        }
        let room = room(batch, served.len);
        if out.capacity() < room {
            out = Buffer::of(room);
        }
        let payload = read(&served, blocks, &mut out).await?;
        send(stream, &out).await?;
        on_sent(info_hash, payload);
        requests.served_at = Instant::now();
        if matches!(peer, Peer::Member(..)) && requests.all_given(served.len) {
            *input = requests.input;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until a peer that was given all of a segment asks for something else, and has its handshake in `input`; `false` when it
/// has left. What else it says is passed over.
pub(super) async fn another(
    stream: &mut impl Connection,
    input: &mut Vec<u8>,
) -> Result<bool, Closed> {
    let asking = async {
        loop {
            let (passed, whole) = wire::until_handshake(input)?;
            input.drain(..passed);
            if whole {
                return Ok(true);
            }
            if stream.read_buf(input).await? == 0 {
                return Ok(false);
            }
        }
    };
    timeout(IDLE_TIMEOUT, asking)
        .await
        .map_err(|_| Closed::Idle)?
}

/// How long to wait for requests when so many are there and `more` are to come; `None`: answer them.
fn patience(requests: usize, more: bool) -> Option<Duration> {
    match requests {
        0 => Some(IDLE_TIMEOUT),
        1..FEW if more => Some(GATHER),
        _ => None,
    }
}

/// What a peer has asked for.
struct Requests {
    input: Vec<u8>,
    queue: VecDeque<(u64, Request)>,
    /// Bytes asked for since the beginning.
    asked: u64,
    /// When it was last given something that it had asked for, or came.
    served_at: Instant,
    /// What the peer may be told besides, if it knows how to listen.
    extensions: Option<Extensions>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            queue: VecDeque::new(),
            asked: 0,
            served_at: Instant::now(),
            extensions: None,
        }
    }
}

impl Requests {
    /// Waits for requests, and a moment for more of them. False when the peer has left.
    ///
    /// librqbit sends each request in a packet of its own and leaves Nagle's algorithm on: what it asks for next waits
    /// until the packet before is acknowledged. The kernel does that with what it sends, and if it sends nothing, up to
    /// 40 ms later. So it is told to do it at once when nothing was asked for yet that could be sent. While an answer is
    /// being gathered it is not: then the peer gathers too.
    async fn gather(
        &mut self,
        stream: &mut impl Connection,
        served: &Served,
    ) -> Result<bool, Closed> {
        loop {
            let extensions = self.extensions.as_ref();
            if extensions.is_some_and(Extensions::is_asked) {
                return Ok(true);
            }
            let Some(patience) = patience(self.queue.len(), self.asked < served.len) else {
                return Ok(true);
            };
            let idle = self.served_at + IDLE_TIMEOUT;
            let due = extensions.and_then(Extensions::due);
            let until = due.map_or(idle, |due| due.min(idle));
            let now = Instant::now();
            let patience = patience.min(until.saturating_duration_since(now));
            if due.is_some_and(|due| due <= now) {
                return Ok(true);
            }
            self.input.reserve(4 << 10);
            match timeout(patience, stream.read_buf(&mut self.input)).await {
                Ok(read) => {
                    if read? == 0 {
                        return Ok(false);
                    }
                }
                Err(_) if !self.queue.is_empty() => return Ok(true),
                Err(_) if idle <= Instant::now() => return Err(Closed::Idle),
                Err(_) => continue,
            }
            let first = self.asked == 0;
            self.take_messages(served)?;
            if first || self.queue.is_empty() {
                stream.acknowledge_at_once();
            }
        }
    }

    /// Moves the complete messages of the input into the queue.
    fn take_messages(&mut self, served: &Served) -> Result<(), Closed> {
        let mut taken = 0;
        while let Some((message, len)) = wire::parse(&self.input[taken..])? {
            taken += len;
            match message {
                Message::Request(request) => {
                    let offset = wire::locate(request, served.len, served.piece_bytes)?;
                    if self.queue.len() == MAX_QUEUED {
                        return Err(Closed::Greedy);
                    }
                    self.queue.push_back((offset, request));
                    self.asked += u64::from(request.len);
                }
                Message::Extended(body) => {
                    if let Some(extensions) = &mut self.extensions {
                        extensions.hear(body)?;
                    }
                }
                Message::Other => {}
            }
        }
        self.input.drain(..taken);
        Ok(())
    }

    /// Tells the peer what it has asked for besides blocks, and who else takes the torrent.
    async fn tell(
        &mut self,
        stream: &mut impl Connection,
        source: &dyn SegmentSource,
        out: &mut Vec<u8>,
    ) -> Result<(), Closed> {
        let Some(extensions) = &mut self.extensions else {
            return Ok(());
        };
        out.clear();
        while extensions.answer(out) {
            send(stream, out).await?;
            out.clear();
            self.served_at = Instant::now();
        }
        extensions.tell(Instant::now(), |info_hash| source.exchange(info_hash), out);
        if !out.is_empty() {
            send(stream, out).await?;
        }
        Ok(())
    }

    /// Whether as much was asked for as there is, and is on its way. A member asks for each block once.
    fn all_given(&self, len: u64) -> bool {
        self.asked >= len && self.queue.is_empty()
    }

    /// The next ones: at most `limit` bytes or one block.
    fn take(&mut self, limit: usize) -> Vec<(u64, Request)> {
        let mut blocks = Vec::new();
        let mut bytes = 0;
        while let Some(&(_, request)) = self.queue.front()
            && (blocks.is_empty() || bytes + request.len as usize <= limit)
        {
            bytes += request.len as usize;
            blocks.extend(self.queue.pop_front());
        }
        blocks
    }
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

/// Reads blocks into `out`, framed; returns how many of its bytes are payload. Only what is not in memory is read by a
/// thread that may wait for the disk: going there and back costs as much as copying a hundred kilobytes.
async fn read(
    served: &Served,
    blocks: Vec<(u64, Request)>,
    out: &mut Vec<u8>,
) -> Result<u64, Closed> {
    let payload: u64 = blocks.iter().map(|(_, block)| u64::from(block.len)).sum();
    let now = fill(out, &blocks, |offset, block| {
        if served.io.read_now(offset, block) {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    });
    if now.is_err() {
        let io = served.io.clone();
        let mut bytes = std::mem::take(out);
        *out = tokio::task::spawn_blocking(move || {
            fill(&mut bytes, &blocks, |offset, block| {
                io.read_at(offset, block)
            })?;
            Ok(bytes)
        })
        .await
        .map_err(|error| Closed::Read(io::Error::other(error)))?
        .map_err(Closed::Read)?;
    }
    Ok(payload)
}

/// Bytes of a batch with its headers, when it is as large as may be and blocks have their usual length.
fn room(batch: usize, len: u64) -> usize {
    let payload = usize::try_from(len).map_or(batch, |len| len.min(batch));
    payload + payload.div_ceil(BLOCK_BYTES) * PIECE_HEADER_BYTES
}

/// Makes `out` what is sent: each block after its header.
fn fill(
    out: &mut Vec<u8>,
    blocks: &[(u64, Request)],
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let payload: usize = blocks.iter().map(|(_, block)| block.len as usize).sum();
    // Bytes that are new are filled with zeros first; others stay as they are until they are written over.
    out.resize(payload + blocks.len() * PIECE_HEADER_BYTES, 0);
    let mut rest = &mut out[..];
    for (offset, request) in blocks {
        let (header, body) = rest.split_at_mut(PIECE_HEADER_BYTES);
        header.copy_from_slice(&wire::piece_header(*request));
        let (block, after) = body.split_at_mut(request.len as usize);
        read(*offset, block)?;
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
