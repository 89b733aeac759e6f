//! A whole file from a client, ours and such that are out of the ordinary.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::super::plain::PlainListener;
use super::super::source::{SegmentSource, Served};
use super::super::wire::{Message, Request, extended, handshake, know_extensions, piece_header};
use super::*;
use crate::gate::memory::MemoryIo;
use crate::metainfo::file::{FileHashes, FileTorrent, Kind};

const LEN: usize = (4 << 20) + 70_001;

/// A file with its torrent.
#[derive(Clone)]
struct One {
    content: Arc<[u8]>,
    torrent: Arc<FileTorrent>,
}

impl One {
    fn new() -> Self {
        let content: Arc<[u8]> = (0..LEN).map(|at| (at / 7 % 251).to_be_bytes()[7]).collect();
        let io = MemoryIo::holding(content.to_vec());
        let hashes = FileHashes::read(&io, || false).unwrap().unwrap();
        let torrent = FileTorrent::new(Kind::Hybrid, "a.gguf", Arc::new(hashes));
        Self {
            content,
            torrent: Arc::new(torrent),
        }
    }

    fn info_hash(&self) -> [u8; 20] {
        self.torrent.info_hash()
    }
}

impl SegmentSource for One {
    fn find(&self, info_hash: [u8; 20]) -> Option<Served> {
        (info_hash == self.info_hash()).then(|| Served {
            len: LEN as u64,
            piece_bytes: 2 << 20,
            io: Arc::new(MemoryIo::holding(self.content.to_vec())),
            metadata: Some(self.torrent.info().into()),
        })
    }
}

/// All that a stranger gives.
async fn taken(stranger: Stranger) -> Result<Vec<u8>, StrangerError> {
    let mut content = vec![0; LEN];
    let mut offsets = BTreeSet::new();
    let put = |offset: u64, data: &[u8]| {
        assert!(offsets.insert(offset));
        let at = usize::try_from(offset).unwrap();
        content[at..at + data.len()].copy_from_slice(data);
        ControlFlow::Continue(())
    };
    stranger.take(put).await.map(|()| content)
}

#[tokio::test]
async fn a_whole_file_comes_from_a_client_that_has_it() {
    let one = One::new();
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let source = Arc::new(one.clone());
    let bound = PlainListener::bind(anywhere, source, Arc::new(|_, _| {}));
    let listener = bound.await.unwrap();
    let address = listener.local_addr();
    let stranger = Stranger::meet(address, one.info_hash()).await.unwrap();
    assert_eq!(stranger.file().name, b"a.gguf");
    assert_eq!(stranger.file().len, LEN as u64);
    assert!(taken(stranger).await.unwrap() == *one.content);
    // What it has not.
    let lost = Stranger::meet(address, [9; 20]).await.map(|_| ());
    assert!(matches!(lost, Err(StrangerError::Lost(_))), "{lost:?}");
    let stranger = Stranger::meet(address, one.info_hash()).await.unwrap();
    let stopped = stranger.take(|_, _| ControlFlow::Break(())).await;
    assert!(
        matches!(stopped, Err(StrangerError::Stopped)),
        "{stopped:?}"
    );
    drop(listener);
    let gone = Stranger::meet(address, one.info_hash()).await.map(|_| ());
    assert!(
        matches!(gone, Err(StrangerError::Unreachable(_))),
        "{gone:?}"
    );
}

/// A client's side of one connection.
struct Client {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Client {
    /// Waits for a connection and says that it has metadata of that length.
    async fn accept(listener: &TcpListener, info_hash: [u8; 20], size: usize) -> Self {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; HANDSHAKE_BYTES];
        stream.read_exact(&mut hello).await.unwrap();
        assert!(wire::knows_extensions(&hello));
        let mut answer = handshake(&info_hash, &[1; 20]);
        know_extensions(&mut answer);
        // PEX that leads nowhere, before anything else.
        answer.extend(extended(&[b"\x02d5:added6:\x7f\0\0\x01\x1e\x61e"]));
        let names = format!("\0d1:md11:ut_metadatai9ee13:metadata_sizei{size}ee");
        answer.extend(extended(&[names.as_bytes()]));
        stream.write_all(&answer).await.unwrap();
        Self {
            stream,
            heard: Vec::new(),
        }
    }

