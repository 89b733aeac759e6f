//! Links that carry one segment after the other.

use super::*;

/// Security of an end that counts the links it makes.
fn counted(keys: Keys) -> (Security, Arc<AtomicU64>) {
    let links = Arc::new(AtomicU64::new(0));
    let count = links.clone();
    let security = Security::new(keys, Purpose::PeerLink, Mode::Encrypted);
    let counting = security.counted(Arc::new(move |_, word| {
        count.fetch_add(u64::from(word == crate::link::OK), Ordering::Relaxed);
    }));
    (counting, links)
}

/// What a holder says to [`Twelve::asked`]: handshake, greeting, and five pieces with their headers.
const ALL_BYTES: usize = wire::HANDSHAKE_BYTES + 11 + 5 * wire::PIECE_HEADER_BYTES + 300_000;

/// Twelve segments, and what is taken of them.
struct Twelve {
    segments: Vec<Vec<u8>>,
    takes: Vec<(Take, Arc<MemoryIo>)>,
}

impl Twelve {
    fn new() -> Self {
        let segments: Vec<_> = (0..12).map(|index| content(300_000, index)).collect();
        let takes = (0..)
            .zip(&segments)
            .map(|(index, bytes)| request(index, bytes, PIECE, NOWHERE.parse().unwrap()))
            .collect();
        Self { segments, takes }
    }

    /// Somebody who has them.
    async fn holder(&self, security: Security) -> (Uploader, Arc<AtomicU64>) {
        let takes = self.takes.iter().map(|(take, _)| take);
        let claimed: Vec<_> = takes.zip(self.segments.clone()).collect();
        holder_with(security, &claimed).await
    }

    /// Takes some of them, one after the other, from the holder that serves at `addr`.
    async fn take(&self, which: impl Iterator<Item = usize>, engine: &Engine, addr: SocketAddr) {
        for index in which {
            let mut take = self.takes[index].0.clone();
            take.holder = addr;
            engine.take(take, |_| ()).await.unwrap();
        }
    }

    /// A handshake and requests for all of one of them, a piece at a time.
    fn asked(&self, index: usize) -> Vec<u8> {
        let mut asked = wire::handshake(&hash_of(&self.takes[index].0), &[1; 20]);
        let pieces = self.segments[index].chunks(PIECE as usize).zip(0..);
        asked.extend(pieces.flat_map(|(bytes, piece)| {
            let (begin, len) = (0, u32::try_from(bytes.len()).unwrap());
            wire::request(wire::Request { piece, begin, len })
        }));
        asked
    }

