//! Whole runs of simulated worlds: how much is fetched and taken, and that everybody becomes whole.

use std::collections::BTreeSet;

use super::super::simulation::{Character, Fault, Simulation, World};
use super::super::{Settings, SourcePolicy};
use super::honest;

#[test]
fn cold_start_fetches_each_segment_once_and_needs_no_clock() {
    for nodes in [1, 2, 3, 5, 8, 20] {
        for segments in [0, 1, 7, 64, 200] {
            let outcome = Simulation::run(World {
                seed: nodes as u64 * 1000 + u64::from(segments),
                segments,
                nodes: honest(nodes),
                ticking: false,
                ..World::default()
            });
            assert!(outcome.finished, "{}", outcome.stuck);
            assert_eq!(outcome.fetches, u64::from(segments));
            assert_eq!(outcome.takes, u64::from(segments) * (nodes as u64 - 1));
        }
    }
}

#[test]
fn a_full_node_gives_hardly_more_than_one_copy() {
    let mut nodes = honest(9);
    nodes[0].1 = true;
    let outcome = Simulation::run(World {
        segments: 400,
        nodes,
        policy: SourcePolicy::PeersOnly,
        ticking: false,
        ..World::default()
    });
    assert!(outcome.finished, "{}", outcome.stuck);
    assert_eq!(outcome.fetches, 0);
    assert_eq!(outcome.takes, 8 * 400);
    // Later copies come from the new holders, but for the last few.
    assert!(outcome.seeded < 440, "{} of 400 segments", outcome.seeded);
}

#[test]
fn a_late_node_takes_everything_from_the_others() {
    let mut nodes = honest(4);
    nodes[3].0 = 60_000;
    let outcome = Simulation::run(World {
        segments: 100,
        nodes,
        ..World::default()
    });
    assert!(outcome.finished, "{}", outcome.stuck);
    assert_eq!((outcome.fetches, outcome.takes), (100, 300));
}

#[test]
fn origin_only_nodes_fetch_for_themselves() {
    let outcome = Simulation::run(World {
        segments: 100,
        nodes: honest(5),
        policy: SourcePolicy::OriginOnly,
        ticking: false,
        ..World::default()
    });
    assert!(outcome.finished, "{}", outcome.stuck);
    assert_eq!((outcome.fetches, outcome.takes), (500, 0));
}

#[test]
fn agents_may_track_before_the_snapshot_is_wanted() {
    let mut nodes = honest(4);
    nodes[2].1 = true;
    let outcome = Simulation::run(World {
        nodes,
        wanted_at: 30_000,
        ..World::default()
    });
    assert!(outcome.finished, "{}", outcome.stuck);
    assert_eq!((outcome.fetches, outcome.takes), (0, 120));
}

#[test]
fn a_restart_of_the_coordinator_costs_few_extra_fetches() {
    for seed in 0..20 {
        let outcome = Simulation::run(World {
            seed,
            segments: 300,
            nodes: honest(4),
            faults: vec![(2_000, Fault::Restart), (14_000, Fault::Restart)],
            settings: Settings::default(),
            ..World::default()
        });
        assert!(outcome.finished, "{}", outcome.stuck);
        // What was being fetched at these moments, at most: two a node.
        assert!(outcome.fetches <= 300 + 4 * 8, "{}", outcome.fetches);
    }
}

#[test]
fn short_breaks_of_connections_cost_few_extra_fetches() {
    for seed in 0..20 {
        let outcome = Simulation::run(World {
            seed,
            segments: 300,
            nodes: honest(4),
            faults: (0..8)
                .map(|n| (7_000 + n * 700, Fault::Cut(usize::try_from(n % 4).unwrap())))
                .collect(),
            settings: Settings::default(),
            ..World::default()
        });
        assert!(outcome.finished, "{}", outcome.stuck);
        assert!(outcome.fetches <= 300 + 4 * 8, "{}", outcome.fetches);
    }
}

