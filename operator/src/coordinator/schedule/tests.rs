//! Rules of the schedule, one by one and under random faults.

use proptest::prelude::*;

use super::simulation::{Character, Fault, Simulation, World};
use super::*;

fn honest(nodes: usize) -> Vec<(u64, bool, Character)> {
    vec![(0, false, Character::Honest); nodes]
}

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
