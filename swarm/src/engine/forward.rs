//! librqbit's way to holders that want a link.
//!
//! librqbit dials by itself and cannot be given a stream. So every torrent gets the address of one listener of ours on
//! loopback as its only peer, and who connects there is led to the link that was made to the holder before; librqbit
//! hears nothing of a holder that cannot be reached or has no key.
//!
//! Other processes of the node can connect to that listener too. What admits is librqbit's own peer id, the first
//! thing it says: random, known to this process only, and replaced before anything goes to the holder. The listener
//! lives as long as librqbit's session, so that nobody else ever gets its port and hears the id.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::CONNECT_TIMEOUT;
use super::kept::{KEEP, Kept};
use super::requests::Requests;
use super::serve::Connection as _;
use super::storage::BLOCK_BYTES;
use super::wire::{self, HANDSHAKE_BYTES};
use crate::buffers::Buffer;
use crate::link::{Link, LinkError, Security};

/// Connections to the listener at once, admitted or not; more are closed at once.
const MAX_CONNECTIONS: usize = 256;
/// Time for a handshake: librqbit says its own as soon as it is connected, and a holder answers ours at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are handed on at once. A link decrypts up to four records straight into it.
const PASS_BYTES: usize = 256 << 10;
/// Turns of the engine's thread that librqbit is given to say more before it hears that its first request has arrived, at most: it
/// needs one for each block. It says one thing in a turn and keeps the rest until it hears that; so one packet brings what else would
/// come in as many.
const TURNS: u64 = 32;

/// After so many bytes another link is made for the next segment. AES-GCM hides what it encrypts with one key well beyond that
/// (RFC 8446, 5.5: some 400 GB in records of 16 KiB).
const MAX_CARRIED: u64 = if cfg!(test) { 6_000_000 } else { 64 << 30 };

/// Why there is no way to a holder.
#[derive(Debug, Error)]
pub(super) enum WayError {
    /// It cannot be reached, or does not serve the segment.
    #[error(transparent)]
    Connect(#[from] io::Error),
    /// It is none of us, or we are none of its.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A holder's handshake.
type Hello = [u8; HANDSHAKE_BYTES];

/// A link and the bytes that it has carried.
struct Used {
    link: Link<TcpStream>,
    carried: u64,
}

/// A link on which a holder has said that it serves the segment.
struct Opened {
    holder: SocketAddr,
    used: Used,
    hello: Hello,
    /// What the holder has yet to say when it gives each block once. The link is free for another segment then.
    to_come: u64,
}

/// Links that wait for librqbit, by the info hash it will ask for.
type Ready = Arc<Mutex<HashMap<[u8; 20], Opened>>>;

/// Makes links to holders and leads librqbit to them.
pub(super) struct Forwarder {
    addr: SocketAddr,
    security: Security,
    ready: Ready,
    kept: Kept<Used>,
}

impl Forwarder {
    /// Starts to listen, in a task of the current runtime, for a librqbit of this peer id.
    pub(super) async fn start(security: Security, peer_id: [u8; 20]) -> io::Result<Self> {
        let listener = listen().await?;
        let addr = listener.local_addr()?;
        let (ready, kept) = (Ready::default(), Kept::new(KEEP));
        tokio::spawn(accept(
            listener,
            peer_id,
            Arc::clone(&ready),
            Kept::clone(&kept),
        ));
        Ok(Self {
            addr,
            security,
            ready,
            kept,
        })
    }

    /// How links to holders are made.
    pub(super) fn security(&self) -> &Security {
        &self.security
    }

    /// Where librqbit is to connect.
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes a way to `holder` for the one torrent that will ask for `info_hash`, of a segment that has so many bytes.
    pub(super) async fn lead(
        &self,
        info_hash: [u8; 20],
        holder: SocketAddr,
        len: u64,
        piece_bytes: u32,
    ) -> Result<Way, WayError> {
        let (used, hello) = match self.reuse(info_hash, holder).await? {
            Some(opened) => opened,
            None => self.dial(info_hash, holder).await?,
        };
        let opened = Opened {
            holder,
            used,
            hello,
            to_come: wire::said_of_all(len, piece_bytes),
        };
        lock(&self.ready).insert(info_hash, opened);
        Ok(Way {
            ready: Arc::clone(&self.ready),
            info_hash,
        })
    }

    /// Opens the segment over a link that stands already, if there is one and the holder has not closed it.
    async fn reuse(
        &self,
        info_hash: [u8; 20],
        holder: SocketAddr,
    ) -> io::Result<Option<(Used, Hello)>> {
        let Some(mut used) = self.kept.take(holder) else {
            return Ok(None);
        };
        if used.carried >= MAX_CARRIED || !self.security.uses(used.link.key_id()) {
            return Ok(None);
        }
        match open(&mut used.link, info_hash).await {
            Ok(hello) => Ok(Some((used, hello))),
            // Another, new or kept, would have to wait as long, most likely.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.kept.forget(holder);
                Err(error)
            }
            Err(error) => {
                debug!(%holder, %error, "a link that was kept is not there any more");
                Ok(None)
            }
        }
    }

    /// Opens the segment over a new link.
    async fn dial(
        &self,
        info_hash: [u8; 20],
        holder: SocketAddr,
    ) -> Result<(Used, Hello), WayError> {
        let stream = within(CONNECT_TIMEOUT, TcpStream::connect(holder)).await?;
        stream.set_nodelay(true)?;
        let mut link = self.security.dial(stream).await?;
        let hello = open(&mut link, info_hash).await?;
        Ok((Used { link, carried: 0 }, hello))
    }
}

/// What `doing` comes to, or an error when it takes longer.
async fn within<T>(limit: Duration, doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, doing)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Asks the holder for a segment. An error means that it does not serve it, or is not there.
async fn open(link: &mut Link<TcpStream>, info_hash: [u8; 20]) -> io::Result<Hello> {
    let opening = async {
        link.write_all(&wire::handshake(&info_hash, &wire::peer_id()))
            .await?;
        link.flush().await?;
        let mut hello = [0; HANDSHAKE_BYTES];
        link.read_exact(&mut hello).await?;
        Ok(hello)
    };
    let hello = within(HANDSHAKE_TIMEOUT, opening).await?;
    if wire::parse_handshake(&hello) != Ok(info_hash) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it speaks of something else",
        ));
    }
    Ok(hello)
}

