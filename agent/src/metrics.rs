//! What Prometheus reads.

mod heard;
mod labels;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::discovery::refusal::Counters;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::link::{OnHandshake, Side};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::heard::Heard;
use self::labels::{Announce, Build, Handshake, Snapshot};
use crate::state::NodeState;

pub use self::labels::{Model, Origin, Outcome, Transfer};

/// All metrics of the agent. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Payload bytes that came from the hub.
    pub origin_received: Family<Model, Counter>,
    /// Payload bytes that came from other nodes.
    pub peer_received: Family<Model, Counter>,
    /// Payload bytes that went to other nodes.
    pub peer_sent: Family<Model, Counter>,
    /// Payload bytes that went to other BitTorrent clients.
    pub plain_sent: Family<Model, Counter>,
    /// Files that other BitTorrent clients can take.
    pub plain_files: Gauge,
    /// Transfers of segments that ended.
    pub segments: Family<Transfer, Counter>,
    /// Files whose hash was wrong.
    pub verify_failures: Counter,
    /// Writes of the own status.
    pub status_writes: Counter,
    /// Writes of the own status that failed.
    pub status_write_errors: Counter,
    handshakes: Family<Handshake, Counter>,
    tracker_announces: Family<Announce, Counter>,
    dht_announces: Family<Announce, Counter>,
    hali_files: Family<Announce, Counter>,
    connected: Gauge,
    disk_size: Gauge,
    disk_free: Gauge,
    ready: Family<Snapshot, Gauge>,
    size: Family<Snapshot, Gauge>,
    held: Family<Snapshot, Gauge>,
    heard: Heard,
    /// Snapshots that have gauges, so that those of a snapshot that is gone can be removed.
    told: Mutex<BTreeSet<String>>,
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let build = Family::<Build, Gauge>::default();
        build
            .get_or_create(&Build {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        let mut metrics = Self {
            registry: Registry::with_prefix("modelcache_agent"),
            origin_received: Family::default(),
            peer_received: Family::default(),
            peer_sent: Family::default(),
            plain_sent: Family::default(),
            plain_files: Gauge::default(),
            segments: Family::default(),
            verify_failures: Counter::default(),
            status_writes: Counter::default(),
            status_write_errors: Counter::default(),
            handshakes: Family::default(),
            tracker_announces: Family::default(),
            dht_announces: Family::default(),
            hali_files: Family::default(),
            connected: Gauge::default(),
            disk_size: Gauge::default(),
            disk_free: Gauge::default(),
            ready: Family::default(),
            size: Family::default(),
            held: Family::default(),
            heard: Heard::default(),
            told: Mutex::default(),
        };
        metrics.register(build);
        metrics
    }

    fn register(&mut self, build: Family<Build, Gauge>) {
        // The library adds the full stop to each help text and `_total` to each counter.
        let registry = &mut self.registry;
        registry.register(
            "build_info",
            "Always 1; the version of the agent is in the label",
            build,
        );
        registry.register(
            "origin_received_bytes",
            "Bytes of model files received from the hub since the agent started, including those of attempts that failed",
            self.origin_received.clone(),
        );
        registry.register(
            "peer_received_bytes",
            "Bytes of model files received from other nodes since the agent started",
            self.peer_received.clone(),
        );
        registry.register(
            "peer_sent_bytes",
            "Bytes of model files sent to other nodes since the agent started",
            self.peer_sent.clone(),
        );
        registry.register(
            "plain_sent_bytes",
            "Bytes of model files sent to BitTorrent clients that are no nodes of the cluster since the agent started",
            self.plain_sent.clone(),
        );
        registry.register(
            "plain_files",
            "Files that BitTorrent clients that are no nodes of the cluster can take from this node",
            self.plain_files.clone(),
        );
        registry.register(
            "segments",
            "Transfers of segments that ended, by where the segment came from and what came of it",
            self.segments.clone(),
        );
        registry.register(
            "verify_failures",
            "Files whose content did not have the hash that the hub states; they were thrown away and fetched again",
            self.verify_failures.clone(),
        );
        registry.register(
            "status_writes",
            "Writes of the status of this node's ModelCacheNode that succeeded",
            self.status_writes.clone(),
        );
        registry.register(
            "status_write_errors",
            "Writes of the status of this node's ModelCacheNode that failed and are tried again",
            self.status_write_errors.clone(),
        );
        registry.register(
            "link_handshakes",
            "Handshakes of encrypted or authenticated connections that ended, by whom with, which side and how: ok, or why there is no connection",
            self.handshakes.clone(),
        );
        registry.register(
            "coordinator_connected",
            "Whether the agent has a connection to the coordinator (1) or not (0)",
            self.connected.clone(),
        );
        registry.register(
            "disk_size_bytes",
            "Size of the file system that holds the cache",
            self.disk_size.clone(),
        );
        registry.register(
            "disk_free_bytes",
            "Space of the file system of the cache that the agent can still use",
            self.disk_free.clone(),
        );
        registry.register(
            "snapshot_ready",
            "Whether the snapshot is whole, verified and published on this node (1) or not (0)",
            self.ready.clone(),
        );
        registry.register(
            "snapshot_size_bytes",
            "Size of the snapshot when it is whole",
            self.size.clone(),
        );
        registry.register(
            "snapshot_held_bytes",
            "Bytes of the snapshot that are durable on this node",
            self.held.clone(),
        );
        self.register_outside();
    }

    /// What has to do with others than hub, nodes and coordinator.
    fn register_outside(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "tracker_announces",
            "Announces to the tracker, by what came of them: ok, or why they brought nothing",
            self.tracker_announces.clone(),
        );
        registry.register(
            "dht_announces",
            "Announces of files to the DHT, by what came of them: ok (a node of the DHT took it), or failed",
            self.dht_announces.clone(),
        );
        registry.register(
            "hali_files",
            "Files that were asked of machines with hali because neither hub nor nodes gave them, by what came of it: taken (proved by the hub's hash), wrong (another content), unfit (not what is missing), lost (not given), disk (not writable here), stopped",
            self.hali_files.clone(),
        );
        registry.register_collector(Box::new(self.heard.clone()));
    }

    /// Counts handshakes with peers or with the coordinator, as `with` says.
    #[must_use]
    pub fn count_handshakes(&self, with: &'static str) -> OnHandshake {
        let handshakes = self.handshakes.clone();
        Arc::new(move |side, result| {
            let side = match side {
                Side::Dialed => "dialed",
                Side::Accepted => "accepted",
            };
            let labels = Handshake { with, side, result };
            handshakes.get_or_create(&labels).inc();
        })
    }

    /// Counts announces to the tracker.
    #[must_use]
    pub fn count_tracker_announces(&self) -> Arc<dyn Fn(&'static str) + Send + Sync> {
        let announces = self.tracker_announces.clone();
        Arc::new(move |result| {
            announces.get_or_create(&Announce { result }).inc();
        })
    }

    /// Counts an announce to the DHT.
    pub(crate) fn count_dht_announce(&self, taken: bool) {
        let result = if taken { "ok" } else { "failed" };
        self.dht_announces.get_or_create(&Announce { result }).inc();
    }

    /// Counts what came of asking a machine with hali for a file.
    pub(crate) fn count_hali_file(&self, result: &'static str) {
        self.hali_files.get_or_create(&Announce { result }).inc();
    }

    /// Shows which peers are known from now on; the first call counts.
    pub fn show_peers(&self, peers: Peers) {
        self.heard.show_peers(peers);
    }

    /// Shows what became of announcements from now on; the first call counts.
    pub fn show_announcements(&self, counters: Arc<Counters>) {
        self.heard.show_announcements(counters);
    }

    /// Shows what is heard of machines with hali from now on; the first call counts.
    pub fn show_hali(&self, counters: Arc<Counters>) {
        self.heard.show_hali(counters);
    }

    /// Sets the gauges that say how the node stands.
    pub fn show(&self, state: &NodeState) {
        self.connected.set(i64::from(state.connected));
        self.disk_size.set(signed(state.total_bytes));
        self.disk_free.set(signed(state.free_bytes));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeSet::new();
        for snapshot in &state.snapshots {
            let label = Snapshot {
                snapshot: snapshot.name.clone(),
            };
            self.ready
                .get_or_create(&label)
                .set(i64::from(snapshot.phase == Phase::Ready));
            self.size
                .get_or_create(&label)
                .set(signed(snapshot.size_bytes));
            self.held
                .get_or_create(&label)
                .set(signed(snapshot.held_bytes));
            now.insert(snapshot.name.clone());
        }
        for gone in told.difference(&now) {
            let label = Snapshot {
                snapshot: gone.clone(),
            };
            self.ready.remove(&label);
            self.size.remove(&label);
            self.held.remove(&label);
        }
        *told = now;
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn encode(&self) -> String {
        modelcache_daemon::metrics::encode([&self.registry])
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
