//! Who is connected for which torrent, and where it can be dialled.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type InfoHash = [u8; 20];
/// Addresses, and how many connections each has.
type Addresses = BTreeMap<SocketAddr, usize>;

/// All that are connected. Clones share it. No more than connections that last.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Roster(Arc<Mutex<HashMap<InfoHash, Addresses>>>);

/// One connection's place, given up when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    roster: Roster,
    info_hash: InfoHash,
    address: SocketAddr,
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, HashMap<InfoHash, Addresses>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that who can be dialled there is connected for that torrent.
    pub(super) fn enter(&self, info_hash: InfoHash, address: SocketAddr) -> Seat {
        let mut torrents = self.lock();
        let addresses = torrents.entry(info_hash).or_default();
        *addresses.entry(address).or_default() += 1;
        Seat {
            roster: self.clone(),
            info_hash,
            address,
        }
    }

    /// All that are connected for that torrent.
    pub(in crate::engine) fn all(&self, info_hash: InfoHash) -> Vec<SocketAddr> {
        let torrents = self.lock();
        let addresses = torrents.get(&info_hash).into_iter();
        addresses.flat_map(BTreeMap::keys).copied().collect()
    }
}

impl Seat {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut torrents = self.roster.lock();
        if let Some(addresses) = torrents.get_mut(&self.info_hash) {
            if let Some(connections) = addresses.get_mut(&self.address) {
                *connections -= 1;
                if *connections == 0 {
                    addresses.remove(&self.address);
                }
            }
            if addresses.is_empty() {
                torrents.remove(&self.info_hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_forgotten() {
        let roster = Roster::default();
        let [here, there] = ["10.0.0.1:1", "[fd00::1]:2"].map(|text| text.parse().unwrap());
        let seats = [here, there, here].map(|address| roster.enter([1; 20], address));
        let other = roster.enter([2; 20], there);
        assert_eq!(roster.all([1; 20]), [here, there]);
        let [first, second, third] = seats;
        drop((first, second));
        assert_eq!(roster.all([1; 20]), [here]);
        assert_eq!(roster.all([2; 20]), [there]);
        drop((third, other));
        assert!(roster.lock().is_empty());
    }
}
