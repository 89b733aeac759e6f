//! The table of cases.

use std::time::Duration;

use super::{Case, Work};
use crate::cable::Way;
use crate::team::Team;

const MIB: u64 = 1 << 20;

/// What most cases have in common.
const COLD: Case = Case {
    name: "cold",
    about: "8 empty nodes, hub and nodes 160 Mbit/s, 192 MiB",
    work: Work::Cold,
    nodes: 8,
    sizes: || vec![48 * MIB; 4],
    smaller: 1,
    link: Some(160),
    hub: Some(160),
    egress: None,
    way: None,
    peers: &[Team::Libtorrent, Team::LibtorrentSuper, Team::Aria2],
    slower: 1,
    hashed: false,
};

/// Two gibibytes, which take a minute at this rate: with those of eight nodes and the hub they are 18 GiB of memory.
const MINUTE: Case = Case {
    sizes: || vec![2048 * MIB],
    link: Some(286),
    hub: Some(286),
    ..COLD
};

/// One node alone, nothing shaped.
const ALONE: Case = Case {
    nodes: 1,
    sizes: || vec![500_000_000; 4],
    link: None,
    hub: None,
    peers: &[],
    ..COLD
};

/// All cases, in the order in which they run. Those that fill the machine's memory come last: for half a minute afterwards a
/// virtual machine's host takes it back, and processors with it.
pub const CASES: &[Case] = &[
    COLD,
    Case {
        name: "cold-own-egress",
        about: "8 empty nodes, each 20 Mbit/s to the hub, 400 Mbit/s between nodes, 192 MiB",
        link: Some(400),
        hub: None,
        egress: Some(20),
        peers: &[Team::Libtorrent],
        ..COLD
    },
    Case {
        name: "cold-fast-hub",
        about: "8 empty nodes, hub 640 Mbit/s, nodes 160 Mbit/s, 192 MiB",
        hub: Some(640),
        peers: &[Team::Libtorrent, Team::Aria2],
        ..COLD
    },
    Case {
        name: "cold-slow-hub",
        about: "8 empty nodes, hub 40 Mbit/s, nodes 160 Mbit/s, 96 MiB",
        sizes: || vec![24 * MIB; 4],
        hub: Some(40),
        peers: &[Team::Libtorrent, Team::Aria2],
        ..COLD
    },
    Case {
        name: "many",
        about: "64 empty nodes, hub and nodes 12 Mbit/s, 64 MiB",
        nodes: 64,
        sizes: || vec![16 * MIB; 4],
        link: Some(12),
        hub: Some(12),
        peers: &[Team::Aria2],
        ..COLD
    },
    Case {
        name: "delay",
        about: "8 empty nodes, 20 ms there and back, one packet of 1,000 lost, 40 Mbit/s, 96 MiB",
        sizes: || vec![24 * MIB; 4],
        link: Some(40),
        hub: Some(40),
        way: Some(Way {
            round_trip: Duration::from_millis(20),
            loss: 0.001,
        }),
        peers: &[Team::Libtorrent, Team::Aria2],
        ..COLD
    },
    Case {
        name: "grow",
        about: "one full node, 8 empty ones, no hub, 160 Mbit/s, 192 MiB",
        work: Work::Grow,
        hub: None,
        ..COLD
    },
    Case {
        name: "join-late",
        about: "4 nodes half way, 4 more join, hub and nodes 160 Mbit/s, 192 MiB",
        work: Work::JoinLate,
        peers: &[Team::Libtorrent, Team::Aria2],
        ..COLD
    },
    Case {
        name: "small",
        about: "5,000 files of 1 to 64 KiB, beside one file of the same size, as in cold",
        sizes: many_small,
        peers: &[Team::OneFile],
        ..COLD
    },
    Case {
        name: "cpu",
        about: "one sender, one receiver, 2 GB in memory, nothing shaped, SHA-256 included",
        work: Work::Grow,
        peers: &[Team::InClear, Team::Librqbit, Team::Libtorrent, Team::Nginx],
        hashed: true,
        ..ALONE
    },
    Case {
        name: "memory",
        about: "as cpu, what the agents have resident; then one with 50 models and nothing to do",
        work: Work::Memory,
        ..ALONE
    },
    Case {
        name: "restart",
        about: "an agent with 2 GB complete is stopped and started again, the hub is off",
        work: Work::Restart,
        ..ALONE
    },
    Case {
        name: "restart-killed",
        about: "an agent is killed when 1 GB of 2 has arrived, started again, and killed again when it has all",
        work: Work::RestartKilled,
        ..ALONE
    },
    Case {
        name: "cold-one-file",
        about: "8 empty nodes, hub and nodes 286 Mbit/s, one file of 2 GiB",
        peers: &[Team::Aria2],
        ..MINUTE
    },
    Case {
        name: "churn",
        about: "as cold-one-file, every 10 s of a minute one node is killed for good and another joins",
        work: Work::Churn,
        peers: &[],
        ..MINUTE
    },
];

/// 1 to 64 KiB, evenly, the same each time.
fn many_small() -> Vec<u64> {
    (0..5000_u64)
        .map(|number| 1024 + (number * 48_271) % (63 * 1024 + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_of_all_sizes_between_1_and_64_kib() {
        let sizes = many_small();
        assert_eq!(sizes.len(), 5000);
        assert!(sizes.iter().all(|size| (1024..=65536).contains(size)));
        let mean = sizes.iter().sum::<u64>() / 5000;
        assert!((32_000..34_600).contains(&mean), "{mean}");
    }
}
