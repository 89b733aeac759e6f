//! Fuzz targets of what holders hear, see [`crate::fuzzing`].

// Targets are tests: they panic.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::extensions::Extensions;
use super::pex::{Exchange, Roster};
use super::serve::{Connection, Peer, serve};
use super::source::{SegmentSource, Served};
use super::wire::{self, HANDSHAKE_BYTES, Message};
use crate::segment::SegmentIo;

/// Messages after the handshake: never more is taken than there is, and nothing outside of the segment is located. Nor are requests
/// passed over before another handshake.
pub fn wire(bytes: &[u8]) {
    if let Ok((passed, whole)) = wire::until_handshake(bytes) {
        let (mut before, rest) = bytes.split_at(passed);
        while let Ok(Some((message, len))) = wire::parse(before) {
            assert!(!matches!(message, Message::Request(_)));
            before = &before[len..];
        }
        assert_eq!(before, b"");
        assert!(!whole || rest.starts_with(b"\x13Bit") && rest.len() >= HANDSHAKE_BYTES);
    }
    let (len, piece_bytes) = (5_000_001, 1 << 18);
    let mut rest = bytes;
    while let Ok(Some((message, taken))) = wire::parse(rest) {
        assert!((4..=rest.len()).contains(&taken));
        if let Message::Request(request) = message
            && let Ok(offset) = wire::locate(request, len, piece_bytes)
        {
            assert!(offset + u64::from(request.len) <= len);
            assert!(request.len <= wire::MAX_BLOCK_BYTES);
        }
        rest = &rest[taken..];
    }
}

/// One extension message of a peer that knows how to ask for metadata and of others: it is told one block at most, and of nobody.
pub fn extension(bytes: &[u8]) {
    let roster = Roster::default();
    let pex = Exchange::new(roster.clone(), HASH, [10, 0, 0, 1].into());
    let mut extensions = Extensions::new(INFO.clone(), Some(pex));
    extensions.hear(HELLO).unwrap();
    extensions.hear(bytes).unwrap();
    let mut out = Vec::new();
    while extensions.answer(&mut out) {}
    assert!(out.len() < (16 << 10) + 200);
    out.clear();
    extensions.tell(Instant::now(), |_| Some(roster.all(HASH)), &mut out);
    // At most itself is known, and of itself it is not told.
    assert_eq!(out, b"");
}

/// All that a client says to the plain listener, from the handshake on: it is sent what the file has there, and nothing else.
pub fn plain_listener(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    }
    let mut client = Client {
        says: bytes,
        hears: Vec::new(),
    };
    let roster = Roster::default();
    let mut input = Vec::new();
    let serving = serve(
        &mut client,
        &mut input,
        &One,
        &ON_SENT,
        || 2 * PIECE_BYTES as usize,
        Peer::Client(&roster, [10, 0, 0, 1].into()),
    );
    // Why it ended does not matter.
    let _ = RUNTIME.with(|runtime| runtime.block_on(serving));
    if let Some((hello, messages)) = client.hears.split_first_chunk::<HANDSHAKE_BYTES>() {
        assert_eq!(wire::parse_handshake(hello), Ok(HASH));
        judge(messages);
    } else {
        assert_eq!(client.hears, b"");
    }
}

