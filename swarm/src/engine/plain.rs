//! The giving side for BitTorrent clients that are no members of the cluster: whole files, read-only, in the clear.
//!
//! Everybody who reaches the port may take what the source finds, so a source must find nothing but what everybody may have.

use std::net::SocketAddr;
use std::sync::Arc;

use super::accept::{Listening, UploaderError};
use super::pex::Roster;
use super::serve::{Connection as _, Peer, serve};
use super::source::{OnSent, SegmentSource};
use crate::crowd::Crowd;

/// Connections served at once; more are closed at once.
const MAX_CONNECTIONS: usize = 256;
/// The same of one [`source`](crate::crowd::source). A client has one for each torrent.
const MAX_FROM_ONE_SOURCE: usize = 32;
/// Bytes that are read and sent together.
const BATCH_BYTES: usize = 128 << 10;

/// Serves whole files to everybody until it is dropped.
pub struct PlainListener(Listening);

impl PlainListener {
    /// Listens on `addr` and serves what `source` finds to whoever connects.
    pub async fn bind(
        addr: SocketAddr,
        source: Arc<dyn SegmentSource>,
        on_sent: OnSent,
    ) -> Result<Self, UploaderError> {
        let crowd = Crowd::new(MAX_CONNECTIONS, MAX_FROM_ONE_SOURCE);
        let roster = Roster::default();
        let listening = Listening::start(addr, move |stream, peer| {
            let place = crowd.enter(peer.ip())?;
            let (source, on_sent) = (source.clone(), on_sent.clone());
            let roster = roster.clone();
            Some(async move {
                let (mut stream, _place) = (stream, place);
                stream.set_nodelay(true)?;
                stream.acknowledge_at_once();
                let client = Peer::Client(&roster, peer.ip());
                let (input, batch) = (&mut Vec::new(), || BATCH_BYTES);
                let served = serve(&mut stream, input, &*source, &on_sent, batch, client).await;
                served.map(drop)
            })
        });
        listening.await.map(Self)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::super::source::Served;
    use super::super::wire;
    use super::*;
    use crate::gate::memory::MemoryIo;

    const HASH: [u8; 20] = [7; 20];
    /// A request outside of the file, which ends a connection.
    const OUTSIDE: [u8; 17] = [0, 0, 0, 13, 6, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x40, 0];

    /// Has one file of two pieces, of which clients may be told where else it is, or not.
    struct One {
        pex: bool,
    }

    impl SegmentSource for One {
        fn find(&self, info_hash: [u8; 20]) -> Option<Served> {
            (info_hash == HASH).then(|| Served {
                len: 40_000,
                piece_bytes: 32 << 10,
                io: Arc::new(MemoryIo::holding(vec![9; 40_000])),
                metadata: Some(Arc::from(&b"d4:infoe"[..])),
            })
        }

        fn exchange(&self, info_hash: [u8; 20]) -> Option<Vec<SocketAddr>> {
            (self.pex && info_hash == HASH).then(Vec::new)
        }
    }

    async fn listener(pex: bool) -> PlainListener {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let one = Arc::new(One { pex });
        let bound = PlainListener::bind(anywhere, one, Arc::new(|_, _| {}));
        bound.await.unwrap()
    }

    async fn one() -> (PlainListener, TcpStream) {
        let listener = listener(false).await;
        let stream = TcpStream::connect(listener.local_addr()).await.unwrap();
        (listener, stream)
    }

    /// All that the listener says until it hangs up.
    async fn rest(mut stream: TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all);
        let ended = tokio::time::timeout(Duration::from_secs(20), read).await;
        // Hanging up on bytes that were not read is a reset.
        let _ = ended.unwrap();
        all
    }

    #[tokio::test]
    async fn what_is_not_served_gets_no_answer() {
        let (_listener, mut stream) = one().await;
        let hello = wire::handshake(&[8; 20], &[1; 20]);
        stream.write_all(&hello).await.unwrap();
        assert_eq!(rest(stream).await, b"");
    }

    #[tokio::test]
    async fn extensions_are_spoken_with_those_who_know_them() {
        for knows in [false, true] {
            let (_listener, mut stream) = one().await;
            let mut hello = wire::handshake(&HASH, &[1; 20]);
            if knows {
                wire::know_extensions(&mut hello);
            }
            hello.extend(OUTSIDE);
            stream.write_all(&hello).await.unwrap();
            let said = rest(stream).await;
            let answered: &[u8; 68] = said.first_chunk().unwrap();
            assert_eq!(wire::parse_handshake(answered), Ok(HASH));
            assert_eq!(wire::knows_extensions(answered), knows);
            let names = b"11:ut_metadata";
            assert_eq!(said.windows(names.len()).any(|part| part == names), knows);
        }
    }

    fn has(said: &[u8], words: &[u8]) -> bool {
        said.windows(words.len()).any(|part| part == words)
    }

    /// Connects a client that listens at this port, and returns what it was told first.
    async fn client(listener: &PlainListener, port: u16) -> (TcpStream, Vec<u8>) {
        let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
        let mut hello = wire::handshake(&HASH, &[1; 20]);
        wire::know_extensions(&mut hello);
        let names = format!("\0d1:md11:ut_metadatai3e6:ut_pexi4ee1:pi{port}ee");
        hello.extend(wire::extended(&[names.as_bytes()]));
        // Who gets an answer to this has been heard.
        hello.extend(wire::extended(&[b"\x01d8:msg_typei0e5:piecei0ee"]));
        stream.write_all(&hello).await.unwrap();
        let mut said = Vec::new();
        while !has(&said, b"8:msg_typei1e") {
            let read = stream.read_buf(&mut said);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            assert!(read.unwrap().unwrap() > 0);
        }
        (stream, said)
    }

    #[tokio::test]
    async fn clients_are_told_of_each_other_where_that_is_allowed() {
        for pex in [false, true] {
            let listener = listener(pex).await;
            let _first = client(&listener, 0x1e61).await;
            let (mut second, mut said) = client(&listener, 0x1e62).await;
            second.write_all(&OUTSIDE).await.unwrap();
            said.extend(rest(second).await);
            assert_eq!(has(&said, b"6:ut_pexi2e"), pex);
            assert_eq!(has(&said, b"\x14\x04d5:added6:\x7f\0\0\x01\x1e\x61"), pex);
            assert_eq!(has(&said, b"5:added"), pex);
        }
    }
}
