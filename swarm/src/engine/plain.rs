//! The giving side for BitTorrent clients that are no members of the cluster: whole files, read-only, in the clear.
//!
//! Everybody who reaches the port may take what the source finds, so a source must find nothing but what everybody may have.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::accept::{Listening, UploaderError};
use super::serve::{Closed, Connection as _, serve};
use super::source::{OnSent, SegmentSource};
use crate::crowd::{Crowd, Place};

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
        let listening = Listening::start(addr, move |stream, peer| {
            let place = crowd.enter(peer.ip())?;
            let (source, on_sent) = (source.clone(), on_sent.clone());
            Some(receive(stream, place, source, on_sent))
        });
        listening.await.map(Self)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }
}

async fn receive(
    stream: TcpStream,
    _place: Place,
    source: Arc<dyn SegmentSource>,
    on_sent: OnSent,
) -> Result<(), Closed> {
    stream.set_nodelay(true)?;
    stream.acknowledge_at_once();
    serve(stream, &*source, &on_sent, || BATCH_BYTES, None).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::source::Served;
    use super::super::wire;
    use super::*;
    use crate::gate::memory::MemoryIo;

    const HASH: [u8; 20] = [7; 20];

    /// Has one file of two pieces.
    struct One;

    impl SegmentSource for One {
        fn find(&self, info_hash: [u8; 20]) -> Option<Served> {
            (info_hash == HASH).then(|| Served {
                len: 40_000,
                piece_bytes: 32 << 10,
                io: Arc::new(MemoryIo::holding(vec![9; 40_000])),
                metadata: Some(Arc::from(&b"d4:infoe"[..])),
            })
        }
    }

    async fn one() -> (PlainListener, TcpStream) {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let listener = PlainListener::bind(anywhere, Arc::new(One), Arc::new(|_, _| {}))
            .await
            .unwrap();
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
            // A request outside of the file ends it.
            hello.extend([0, 0, 0, 13, 6, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x40, 0]);
            stream.write_all(&hello).await.unwrap();
            let said = rest(stream).await;
            let answered: &[u8; 68] = said.first_chunk().unwrap();
            assert_eq!(wire::parse_handshake(answered), Ok(HASH));
            assert_eq!(wire::knows_extensions(answered), knows);
            let names = b"11:ut_metadata";
            assert_eq!(said.windows(names.len()).any(|part| part == names), knows);
        }
    }
}
