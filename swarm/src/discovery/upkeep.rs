//! What the table of peers needs for as long as it is used: which addresses are this node's own, and what is gone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::interfaces;
use super::service::Peers;

/// How often interfaces are listed and old entries forgotten.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The upkeep of one table.
#[derive(Debug)]
pub struct Upkeep {
    peers: Peers,
    here: SocketAddr,
}

impl Upkeep {
    /// From now on the table knows this node's own addresses: `here`, and the same port of all its interfaces.
    #[must_use]
    pub fn start(peers: Peers, here: SocketAddr) -> Self {
        let upkeep = Self { peers, here };
        upkeep.look();
        upkeep
    }

    /// Looks again and again, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
            .await
            .is_some()
        {
            self.look();
        }
    }

    fn look(&self) {
        let listed = interfaces::list().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the network interfaces");
            Vec::new()
        });
        let own = listed.iter().flat_map(|interface| &interface.addresses);
        let hosts: BTreeSet<IpAddr> = own
            .map(|address| address.ip)
            .chain([self.here.ip()])
            .collect();
        let mut table = self.peers.lock();
        table.set_here(hosts, self.here.port());
        table.expire(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Origin;
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_no_peers() {
        let peers = Peers::default();
        let port = 9492;
        let hosts: Vec<IpAddr> = interfaces::list()
            .unwrap()
            .iter()
            .flat_map(|interface| &interface.addresses)
            .map(|address| address.ip)
            .collect();
        let there: IpAddr = "192.0.2.1".parse().unwrap();
        let name_all = || {
            let all = hosts.iter().copied().chain([there]);
            for host in all {
                let address = SocketAddr::new(host, port);
                peers
                    .lock()
                    .heard(address, Origin::Static, &[], Instant::now());
            }
        };
        name_all();
        let _upkeep = Upkeep::start(peers.clone(), SocketAddr::new(there, port));
        name_all();
        assert!(peers.lock().is_empty(), "{:?}", peers.lock());
    }
}
