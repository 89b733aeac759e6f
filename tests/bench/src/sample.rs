//! What a run came to, read from the counters of the kernel before and after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::float;
use crate::network::{Host, Network, Traffic};
use crate::process::{machine_cpu_seconds, stolen_cpu_seconds};
use crate::team::{Field, Players};

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// From the word to start (in `join-late`: to join) to the last node's having everything.
    pub seconds: f64,
    /// Payload that left the origin, in sizes of the model.
    pub copies: f64,
    /// Processor seconds of the nodes' programs for each 10^9 bytes that arrived.
    pub cpu_seconds_per_gb: f64,
    /// The most memory that any node's program had, in bytes.
    pub peak_resident: u64,
    /// Processors that the team and the laboratory's cables kept busy, on average.
    pub own_load: f64,
    /// Processors that programs outside the laboratory kept busy meanwhile, on average.
    pub other_load: f64,
    /// Processors that a virtual machine's host kept for itself meanwhile, on average.
    pub stolen_load: f64,
    /// When each node had everything.
    pub finishes: Vec<f64>,
    /// What else the case is about, under the name that it has in the JSON.
    pub figures: Vec<(&'static str, f64)>,
}

/// The counters at one moment.
pub struct Meter {
    clock: Instant,
    traffic: BTreeMap<Host, Traffic>,
    nodes_cpu: f64,
    own_cpu: f64,
    machine_cpu: f64,
    stolen_cpu: f64,
}

impl Meter {
    /// Reads all of them.
    pub fn read(network: &Network, players: &Players) -> Result<Self> {
        Ok(Self {
            clock: Instant::now(),
            traffic: network.traffic()?,
            nodes_cpu: players.cpu_seconds()?,
            own_cpu: players.all_cpu_seconds()? + network.cpu_seconds()?,
            machine_cpu: machine_cpu_seconds()?,
            stolen_cpu: stolen_cpu_seconds()?,
        })
    }

    /// What was used since, `extra` processor seconds of programs that are gone included.
    pub fn sample(
        &self,
        network: &Network,
        players: &Players,
        field: &Field<'_>,
        extra: f64,
    ) -> Result<Sample> {
        let now = Self::read(network, players)?;
        let elapsed = (now.clock - self.clock).as_secs_f64();
        let own = now.own_cpu - self.own_cpu + extra;
        let others = now.machine_cpu - self.machine_cpu - own;
        let bytes = float(field.model.bytes());
        let arrived = bytes * f64::from(field.case.nodes);
        let sent = self.moved(&now, field.case.origin())?.payload();
        let mut peak_resident = 0;
        for node in players.nodes.iter().flatten() {
            peak_resident = peak_resident.max(node.peak_resident()?);
        }
        Ok(Sample {
            copies: float(sent) / bytes,
            cpu_seconds_per_gb: (now.nodes_cpu - self.nodes_cpu + extra) / (arrived / 1e9),
            peak_resident,
            own_load: own / elapsed,
            other_load: others.max(0.0) / elapsed,
            stolen_load: (now.stolen_cpu - self.stolen_cpu) / elapsed,
            ..Sample::default()
        })
    }

    /// What went over a host's cables until `later`.
    pub fn moved(&self, later: &Self, host: Host) -> Result<Traffic> {
        let of = |meter: &Self| meter.traffic.get(&host).copied().context("no such host");
        Ok(of(later)?.since(of(self)?))
    }
}

/// When the last bytes of the model arrived at a node, as seen at its cables.
///
/// A node that has everything goes on receiving: others ask it for data and acknowledge what it sends, which is less than a
/// fortieth of what it can send. What comes faster than a twentieth of its link counts as data.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Bytes a second above which it is data.
    floor: f64,
    /// How often it is worth looking.
    every: Duration,
    received: u64,
    looked: Instant,
    last: Instant,
}

impl Arrival {
    /// From now on, for one of so many nodes, with a link of so many Mbit/s; none: not shaped.
    #[must_use]
    pub fn new(link: Option<f64>, nodes: usize, received: u64, now: Instant) -> Self {
        // A look at each of many takes long enough to disturb them.
        let every = Duration::from_millis(if nodes > 16 { 200 } else { 50 });
        Self {
            // Mbit/s to bytes/s, and a twentieth of it; without a limit 1 MB/s.
            floor: link.map_or(1e6, |link| link * 1e6 / 8.0 / 20.0),
            every,
            received,
            looked: now,
            last: now,
        }
    }

    /// The counter says so at this moment.
    pub fn look(&mut self, received: u64, now: Instant) {
        let elapsed = (now - self.looked).as_secs_f64();
        if float(received.saturating_sub(self.received)) > self.floor * elapsed {
            self.last = now;
        }
        self.received = received;
        self.looked = now;
    }

    /// Whether it is time to look again.
    #[must_use]
    pub fn due(&self, now: Instant) -> bool {
        now - self.looked >= self.every
    }

    /// Seconds from the last data until `now`.
    #[must_use]
    pub fn ago(&self, now: Instant) -> f64 {
        (now - self.last).as_secs_f64()
    }
}

/// The smallest of these that is no smaller than a share of them (nearest rank); none of none.
#[must_use]
pub fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_others_are_no_data() {
        let began = Instant::now();
        let at = |step: u32| began + Duration::from_millis(50) * step;
        // 160 Mbit/s: 1 MB in 50 ms, of which 50 kB count as data.
        let mut arrival = Arrival::new(Some(160.0), 8, 0, began);
        arrival.look(1_000_000, at(1));
        arrival.look(1_060_000, at(2));
        arrival.look(1_085_000, at(3));
        arrival.look(1_110_000, at(4));
        assert!((arrival.ago(at(6)) - 0.2).abs() < 1e-9);
        assert!(arrival.due(at(5)) && !arrival.due(at(4)));
        let one_of_many = Arrival::new(Some(12.0), 64, 0, began);
        assert!(one_of_many.due(at(4)) && !one_of_many.due(at(3)));
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let values: Vec<f64> = (1..=64).map(f64::from).collect();
        assert_eq!(percentile(&values, 50), Some(32.0));
        assert_eq!(percentile(&values, 99), Some(64.0));
        assert_eq!(percentile(&[3.0, 1.0], 50), Some(1.0));
        assert_eq!(percentile(&[], 50), None);
    }
}
