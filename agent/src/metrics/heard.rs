//! Metrics of what is known of other nodes without the coordinator.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use modelcache_swarm::discovery::hali;
use modelcache_swarm::discovery::refusal::{Counters, Refusal};
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::discovery::table::Age;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What is shown, read when somebody asks. Each part is empty until there is something to show.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    announcements: OnceLock<Arc<Counters>>,
    hali: OnceLock<Arc<Counters>>,
    peers: OnceLock<Peers>,
}

impl Collector for Heard {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(counters) = self.0.announcements.get() {
            let about = (
                "announcements",
                "Announcements of other nodes on the local network, by whether they were believed and why not.",
            );
            datagrams(&mut encoder, about, counters, &Refusal::ALL)?;
        }
        if let Some(counters) = self.0.hali.get() {
            let about = (
                "hali_packets",
                "Packets of machines with hali on the local network, by whether they were believed and why not.",
            );
            datagrams(&mut encoder, about, counters, &hali::REFUSALS)?;
        }
        match self.0.peers.get() {
            Some(known) => peers(&mut encoder, known),
            None => Ok(()),
        }
    }
}

impl Heard {
    /// Shows these from now on; the first call counts.
    pub(super) fn show_announcements(&self, counters: Arc<Counters>) {
        let _ = self.0.announcements.set(counters);
    }

    /// Shows these from now on; the first call counts.
    pub(super) fn show_hali(&self, counters: Arc<Counters>) {
        let _ = self.0.hali.set(counters);
    }

    /// Shows these from now on; the first call counts.
    pub(super) fn show_peers(&self, peers: Peers) {
        let _ = self.0.peers.set(peers);
    }
}

/// What became of datagrams that may be refused for these reasons.
fn datagrams(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    counters: &Counters,
    refusals: &[Refusal],
) -> fmt::Result {
    let mut datagrams = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    let refused = refusals.iter();
    let refused = refused.map(|reason| (reason.name(), counters.refused(*reason)));
    for (result, count) in [("accepted", counters.accepted())]
        .into_iter()
        .chain(refused)
    {
        ConstCounter::new(count).encode(datagrams.encode_family(&[("result", result)])?)?;
    }
    Ok(())
}

fn peers(encoder: &mut DescriptorEncoder<'_>, peers: &Peers) -> fmt::Result {
    let mut counts: BTreeMap<_, i64> = BTreeMap::new();
    let now = Instant::now();
    for (_, peer) in peers.lock().peers(now) {
        let age = match peer.age(now) {
            Some(Age::Fresh) => "fresh",
            Some(Age::Usable) => "usable",
            None => continue,
        };
        let verified = if peer.verified.is_some() { "yes" } else { "no" };
        for origin in peer.origins.keys() {
            *counts.entry((origin.name(), age, verified)).or_default() += 1;
        }
    }
    let mut known = encoder.encode_descriptor(
        "known_peers",
        "Addresses of other nodes known without the coordinator, by from where, whether they were last named within 2 minutes (fresh) or 15 (usable), and whether the last connection to them succeeded (verified).",
        None,
        MetricType::Gauge,
    )?;
    for ((origin, age, verified), count) in counts {
        let labels = [("origin", origin), ("age", age), ("verified", verified)];
        ConstGauge::<i64>::new(count).encode(known.encode_family(&labels)?)?;
    }
    Ok(())
}
