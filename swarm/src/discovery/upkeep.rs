//! What the table of peers needs for as long as it is used: which addresses are this node's own, and what is gone.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::interfaces::{self, Interface};
use super::service::Peers;

/// How often interfaces are listed and old entries forgotten.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The upkeep of one table.
#[derive(Debug)]
pub struct Upkeep {
    peers: Peers,
    here: SocketAddr,
    /// Whether the interfaces could be listed the last time.
    listed: bool,
}

impl Upkeep {
    /// From now on the table knows this node's own addresses: `here`, and the same port of all its interfaces.
    #[must_use]
    pub fn start(peers: Peers, here: SocketAddr) -> Self {
        let mut upkeep = Self {
            peers,
            here,
            listed: true,
        };
        upkeep
            .peers
            .lock()
            .set_here([here.ip()].into(), here.port());
        upkeep.look(interfaces::list());
        upkeep
    }

    /// Looks again and again, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
            .await
            .is_some()
        {
            self.look(interfaces::list());
        }
    }

    /// Notes which addresses are this node's own. Those that were known stay when the interfaces cannot be listed: a node
    /// that forgets its own would dial itself.
    fn look(&mut self, interfaces: io::Result<Vec<Interface>>) {
        let mut table = self.peers.lock();
        match interfaces {
            Ok(interfaces) => {
                let own = interfaces.iter().flat_map(|interface| &interface.addresses);
                let hosts = own.map(|address| address.ip).chain([self.here.ip()]);
                table.set_here(hosts.collect(), self.here.port());
                self.listed = true;
            }
            Err(error) if self.listed => {
                tracing::warn!(%error, "cannot list the network interfaces: this node's own addresses stay as they were");
                self.listed = false;
            }
            Err(_) => {}
        }
        table.expire(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

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
        let mut upkeep = Upkeep::start(peers.clone(), SocketAddr::new(there, port));
        name_all();
        assert!(peers.lock().is_empty(), "{:?}", peers.lock());
        // Also when they cannot be listed any longer.
        upkeep.look(Err(io::ErrorKind::PermissionDenied.into()));
        name_all();
        assert!(peers.lock().is_empty(), "{:?}", peers.lock());
    }
}
