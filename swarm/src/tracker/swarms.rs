//! Who is in which swarm, in bounded memory. Pure: the time is a parameter.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::IteratorRandom as _;

use super::answer::Listed;
use super::query::PeerId;
use crate::discovery::announcement::ContentId;

/// How much is remembered at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Swarms.
    pub torrents: usize,
    /// Peers of one swarm.
    pub peers: usize,
    /// Peers at one host, over all swarms.
    pub per_host: usize,
    /// Which host an address counts for.
    pub host: fn(IpAddr) -> IpAddr,
    /// Peers of all swarms.
    pub all: usize,
    /// How long a peer is there without a word.
    pub expiry: Duration,
}

/// A client in one swarm.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it calls itself.
    pub id: PeerId,
    /// Whether it lacks nothing.
    pub whole: bool,
}

#[derive(Debug)]
struct Seen {
    id: PeerId,
    whole: bool,
    until: Instant,
}

#[derive(Debug, Default)]
struct Swarm {
    peers: BTreeMap<SocketAddr, Seen>,
    completed: u32,
}

/// The numbers of one swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Peers that lack nothing.
    pub complete: u32,
    /// The others.
    pub incomplete: u32,
    /// How often a peer said that it has become whole, since the swarm is known.
    pub completed: u32,
}

/// All swarms of one kind.
#[derive(Debug)]
pub struct Swarms {
    limits: Limits,
    torrents: BTreeMap<ContentId, Swarm>,
    hosts: HashMap<IpAddr, usize>,
    /// Sum of all swarms, and of `hosts`.
    peers: usize,
}

