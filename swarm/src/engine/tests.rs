//! Takes between a real engine and real uploaders, honest and not, over loopback.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::gate::memory::MemoryIo;
use crate::link::{Link, Mode};
use crate::secret::{Key, Keyring, Keys, Purpose};

mod kept;
mod links;
mod words;

const PIECE: u32 = 64 << 10;

/// What members of a cluster have.
fn members(mode: Mode) -> Security {
    with_key(1, mode)
}

fn with_key(number: u8, mode: Mode) -> Security {
    let keys = Keys::set_by_hand(Keyring::new(key(number), None)).1;
    Security::new(keys, Purpose::PeerLink, mode)
}

fn key(number: u8) -> Key {
    Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap()
}

/// Bytes that differ everywhere.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn hashes(bytes: &[u8], piece_bytes: u32) -> PieceHashes {
    PieceHashes::new(
        bytes
            .chunks(piece_bytes as usize)
            .map(|piece| {
                digest(&SHA1_FOR_LEGACY_USE_ONLY, piece)
                    .as_ref()
                    .try_into()
                    .unwrap()
            })
            .collect(),
    )
}

fn request(
    index: u32,
    bytes: &[u8],
    piece_bytes: u32,
    holder: SocketAddr,
) -> (Take, Arc<MemoryIo>) {
    let io = Arc::new(MemoryIo::empty(bytes.len()));
    let take = Take {
        snapshot: "test-0123abcd".to_owned(),
        index,
        len: bytes.len() as u64,
        piece_bytes,
        pieces: hashes(bytes, piece_bytes),
        holder,
        io: io.clone(),
    };
    (take, io)
}

fn hash_of(take: &Take) -> [u8; 20] {
    metainfo::info_hash(
        &take.snapshot,
        take.index,
        take.len,
        take.piece_bytes,
        &take.pieces,
    )
}

struct Shelf(HashMap<[u8; 20], Served>);

impl SegmentSource for Shelf {
    fn find(&self, info_hash: [u8; 20]) -> Option<Served> {
        self.0.get(&info_hash).cloned()
    }
}

/// An uploader that serves `claimed` segments, each with the bytes given beside it (its own, when it is honest).
async fn holder(claimed: &[(&Take, Vec<u8>)]) -> (Uploader, Arc<AtomicU64>) {
    holder_with(members(Mode::Encrypted), claimed).await
}

async fn holder_with(
    security: Security,
    claimed: &[(&Take, Vec<u8>)],
) -> (Uploader, Arc<AtomicU64>) {
    let shelf = claimed
        .iter()
        .map(|(take, bytes)| {
            let served = Served {
                len: take.len,
                piece_bytes: take.piece_bytes,
                io: Arc::new(MemoryIo::holding(bytes.clone())),
                metadata: None,
            };
            (hash_of(take), served)
        })
        .collect();
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let uploader = Uploader::bind(
        "127.0.0.1:0".parse().unwrap(),
        security,
        Arc::new(Shelf(shelf)),
        Arc::new(move |_, bytes| {
            count.fetch_add(bytes, Ordering::Relaxed);
        }),
    )
    .await
    .unwrap();
    (uploader, sent)
}

/// A member that does `f` with each connection.
async fn rogue<F: Future<Output = io::Result<()>> + Send + 'static>(
    f: impl Fn(Link<TcpStream>) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let link = members(Mode::Encrypted).accept(stream).await.unwrap();
            tokio::spawn(f(link));
        }
    });
    addr
}

/// Shakes hands as a holder that has all pieces.
async fn claim_everything(stream: &mut Link<TcpStream>, pieces: u32) -> io::Result<()> {
    let mut hello = [0; wire::HANDSHAKE_BYTES];
    stream.read_exact(&mut hello).await?;
    hello[20..28].fill(0);
    hello[48..].fill(7);
    stream.write_all(&hello).await?;
    stream.write_all(&wire::greeting(pieces)).await?;
    stream.flush().await
}

/// What a member says to a holder.
async fn call(addr: SocketAddr) -> Link<TcpStream> {
    let stream = TcpStream::connect(addr).await.unwrap();
    members(Mode::Encrypted).dial(stream).await.unwrap()
}

const NOWHERE: &str = "127.0.0.1:9";

