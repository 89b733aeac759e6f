//! Metrics of discovery on the local network.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use modelcache_swarm::discovery::refusal::{Counters, Refusal};
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::discovery::table::{Age, Origin};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What discovery on the local network has heard, read when somebody asks. Empty while it is off.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<OnceLock<(Arc<Counters>, Peers)>>);

impl Collector for Heard {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some((counters, peers)) = self.0.get() else {
            return Ok(());
        };
        let mut datagrams = encoder.encode_descriptor(
            "announcements",
            "Announcements of other nodes on the local network, by whether they were believed and why not.",
            None,
            MetricType::Counter,
        )?;
        let refused = Refusal::ALL.map(|reason| (reason.name(), counters.refused(reason)));
        for (result, count) in [("accepted", counters.accepted())]
            .into_iter()
            .chain(refused)
        {
            ConstCounter::new(count).encode(datagrams.encode_family(&[("result", result)])?)?;
        }
        let now = Instant::now();
        let mut counts = BTreeMap::new();
        for (_, peer) in peers.lock().peers(now) {
            // One that is known from two sources counts for both, each by what that source said last.
            for (origin, seen) in &peer.origins {
                if let Some(age) = Age::of(*seen, now) {
                    *counts.entry((*origin, age)).or_insert(0) += 1;
                }
            }
        }
        let mut known = encoder.encode_descriptor(
            "lan_peers",
            "Addresses of peers known from the local network, by how they became known, heard within 2 minutes (fresh) or 15 (usable).",
            None,
            MetricType::Gauge,
        )?;
        for origin in Origin::ALL {
            for (age, word) in [(Age::Fresh, "fresh"), (Age::Usable, "usable")] {
                let count = counts.get(&(origin, age)).copied().unwrap_or(0);
                let labels = [("origin", origin.name()), ("age", word)];
                ConstGauge::<i64>::new(count).encode(known.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Heard {
    /// Shows this from now on; the first call counts.
    pub(super) fn show(&self, counters: Arc<Counters>, peers: Peers) {
        let _ = self.0.set((counters, peers));
    }
}
