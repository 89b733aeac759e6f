//! Which segments this node serves, by info hash.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use modelcache_swarm::engine::{SegmentSource, Served};
use modelcache_swarm::inventory::{self, Answer};
use modelcache_swarm::metainfo;
use modelcache_swarm::segment::PieceHashes;
use modelcache_swarm::store::SnapshotStore;
use prometheus_client::metrics::counter::Counter;

use crate::metrics::{Metrics, Model};

type InfoHash = [u8; 20];

struct Offer {
    store: SnapshotStore,
    segment: u32,
    sent: Counter,
}

#[derive(Default)]
struct Index {
    offers: HashMap<InfoHash, Offer>,
    by_snapshot: HashMap<String, HashMap<u32, InfoHash>>,
    /// By topic.
    stances: HashMap<InfoHash, (SnapshotStore, Stance)>,
}

/// How this node stands with a snapshot, for other nodes that ask.
#[derive(Debug)]
pub struct Stance {
    /// Segments on their way from the hub.
    pub fetching: Vec<u32>,
    /// Whether it can get more from there.
    pub reaches_hub: bool,
    /// Whether it is connected to the coordinator.
    pub coordinated: bool,
}

/// The index. Shared between the work loop, which changes it, and the uploader, which reads it.
pub struct Serving {
    index: RwLock<Index>,
    metrics: Arc<Metrics>,
}

impl Serving {
    /// Nothing is served yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            index: RwLock::default(),
            metrics,
        }
    }

    /// Serves a held segment.
    pub fn offer(&self, store: &SnapshotStore, segment: u32, pieces: &PieceHashes) {
        let snapshot = store.snapshot();
        let Some(planned) = store.segments().get(segment as usize) else {
            return;
        };
        let hash = metainfo::info_hash(
            &snapshot.name,
            segment,
            planned.len(),
            snapshot.sizes.piece_bytes,
            pieces,
        );
        let model = Model {
            model: snapshot.repository.clone(),
        };
        let offer = Offer {
            store: store.clone(),
            segment,
            sent: self.metrics.peer_sent.get_or_create(&model).clone(),
        };
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.offers.insert(hash, offer);
        let segments = index.by_snapshot.entry(snapshot.name.clone()).or_default();
        if let Some(old) = segments.insert(segment, hash)
            && old != hash
        {
            index.offers.remove(&old);
        }
    }

    /// No longer serves these segments.
    pub fn withdraw(&self, snapshot: &str, segments: &[u32]) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = index.by_snapshot.get_mut(snapshot) else {
            return;
        };
        let gone: Vec<InfoHash> = segments
            .iter()
            .filter_map(|segment| known.remove(segment))
            .collect();
        for hash in gone {
            index.offers.remove(&hash);
        }
    }

    /// No longer serves anything of this snapshot.
    pub fn withdraw_all(&self, snapshot: &str) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.stances.remove(&inventory::topic(snapshot));
        for hash in index
            .by_snapshot
            .remove(snapshot)
            .unwrap_or_default()
            .into_values()
        {
            index.offers.remove(&hash);
        }
    }

    /// Takes note of how this node stands with a snapshot.
    pub fn stand(&self, store: &SnapshotStore, stance: Stance) {
        let topic = inventory::topic(&store.snapshot().name);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.stances.insert(topic, (store.clone(), stance));
    }

    /// Counts bytes that were sent.
    pub fn sent(&self, info_hash: InfoHash, bytes: u64) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(offer) = index.offers.get(&info_hash) {
            offer.sent.inc_by(bytes);
        }
    }
}

impl SegmentSource for Serving {
    fn find(&self, info_hash: InfoHash) -> Option<Served> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let offer = index.offers.get(&info_hash)?;
        let io = offer.store.reader(offer.segment)?;
        Some(Served {
            len: io.size(),
            piece_bytes: offer.store.snapshot().sizes.piece_bytes,
            io,
            metadata: None,
        })
    }

    fn answer(&self, topic: InfoHash, wants: &[u32]) -> Option<Answer> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let (store, stance) = index.stances.get(&topic)?;
        let offered = index.by_snapshot.get(&store.snapshot().name);
        let has = |segment: &u32| offered.is_some_and(|offered| offered.contains_key(segment));
        let wanted = wants.iter().copied().filter(has);
        Some(Answer {
            held: offered
                .into_iter()
                .flatten()
                .map(|(segment, _)| *segment)
                .collect(),
            fetching: stance.fetching.clone(),
            reaches_hub: stance.reaches_hub,
            coordinated: stance.coordinated,
            pieces: wanted
                .filter_map(|segment| store.held_segment(segment))
                .collect(),
        })
    }
}
