//! What names files to others on the local network. A convenience: without it they are given an address or a magnet link.

use std::path::Path;

use modelcache_swarm::discovery::hali::secret::HaliSecret;
use modelcache_swarm::discovery::hali::service::{HaliService, Settings};
use modelcache_swarm::discovery::interfaces::Choice;
use modelcache_swarm::discovery::lsd::service::LocalService;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::discovery::timing::Intervals;
use modelcache_swarm::secret::SecretError;
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
    /// Adds local service discovery (BEP 14), for all clients.
    pub fn add_local_service(&mut self, lan: &LanArgs, peers: Peers) {
        self.lsd = LocalService::start(lan.lan_ttl, choice(lan), peers)
            .inspect_err(|error| tracing::warn!(%error, "torrents are not named by BEP 14"))
            .ok();
    }

    /// Adds hali's packets, signed with the secret in that file. Who seeds the same is noted in `peers`.
    pub fn add_hali(
        &mut self,
        secret: &Path,
        node: &str,
        lan: &LanArgs,
        peers: Peers,
        metrics: &Metrics,
    ) -> Result<(), SecretError> {
        let settings = Settings {
            secret: HaliSecret::load(secret)?,
            // As long and as opaque as hali's own names, and the same after each start.
            node: hex::encode(Sha256::digest(format!("modelcache {node}"))),
            interfaces: choice(lan),
            intervals: Intervals::default(),
        };
        self.hali = HaliService::start(settings, peers)
            .inspect(|hali| metrics.show_hali(hali.counters()))
            .inspect_err(|error| tracing::warn!(%error, "machines with hali are not told"))
            .ok();
        Ok(())
    }

    /// Names what is on the shelf, at this port.
    pub(super) fn name(&self, port: u16, shelf: &Shelf) {
        if let Some(lsd) = &self.lsd {
            lsd.name(port, shelf.large());
        }
        if let Some(hali) = &self.hali {
            hali.name(port, shelf.ggufs());
        }
    }
}