/// Whether these are whole messages, and blocks are those of the file.
fn judge(mut messages: &[u8]) {
    while let Some((len, rest)) = messages.split_first_chunk::<4>() {
        let (message, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
        if let [7, piece @ ..] = message {
            let (numbers, block) = piece.split_at(8);
            let numbers = numbers.as_chunks::<4>().0;
            let [piece, begin] = [numbers[0], numbers[1]].map(u32::from_be_bytes);
            let mut expected = vec![0; block.len()];
            let offset = u64::from(piece) * u64::from(PIECE_BYTES) + u64::from(begin);
            Numbers.read_at(offset, &mut expected).unwrap();
            assert_eq!(block, expected);
        }
        messages = rest;
    }
    assert_eq!(messages, b"");
}

const HASH: [u8; 20] = [7; 20];
const PIECE_BYTES: u32 = 1 << 10;
const HELLO: &[u8] = b"\0d1:md11:ut_metadatai3e6:ut_pexi4ee1:pi6881ee";
static INFO: LazyLock<Arc<[u8]>> = LazyLock::new(|| vec![7; 20_000].into());
static FILE: LazyLock<Arc<Numbers>> = LazyLock::new(|| Arc::new(Numbers));
static ON_SENT: LazyLock<super::source::OnSent> = LazyLock::new(|| Arc::new(|_, _| {}));

/// Has one file.
struct One;

impl SegmentSource for One {
    fn find(&self, info_hash: [u8; 20]) -> Option<Served> {
        (info_hash == HASH).then(|| Served {
            len: FILE.size(),
            piece_bytes: PIECE_BYTES,
            io: FILE.clone(),
            metadata: Some(INFO.clone()),
        })
    }

    fn exchange(&self, _: [u8; 20]) -> Option<Vec<SocketAddr>> {
        Some(vec![([10, 0, 0, 2], 9493).into()])
    }
}

/// A file in which each byte says where it is.
struct Numbers;

impl SegmentIo for Numbers {
    fn size(&self) -> u64 {
        5_000
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert!(offset + buffer.len() as u64 <= self.size());
        for (byte, at) in buffer.iter_mut().zip(offset..) {
            *byte = at.to_be_bytes()[7] ^ at.to_be_bytes()[6];
        }
        Ok(())
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.read_at(offset, buffer).is_ok()
    }

    fn checked(&self, _: u64, _: &[u8]) {}
}

/// Says some bytes, in packets of up to 100, and hangs up.
struct Client<'a> {
    says: &'a [u8],
    hears: Vec<u8>,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = buffer.remaining().min(self.says.len()).min(100);
        let (packet, rest) = self.says.split_at(len);
        buffer.put_slice(packet);
        self.says = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.hears.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Connection for Client<'_> {
    fn acknowledge_at_once(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::run;

    fn request(piece: u32, begin: u32, len: u32) -> Vec<u8> {
        wire::request(wire::Request { piece, begin, len })
    }

    const INTERESTED: &[u8] = &[0, 0, 0, 1, 2];
    const HAVE: &[u8] = &[0, 0, 0, 5, 4, 0, 0, 0, 1];

    fn ask(piece: i64) -> Vec<u8> {
        format!("\u{1}d8:msg_typei0e5:piecei{piece}ee").into_bytes()
    }

    #[test]
    fn fuzz_wire() {
        let corpus = [
            [request(0, 0, 16384), request(1, 16384, 16384)].concat(),
            [INTERESTED, &request(7, 0, 131_072), &[0, 0, 0, 0]].concat(),
            wire::greeting(20),
            [HAVE, &[0, 0, 0, 3, 20, 0, b'd']].concat(),
        ];
        run("wire", &corpus, wire);
    }

    #[test]
    fn fuzz_extension() {
        let corpus = [
            HELLO.to_vec(),
            ask(0),
            ask(77),
            b"\x01d8:msg_typei2e5:piecei0ee".to_vec(),
            b"\x02d5:added6:abcdef7:added.f1:\0e".to_vec(),
        ];
        run("extension", &corpus, extension);
    }

    #[test]
    fn fuzz_plain_listener() {
        let mut hello = wire::handshake(&HASH, &[1; 20]);
        let plain = hello.clone();
        wire::know_extensions(&mut hello);
        let metadata = |bytes: &[u8]| wire::extended(&[bytes]);
        let corpus = [
            [
                &plain,
                INTERESTED,
                &request(0, 0, 1024),
                &request(4, 0, 904),
            ]
            .concat(),
            [&plain, HAVE, &request(1, 512, 512), &request(4, 0, 905)].concat(),
            [
                hello.clone(),
                metadata(HELLO),
                metadata(&ask(1)),
                metadata(&ask(0)),
                request(0, 0, 1),
            ]
            .concat(),
            [
                hello,
                metadata(&ask(9)),
                metadata(HELLO),
                request(2, 1, 1023),
                wire::greeting(20),
            ]
            .concat(),
            wire::handshake(&[8; 20], &[1; 20]),
        ];
        run("plain_listener", &corpus, plain_listener);
    }
}
