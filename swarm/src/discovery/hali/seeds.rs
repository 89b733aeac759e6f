//! What machines with hali say that they seed, in bounded memory: where somebody may be asked for a file, and nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::packet::Seed;
use crate::discovery::table::USABLE;

/// Most torrents that are remembered.
const MAX_SEEDS: usize = 2048;
/// Most of one machine.
const MAX_OF_ONE: usize = 256;

/// A torrent of one machine: its address and the v1 info hash.
pub type Place = (SocketAddr, [u8; 20]);

#[derive(Debug)]
struct Heard {
    seed: Seed,
    at: Instant,
}

/// All that was heard lately. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Seeds(Arc<Mutex<BTreeMap<Place, Heard>>>);

impl Seeds {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine said that it seeds these at `address`. A machine with more than it may have displaces its own, and all
    /// together displace what was heard longest ago. What names no repository is passed over.
    pub fn heard(&self, address: SocketAddr, seeds: &[Seed], now: Instant) {
        let mut known = self.lock();
        known.retain(|_, heard| now.saturating_duration_since(heard.at) <= USABLE);
        for seed in seeds.iter().filter(|seed| !seed.repository().is_empty()) {
            let place = (address, seed.info_hash());
            if !known.contains_key(&place) {
                let of_one = known
                    .keys()
                    .filter(|one| one.0.ip() == address.ip())
                    .count();
                if of_one >= MAX_OF_ONE {
                    forget_oldest(&mut known, |ip| ip == address.ip());
                } else if known.len() >= MAX_SEEDS {
                    forget_oldest(&mut known, |_| true);
                }
            }
            let seed = seed.clone();
            known.insert(place, Heard { seed, at: now });
        }
    }

    /// Who said within the last quarter of an hour that it seeds something of this repository.
    #[must_use]
    pub fn of(&self, repository: &str, now: Instant) -> Vec<(Place, Seed)> {
        let known = self.lock();
        let lately = known.iter().filter(|(_, heard)| {
            heard.seed.repository() == repository
                && now.saturating_duration_since(heard.at) <= USABLE
        });
        lately
            .map(|(place, heard)| (*place, heard.seed.clone()))
            .collect()
    }
}

fn forget_oldest(known: &mut BTreeMap<Place, Heard>, among: impl Fn(IpAddr) -> bool) {
    let candidates = known.iter().filter(|(place, _)| among(place.0.ip()));
    let oldest = candidates.min_by_key(|(_, heard)| heard.at);
    if let Some(place) = oldest.map(|(place, _)| *place) {
        known.remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seed(number: u16, repository: &str) -> Seed {
        let mut hash = [0; 20];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        Seed::new("a:1b:base:q8_0", hash, [0; 32], repository, "").unwrap()
    }

    fn machine(last: u8) -> SocketAddr {
        SocketAddr::new([10, 0, 0, last].into(), 7000)
    }

    #[test]
    fn what_was_heard_lately_is_found_by_its_repository() {
        let (seeds, now) = (Seeds::default(), Instant::now());
        let all = [seed(1, "acme/a"), seed(2, "acme/b"), seed(3, "")];
        seeds.heard(machine(1), &all, now);
        let later = now + USABLE;
        let found = |repository, now| seeds.of(repository, now).len();
        assert_eq!((found("acme/a", later), found("acme/A", later)), (1, 0));
        assert_eq!((found("", later), found("acme/b", later)), (0, 1));
        let too_late = later + Duration::from_secs(1);
        assert_eq!(found("acme/a", too_late), 0);
        seeds.heard(machine(1), &all[..1], too_late);
        let place = (machine(1), all[0].info_hash());
        assert_eq!(seeds.of("acme/a", too_late), [(place, all[0].clone())]);
        assert_eq!(seeds.lock().len(), 1, "the others are forgotten");
    }

    #[test]
    fn memory_is_bounded_and_one_machine_displaces_its_own() {
        let (seeds, now) = (Seeds::default(), Instant::now());
        seeds.heard(machine(0), &[seed(0, "acme/a")], now);
        let many: Vec<Seed> = (0..1000).map(|number| seed(number, "acme/b")).collect();
        for (step, one) in many.iter().enumerate() {
            let now = now + Duration::from_millis(step as u64);
            seeds.heard(machine(1), std::slice::from_ref(one), now);
        }
        assert_eq!(seeds.lock().len(), MAX_OF_ONE + 1);
        let kept = seeds.of("acme/b", now + Duration::from_secs(1));
        let kept: Vec<_> = kept.into_iter().map(|(_, seed)| seed).collect();
        assert_eq!(kept, many[1000 - MAX_OF_ONE..]);
        for number in 2..30 {
            seeds.heard(machine(number), &many, now + Duration::from_secs(2));
        }
        assert_eq!(seeds.lock().len(), MAX_SEEDS);
    }
}
