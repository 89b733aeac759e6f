//! Which segments this node fetches from the hub itself, and when.

use std::time::{Duration, Instant};

use super::peer::Peer;
use super::{Alone, MOST_TURNS, Step, TURN};

impl Alone {
    /// Adds fetches of segments that are this node's turn. `shared`: other nodes fetch and give some too.
    pub(super) fn fetch(
        &self,
        now: Instant,
        missing: &[u32],
        free: usize,
        shared: bool,
        steps: &mut Vec<Step>,
    ) {
        if free == 0 || shared && self.peers.values().any(Peer::to_be_awaited) {
            return;
        }
        let quiet = self
            .progress
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let mut due: Vec<(u32, u32, u32)> = missing
            .iter()
            .filter_map(|segment| {
                let turn = if shared { self.turn(now, *segment)? } else { 0 };
                let failures = self.hub.failures_of(*segment);
                (self.wait(turn, *segment) <= quiet).then_some((failures, turn, *segment))
            })
            .collect();
        due.sort_by_key(|(failures, turn, _)| (*failures, *turn));
        let first = due.into_iter().take(free);
        steps.extend(first.map(|(_, _, segment)| Step::Fetch(segment)));
    }

    /// How many others fetch a segment before this node does; none when it is to be had, or under way, elsewhere.
    pub(super) fn turn(&self, now: Instant, segment: u32) -> Option<u32> {
        if self.wrong.contains(&segment) {
            return Some(0);
        }
        let live = || self.peers.iter().filter(|(_, peer)| peer.lives());
        if live().any(|(_, peer)| peer.holds(now, segment) || peer.fetches(now, segment)) {
            return None;
        }
        let mine = (self.score(self.me.1, segment), self.me.0.as_str());
        let before = live().filter(|(node, peer)| {
            let theirs = (self.score(peer.seed, segment), node.as_str());
            peer.member && peer.reaches_hub() && (!self.listed || theirs > mine)
        });
        // Only the way from here to the coordinator is broken: it has somebody fetch the segment.
        let coordinated = live().any(|(_, peer)| peer.coordinated());
        let turn = before.count() + usize::from(coordinated);
        Some(u32::try_from(turn).unwrap_or(u32::MAX))
    }

    fn wait(&self, turn: u32, segment: u32) -> Duration {
        let wait = TURN * turn.min(MOST_TURNS);
        if self.listed || turn == 0 {
            return wait;
        }
        // There may be many that are not listed, all with the same turn.
        let part = self.score(self.me.1, segment) % 256;
        wait + TURN * u32::try_from(part).unwrap_or(0) / 16
    }
}
