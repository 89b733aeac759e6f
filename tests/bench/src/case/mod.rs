//! The cases as data: who has what, over which links, and the time that nothing can beat.

mod table;

use std::collections::BTreeMap;

pub use self::table::CASES;
use crate::cable::Way;
use crate::float;
use crate::network::{Cable, Host, Net};
use crate::team::Team;

/// How many nodes are replaced in `churn`.
const REPLACED: u8 = 6;

/// Most memory that is touched before a shaped case starts, in bytes: what `many` needs.
const MOST_RESERVED: u64 = 4 << 30;

/// What happens in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The origin has everything, all nodes are empty and start together.
    Cold,
    /// The same, but the second half of the nodes joins when the origin has sent half.
    JoinLate,
    /// Node 0 has everything, there is no origin, all others are empty and start together.
    Grow,
    /// As `Cold`, but again and again a node is killed for good and another joins.
    Churn,
    /// One node is filled, stopped in good order and started again without an origin.
    Restart,
    /// One node is killed when it has half, and again when it has everything.
    RestartKilled,
    /// As `Grow`, and then nodes with many models and nothing to do.
    Memory,
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As on the command line.
    pub name: &'static str,
    /// What it shows, for people.
    pub about: &'static str,
    /// What happens.
    pub work: Work,
    /// Nodes that are to be filled.
    pub nodes: u8,
    /// The sizes of the files before they are divided.
    pub sizes: fn() -> Vec<u64>,
    /// All sizes are divided by this.
    pub smaller: u64,
    /// Each node's link to the others in Mbit/s; none: not shaped.
    pub link: Option<u32>,
    /// The hub's link.
    pub hub: Option<u32>,
    /// Each node's own way to the hub, if it has one.
    pub egress: Option<u32>,
    /// What the way between hosts does to packets, if it is long.
    pub way: Option<Way>,
    /// The others that do the same work.
    pub peers: &'static [Team],
    /// All rates are divided by this.
    pub slower: u32,
    /// Whether processor time is what counts: then the other programs' files are hashed with SHA-256 within the measurement, as ours
    /// are, and memory is reserved.
    pub hashed: bool,
}

impl Case {
    /// The sizes of the files.
    #[must_use]
    pub fn file_sizes(&self) -> Vec<u64> {
        let sizes = (self.sizes)().into_iter();
        sizes
            .map(|size| (size / self.smaller.max(1)).max(1))
            .collect()
    }

