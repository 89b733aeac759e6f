//! Counters of the coordinator.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the coordinator counts. Cheap to read at any time.
#[derive(Debug, Default)]
pub struct CoordinatorMetrics {
    /// Agents connected now.
    pub connected: Gauge,
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
}

impl CoordinatorMetrics {
    /// Registers all of them; `registry` already carries the prefix `modelcache_operator`.
    pub fn register(&self, registry: &mut Registry) {
        // The library adds the full stop to each help text.
        registry.register(
            "connected_agents",
            "Agents that are connected to the coordinator now",
            self.connected.clone(),
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
    }
}
