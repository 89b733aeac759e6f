//! Which files other BitTorrent clients can take now, by info hash.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use modelcache_swarm::discovery::announcement::ContentId;
use modelcache_swarm::discovery::hali::name::model_name;
use modelcache_swarm::discovery::hali::packet::Seed;
use modelcache_swarm::engine::{SegmentSource, Served};
use modelcache_swarm::metainfo::file::{FileHashes, FileTorrent, Kind, piece_bytes};
use modelcache_swarm::segment::{BlobId, SegmentIo};
use modelcache_swarm::store::SnapshotStore;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::watch;

use crate::core::{Learn, Public};
use crate::metrics::{Metrics, Model};

type InfoHash = [u8; 20];

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the snapshot.
    pub snapshot: String,
    /// Path within it.
    pub path: String,
    /// Its content.
    pub blob: BlobId,
}

impl Place {
    /// The last part of its path.
    #[must_use]
    pub fn name(&self) -> &str {
        last(&self.path)
    }
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A file that can be taken, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Repository on the hub.
    pub repository: String,
    /// Commit.
    pub commit: String,
    /// Path within the repository.
    pub path: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Info hash of its v1 torrent, 40 hex digits.
    pub info_hash: String,
    /// A link with which a client finds this node.
    pub magnet: String,
    /// v1 info hash of its hybrid torrent, as hali makes it; aria2 cannot read such a one.
    pub hybrid_info_hash: String,
    /// The link for that.
    pub hybrid_magnet: String,
}

struct Given {
    store: SnapshotStore,
    v1: Offer,
    hybrid: Offer,
    sent: Counter,
}

/// A torrent of a file.
struct Offer {
    torrent: FileTorrent,
    info_hash: InfoHash,
    info: Arc<[u8]>,
}

impl Offer {
    fn new(torrent: FileTorrent) -> Self {
        Self {
            info_hash: torrent.info_hash(),
            info: torrent.info().into(),
            torrent,
        }
    }
}

impl Given {
    fn offers(&self) -> [&Offer; 2] {
        [&self.v1, &self.hybrid]
    }

    fn offer(&self, info_hash: InfoHash) -> Option<&Offer> {
        let mut offers = self.offers().into_iter();
        offers.find(|offer| offer.info_hash == info_hash)
    }
}

/// What can be taken. Shared between who fills it and who serves it.
pub struct Shelf {
    peer: SocketAddr,
    metrics: Arc<Metrics>,
    index: RwLock<Index>,
    /// Torrents of which the DHT is told.
    in_dht: watch::Sender<BTreeSet<InfoHash>>,
}

#[derive(Default)]
struct Index {
    files: BTreeMap<Place, Arc<Given>>,
    /// Two files of the same name and content have the same torrents.
    by_hash: HashMap<InfoHash, (Place, Arc<Given>)>,
    /// How others learn where the files of each snapshot are.
    learn: BTreeMap<String, Learn>,
}

impl Index {
    fn put(&mut self, place: Place, given: Arc<Given>) {
        for offer in given.offers() {
            let named = (place.clone(), given.clone());
            self.by_hash.insert(offer.info_hash, named);
        }
        self.files.insert(place, given);
    }

    fn keep(&mut self, stays: impl Fn(&Place, &Given) -> bool) {
        let before = self.files.len();
        self.files.retain(|place, given| stays(place, given));
        if self.files.len() != before {
            // Made anew, because another file may have the torrents of one that went.
            let offers = self.files.iter().flat_map(|(place, given)| {
                let hashes = given.offers().map(|offer| offer.info_hash);
                hashes.map(|hash| (hash, (place.clone(), given.clone())))
            });
            self.by_hash = offers.collect();
        }
    }

    /// Torrents of which others are told unasked: those of files that the hub keeps in LFS, configuration and the like left out.
    fn large(&self, of: impl Fn(&Learn) -> bool) -> BTreeSet<InfoHash> {
        let large = self.files.iter().filter(|(place, _)| {
            let learn = self.learn.get(&place.snapshot);
            matches!(place.blob, BlobId::Sha256(_)) && learn.is_some_and(&of)
        });
        let offers = large.flat_map(|(_, given)| given.offers());
        offers.map(|offer| offer.info_hash).collect()
    }
}

impl Shelf {
    /// Nothing can be taken yet. Magnet links will name `node_ip` and `port`.
    #[must_use]
    pub fn new(node_ip: IpAddr, port: u16, metrics: Arc<Metrics>) -> Self {
        Self {
            peer: SocketAddr::new(node_ip, port),
            metrics,
            index: RwLock::default(),
            in_dht: watch::Sender::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `change` change the index.
    fn change(&self, change: impl FnOnce(&mut Index)) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut index);
        let in_dht = index.large(|learn| learn.dht);
        self.in_dht.send_if_modified(|old| {
            let changed = *old != in_dht;
            *old = in_dht;
            changed
        });
        let files = i64::try_from(index.files.len()).unwrap_or(i64::MAX);
        self.metrics.plain_files.set(files);
    }

    /// Takes off whatever is of none of these snapshots, and notes how others learn of the rest.
    pub(super) fn keep(&self, public: &Public) {
        self.change(|index| {
            index.keep(|place, given| {
                let public = public.get(&place.snapshot);
                public.is_some_and(|public| public.store == given.store)
            });
            let learn = public.iter();
            index.learn = learn
                .map(|(name, public)| (name.clone(), public.learn.clone()))
                .collect();
        });
    }