#[test]
fn a_node_that_spoils_what_it_fetches_does_not_hold_the_others_up() {
    for seed in 0..50 {
        for character in [Character::Poisoner, Character::Forger] {
            let mut nodes = honest(4);
            nodes[1].2 = character;
            let outcome = Simulation::run(World {
                seed,
                segments: 30,
                blob: 10,
                nodes,
                ..World::default()
            });
            assert!(outcome.finished, "{character:?} {seed}: {}", outcome.stuck);
            assert!(
                outcome.ended < 600_000,
                "{character:?} {seed}: {} ms",
                outcome.ended
            );
        }
    }
}

#[test]
fn one_spoilt_segment_costs_the_hub_one_more_copy_of_its_blob_and_the_nodes_that_segment() {
    for seed in 0..50 {
        let mut nodes = honest(8);
        nodes[5].2 = Character::Sly;
        let outcome = Simulation::run(World {
            seed,
            segments: 32,
            blob: 32,
            nodes,
            ..World::default()
        });
        assert!(outcome.finished, "{seed}: {}", outcome.stuck);
        assert_eq!(outcome.distrusted, BTreeSet::from([5]), "{seed}");
        // A few that the spoiler made and nobody had proved yet are fetched a third time at most.
        assert!(outcome.fetches <= 64 + 4, "{seed}: {}", outcome.fetches);
        // Seven copies, and the spoilt segment for seven once more.
        assert!(outcome.moved <= 7 * 33, "{seed}: {}", outcome.moved);
    }
}

#[test]
fn a_node_that_spoils_all_it_fetches_in_all_blobs_costs_the_hub_two_and_a_half_copies() {
    for seed in 0..20 {
        let mut nodes = honest(8);
        nodes[5].2 = Character::Poisoner;
        let outcome = Simulation::run(World {
            seed,
            segments: 256,
            blob: 16,
            nodes,
            check: false,
            ..World::default()
        });
        assert!(outcome.finished, "{seed}: {}", outcome.stuck);
        assert_eq!(outcome.distrusted, BTreeSet::from([5]), "{seed}");
        assert!(outcome.fetches <= 640, "{seed}: {}", outcome.fetches);
    }
}

#[test]
fn a_node_whose_start_was_planned_twice_runs_one_agent() {
    // Killed before it began, it would begin twice; the second agent would forget what the first one was ordered to do.
    let mut nodes = honest(2);
    nodes[1].0 = 12_000;
    for kill in (0..12_000).step_by(500) {
        let outcome = Simulation::run(World {
            nodes: nodes.clone(),
            faults: vec![(kill, Fault::Kill(1))],
            policy: SourcePolicy::OriginOnly,
            failing: 30,
            ..World::default()
        });
        assert!(outcome.finished, "{}", outcome.stuck);
        assert!(outcome.ended < 600_000, "{} ms", outcome.ended);
    }
}

#[test]
fn a_hub_that_is_down_is_asked_less_and_less() {
    let outcome = Simulation::run(World {
        nodes: honest(8),
        faults: vec![(0, Fault::HubDown(3_600_000))],
        ..World::default()
    });
    assert!(outcome.finished, "{}", outcome.stuck);
    // An hour of waits that double from one second to five minutes.
    let failed = outcome.fetches - 40;
    assert!(failed < 80, "{failed} tries for nothing");
}

#[test]
fn deciding_is_fast_enough_for_large_models_and_clusters() {
    for (nodes, segments, full) in [(8, 4000, false), (64, 1000, false), (64, 1000, true)] {
        let mut world = World {
            segments,
            blob: 50,
            nodes: honest(nodes),
            check: false,
            latency: 1,
            ..World::default()
        };
        world.nodes[0].1 = full;
        let began = std::time::Instant::now();
        let outcome = Simulation::run(world);
        let took = began.elapsed();
        assert!(outcome.finished, "{}", outcome.stuck);
        println!(
            "{nodes} nodes, {segments} segments, one full: {full}: {} calls in {took:?}, {} fetched, {} taken, {} from the full node, {} s simulated",
            outcome.calls,
            outcome.fetches,
            outcome.takes,
            outcome.seeded,
            outcome.ended / 1000
        );
        // Generous: a guard against going through everything for every message.
        assert!(took.as_secs() < 120, "{took:?}");
    }
}
