//! The giving side for BitTorrent clients that are no members of the cluster: whole files, read-only, in the clear.
//!
//! Everybody who reaches the port may take what the source finds, so a source must find nothing but what everybody may have.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;

use super::accept::{Listening, UploaderError};
use super::serve::{Closed, Connection as _, serve};
use super::source::{OnSent, SegmentSource};

/// Connections served at once; more are closed at once.
const MAX_CONNECTIONS: usize = 256;
/// The same of one address, or of one IPv6 network of 64 bits. A client has one for each torrent.
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
        let crowd = Crowd::default();
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

/// Who is connected, by source.
#[derive(Clone, Default)]
struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place among them.
struct Place {
    crowd: Crowd,
    source: IpAddr,
}

impl Crowd {
    /// A place for one more from there, if there is one.
    fn enter(&self, from: IpAddr) -> Option<Place> {
        let source = source(from);
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: usize = places.values().sum();
        let taken_by_source = places.get(&source).copied().unwrap_or_default();
        if taken >= MAX_CONNECTIONS || taken_by_source >= MAX_FROM_ONE_SOURCE {
            return None;
        }
        places.insert(source, taken_by_source + 1);
        Some(Place {
            crowd: self.clone(),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&self.source) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: whoever has one address of an IPv6 network of 64 bits can have them all.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::source::Served;
    use super::super::wire;
    use super::*;
    use crate::gate::memory::MemoryIo;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nobody_takes_all_places() {
        let crowd = Crowd::default();
        let mut places = Vec::new();
        for _ in 0..MAX_FROM_ONE_SOURCE {
            places.push(crowd.enter(address("10.0.0.1")).unwrap());
        }
        assert!(crowd.enter(address("10.0.0.1")).is_none());
        assert!(crowd.enter(address("::ffff:10.0.0.1")).is_none());
        for host in 0..MAX_FROM_ONE_SOURCE {
            places.push(crowd.enter(address(&format!("fd00::{host:x}"))).unwrap());
        }
        assert!(crowd.enter(address("fd00::ffff:1:2:3")).is_none());
        for host in 0..MAX_CONNECTIONS - 2 * MAX_FROM_ONE_SOURCE {
            places.push(crowd.enter(address(&format!("10.0.1.{host}"))).unwrap());
        }
        assert!(crowd.enter(address("10.0.2.1")).is_none());
        places.remove(0);
        places.push(crowd.enter(address("10.0.0.1")).unwrap());
        drop(places);
        assert!(crowd.0.lock().unwrap().is_empty());
    }

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