/// A link that waits for librqbit; closed when this is dropped before librqbit came.
pub(super) struct Way {
    ready: Ready,
    info_hash: [u8; 20],
}

impl Drop for Way {
    fn drop(&mut self) {
        lock(&self.ready).remove(&self.info_hash);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // BBR, where it is the default, sets a timer for each packet, to spare a network that is not there. Accepted connections
    // inherit this. It cannot be missing (it is Linux' last resort), and without it things are only slower.
    if let Err(error) = SockRef::from(&listener).set_tcp_congestion(b"reno") {
        debug!(%error, "the kernel does not let a connection on loopback go unpaced");
    }
    Ok(listener)
}

async fn accept(listener: TcpListener, peer_id: [u8; 20], ready: Ready, kept: Kept<Used>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                let (ready, kept) = (Arc::clone(&ready), Kept::clone(&kept));
                connections.spawn(async move {
                    if let Err(error) = pass(stream, peer_id, &ready, &kept).await {
                        debug!(%error, "a forwarded connection ended");
                    }
                });
            }
            Ok(_) => debug!("too many connections to forward, closing"),
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only burn the processor.
                warn!(%error, "cannot accept the BitTorrent engine's connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Leads one connection to its link, if it is librqbit's, and hands on what both say until one ends or the holder has said all.
async fn pass(
    mut near: TcpStream,
    peer_id: [u8; 20],
    ready: &Ready,
    kept: &Kept<Used>,
) -> io::Result<()> {
    near.set_nodelay(true)?;
    let mut hello = [0; HANDSHAKE_BYTES];
    within(HANDSHAKE_TIMEOUT, near.read_exact(&mut hello)).await?;
    acknowledge(&near);
    let stranger = || io::Error::from(io::ErrorKind::PermissionDenied);
    let info_hash = wire::parse_handshake(&hello).map_err(|_| stranger())?;
    let (_, id) = hello.split_at(HANDSHAKE_BYTES - peer_id.len());
    verify_slices_are_equal(id, &peer_id).map_err(|_| stranger())?;
    let Some(opened) = lock(ready).remove(&info_hash) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    near.write_all(&opened.hello).await?;

    let (mut from_far, mut to_far) = tokio::io::split(opened.used.link);
    let (mut from_near, mut to_near) = near.split();
    let received = AtomicU64::new(0);
    let flowing = Notify::new();
    let mut requests = Requests::new();
    let turns = TURNS.min(opened.to_come.div_ceil(BLOCK_BYTES as u64));
    let blocks = async {
        let mut buffer = Buffer::of(PASS_BYTES);
        // Who says more than that is heard, too, but its link is not kept.
        while received.load(Ordering::Relaxed) != opened.to_come {
            let len = from_far.read(&mut buffer).await?;
            if len == 0 {
                break;
            }
            to_near.write_all(&buffer[..len]).await?;
            received.fetch_add(len as u64, Ordering::Relaxed);
            flowing.notify_one();
        }
        io::Result::Ok(())
    };
    let asking = async {
        loop {
            tokio::select! {
                len = from_near.read_buf(requests.said_mut()) => if len? == 0 { return Ok(()) },
                () = flowing.notified(), if requests.any() => {}
            }
            let new = requests
                .look()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if received.load(Ordering::Relaxed) < BLOCK_BYTES as u64 {
                // A single one begins a burst, and one for each turn means that it goes on.
                if new == 1 || new >= turns {
                    for _ in 0..turns {
                        yield_now().await;
                    }
                }
                acknowledge(from_near.as_ref());
            }
            if let Some(due) = requests.due(received.load(Ordering::Relaxed)) {
                to_far.write_all(due).await?;
                to_far.flush().await?;
                requests.handed_on();
            }
        }
    };
    tokio::select! {
        end = blocks => end,
        end = asking => end,
    }?;
    if received.into_inner() == opened.to_come {
        // Where a word was on its way the holder may have half of it.
        if !requests.any() {
            let mut link = from_far.unsplit(to_far);
            link.rest();
            let carried = opened.used.carried + opened.to_come;
            kept.put(opened.holder, Used { link, carried });
        }
        // Closed with words unread, the kernel would take back what librqbit has yet to read.
        tokio::io::copy(&mut from_near, &mut tokio::io::sink()).await?;
    }
    Ok(())
}

/// Tells librqbit that what it has said until now has arrived.
///
/// It leaves Nagle's algorithm on: what it says next waits until that is acknowledged, which blocks that go to it do by the way,
/// but before they flow only this. Off again at once, because else each of the next packets is acknowledged by itself, and what
/// librqbit says comes in as many.
fn acknowledge(near: &TcpStream) {
    near.acknowledge_at_once();
    // When it cannot be said, things are only slower.
    let _ = SockRef::from(near).set_tcp_quickack(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_led_over_loopback_is_not_paced() {
        let listener = listen().await.unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let algorithm = SockRef::from(&stream).tcp_congestion().unwrap();
        assert!(algorithm.starts_with(b"reno"), "{algorithm:?}");
    }
}
