//! What names files to others on the local network. A convenience: without it they are given an address or a magnet link.

use modelcache_swarm::discovery::hali::guard::TOLERANCE;
use modelcache_swarm::discovery::hali::secret::HaliSecret;
use modelcache_swarm::discovery::hali::seeds::Seeds;
use modelcache_swarm::discovery::hali::service::{HaliService, Settings};
use modelcache_swarm::discovery::interfaces::Choice;
use modelcache_swarm::discovery::lsd::service::LocalService;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::discovery::timing::Intervals;
use sha2::{Digest as _, Sha256};

use super::Shelf;
use crate::args::LanArgs;
use crate::metrics::Metrics;

/// Those that are switched on and have their sockets.
#[derive(Debug, Default)]
pub struct Heralds {
    lsd: Option<LocalService>,
    hali: Option<HaliService>,
}

fn choice(lan: &LanArgs) -> Choice {
    Choice {
        include: lan.lan_interfaces.clone(),
        exclude: lan.lan_exclude.clone(),
    }
}

impl Heralds {
    /// On the local network, if it is used at all: local service discovery (BEP 14) for all clients, of which nothing is
    /// believed, and with hali's secret its packets. Whom those name is noted in `heard`, and what they seed.
    #[must_use]
    pub fn start(
        lan: Option<&LanArgs>,
        hali: Option<HaliSecret>,
        node: &str,
        heard: (&Peers, &Seeds),
        metrics: &Metrics,
    ) -> Self {
        let Some(lan) = lan else {
            return Self::default();
        };
        let lsd = LocalService::start(lan.lan_ttl, choice(lan), Peers::default())
            .inspect_err(|error| tracing::warn!(%error, "torrents are not named by BEP 14"));
        let hali = hali.and_then(|secret| {
            let settings = Settings {
                secret,
                // As long and as opaque as hali's own names, and the same after each start.
                node: hex::encode(Sha256::digest(format!("modelcache {node}"))),
                interfaces: choice(lan),
                intervals: Intervals::default(),
                tolerance: TOLERANCE,
            };
            HaliService::start(settings, heard.0.clone(), heard.1.clone())
                .inspect(|hali| metrics.show_hali(hali.counters()))
                .inspect_err(|error| tracing::warn!(%error, "machines with hali are not told"))
                .ok()
        });
        Self {
            lsd: lsd.ok(),
            hali,
        }
    }

    /// Names what can be taken, at this port.
    pub(super) fn name(&self, port: u16, on: &Shelf) {
        if let Some(lsd) = &self.lsd {
            lsd.name(port, on.large());
        }
        if let Some(hali) = &self.hali {
            hali.name(port, on.ggufs());
        }
    }
}
