//! Who takes from whom, by the links between them.

use std::sync::{Condvar, Mutex};

use tokio::net::TcpSocket;
use tokio::sync::watch;

use super::*;
use crate::segment::SegmentIo;

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_gives_nothing_to_strangers() {
    let bytes = content(100_000, 1);
    let (take, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, sent) = holder(&[(&take, bytes)]).await;
    let mut stream = TcpStream::connect(uploader.local_addr()).await.unwrap();
    let hello = wire::handshake(&hash_of(&take), &[1; 20]);
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");
    assert_eq!(sent.load(Ordering::Relaxed), 0);
}

/// More connections than there are places for strangers, all of which say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_member_out() {
    let bytes = content(100_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, _) = holder(&[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    let mut silent = Vec::new();
    for _ in 0..200 {
        let flood = TcpSocket::new_v4().unwrap();
        flood.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(flood.connect(take.holder).await.unwrap());
    }
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
    // The first ones had to make room, and were not left open.
    let closed = silent[0].read(&mut [0]).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_of_the_same_cluster_take_from_each_other() {
    let bytes = content(100_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, sent) = holder(&[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    for (security, label) in [
        (with_key(2, Mode::Encrypted), "unknown_key"),
        (members(Mode::Authenticated), "too_weak"),
    ] {
        let engine = Engine::start(security).unwrap();
        let error = engine.take(take.clone(), |_| ()).await.unwrap_err();
        assert!(
            matches!(&error, TakeError::Link { source, .. } if source.label() == label),
            "{error}"
        );
    }
    assert_eq!(sent.load(Ordering::Relaxed), 0);

    let clear = members(Mode::Authenticated);
    let (uploader, _) = holder_with(clear.clone(), &[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    let engine = Engine::start(clear).unwrap();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transfer_is_dropped_while_keys_change() {
    let security = || {
        let (setter, keys) = Keys::set_by_hand(Keyring::new(key(1), None));
        let security = Security::new(keys, Purpose::PeerLink, Mode::Encrypted);
        (setter, security)
    };
    let ((near, receiver), (far, sender)) = (security(), security());
    let segments: Vec<_> = (0..20).map(|index| content(300_000, index)).collect();
    let takes: Vec<_> = (0..)
        .zip(&segments)
        .map(|(index, bytes)| request(index, bytes, PIECE, NOWHERE.parse().unwrap()))
        .collect();
    let claimed: Vec<_> = takes
        .iter()
        .zip(&segments)
        .map(|((take, _), bytes)| (take, bytes.clone()))
        .collect();
    let (uploader, _) = holder_with(sender, &claimed).await;
    let engine = Engine::start(receiver).unwrap();
    let both = || Keyring::new(key(2), Some(key(1)));
    let mut tasks = tokio::task::JoinSet::<Result<(), TakeError>>::new();
    for (index, (take, _)) in takes.iter().enumerate() {
        // The two ends hear of it at different times, and transfers are under way. Before the old key goes, handshakes
        // that know no other have come to an end: so much time an overlap gives.
        while index == 12
            && let Some(result) = tasks.join_next().await
        {
            result.unwrap().unwrap();
        }
        match index {
            4 => far.set(both()),
            8 => near.set(both()),
            12 => near.set(Keyring::new(key(2), None)),
            16 => far.set(Keyring::new(key(2), None)),
            _ => {}
        }
        let (engine, mut take) = (engine.clone(), take.clone());
        take.holder = uploader.local_addr();
        tasks.spawn(async move { engine.take(take, |_| ()).await });
        if index % 4 == 3 {
            // One of four, so that three may still be under way when keys change.
            tasks.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    for ((_, io), bytes) in takes.iter().zip(&segments) {
        assert!(io.take() == *bytes);
    }
    let (mut take, _) = takes[0].clone();
    take.holder = uploader.local_addr();
    let late = Engine::start(with_key(1, Mode::Encrypted)).unwrap();
    let error = late.take(take, |_| ()).await.unwrap_err();
    assert!(
        matches!(
            error,
            TakeError::Link {
                source: LinkError::UnknownKey,
                ..
            }
        ),
        "{error}"
    );
}

/// A segment of which nobody gets the second half before the gate is opened.
struct Halting {
    io: MemoryIo,
    asked: watch::Sender<bool>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Halting {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            io: MemoryIo::holding(bytes),
            asked: watch::Sender::new(false),
            open: Mutex::default(),
            opened: Condvar::new(),
        }
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl SegmentIo for Halting {
    fn size(&self) -> u64 {
        self.io.size()
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset >= self.size() / 2 {
            self.asked.send_replace(true);
            let open = self.open.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
        }
        self.io.read_at(offset, buffer)
    }

    fn read_now(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn checked(&self, _: u64, _: &[u8]) {
        unreachable!()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_under_way_arrives_though_its_key_went() {
    let security = || {
        let (setter, keys) = Keys::set_by_hand(Keyring::new(key(1), None));
        let security = Security::new(keys, Purpose::PeerLink, Mode::Encrypted);
        (setter, security.with_grace(Duration::from_hours(1)))
    };
    let ((near, receiver), (far, sender)) = (security(), security());
    let bytes = content(2_000_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let halting = Arc::new(Halting::new(bytes.clone()));
    let served = Served {
        len: take.len,
        piece_bytes: take.piece_bytes,
        io: halting.clone(),
        metadata: None,
    };
    let shelf = Shelf([(hash_of(&take), served)].into());
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let uploader = Uploader::bind(
        "127.0.0.1:0".parse().unwrap(),
        sender,
        Arc::new(shelf),
        Arc::new(move |_, bytes| {
            count.fetch_add(bytes, Ordering::Relaxed);
        }),
    )
    .await
    .unwrap();
    take.holder = uploader.local_addr();
    let engine = Engine::start(receiver).unwrap();
    let taking = tokio::spawn({
        let (engine, take) = (engine.clone(), take.clone());
        async move { engine.take(take, |_| ()).await }
    });
    let mut asked = halting.asked.subscribe();
    asked.wait_for(|asked| *asked).await.unwrap();
    for keys in [&far, &near] {
        keys.set(Keyring::new(key(2), Some(key(1))));
    }
    for keys in [&far, &near] {
        keys.set(Keyring::new(key(2), None));
    }
    let late = Engine::start(with_key(1, Mode::Encrypted)).unwrap();
    let refused = late.take(take, |_| ()).await.unwrap_err();
    assert!(
        matches!(&refused, TakeError::Link { source, .. } if source.label() == "unknown_key"),
        "{refused}"
    );
    halting.open();
    taking.await.unwrap().unwrap();
    assert!(io.take() == bytes && io.checked_once());
    assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
}

/// One who has the old key goes on asking.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_for_long_on_a_link_of_an_old_key() {
    let bytes = content(2_000 * BLOCK_BYTES, 1);
    let (take, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (setter, keys) = Keys::set_by_hand(Keyring::new(key(1), None));
    let security = Security::new(keys, Purpose::PeerLink, Mode::Encrypted);
    let brief = security.with_grace(Duration::from_millis(1));
    let (uploader, _) = holder_with(brief, &[(&take, bytes)]).await;
    let stream = TcpStream::connect(uploader.local_addr()).await.unwrap();
    let mut link = with_key(1, Mode::Encrypted).dial(stream).await.unwrap();
    let hello = wire::handshake(&hash_of(&take), &[1; 20]);
    link.write_all(&hello).await.unwrap();
    let request = wire::request(wire::Request {
        piece: 0,
        begin: 0,
        len: 16 << 10,
    });
    let mut answers = 0;
    let asking = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            link.write_all(&request).await?;
            link.flush().await?;
            if link.read(&mut buffer).await? == 0 {
                return io::Result::Ok(());
            }
            answers += 1;
            if answers == 3 {
                setter.set(Keyring::new(key(2), None));
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_mins(1), asking).await;
    assert!(ended.is_ok(), "{answers} answers, and no end of them");
    // From 2,000 on they would be refused for another reason.
    assert!((3..1_000).contains(&answers), "{answers}");
}

/// Other processes of the node reach the forwarder too.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_engine_is_led_to_a_holder() {
    let bytes = content(100_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, sent) = holder(&[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let forwarder = engine.inner.forwarder.clone();
    let hash = hash_of(&take);
    let way = {
        let (forwarder, holder, len) = (forwarder.clone(), take.holder, take.len);
        let lead = async move { forwarder.lead(hash, holder, len, PIECE).await };
        engine.inner.runtime.spawn(lead).await.unwrap().unwrap()
    };
    for said in [
        wire::handshake(&hash, &wire::peer_id()),
        wire::handshake(&hash, &[0; 20]),
        b"GET / HTTP/1.1\r\n".repeat(5),
    ] {
        let mut stream = TcpStream::connect(forwarder.local_addr()).await.unwrap();
        stream.write_all(&said).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    drop(way);
    assert_eq!(sent.load(Ordering::Relaxed), 0);
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}
