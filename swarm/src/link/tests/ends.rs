//! Links of which both ends, and what passes between them, can be looked at.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio::net::{TcpListener, TcpStream};

use super::super::*;
use crate::secret::{Key, Keyring};

pub(super) const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
pub(super) const NEW: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

pub(super) fn keys(current: &str, previous: Option<&str>) -> Keys {
    let key = |text| Key::parse(text).unwrap();
    Keys::set_by_hand(Keyring::new(key(current), previous.map(key))).1
}

pub(super) fn security(keys: Keys, mode: Mode) -> Security {
    Security::new(keys, Purpose::PeerLink, mode)
}

pub(super) type Pair<A, B> = (Result<Link<A>, LinkError>, Result<Link<B>, LinkError>);

/// Both ends' results.
pub(super) async fn meet(
    dialer: &Security,
    listener: &Security,
) -> Pair<DuplexStream, DuplexStream> {
    let (near, far) = duplex(1 << 20);
    tokio::join!(dialer.dial(near), listener.accept(far))
}

/// The listener's result for what somebody else sends it.
pub(super) async fn answer_to(bytes: &[u8], listener: &Security) -> LinkError {
    let (mut near, far) = duplex(1 << 20);
    near.write_all(bytes).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = near.read_to_end(&mut answer).await;
    });
    let error = listener.accept(far).await.map(|_| ()).unwrap_err();
    reading.abort();
    error
}

impl Wire for DuplexStream {
    fn wake_at(&self, _: usize) {}
}

impl Wire for Tap {
    fn wake_at(&self, _: usize) {}
}

/// A stream that records what each end writes.
pub(super) struct Tap {
    stream: DuplexStream,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = result {
            self.written.lock().unwrap().extend(&buf[..len]);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A link whose dialer's and listener's written bytes are recorded, in this order.
pub(super) struct Recorded {
    pub(super) dialer: Link<Tap>,
    pub(super) listener: Link<Tap>,
    pub(super) wire: [Arc<Mutex<Vec<u8>>>; 2],
}

pub(super) async fn recorded(mode: Mode, buffer: usize) -> Recorded {
    let security = security(keys(NEW, None), mode);
    let wire = [Arc::default(), Arc::default()];
    let (near, far) = duplex(buffer);
    let tap = |stream, index: usize| Tap {
        stream,
        written: Arc::clone(&wire[index]),
    };
    let (dialer, listener) =
        tokio::join!(security.dial(tap(near, 0)), security.accept(tap(far, 1)));
    Recorded {
        dialer: dialer.unwrap(),
        listener: listener.unwrap(),
        wire,
    }
}

/// Both ends of a link over TCP, whose dialer hears the listener by packets of a kibibyte, one a millisecond.
pub(super) async fn trickling() -> (Link<TcpStream>, Link<TcpStream>) {
    let security = security(keys(NEW, None), Mode::Encrypted);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front_address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (near, _) = front.accept().await.unwrap();
        near.set_nodelay(true).unwrap();
        let far = TcpStream::connect(address).await.unwrap();
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
            (near.into_split(), far.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
        let mut packet = [0; 1024];
        let mut beat = tokio::time::interval(Duration::from_millis(1));
        loop {
            let len = from_far.read(&mut packet).await.unwrap();
            if len == 0 {
                return;
            }
            beat.tick().await;
            to_near.write_all(&packet[..len]).await.unwrap();
        }
    });
    let dialing = async {
        let stream = TcpStream::connect(front_address).await.unwrap();
        security.dial(stream).await.unwrap()
    };
    let listening = async {
        let (stream, _) = listener.accept().await.unwrap();
        security.accept(stream).await.unwrap()
    };
    tokio::join!(dialing, listening)
}

/// Bytes of which no 64 in a row occur twice.
pub(super) fn text(len: usize) -> Vec<u8> {
    (0_u64..)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
        .take(len)
        .collect()
}

pub(super) async fn read(link: &mut (impl AsyncRead + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    link.read_exact(&mut bytes).await.unwrap();
    bytes
}