    /// Puts a file on.
    pub(super) fn put(&self, store: &SnapshotStore, place: Place, hashes: FileHashes) {
        let model = Model {
            model: store.snapshot().repository.clone(),
        };
        let hashes = Arc::new(hashes);
        let offer = |kind| Offer::new(FileTorrent::new(kind, place.name(), hashes.clone()));
        let given = Given {
            store: store.clone(),
            v1: offer(Kind::V1),
            hybrid: offer(Kind::Hybrid),
            sent: self.metrics.plain_sent.get_or_create(&model).clone(),
        };
        self.change(|index| index.put(place, Arc::new(given)));
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.read().files.contains_key(place)
    }

    /// Torrents of which others are told unasked.
    pub(super) fn large(&self) -> Vec<ContentId> {
        let large = self.read().large(|_| true);
        large.into_iter().map(ContentId).collect()
    }

    /// Torrents of which the DHT is told, from now on.
    pub(super) fn in_dht(&self) -> watch::Receiver<BTreeSet<InfoHash>> {
        self.in_dht.subscribe()
    }

    /// The GGUF files, as hali names them. A name that stands for several files of a snapshot is left out, because who asks
    /// for one of them could be given another.
    pub(super) fn ggufs(&self) -> Vec<Seed> {
        let index = self.read();
        let seeds = index.files.iter().filter_map(|(place, given)| {
            let snapshot = given.store.snapshot();
            let named = |path: &str| model_name(&snapshot.repository, last(path));
            let name = named(&place.path)?;
            let others = snapshot.files.iter().filter(|file| file.path != place.path);
            if others
                .into_iter()
                .any(|file| named(&file.path).as_ref() == Some(&name))
            {
                return None;
            }
            Seed::new(
                &name,
                given.hybrid.info_hash,
                given.hybrid.torrent.info_hash_v2(),
                &snapshot.repository,
                &snapshot.commit,
            )
        });
        seeds.collect()
    }

    /// Everything that can be taken.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let index = self.read();
        let files = index.files.iter().map(|(place, given)| Listed {
            repository: given.store.snapshot().repository.clone(),
            commit: given.store.snapshot().commit.clone(),
            path: place.path.clone(),
            size_bytes: given.v1.torrent.size(),
            info_hash: hex::encode(given.v1.info_hash),
            magnet: given.v1.torrent.magnet(&[self.peer]),
            hybrid_info_hash: hex::encode(given.hybrid.info_hash),
            hybrid_magnet: given.hybrid.torrent.magnet(&[self.peer]),
        });
        files.collect()
    }

    /// The torrent file of a v1 info hash in hex.
    #[must_use]
    pub fn torrent(&self, info_hash: &str) -> Option<Vec<u8>> {
        let mut hash = [0; 20];
        hex::decode_to_slice(info_hash, &mut hash).ok()?;
        let index = self.read();
        let (_, given) = index.by_hash.get(&hash)?;
        Some(given.offer(hash)?.torrent.torrent())
    }

    /// Counts bytes that were sent.
    pub(super) fn sent(&self, info_hash: InfoHash, bytes: u64) {
        if let Some((_, given)) = self.read().by_hash.get(&info_hash) {
            given.sent.inc_by(bytes);
        }
    }
}

impl SegmentSource for Shelf {
    fn find(&self, info_hash: InfoHash) -> Option<Served> {
        let index = self.read();
        let (place, given) = index.by_hash.get(&info_hash)?;
        let offer = given.offer(info_hash)?;
        let io = given.store.content(&place.blob)?;
        let len = io.size();
        let io = Arc::new(Revocable {
            io,
            given: Arc::downgrade(given),
        });
        Some(Served {
            len,
            piece_bytes: piece_bytes(len),
            io,
            metadata: Some(offer.info.clone()),
        })
    }

    fn exchange(&self, info_hash: InfoHash) -> Option<Vec<SocketAddr>> {
        let index = self.read();
        // Each of the snapshots that have the torrent may allow it.
        let given = index.files.iter();
        let given = given.filter(|(_, given)| given.offer(info_hash).is_some());
        let learn = given.filter_map(|(place, _)| index.learn.get(&place.snapshot)?.pex.as_ref());
        let others = learn.max_by_key(|others| others.len())?;
        // All nodes have the same settings.
        let others = others
            .iter()
            .map(|ip| SocketAddr::new(*ip, self.peer.port()));
        Some(others.collect())
    }
}

/// A file that can be read for as long as it is on the shelf: connections outlive what they were opened for.
struct Revocable {
    io: Arc<dyn SegmentIo>,
    given: Weak<Given>,
}

impl SegmentIo for Revocable {
    fn size(&self) -> u64 {
        self.io.size()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.io.write_at(offset, data)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.given.strong_count() == 0 {
            let message = "it is not given to other BitTorrent clients any longer";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        self.io.read_at(offset, buffer)
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.given.strong_count() > 0 && self.io.read_now(offset, buffer)
    }

    fn checked(&self, offset: u64, data: &[u8]) {
        self.io.checked(offset, data);
    }
}
