//! What Prometheus reads about the tracker.

use std::time::Instant;

use modelcache_swarm::tracker::refusal::Refusal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::SharedTracker;

/// The result of an announce that was answered.
const OK: &str = "ok";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// What the tracker counts.
#[derive(Debug)]
pub(super) struct TrackerMetrics {
    announces: Family<ResultLabel, Counter>,
}

impl Default for TrackerMetrics {
    fn default() -> Self {
        let announces = Family::default();
        // There from the start, so that a rate can be taken of the first one too.
        for result in [OK].into_iter().chain(Refusal::NAMES) {
            drop(announces.get_or_create(&ResultLabel { result }));
        }
        Self { announces }
    }
}

impl TrackerMetrics {
    /// An announce was answered, or refused.
    pub(super) fn announced(&self, refusal: Option<Refusal>) {
        let result = refusal.map_or(OK, Refusal::name);
        self.announces.get_or_create(&ResultLabel { result }).inc();
    }
}

impl SharedTracker {
    /// Its metrics, whose names begin with `modelcache_tracker`.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("modelcache_tracker");
        registry.register(
            "announces",
            "Announces to the tracker, by what came of them: ok, or why they were refused",
            self.metrics.announces.clone(),
        );
        registry.register_collector(Box::new(Numbers(self.clone())));
        registry
    }
}

/// Read when somebody asks.
#[derive(Debug)]
struct Numbers(SharedTracker);

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (torrents, peers) = self.0.lock().numbers(Instant::now());
        for (name, help, number) in [
            (
                "torrents",
                "Snapshots and torrents that somebody announces.",
                torrents,
            ),
            (
                "peers",
                "Announcers of all of them; one of several counts several times.",
                peers,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(encoder)?;
        }
        Ok(())
    }
}
