//! Metrics of discovery on the local network.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use modelcache_swarm::discovery::refusal::{Counters, Refusal};
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::discovery::table::Age;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What discovery on the local network has heard, read when somebody asks. Empty while it is off.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    nodes: Arc<OnceLock<(Arc<Counters>, Peers)>>,
    hali: Arc<OnceLock<Arc<Counters>>>,
}

/// What became of datagrams.
fn encode_results(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    counters: &Counters,
) -> Result<(), std::fmt::Error> {
    let mut datagrams = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    let refused = Refusal::ALL.map(|reason| (reason.name(), counters.refused(reason)));
    for (result, count) in [("accepted", counters.accepted())]
        .into_iter()
        .chain(refused)
    {
        ConstCounter::new(count).encode(datagrams.encode_family(&[("result", result)])?)?;
    }
    Ok(())
}

impl Collector for Heard {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(counters) = self.hali.get() {
            let about = (
                "hali_packets",
                "Packets of machines with hali on the local network, by whether they were believed and why not.",
            );
            encode_results(&mut encoder, about, counters)?;
        }
        let Some((counters, peers)) = self.nodes.get() else {
            return Ok(());
        };
        let about = (
            "announcements",
            "Announcements of other nodes on the local network, by whether they were believed and why not.",
        );
        encode_results(&mut encoder, about, counters)?;
        let now = Instant::now();
        let (mut fresh, mut usable) = (0, 0);
        for (_, peer) in peers.lock().peers(now) {
            match peer.age(now) {
                Some(Age::Fresh) => fresh += 1,
                Some(Age::Usable) => usable += 1,
                None => {}
            }
        }
        let mut known = encoder.encode_descriptor(
            "lan_peers",
            "Addresses of peers known from the local network, heard within 2 minutes (fresh) or 15 (usable).",
            None,
            MetricType::Gauge,
        )?;
        for (age, count) in [("fresh", fresh), ("usable", usable)] {
            ConstGauge::<i64>::new(count).encode(known.encode_family(&[("age", age)])?)?;
        }
        Ok(())
    }
}

impl Heard {
    /// Shows this from now on; the first call counts.
    pub(super) fn show(&self, counters: Arc<Counters>, peers: Peers) {
        let _ = self.nodes.set((counters, peers));
    }

    /// The same for machines with hali.
    pub(super) fn show_hali(&self, counters: Arc<Counters>) {
        let _ = self.hali.set(counters);
    }
}
