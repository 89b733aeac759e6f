//! A model, the stand-in hub, segments in memory, and what a node does with them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use modelcache_swarm::coordination::OriginAccess;
use modelcache_swarm::engine::{SegmentSource, Served};
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::origin::{OriginClient, OriginError};
use modelcache_swarm::plan;
use modelcache_swarm::secret::{Key, Keyring, Keys, Purpose};
use modelcache_swarm::segment::{BlobId, PieceHashes, Segment, SegmentIo};
use modelcache_swarm::snapshot::Snapshot;
use modelcache_swarm::verify::BlobHasher;
use modelcache_test_hub::admin::{RepositorySpec, Settings, Token};
use modelcache_test_hub::{Hub, HubOptions};

pub const REPOSITORY: &str = "org/model";

/// A segment in memory.
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    pub fn new(len: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; usize::try_from(len).unwrap()])))
    }
}

impl SegmentIo for Memory {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.0.lock().unwrap()[offset..offset + buffer.len()]);
        Ok(())
    }

    fn checked(&self, _offset: u64, _data: &[u8]) {}
}

/// What a node serves.
pub struct Shelf(pub HashMap<[u8; 20], Served>);

impl SegmentSource for Shelf {
    fn find(&self, info_hash: [u8; 20]) -> Option<Served> {
        self.0.get(&info_hash).cloned()
    }
}

/// 1,200 small files, odd names, an empty file and one of 20 MB in LFS.
pub fn model() -> RepositorySpec {
    let mut model = RepositorySpec::new(REPOSITORY)
        .text("config.json", "{\"hidden_size\": 384}")
        .text("empty", "")
        .text("späß/#1 +%20?.txt", "odd name")
        .synthetic("onnx/deep/er/model.onnx", 2, 1_500_000)
        .synthetic("model.safetensors", 1, 20_000_003);
    for n in 0..1200 {
        model = model.text(
            &format!("many/{n:04}.txt"),
            &format!("file number {n}").repeat(n % 50 + 1),
        );
    }
    model
}

pub async fn hub(settings: Settings) -> Hub {
    let generous = modelcache_test_hub::admin::Quotas {
        api: 1_000_000,
        resolvers: 1_000_000,
        pages: 1_000_000,
    };
    let hub = Hub::start(HubOptions {
        settings: Settings {
            anonymous: generous,
            user: generous,
            ..settings
        },
        ..HubOptions::default()
    })
    .await
    .unwrap();
    hub.set_tokens(vec![Token {
        token: "hf_verysecret".to_owned(),
        user: "somebody".to_owned(),
        repositories: vec!["org/gated".to_owned(), "org/private".to_owned()],
    }]);
    hub
}

pub fn client(hub: &Hub, token: Option<&str>) -> OriginClient {
    OriginClient::new(&OriginAccess {
        endpoint: hub.url(),
        token: token.map(str::to_owned),
        ca_bundle: None,
    })
    .unwrap()
}

pub async fn snapshot(client: &OriginClient, revision: &str) -> Result<Snapshot, OriginError> {
    let commit = client.resolve(REPOSITORY, revision).await?;
    let files = client.tree(REPOSITORY, &commit).await?;
    let sizes = plan::sizes(files.iter().map(|file| file.size).sum());
    Ok(Snapshot {
        name: format!("model-{}", &commit[..8]),
        repository: REPOSITORY.to_owned(),
        revision: revision.to_owned(),
        commit,
        files,
        sizes,
    })
}

pub type Fetched = Vec<(Segment, Arc<Memory>, PieceHashes)>;

/// Fetches all segments, four at a time.
pub async fn fetch(
    client: &OriginClient,
    snapshot: &Snapshot,
    count: &AtomicU64,
) -> Result<Fetched, OriginError> {
    use futures_util::{StreamExt, TryStreamExt};
    futures_util::stream::iter(plan::cut(snapshot))
        .map(|segment| async move {
            let io = Memory::new(segment.len());
            let hashes = client
                .fetch_segment(snapshot, &segment, io.clone(), &|bytes| {
                    count.fetch_add(bytes, Ordering::Relaxed);
                })
                .await?;
            Ok((segment, io, hashes))
        })
        .buffered(4)
        .try_collect()
        .await
}

/// The blobs whose hash is wrong.
pub fn wrong_blobs(snapshot: &Snapshot, fetched: &[(Segment, Arc<Memory>)]) -> Vec<BlobId> {
    let mut parts: BTreeMap<(BlobId, u64), Vec<u8>> = BTreeMap::new();
    for (segment, io) in fetched {
        let mut at = 0;
        for extent in &segment.extents {
            let mut bytes = vec![0; usize::try_from(extent.len).unwrap()];
            io.read_at(at, &mut bytes).unwrap();
            parts.insert((extent.blob, extent.offset), bytes);
            at += extent.len;
        }
    }
    snapshot
        .blobs()
        .into_iter()
        .filter(|(blob, size)| {
            let mut hasher = BlobHasher::new(blob, *size);
            for ((of, _), bytes) in &parts {
                if of == blob {
                    hasher.update(bytes);
                }
            }
            hasher.finish() != *blob
        })
        .map(|(blob, _)| blob)
        .collect()
}

pub fn without_hashes(fetched: &Fetched) -> Vec<(Segment, Arc<Memory>)> {
    fetched
        .iter()
        .map(|(segment, io, _)| (segment.clone(), io.clone()))
        .collect()
}

/// Links of members of one cluster.
pub fn members() -> Security {
    let key = Key::parse(&"5a17".repeat(16)).unwrap();
    let (_, keys) = Keys::set_by_hand(Keyring::new(key, None));
    Security::new(keys, Purpose::PeerLink, Mode::Encrypted)
}