impl Swarms {
    /// Nobody is there.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            torrents: BTreeMap::new(),
            hosts: HashMap::new(),
            peers: 0,
        }
    }

    /// A client is there. False when there is no room for it.
    pub fn join(&mut self, torrent: ContentId, member: Member, now: Instant) -> bool {
        let seen = Seen {
            id: member.id,
            whole: member.whole,
            until: now + self.limits.expiry,
        };
        let swarm = self.torrents.get_mut(&torrent);
        if let Some(known) = swarm.and_then(|swarm| swarm.peers.get_mut(&member.address)) {
            *known = seen;
            return true;
        }
        let host = (self.limits.host)(member.address.ip());
        if !self.has_room(&torrent, host) {
            self.expire(now);
            if !self.has_room(&torrent, host) {
                return false;
            }
        }
        let swarm = self.torrents.entry(torrent).or_default();
        swarm.peers.insert(member.address, seen);
        *self.hosts.entry(host).or_default() += 1;
        self.peers += 1;
        true
    }

    /// One that is there has become whole.
    pub fn completed(&mut self, torrent: ContentId) {
        if let Some(swarm) = self.torrents.get_mut(&torrent) {
            swarm.completed = swarm.completed.saturating_add(1);
        }
    }

    /// A client is gone.
    pub fn leave(&mut self, torrent: ContentId, address: SocketAddr) {
        let Some(swarm) = self.torrents.get_mut(&torrent) else {
            return;
        };
        if swarm.peers.remove(&address).is_some() {
            if swarm.peers.is_empty() {
                self.torrents.remove(&torrent);
            }
            self.forget(address.ip());
        }
    }

    /// Forgets the swarms of which this is false.
    pub fn retain(&mut self, mut wanted: impl FnMut(&ContentId) -> bool) {
        let swarms = std::mem::take(&mut self.torrents);
        for (torrent, swarm) in swarms {
            if wanted(&torrent) {
                self.torrents.insert(torrent, swarm);
            } else {
                for address in swarm.peers.into_keys() {
                    self.forget(address.ip());
                }
            }
        }
    }

    /// Forgets who has not been heard of for too long.
    pub fn expire(&mut self, now: Instant) {
        let mut gone = Vec::new();
        self.torrents.retain(|_, swarm| {
            swarm.peers.retain(|address, seen| {
                let there = seen.until > now;
                if !there {
                    gone.push(address.ip());
                }
                there
            });
            !swarm.peers.is_empty()
        });
        for address in gone {
            self.forget(address);
        }
    }

    /// Up to `most` others of this swarm, chosen at random. Who lacks nothing is told only of those that do.
    pub fn others(
        &self,
        torrent: ContentId,
        asking: &Member,
        most: usize,
        chance: &mut impl Rng,
        now: Instant,
    ) -> Vec<Listed> {
        let swarm = self.torrents.get(&torrent);
        let peers = swarm.into_iter().flat_map(|swarm| &swarm.peers);
        peers
            .filter(|(address, seen)| {
                let itself = **address == asking.address || seen.id == asking.id;
                seen.until > now && !itself && !(asking.whole && seen.whole)
            })
            .map(|(address, seen)| Listed {
                address: *address,
                id: Some(seen.id),
            })
            .sample(chance, most)
    }

    /// The numbers of a swarm; `None` when nobody is in it.
    #[must_use]
    pub fn counts(&self, torrent: ContentId, now: Instant) -> Option<Counts> {
        let swarm = self.torrents.get(&torrent)?;
        let mut counts = Counts {
            completed: swarm.completed,
            ..Counts::default()
        };
        for seen in swarm.peers.values().filter(|seen| seen.until > now) {
            if seen.whole {
                counts.complete += 1;
            } else {
                counts.incomplete += 1;
            }
        }
        Some(counts)
    }

    /// How many swarms are known, and how many peers in all of them.
    #[must_use]
    pub fn numbers(&self) -> (usize, usize) {
        (self.torrents.len(), self.peers)
    }

    fn has_room(&self, torrent: &ContentId, host: IpAddr) -> bool {
        let in_swarm = match self.torrents.get(torrent) {
            Some(swarm) => swarm.peers.len() < self.limits.peers,
            None => self.torrents.len() < self.limits.torrents,
        };
        let at_host = self.hosts.get(&host).copied().unwrap_or_default();
        in_swarm && at_host < self.limits.per_host && self.peers < self.limits.all
    }

    /// One peer at this address is gone.
    fn forget(&mut self, address: IpAddr) {
        self.peers = self.peers.saturating_sub(1);
        let host = (self.limits.host)(address);
        if let Some(count) = self.hosts.get_mut(&host) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.hosts.remove(&host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const LIMITS: Limits = Limits {
        torrents: 3,
        peers: 4,
        per_host: 5,
        // Two addresses each.
        host: |address| match address {
            IpAddr::V4(address) => std::net::Ipv4Addr::from_bits(address.to_bits() | 1).into(),
            IpAddr::V6(_) => address,
        },
        all: 9,
        expiry: Duration::from_secs(100),
    };

    fn torrent(number: u8) -> ContentId {
        ContentId([number; 20])
    }

    fn member(host: u8, port: u16, whole: bool) -> Member {
        Member {
            address: SocketAddr::new([10, 0, 0, host].into(), port),
            id: PeerId([host; 20]),
            whole,
        }
    }

    fn addresses(listed: Vec<Listed>) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = listed.into_iter().map(|listed| listed.address).collect();
        addresses.sort_unstable();
        addresses
    }

    #[test]
    fn who_is_there_is_told_until_it_leaves_or_falls_silent() {
        let start = Instant::now();
        let mut swarms = Swarms::new(LIMITS);
        let mut chance = StdRng::seed_from_u64(1);
        let (seed, leecher) = (member(1, 1, true), member(2, 1, false));
        assert!(swarms.join(torrent(1), seed, start));
        assert!(swarms.join(torrent(1), leecher, start + Duration::from_secs(50)));
        let mut told = |swarms: &Swarms, asking: &Member, after| {
            let now = start + Duration::from_secs(after);
            addresses(swarms.others(torrent(1), asking, 10, &mut chance, now))
        };
        assert_eq!(told(&swarms, &leecher, 99), [seed.address]);
        assert_eq!(told(&swarms, &seed, 99), [leecher.address]);
        // Two that lack nothing have nothing to do with each other.
        assert!(told(&swarms, &member(3, 1, true), 99).contains(&leecher.address));
        assert!(!told(&swarms, &member(3, 1, true), 99).contains(&seed.address));
        assert!(told(&swarms, &leecher, 100).is_empty());
        let counts =
            |swarms: &Swarms, after| swarms.counts(torrent(1), start + Duration::from_secs(after));
        assert_eq!(
            counts(&swarms, 99),
            Some(Counts {
                complete: 1,
                incomplete: 1,
                completed: 0
            })
        );
        assert_eq!(
            counts(&swarms, 100),
            Some(Counts {
                complete: 0,
                incomplete: 1,
                completed: 0
            })
        );
        swarms.expire(start + Duration::from_secs(100));
        assert_eq!(swarms.numbers(), (1, 1));
        swarms.leave(torrent(1), leecher.address);
        assert_eq!(swarms.numbers(), (0, 0));
        assert_eq!(counts(&swarms, 100), None);
    }

    #[test]
    fn the_choice_is_random_fair_and_repeats_with_its_seed() {
        let now = Instant::now();
        let mut swarms = Swarms::new(Limits {
            peers: 100,
            per_host: 100,
            all: 100,
            ..LIMITS
        });
        for host in 1..=40 {
            swarms.join(torrent(1), member(host, 1, true), now);
        }
        let choose = |seed| {
            let mut chance = StdRng::seed_from_u64(seed);
            addresses(swarms.others(torrent(1), &member(99, 1, false), 5, &mut chance, now))
        };
        assert_eq!(choose(7), choose(7));
        assert_eq!(choose(7).len(), 5);
        let chosen: std::collections::BTreeSet<_> = (0..200).flat_map(choose).collect();
        assert_eq!(chosen.len(), 40, "everybody's turn comes");
    }

    #[test]
    fn there_is_no_room_for_floods_but_for_whoever_was_there() {
        let now = Instant::now();
        let mut swarms = Swarms::new(LIMITS);
        let joined = (1..=9).filter(|port| swarms.join(torrent(1), member(1, *port, false), now));
        assert_eq!(joined.count(), 4, "one swarm");
        let joined = (1..=9).filter(|port| swarms.join(torrent(2), member(1, *port, false), now));
        assert_eq!(joined.count(), 1, "one host");
        let joined = (2..=9).filter(|host| swarms.join(torrent(3), member(*host, 1, false), now));
        assert_eq!(joined.count(), 4, "the third swarm, and all of them");
        assert!(!swarms.join(torrent(4), member(9, 1, false), now));
        assert!(
            swarms.join(torrent(1), member(1, 1, true), now),
            "known already"
        );
        // Where there is none, the silent ones make room.
        assert!(swarms.join(torrent(4), member(9, 1, false), now + LIMITS.expiry));
        assert_eq!(swarms.numbers(), (1, 1));
    }

    proptest! {
        #[test]
        fn the_books_balance(steps in prop::collection::vec((0_u8..5, 0_u8..5, 1_u16..8, 0_u8..8, 0_u64..40), 0..200)) {
            let mut now = Instant::now();
            let mut swarms = Swarms::new(LIMITS);
            for (number, host, port, what, after) in steps {
                now += Duration::from_secs(after);
                let member = member(host, port, what % 2 == 0);
                match what {
                    0 => swarms.leave(torrent(number), member.address),
                    1 => swarms.expire(now),
                    2 => swarms.retain(|torrent| torrent.0[0] != number),
                    _ => {
                        let _ = swarms.join(torrent(number), member, now);
                    }
                }
                let peers: usize = swarms.torrents.values().map(|swarm| swarm.peers.len()).sum();
                prop_assert_eq!(swarms.numbers(), (swarms.torrents.len(), peers));
                prop_assert_eq!(swarms.hosts.values().sum::<usize>(), peers);
                prop_assert!(peers <= LIMITS.all && swarms.torrents.len() <= LIMITS.torrents);
                prop_assert!(swarms.torrents.values().all(|swarm| (1..=LIMITS.peers).contains(&swarm.peers.len())));
                prop_assert!(swarms.hosts.values().all(|count| (1..=LIMITS.per_host).contains(count)));
            }
        }
    }
}
