//! Counters of the coordinator.

use modelcache_swarm::link;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Label of handshakes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Handshake {
    /// How it ended: `ok`, or why there is no link.
    pub result: &'static str,
}

/// What the coordinator counts. Cheap to read at any time.
#[derive(Debug, Default)]
pub struct CoordinatorMetrics {
    /// Agents connected now.
    pub connected: Gauge,
    /// Handshakes of agents, by how they ended.
    pub handshakes: Family<Handshake, Counter>,
    /// Connections refused: bad token, wrong node, malformed message.
    pub refused: Counter,
    /// Segments given out to be fetched from the hub.
    pub fetches: Counter,
    /// Segments given out to be taken from another node.
    pub takes: Counter,
    /// Fetches from the hub that agents reported as failed.
    pub fetch_failures: Counter,
    /// Transfers between nodes that agents reported as failed.
    pub take_failures: Counter,
    /// Blobs that agents reported with a wrong hash.
    pub corrupt: Counter,
    /// Nodes found to have made wrong bytes, once for each snapshot.
    pub distrusted: Counter,
}

impl CoordinatorMetrics {
    /// Registers all of them; `registry` already carries the prefix `modelcache_operator`.
    pub fn register(&self, registry: &mut Registry) {
        // There from the start, so that a rate can be taken of the first one too.
        drop(
            self.handshakes
                .get_or_create(&Handshake { result: link::OK }),
        );
        // The library adds the full stop to each help text.
        registry.register(
            "connected_agents",
            "Agents that are connected to the coordinator now",
            self.connected.clone(),
        );
        registry.register(
            "link_handshakes",
            "Handshakes with agents that ended, by how: ok, or why the connection was closed",
            self.handshakes.clone(),
        );
        registry.register(
            "refused_connections",
            "Connections to the coordinator that were refused for a bad token, a wrong node name or a malformed message",
            self.refused.clone(),
        );
        registry.register(
            "segment_fetches",
            "Segments that were given to an agent to be fetched from the hub",
            self.fetches.clone(),
        );
        registry.register(
            "segment_takes",
            "Segments that were given to an agent to be taken from another node",
            self.takes.clone(),
        );
        registry.register(
            "segment_fetch_failures",
            "Fetches of a segment from the hub that an agent reported as failed",
            self.fetch_failures.clone(),
        );
        registry.register(
            "segment_take_failures",
            "Transfers of a segment between nodes that an agent reported as failed",
            self.take_failures.clone(),
        );
        registry.register(
            "corrupt_blobs",
            "Blobs that an agent found to have another hash than the hub's and threw away",
            self.corrupt.clone(),
        );
        registry.register(
            "distrusted_nodes",
            "Nodes that were found to have made wrong bytes of a segment, and give nothing of that snapshot to others any more",
            self.distrusted.clone(),
        );
    }
}