    /// Gives this metadata.
    async fn give(&mut self, info: &[u8]) {
        for (piece, block) in info.chunks(16 << 10).enumerate() {
            let head = format!(
                "d8:msg_typei1e5:piecei{piece}e10:total_sizei{}ee",
                info.len()
            );
            let message = extended(&[&[1], head.as_bytes(), block]);
            self.stream.write_all(&message).await.unwrap();
        }
    }

    /// What it is asked for next.
    async fn request(&mut self) -> Option<Request> {
        loop {
            let Some((message, taken)) = wire::parse(&self.heard).unwrap() else {
                self.heard.reserve(64 << 10);
                // It hung up, perhaps with unread bytes.
                if !matches!(self.stream.read_buf(&mut self.heard).await, Ok(1..)) {
                    return None;
                }
                continue;
            };
            let request = match message {
                Message::Request(request) => Some(request),
                _ => None,
            };
            self.heard.drain(..taken);
            if request.is_some() {
                return request;
            }
        }
    }

    async fn answer(&mut self, request: Request, content: &[u8]) {
        let at = request.piece as usize * (2 << 20) + request.begin as usize;
        let data = &content[at..at + request.len as usize];
        let message = [&piece_header(request)[..], data].concat();
        // It may be hung up by now.
        let _ = self.stream.write_all(&message).await;
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// It chokes now and then, answers the last request first, and sends what nobody asked for.
#[tokio::test]
async fn a_client_may_choke_and_answer_in_any_order() {
    let one = One::new();
    let (listener, address) = listener().await;
    let other = one.clone();
    let client = tokio::spawn(async move {
        let info = other.torrent.info().to_vec();
        let mut client = Client::accept(&listener, other.info_hash(), info.len()).await;
        client.give(&info).await;
        for turn in 0.. {
            client.stream.write_all(&[0, 0, 0, 1, 1]).await.unwrap();
            let mut asked = Vec::from_iter(client.request().await);
            if asked.is_empty() {
                return turn;
            }
            while asked.len() < 20
                && let Ok(Some((Message::Request(request), taken))) = wire::parse(&client.heard)
            {
                asked.push(request);
                client.heard.drain(..taken);
            }
            asked.reverse();
            client.answer(asked[0], &other.content).await;
            for request in &asked {
                client.answer(*request, &other.content).await;
            }
            let unasked = Request {
                piece: 1,
                begin: 16 << 10,
                len: 7,
            };
            client.answer(unasked, &other.content).await;
            // Requests that it has not answered are forgotten with this.
            if client.stream.write_all(&[0, 0, 0, 1, 0]).await.is_err() {
                return turn;
            }
            while let Ok(Some((_, taken))) = wire::parse(&client.heard) {
                client.heard.drain(..taken);
            }
        }
        0
    });
    let stranger = Stranger::meet(address, one.info_hash()).await.unwrap();
    assert!(taken(stranger).await.unwrap() == *one.content);
    assert!(client.await.unwrap() > 2);
}

#[tokio::test]
async fn metadata_is_what_its_hash_says_or_refused() {
    let one = One::new();
    for (size, change) in [(0, false), (5 << 20, false), (1, true)] {
        let (listener, address) = listener().await;
        let other = one.clone();
        let client = tokio::spawn(async move {
            let mut info = other.torrent.info().to_vec();
            info[3] ^= u8::from(change);
            let size = if change { info.len() } else { size };
            let mut client = Client::accept(&listener, other.info_hash(), size).await;
            client.give(&info).await;
            client.request().await
        });
        let refused = Stranger::meet(address, one.info_hash()).await.map(|_| ());
        match refused {
            Err(StrangerError::Speech(_)) => assert!(change),
            Err(StrangerError::Torrent(Unusable::MetadataLength(found))) => {
                assert_eq!(usize::try_from(found), Ok(size));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(client.await.unwrap(), None, "nothing more is asked of it");
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_it() {
    let one = One::new();
    let (listener, address) = listener().await;
    let other = one.clone();
    let client = tokio::spawn(async move {
        let mut client = Client::accept(&listener, other.info_hash(), 100).await;
        client.stream.write_all(&[0, 1, 0, 1]).await.unwrap();
        client.request().await
    });
    let refused = Stranger::meet(address, one.info_hash()).await.map(|_| ());
    assert!(
        matches!(refused, Err(StrangerError::Speech(_))),
        "{refused:?}"
    );
    assert_eq!(client.await.unwrap(), None);
}