    /// Bytes of the model.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.file_sizes().iter().sum()
    }

    /// The number of nodes that are there in the course of the case.
    #[must_use]
    pub fn hosts(&self) -> u8 {
        self.nodes
            + match self.work {
                Work::Grow | Work::Memory => 1,
                Work::Churn => REPLACED,
                _ => 0,
            }
    }

    /// Bytes of memory that are touched before the start and freed then: as much as will be filled, where it is not too much for
    /// the machine. Twice as much where processor time is what counts, because others take from it too.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        let filled = self.filled_bytes();
        if self.hashed {
            2 * filled
        } else if self.link.is_some() && filled <= MOST_RESERVED {
            filled
        } else {
            0
        }
    }

    /// Bytes that nodes fill before anything is removed.
    fn filled_bytes(&self) -> u64 {
        self.bytes() * u64::from(self.nodes)
    }

    /// Bytes of memory that a run takes at most: all files, which are the model and a copy on each node that is there at once, and
    /// what of the reserve no file takes the place of.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let nodes = match self.work {
            Work::Churn => self.nodes,
            _ => self.hosts(),
        };
        let spare = self.reserved_bytes().saturating_sub(self.filled_bytes());
        self.bytes() * (u64::from(nodes) + 1) + spare
    }

    /// Who has everything at the beginning.
    #[must_use]
    pub fn origin(&self) -> Host {
        match self.work {
            Work::Grow | Work::Memory => Host::Node(0),
            _ => Host::Hub,
        }
    }

    /// On which network the hub is reached.
    #[must_use]
    pub fn hub_net(&self) -> Net {
        if self.egress.is_some() {
            Net::Egress
        } else {
            Net::Lan
        }
    }

    /// The rate at which a node can receive, before it is divided, in Mbit/s: what it does not fetch itself on its own way to
    /// the hub comes over its link to the others.
    #[must_use]
    pub fn node_rate(&self) -> Option<u32> {
        Some(self.link? + self.egress.unwrap_or(0))
    }

    /// The rate at which the origin can send, before it is divided, in Mbit/s: over its own link, or over the nodes' own ways
    /// together.
    fn origin_rate(&self) -> Option<u32> {
        let ways = self.egress.map(|egress| egress * u32::from(self.nodes));
        match self.work {
            Work::Cold | Work::Churn => self.hub.into_iter().chain(ways).min(),
            // Half of it, and at a rate no lower than a node's: never the narrowest.
            Work::JoinLate => None,
            _ => self.link,
        }
    }

    /// The time in which one copy passes the narrowest place it must pass; none where nothing is shaped.
    ///
    /// The origin must send each byte once, and every empty node must receive each byte once. In `join-late` the clock starts
    /// with the second half of the nodes, which need everything; in `churn` the last node that joins does, after all the
    /// others have been replaced.
    #[must_use]
    pub fn bound_seconds(&self) -> Option<f64> {
        let once = self.once_seconds()?;
        let joined = match self.work {
            Work::Churn => self.churn_seconds()? * f64::from(REPLACED),
            _ => 0.0,
        };
        Some(joined + once)
    }

    /// The time in which one copy passes.
    fn once_seconds(&self) -> Option<f64> {
        let places = self.node_rate().into_iter().chain(self.origin_rate());
        let rate = places.min()?;
        let bits = float(self.bytes()) * 8.0;
        Some(bits * f64::from(self.slower) / (f64::from(rate) * 1e6))
    }

    /// How long it takes in `churn` until the next node is replaced: all of them within the time of one copy.
    #[must_use]
    pub fn churn_seconds(&self) -> Option<f64> {
        Some(self.once_seconds()? / f64::from(REPLACED))
    }

    /// The hosts and their cables.
    #[must_use]
    pub fn topology(&self) -> BTreeMap<Host, Vec<Cable>> {
        // Links are given in Mbit/s and shaped in kbit/s, so that any divisor leaves a whole number.
        let kbit = |rate: u32| rate * 1000 / self.slower.max(1);
        let lan = |rate: Option<u32>| Cable {
            net: Net::Lan,
            rate: rate.map(kbit),
        };
        let mut hosts = BTreeMap::from([(Host::Control, vec![lan(None)])]);
        let hub = Cable {
            net: self.hub_net(),
            rate: self.hub.map(kbit),
        };
        hosts.insert(Host::Hub, vec![hub]);
        for number in 0..self.hosts() {
            let mut cables = vec![lan(self.link)];
            if let Some(egress) = self.egress {
                cables.push(Cable {
                    net: Net::Egress,
                    rate: Some(kbit(egress)),
                });
            }
            hosts.insert(Host::Node(number), cables);
        }
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_documents() {
        let bound = |name: &str| {
            let case = CASES.iter().find(|case| case.name == name).unwrap();
            case.bound_seconds().map(|seconds| format!("{seconds:.2}"))
        };
        assert_eq!(bound("cold").as_deref(), Some("10.07"));
        assert_eq!(bound("cold-own-egress").as_deref(), Some("10.07"));
        assert_eq!(bound("cold-fast-hub").as_deref(), Some("10.07"));
        assert_eq!(bound("cold-slow-hub").as_deref(), Some("20.13"));
        assert_eq!(bound("grow").as_deref(), Some("10.07"));
        assert_eq!(bound("join-late").as_deref(), Some("10.07"));
        assert_eq!(bound("cold-one-file").as_deref(), Some("60.07"));
        assert_eq!(bound("many").as_deref(), Some("44.74"));
        assert_eq!(bound("delay").as_deref(), Some("20.13"));
        assert_eq!(bound("churn").as_deref(), Some("120.14"));
        assert_eq!(bound("cpu"), None);
    }

    #[test]
    fn memory_is_reserved_where_there_is_enough_of_it() {
        let reserved = |name: &str| {
            let case = CASES.iter().find(|case| case.name == name).unwrap();
            (case.reserved_bytes(), case.memory_bytes())
        };
        assert_eq!(reserved("cpu"), (4_000_000_000, 8_000_000_000));
        assert_eq!(reserved("memory"), (0, 6_000_000_000));
        assert_eq!(reserved("many"), (4 << 30, (4 << 30) + (64 << 20)));
        assert_eq!(reserved("churn"), (0, 18 << 30));
    }

    #[test]
    fn one_node_of_churn_is_replaced_every_ten_seconds() {
        let case = CASES.iter().find(|case| case.name == "churn").unwrap();
        let seconds = case.churn_seconds().unwrap();
        assert!((9.9..10.1).contains(&seconds), "{seconds}");
        assert_eq!(case.hosts(), 14);
        assert_eq!(case.memory_bytes(), 18 << 30);
    }

    #[test]
    fn smaller_files_and_slower_links_cancel_out() {
        for case in CASES {
            let mut other = *case;
            (other.smaller, other.slower) = (4, 4);
            let (Some(one), Some(two)) = (case.bound_seconds(), other.bound_seconds()) else {
                continue;
            };
            assert!(
                (one / two - 1.0).abs() < 0.001,
                "{}: {one} {two}",
                case.name
            );
        }
    }
}