#[tokio::test(flavor = "multi_thread")]
async fn segments_of_many_shapes_arrive_whole() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let shapes = [
        (1, 16 << 10),
        (16_384, 16 << 10),
        (16_385, 64 << 10),
        (65_536, 64 << 10),
        (1_000_003, 64 << 10),
        (3 << 20, 256 << 10),
        ((5 << 20) + 77, 1 << 20),
    ];
    for (index, (len, piece_bytes)) in (0..).zip(shapes) {
        let bytes = content(len, u64::from(index));
        let (mut take, io) = request(index, &bytes, piece_bytes, NOWHERE.parse().unwrap());
        let (uploader, sent) = holder(&[(&take, bytes.clone())]).await;
        take.holder = uploader.local_addr();
        let reported = Arc::new(AtomicU64::new(0));
        let count = reported.clone();
        engine
            .take(take, move |bytes| {
                count.fetch_add(bytes, Ordering::Relaxed);
            })
            .await
            .unwrap();
        assert!(io.take() == bytes, "{len} bytes in pieces of {piece_bytes}");
        assert!(io.checked_once());
        assert_eq!(reported.load(Ordering::Relaxed), len as u64);
        // The receiver may be done before the holder has counted.
        for _ in 0..500 {
            if sent.load(Ordering::Relaxed) == len as u64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(sent.load(Ordering::Relaxed), len as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_waited_for() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(1_000_003, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let served = Served {
        len: take.len,
        piece_bytes: take.piece_bytes,
        io: Arc::new(MemoryIo::waiting(bytes.clone())),
        metadata: None,
    };
    let shelf = Shelf(HashMap::from([(hash_of(&take), served)]));
    let addr = "127.0.0.1:0".parse().unwrap();
    let security = members(Mode::Encrypted);
    let uploader = Uploader::bind(addr, security, Arc::new(shelf), Arc::new(|_, _| ()))
        .await
        .unwrap();
    take.holder = uploader.local_addr();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let segments: Vec<_> = (0..64)
        .map(|index| content(300_000 + index, index as u64))
        .collect();
    let takes: Vec<_> = (0..)
        .zip(&segments)
        .map(|(index, bytes)| request(index, bytes, PIECE, NOWHERE.parse().unwrap()))
        .collect();
    let claimed: Vec<_> = takes
        .iter()
        .zip(&segments)
        .map(|((take, _), bytes)| (take, bytes.clone()))
        .collect();
    let (uploader, _) = holder(&claimed).await;
    let mut tasks = tokio::task::JoinSet::new();
    for (take, _) in &takes {
        let (engine, mut take) = (engine.clone(), take.clone());
        take.holder = uploader.local_addr();
        tasks.spawn(async move { engine.take(take, |_| ()).await });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    for ((_, io), bytes) in takes.iter().zip(&segments) {
        assert!(io.take() == *bytes);
    }
}

/// Small segments one after the other: 44 ms or 88 ms each when Nagle's algorithm meets delayed acknowledgements.
#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other_is_quick() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let segments: Vec<_> = (0..32).map(|index| content(64 << 10, index)).collect();
    let takes: Vec<_> = (0..)
        .zip(&segments)
        .map(|(index, bytes)| request(index, bytes, PIECE, NOWHERE.parse().unwrap()).0)
        .collect();
    let claimed: Vec<_> = takes.iter().zip(segments.clone()).collect();
    let (uploader, _) = holder(&claimed).await;
    let mut times = Vec::new();
    for mut take in takes.clone() {
        take.holder = uploader.local_addr();
        let started = Instant::now();
        engine.take(take, |_| ()).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!(
        "64 KiB segments: median {:?}, slowest {:?}",
        times[16], times[31]
    );
    assert!(
        times[16] < Duration::from_millis(35),
        "median {:?}",
        times[16]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_holder_is_found_out_and_an_honest_one_is_taken_from() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(500_000, 1);
    let mut wrong = bytes.clone();
    wrong[200_000] ^= 1;
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (liar, _) = holder(&[(&take, wrong)]).await;
    let (honest, _) = holder(&[(&take, bytes.clone())]).await;

    take.holder = liar.local_addr();
    let started = Instant::now();
    let error = engine.take(take.clone(), |_| ()).await.unwrap_err();
    assert!(
        matches!(error, TakeError::WrongBytes { piece: 3, .. }),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    let written = io.take();
    assert!(
        written[3 * 65_536..4 * 65_536]
            .iter()
            .all(|&byte| byte == 0),
        "wrong bytes reached the disk"
    );

    take.holder = honest.local_addr();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_not_there_or_does_not_know_the_segment_is_given_up_at_once() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(100_000, 1);
    let (mut take, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (ignorant, _) = holder(&[]).await;
    for addr in [NOWHERE.parse().unwrap(), ignorant.local_addr()] {
        take.holder = addr;
        let started = Instant::now();
        let error = engine.take(take.clone(), |_| ()).await.unwrap_err();
        assert!(
            matches!(error, TakeError::Lost { received: 0, .. }),
            "{error}"
        );
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_dies_in_mid_segment_is_replaced() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(2_000_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (honest, _) = holder(&[(&take, bytes.clone())]).await;
    let target = honest.local_addr();
    // Passes on the first 700,000 bytes of an honest holder, then closes.
    let dying = rogue(move |near| async move {
        let (mut near_in, mut near_out) = tokio::io::split(near);
        let (far_in, mut far_out) = tokio::io::split(call(target).await);
        let mut some = far_in.take(700_000);
        tokio::select! {
            _ = tokio::io::copy(&mut near_in, &mut far_out) => {}
            _ = tokio::io::copy(&mut some, &mut near_out) => {}
        }
        near_out.shutdown().await?;
        // Closed with requests unread, the kernel would send a reset, and what is on its way could be lost.
        tokio::io::copy(&mut near_in, &mut tokio::io::sink()).await?;
        Ok(())
    })
    .await;
    take.holder = dying;
    let error = engine.take(take.clone(), |_| ()).await.unwrap_err();
    assert!(
        matches!(error, TakeError::Lost { received, .. } if received > 0 && received < 2_000_000),
        "{error}"
    );
    take.holder = target;
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_holder_is_given_up() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(100_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (honest, _) = holder(&[(&take, bytes.clone())]).await;
    // Shakes hands, claims to have everything, and says nothing more.
    take.holder = rogue(|mut stream| async move {
        claim_everything(&mut stream, 2).await?;
        tokio::time::sleep(Duration::from_mins(2)).await;
        Ok(())
    })
    .await;
    let started = Instant::now();
    let error = engine.take(take.clone(), |_| ()).await.unwrap_err();
    assert!(
        matches!(error, TakeError::Stalled { received: 0, .. }),
        "{error}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(28),
        "{:?}",
        started.elapsed()
    );
    take.holder = honest.local_addr();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_take_leaves_no_trace() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(400_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (honest, _) = holder(&[(&take, bytes.clone())]).await;
    for delay in [0, 1, 2, 4, 8, 16] {
        let (mut cancelled, _) = request(0, &bytes, PIECE, honest.local_addr());
        cancelled.io = take.io.clone();
        let _ = tokio::time::timeout(Duration::from_millis(delay), engine.take(cancelled, |_| ()))
            .await;
        let before = io.take();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(io.take() == before, "written after it was cancelled");
    }
    take.holder = honest.local_addr();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
    let left = engine
        .inner
        .session
        .with_torrents(|torrents| torrents.count());
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_be_full() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(100_000, 1);
    let (mut take, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (honest, _) = holder(&[(&take, bytes)]).await;
    take.holder = honest.local_addr();
    take.io = Arc::new(MemoryIo::full(100_000));
    let error = engine.take(take, |_| ()).await.unwrap_err();
    assert!(
        matches!(&error, TakeError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
}

#[tokio::test]
async fn requests_that_contradict_the_plan_are_refused() {
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let bytes = content(100_000, 1);
    let (good, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let short = Take {
        len: 99_999,
        ..good.clone()
    };
    let odd = Take {
        piece_bytes: 60_000,
        ..good.clone()
    };
    let few = Take {
        pieces: hashes(&bytes[..65_536], PIECE),
        ..good
    };
    for take in [short, odd, few] {
        let error = engine.take(take, |_| ()).await.unwrap_err();
        assert!(matches!(error, TakeError::Invalid { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_uploader_hangs_up_on_nonsense() {
    let bytes = content(100_000, 1);
    let (take, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, sent) = holder(&[(&take, bytes)]).await;
    let hello = wire::handshake(&hash_of(&take), &[1; 20]);
    let ask = |piece: u32, begin: u32, len: u32| {
        let request = wire::Request { piece, begin, len };
        [hello.clone(), wire::request(request)].concat()
    };
    for nonsense in [
        b"GET / HTTP/1.1\r\n".repeat(5),
        ask(2, 0, 16_384),
        ask(0, 60_000, 16_384),
        ask(0, 0, 1 << 20),
        ask(0, 0, 0),
        [hello.clone(), vec![0xff; 64]].concat(),
    ] {
        let mut stream = call(uploader.local_addr()).await;
        stream.write_all(&nonsense).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 100, "{} bytes", answer.len());
    }
    assert_eq!(sent.load(Ordering::Relaxed), 0);
}
