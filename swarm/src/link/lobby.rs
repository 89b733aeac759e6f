//! Where connections wait until it is known whose they are, and links for what they are asked next: few, and none for long.
//!
//! Whoever reaches a port can open connections and say nothing. When all places are taken, the next one displaces
//! another: first of those that have said nothing that a member would say, and of these the longest waiting one of the
//! source that has the most. A member speaks as soon as it is connected, so that a flood displaces itself, from however
//! many addresses it comes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The places. Clones share them.
#[derive(Clone, Debug)]
pub struct Lobby {
    places: usize,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits, by the order in which they came.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    visits: BTreeMap<u64, Visitor>,
}

#[derive(Debug)]
struct Visitor {
    source: IpAddr,
    /// It said what only a member can say, or who recorded one.
    spoke: bool,
    displaced: CancellationToken,
}

impl Lobby {
    /// One with so many places, at least 1.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self {
            places: places.max(1),
            waiting: Arc::default(),
        }
    }

    /// Lets in a connection from `source`, and displaces another if there is no room.
    #[must_use]
    pub fn enter(&self, source: IpAddr) -> Visit {
        let displaced = CancellationToken::new();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        let visitor = Visitor {
            source: source.to_canonical(),
            spoke: false,
            displaced: displaced.clone(),
        };
        waiting.visits.insert(number, visitor);
        if waiting.visits.len() > self.places
            && let Some(number) = waiting.least_deserving()
            && let Some(visitor) = waiting.visits.remove(&number)
        {
            visitor.displaced.cancel();
        }
        drop(waiting);
        Visit {
            lobby: self.clone(),
            number,
            displaced,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The longest waiting one of the source that has the most, silent ones first.
    fn least_deserving(&self) -> Option<u64> {
        let mut sources: HashMap<(bool, IpAddr), (usize, u64)> = HashMap::new();
        for (number, visitor) in &self.visits {
            let source = (!visitor.spoke, visitor.source);
            sources.entry(source).or_insert((0, *number)).0 += 1;
        }
        let most = sources
            .into_iter()
            .max_by_key(|((silent, _), (count, first))| (*silent, *count, Reverse(*first)));
        most.map(|(_, (_, first))| first)
    }
}

/// One connection's place, given up when this is dropped.
#[derive(Debug)]
pub struct Visit {
    lobby: Lobby,
    number: u64,
    displaced: CancellationToken,
}

impl Visit {
    /// It said what a member says: it is displaced only when there is no silent one.
    pub(super) fn spoke(&self) {
        if let Some(visitor) = self.lobby.waiting().visits.get_mut(&self.number) {
            visitor.spoke = true;
        }
    }

    /// Waits until the place is needed for another.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.lobby.waiting().visits.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn is_displaced(visit: &Visit) -> bool {
        visit.displaced.is_cancelled()
    }

    #[test]
    fn a_flood_from_one_address_displaces_itself() {
        let lobby = Lobby::new(3);
        let member = lobby.enter(host(1));
        let flood: Vec<Visit> = (0..100).map(|_| lobby.enter(host(9))).collect();
        assert!(!is_displaced(&member));
        let left = flood.iter().filter(|visit| !is_displaced(visit)).count();
        assert_eq!(left, 2);
        // The other way round: a member finds room.
        drop(member);
        let filled = lobby.enter(host(9));
        let late = lobby.enter(host(1));
        assert!(!is_displaced(&filled) && !is_displaced(&late));
    }

    #[test]
    fn of_sources_with_one_place_each_the_longest_waiting_goes() {
        let lobby = Lobby::new(2);
        let visits = [1, 2, 3].map(|last| lobby.enter(host(last)));
        assert_eq!(visits.each_ref().map(is_displaced), [true, false, false]);
    }

    #[test]
    fn who_spoke_is_displaced_last_however_many_connections_it_has() {
        let lobby = Lobby::new(4);
        let member = [(); 3].map(|()| lobby.enter(host(1)));
        member.iter().for_each(Visit::spoke);
        for last in 2..200 {
            let flood = lobby.enter(host(last));
            assert!(!is_displaced(&flood));
            std::mem::forget(flood);
        }
        assert!(!member.iter().any(is_displaced));
        // Those who repeat what a member said displace themselves as silent ones do.
        let repeated = [(); 9].map(|()| {
            let visit = lobby.enter(host(9));
            visit.spoke();
            visit
        });
        assert!(!member.iter().take(2).any(is_displaced));
        assert!(repeated.iter().filter(|visit| !is_displaced(visit)).count() <= 2);
    }

    #[test]
    fn an_address_is_the_same_in_both_notations() {
        let lobby = Lobby::new(2);
        let mapped = lobby.enter("::ffff:10.0.0.9".parse().unwrap());
        let plain = lobby.enter(host(9));
        let other = lobby.enter(host(1));
        assert!(is_displaced(&mapped) && !is_displaced(&plain) && !is_displaced(&other));
    }

    proptest! {
        /// Never more than there are places; the newest is let in; who leaves makes room.
        #[test]
        fn places_are_never_exceeded(places in 1_usize..6, comers in prop::collection::vec((0_u8..4, any::<bool>()), 0..60)) {
            let lobby = Lobby::new(places);
            let mut visits = Vec::new();
            for (last, leave) in comers {
                visits.push(lobby.enter(host(last)));
                let inside = visits.iter().filter(|visit| !is_displaced(visit)).count();
                prop_assert!(inside <= places);
                prop_assert_eq!(lobby.waiting().visits.len(), inside);
                if leave {
                    visits.remove(0);
                }
            }
            drop(visits);
            prop_assert!(lobby.waiting().visits.is_empty());
        }
    }
}
