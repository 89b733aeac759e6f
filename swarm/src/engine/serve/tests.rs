use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{DuplexStream, ReadBuf};

use super::*;
use crate::gate::memory::MemoryIo;

#[test]
fn few_requests_wait_for_more_unless_there_are_none_to_come() {
    assert_eq!(patience(0, true), Some(IDLE_TIMEOUT));
    assert_eq!(patience(1, true), Some(GATHER));
    assert_eq!(patience(FEW - 1, true), Some(GATHER));
    assert_eq!(patience(FEW, true), None);
    assert_eq!(patience(1, false), None);
    // Foreign clients may ask for the same bytes again.
    assert_eq!(patience(0, false), Some(IDLE_TIMEOUT));
}

/// A connection in memory that counts how often something was to be acknowledged at once.
struct Counted(DuplexStream, AtomicUsize);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl Connection for Counted {
    fn acknowledge_at_once(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

/// The message that asks for the only block of a piece.
fn request(piece: u32) -> Vec<u8> {
    wire::request(wire::Request {
        piece,
        begin: 0,
        len: 16 << 10,
    })
}

#[tokio::test]
async fn only_what_holds_requests_back_is_acknowledged_at_once() {
    let (mut peer, ours) = tokio::io::duplex(1 << 20);
    let mut ours = Counted(ours, AtomicUsize::new(0));
    let served = Served {
        len: 64 << 14,
        piece_bytes: 16 << 10,
        io: Arc::new(MemoryIo::empty(64 << 14)),
        metadata: None,
    };
    let mut requests = Requests::default();
    // A keep-alive and half a request: nothing can be answered, so more can come only after an acknowledgement.
    let first = request(0);
    peer.write_all(&[0; 4]).await.unwrap();
    peer.write_all(&first[..9]).await.unwrap();
    // The first is polled first, and reads all that is there.
    let (more, written) = tokio::join!(
        requests.gather(&mut ours, &served),
        peer.write_all(&first[9..])
    );
    written.unwrap();
    assert!(more.unwrap());
    assert_eq!(requests.take(usize::MAX).len(), 1);
    assert_eq!(ours.1.swap(0, Ordering::Relaxed), 2);
    // Those that follow are acknowledged by the answer to them.
    for piece in 1..64 {
        peer.write_all(&request(piece)).await.unwrap();
    }
    let mut blocks = 0;
    while blocks < 63 {
        assert!(requests.gather(&mut ours, &served).await.unwrap());
        blocks += requests.take(usize::MAX).len();
    }
    assert_eq!(ours.1.load(Ordering::Relaxed), 0);
    drop(peer);
    assert!(!requests.gather(&mut ours, &served).await.unwrap());
}

/// Has nothing.
struct Nothing;

impl SegmentSource for Nothing {
    fn find(&self, _: [u8; 20]) -> Option<Served> {
        None
    }
}

#[tokio::test]
async fn who_is_told_something_and_asks_for_nothing_goes() {
    let (_peer, ours) = tokio::io::duplex(1 << 10);
    let mut ours = Counted(ours, AtomicUsize::new(0));
    let served = Served {
        len: 1,
        piece_bytes: 16 << 10,
        io: Arc::new(MemoryIo::empty(1)),
        metadata: None,
    };
    let pex = Exchange::new(Roster::default(), [7; 20], "10.0.0.1".parse().unwrap());
    let mut extensions = Extensions::new(Arc::from(&b"de"[..]), Some(pex));
    extensions.hear(b"\0d1:md6:ut_pexi4eee").unwrap();
    let mut requests = Requests {
        extensions: Some(extensions),
        served_at: Instant::now().checked_sub(IDLE_TIMEOUT).unwrap(),
        ..Requests::default()
    };
    assert!(requests.gather(&mut ours, &served).await.unwrap());
    let mut out = Vec::new();
    requests.tell(&mut ours, &Nothing, &mut out).await.unwrap();
    let ended = requests.gather(&mut ours, &served).await;
    assert!(matches!(ended, Err(Closed::Idle)), "{ended:?}");
}