    fn all_arrived(&self) -> bool {
        let ios = self.takes.iter().map(|(_, io)| io.take());
        ios.zip(&self.segments).all(|(io, bytes)| io == *bytes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_link_carries_one_segment_after_the_other() {
    let twelve = Twelve::new();
    let (sender, links) = counted(Keys::set_by_hand(Keyring::new(key(1), None)).1);
    let (uploader, sent) = twelve.holder(sender).await;
    let addr = uploader.local_addr();
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    twelve.take(0..12, &engine, addr).await;
    assert_eq!(links.load(Ordering::Relaxed), 1);
    assert_eq!(sent.load(Ordering::Relaxed), 12 * 300_000);
    assert!(twelve.all_arrived());

    // Whoever is asked for a segment that it does not have, or is gone, is found out over a kept link too.
    let (unknown, _) = request(99, b"unknown", PIECE, addr);
    for uploader in [Some(uploader), None] {
        let error = engine.take(unknown.clone(), |_| ()).await.unwrap_err();
        assert!(
            matches!(error, TakeError::Lost { received: 0, .. }),
            "{error}"
        );
        if uploader.is_some() {
            twelve.take(0..1, &engine, addr).await;
        }
    }
}

/// What is still to come on it another segment could mistake for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_on_which_not_all_was_said_is_closed() {
    let bytes = content(300_000, 1);
    let (mut take, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (say, mut heard) = tokio::sync::mpsc::unbounded_channel();
    take.holder = rogue(move |mut stream| {
        let say = say.clone();
        async move {
            claim_everything(&mut stream, 5).await?;
            let mut said = Vec::new();
            while stream.read_buf(&mut said).await.is_ok_and(|len| len > 0) {
                let _ = say.send("words");
            }
            let _ = say.send("closed");
            Ok(())
        }
    })
    .await;
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let taking = tokio::spawn({
        let engine = engine.clone();
        async move { engine.take(take, |_| ()).await }
    });
    assert_eq!(heard.recv().await, Some("words"));
    taking.abort();
    let closed = async { while heard.recv().await.unwrap() != "closed" {} };
    let waited = tokio::time::timeout(Duration::from_secs(30), closed).await;
    assert!(waited.is_ok(), "it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_carries_more_than_its_key_is_good_for() {
    let twelve = Twelve::new();
    let (sender, links) = counted(Keys::set_by_hand(Keyring::new(key(1), None)).1);
    let (uploader, _) = twelve.holder(sender).await;
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    // 6 MB a link, and 3.6 in all of them.
    twelve.take(0..12, &engine, uploader.local_addr()).await;
    twelve.take(0..12, &engine, uploader.local_addr()).await;
    assert_eq!(links.load(Ordering::Relaxed), 2);
}

/// A member may ask for blocks without waiting for the holder's handshake, on a link that stands too.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_along_with_a_handshake_is_given() {
    let twelve = Twelve::new();
    let (uploader, _) = twelve.holder(members(Mode::Encrypted)).await;
    let mut link = call(uploader.local_addr()).await;
    for _ in 0..2 {
        link.write_all(&twelve.asked(0)).await.unwrap();
        link.flush().await.unwrap();
        let mut all = vec![0; ALL_BYTES];
        let soon = Duration::from_mins(1);
        let read = tokio::time::timeout(soon, link.read_exact(&mut all)).await;
        read.unwrap().unwrap();
        assert!(all.ends_with(&twelve.segments[0][300_000 - BLOCK_BYTES / 4..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_segment_is_begun_on_a_link_of_an_old_key() {
    let twelve = Twelve::new();
    let ring = || Keys::set_by_hand(Keyring::new(key(1), None));
    let ((near, near_keys), (far, far_keys)) = (ring(), ring());
    let (sender, links) = counted(far_keys);
    let (uploader, _) = twelve.holder(sender).await;
    let addr = uploader.local_addr();
    let receiver = Security::new(near_keys, Purpose::PeerLink, Mode::Encrypted);
    let engine = Engine::start(receiver).unwrap();

    twelve.take(0..2, &engine, addr).await;
    assert_eq!(links.load(Ordering::Relaxed), 1);
    // The receiver knows that the key is old, the holder does not yet, and the new one is good for both.
    far.set(Keyring::new(key(1), Some(key(2))));
    near.set(Keyring::new(key(2), None));
    twelve.take(2..4, &engine, addr).await;
    assert_eq!(links.load(Ordering::Relaxed), 2);
    // And the other way round.
    near.set(Keyring::new(key(2), Some(key(3))));
    far.set(Keyring::new(key(3), None));
    twelve.take(4..5, &engine, addr).await;
    assert_eq!(links.load(Ordering::Relaxed), 3);
}

/// A holder ends some of more links than it lets wait, and whoever had them makes new ones.
#[tokio::test(flavor = "multi_thread")]
async fn links_that_wait_make_room() {
    let twelve = Twelve::new();
    let (uploader, _) = twelve.holder(members(Mode::Encrypted)).await;
    let addr = uploader.local_addr();
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    twelve.take(0..1, &engine, addr).await;
    let asked = twelve.asked(0);
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut link = call(addr).await;
        link.write_all(&asked).await.unwrap();
        link.flush().await.unwrap();
        let mut all = vec![0; ALL_BYTES];
        link.read_exact(&mut all).await.unwrap();
        waiting.push(link);
    }
    // Soon, and not only because it has waited for long.
    let soon = Duration::from_mins(1);
    let first = tokio::time::timeout(soon, waiting[0].read(&mut [0])).await;
    assert!(matches!(first, Ok(Ok(0))), "{first:?}");
    twelve.take(0..12, &engine, addr).await;
}
