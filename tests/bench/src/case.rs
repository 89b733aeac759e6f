//! The cases as data: who has what, over which links, and the time that nothing can beat.

use std::collections::BTreeMap;

use crate::float;
use crate::network::{Cable, Host, Net};
use crate::team::Team;

const MIB: u64 = 1 << 20;

/// What happens in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The origin has everything, all nodes are empty and start together.
    Cold,
    /// The same, but the second half of the nodes joins when the origin has sent half.
    JoinLate,
    /// Node 0 has everything, there is no origin, all others are empty and start together.
    Grow,
    /// One node is filled, stopped in good order and started again without an origin.
    Restart,
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
    /// The sizes of the files.
    pub sizes: fn() -> Vec<u64>,
    /// Each node's link to the others in Mbit/s; none: not shaped.
    pub link: Option<u32>,
    /// The hub's link.
    pub hub: Option<u32>,
    /// Each node's own way to the hub, if it has one.
    pub egress: Option<u32>,
    /// The others that do the same work.
    pub peers: &'static [Team],
    /// All rates are divided by this.
    pub slower: u32,
    /// Whether the other programs' files are hashed with SHA-256 within the measurement, as ours are.
    pub hashed: bool,
}

/// The table.
pub const CASES: &[Case] = &[
    Case {
        name: "cold",
        about: "8 empty nodes, hub and nodes 160 Mbit/s, 192 MiB",
        work: Work::Cold,
        nodes: 8,
        sizes: four_of_48,
        link: Some(160),
        hub: Some(160),
        egress: None,
        peers: &[Team::Libtorrent, Team::LibtorrentSuper, Team::Aria2],
        slower: 1,
        hashed: false,
    },
    Case {
        name: "cold-own-egress",
        about: "8 empty nodes, each 20 Mbit/s to the hub, 400 Mbit/s between nodes, 192 MiB",
        work: Work::Cold,
        nodes: 8,
        sizes: four_of_48,
        link: Some(400),
        hub: None,
        egress: Some(20),
        peers: &[Team::Libtorrent],
        slower: 1,
        hashed: false,
    },
    Case {
        name: "cold-fast-hub",
        about: "8 empty nodes, hub 640 Mbit/s, nodes 160 Mbit/s, 192 MiB",
        work: Work::Cold,
        nodes: 8,
        sizes: four_of_48,
        link: Some(160),
        hub: Some(640),
        egress: None,
        peers: &[Team::Libtorrent, Team::Aria2],
        slower: 1,
        hashed: false,
    },
    Case {
        name: "cold-slow-hub",
        about: "8 empty nodes, hub 40 Mbit/s, nodes 160 Mbit/s, 96 MiB",
        work: Work::Cold,
        nodes: 8,
        sizes: four_of_24,
        link: Some(160),
        hub: Some(40),
        egress: None,
        peers: &[Team::Libtorrent, Team::Aria2],
        slower: 1,
        hashed: false,
    },
    Case {
        name: "grow",
        about: "one full node, 8 empty ones, no hub, 160 Mbit/s, 192 MiB",
        work: Work::Grow,
        nodes: 8,
        sizes: four_of_48,
        link: Some(160),
        hub: None,
        egress: None,
        peers: &[Team::Libtorrent, Team::LibtorrentSuper, Team::Aria2],
        slower: 1,
        hashed: false,
    },
    Case {
        name: "join-late",
        about: "4 nodes half way, 4 more join, hub and nodes 160 Mbit/s, 192 MiB",
        work: Work::JoinLate,
        nodes: 8,
        sizes: four_of_48,
        link: Some(160),
        hub: Some(160),
        egress: None,
        peers: &[Team::Libtorrent, Team::Aria2],
        slower: 1,
        hashed: false,
    },
    Case {
        name: "cpu",
        about: "one sender, one receiver, 2 GB in memory, nothing shaped, SHA-256 included",
        work: Work::Grow,
        nodes: 1,
        sizes: four_of_500_mb,
        link: None,
        hub: None,
        egress: None,
        peers: &[Team::InClear, Team::Libtorrent, Team::Nginx],
        slower: 1,
        hashed: true,
    },
    Case {
        name: "small",
        about: "5,000 files of 1 to 64 KiB, beside one file of the same size, as in cold",
        work: Work::Cold,
        nodes: 8,
        sizes: many_small,
        link: Some(160),
        hub: Some(160),
        egress: None,
        peers: &[Team::OneFile],
        slower: 1,
        hashed: false,
    },
    Case {
        name: "restart",
        about: "an agent with 2 GB complete is stopped and started again, the hub is off",
        work: Work::Restart,
        nodes: 1,
        sizes: four_of_500_mb,
        link: None,
        hub: None,
        egress: None,
        peers: &[],
        slower: 1,
        hashed: false,
    },
];

fn four_of_48() -> Vec<u64> {
    vec![48 * MIB; 4]
}

fn four_of_24() -> Vec<u64> {
    vec![24 * MIB; 4]
}

fn four_of_500_mb() -> Vec<u64> {
    vec![500_000_000; 4]
}

/// 1 to 64 KiB, evenly, the same each time.
fn many_small() -> Vec<u64> {
    (0..5000_u64)
        .map(|number| 1024 + (number * 48_271) % (63 * 1024 + 1))
        .collect()
}

impl Case {
    /// Bytes of the model.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.sizes)().iter().sum()
    }

    /// The number of nodes that are there, the full one included.
    #[must_use]
    pub fn hosts(&self) -> u8 {
        self.nodes + u8::from(self.work == Work::Grow)
    }

    /// Who has everything at the beginning.
    #[must_use]
    pub fn origin(&self) -> Host {
        match self.work {
            Work::Grow => Host::Node(0),
            Work::Cold | Work::JoinLate | Work::Restart => Host::Hub,
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

    /// The time in which one copy passes the narrowest place it must pass; none where nothing is shaped.
    ///
    /// The origin must send each byte once, over its own link or over the nodes' own ways together; and every empty
    /// node must receive each byte once. In `join-late` the clock starts with the second half of the nodes, which need
    /// everything.
    #[must_use]
    pub fn bound_seconds(&self) -> Option<f64> {
        let node = match self.egress {
            // What a node does not fetch itself comes over its link to the others.
            Some(egress) => self.link.map(|link| link + egress),
            None => self.link,
        };
        let origin = match self.work {
            Work::Cold => match (self.hub, self.egress) {
                (Some(hub), None) => Some(hub),
                (hub, Some(egress)) => {
                    let sum = egress * u32::from(self.nodes);
                    Some(hub.map_or(sum, |hub| hub.min(sum)))
                }
                (None, None) => None,
            },
            // Half of it, and at a rate no lower than a node's: never the narrowest.
            Work::JoinLate => node,
            Work::Grow | Work::Restart => self.link,
        };
        let rate = node.into_iter().chain(origin).min()?;
        let bits = float(self.bytes()) * 8.0;
        Some(bits * f64::from(self.slower) / (f64::from(rate) * 1e6))
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
        assert_eq!(bound("cpu"), None);
    }

    #[test]
    fn small_files_are_of_all_sizes_between_1_and_64_kib() {
        let sizes = many_small();
        assert_eq!(sizes.len(), 5000);
        assert!(sizes.iter().all(|size| (1024..=65536).contains(size)));
        let mean = sizes.iter().sum::<u64>() / 5000;
        assert!((32_000..34_600).contains(&mean), "{mean}");
    }
}
