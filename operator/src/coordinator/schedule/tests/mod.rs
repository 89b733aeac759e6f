//! Rules of the schedule, one by one and under random faults.

mod bench;
mod distrust;
mod liars;
mod random;
mod rosters;
mod rules;
mod runs;

use super::simulation::Character;

fn honest(nodes: usize) -> Vec<(u64, bool, Character)> {
    vec![(0, false, Character::Honest); nodes]
}
