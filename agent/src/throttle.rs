//! When the status is written: often enough for people, seldom enough for the API server.
//!
//! At most ten writes a snapshot: one for each change of phase (Pending, Downloading, Verifying, Ready), and up to six for
//! progress, each after 15 % of the size and at least two seconds. What goes wrong is told once and repeated, when only
//! its words or times change, no oftener than every thirty seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use modelcache_crds::model_cache_node::Phase;

use crate::state::{NodeState, Problem, SnapshotState};

/// Least share of a snapshot's size, in per cent, that makes progress worth a write.
const PROGRESS_PERCENT: u64 = 15;
/// Least time between two writes for progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Least time between two writes about the same reason.
const PROBLEM_INTERVAL: Duration = Duration::from_secs(30);
/// Changes that come together are written together.
const SETTLE: Duration = Duration::from_millis(300);
/// Free space alone is told when it moved by so much of the capacity, in per cent…
const SPACE_PERCENT: u64 = 5;
/// …and no oftener than this.
const SPACE_INTERVAL: Duration = Duration::from_mins(5);

/// What to do about a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write it now.
    Write,
    /// Look again at that time, if nothing happens before.
    Later(Instant),
    /// It is told already.
    Nothing,
}

/// Remembers what was written and when.
#[derive(Debug, Default)]
pub struct Throttle {
    written: Option<(Instant, NodeState)>,
    /// When each snapshot's reason was last told.
    problems: BTreeMap<(String, &'static str), Instant>,
    /// Since when there is something to be told at once.
    pending_since: Option<Instant>,
}

impl Throttle {
    /// Whether this state is to be written now.
    pub fn decide(&mut self, now: Instant, state: &NodeState) -> Decision {
        let Some((at, written)) = &self.written else {
            return self.settle(now);
        };
        if urgent(written, state) {
            return self.settle(now);
        }
        self.pending_since = None;
        let mut due: Option<Instant> = None;
        let mut propose = |moment: Instant| due = Some(due.map_or(moment, |due| due.min(moment)));
        for (old, new) in pairs(written, state) {
            if moved(old, new) {
                propose(*at + PROGRESS_INTERVAL);
            }
            if let Some(problem) = &new.problem
                && old.problem.as_ref() != Some(problem)
            {
                propose(self.problem_due(now, &new.name, problem));
            }
            if new.problem.is_none() && old.problem.is_some() {
                propose(*at + PROGRESS_INTERVAL);
            }
        }
        if state.free_bytes.abs_diff(written.free_bytes) > state.total_bytes / 100 * SPACE_PERCENT
            || state.total_bytes != written.total_bytes
        {
            propose(*at + SPACE_INTERVAL);
        }
        match due {
            Some(moment) if moment <= now => Decision::Write,
            Some(moment) => Decision::Later(moment),
            None => Decision::Nothing,
        }
    }

    /// Takes note that this state was written.
    pub fn wrote(&mut self, now: Instant, state: &NodeState) {
        self.pending_since = None;
        for snapshot in &state.snapshots {
            if let Some(problem) = &snapshot.problem {
                self.problems
                    .insert((snapshot.name.clone(), problem.reason), now);
            }
        }
        self.problems
            .retain(|_, at| now.duration_since(*at) < PROBLEM_INTERVAL);
        self.written = Some((now, state.clone()));
    }

    /// Takes note that the object is another one than was written to.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn settle(&mut self, now: Instant) -> Decision {
        let due = *self.pending_since.get_or_insert(now) + SETTLE;
        if due <= now {
            Decision::Write
        } else {
            Decision::Later(due)
        }
    }

    fn problem_due(&self, now: Instant, snapshot: &str, problem: &Problem) -> Instant {
        self.problems
            .get(&(snapshot.to_owned(), problem.reason))
            .map_or(now, |told| *told + PROBLEM_INTERVAL)
    }
}

/// Snapshots with what was written of them.
fn pairs<'a>(
    written: &'a NodeState,
    state: &'a NodeState,
) -> impl Iterator<Item = (&'a SnapshotState, &'a SnapshotState)> {
    written.snapshots.iter().zip(&state.snapshots)
}

/// What people and the operator wait for: written at once.
fn urgent(written: &NodeState, state: &NodeState) -> bool {
    written.generation != state.generation
        || written.peer_address != state.peer_address
        || written.snapshots.len() != state.snapshots.len()
        || pairs(written, state).any(|(old, new)| {
            let failed = |snapshot: &SnapshotState| snapshot.phase == Phase::Failed;
            old.name != new.name
                || old.models != new.models
                || old.verified_at != new.verified_at
                // To and from Failed is for the problem's own interval, except when it is ready then.
                || (old.phase != new.phase
                    && (new.phase == Phase::Ready || !(failed(old) || failed(new))))
        })
}

fn moved(old: &SnapshotState, new: &SnapshotState) -> bool {
    let step = (new.size_bytes / 100 * PROGRESS_PERCENT).max(1);
    // The last bytes are told with the change of phase that follows.
    new.held_bytes < new.size_bytes && old.held_bytes.abs_diff(new.held_bytes) >= step
}

#[cfg(test)]
mod tests {
    use crate::reasons;

    use super::*;

    fn state(phase: Phase, held: u64) -> NodeState {
        NodeState {
            generation: Some(1),
            total_bytes: 1000,
            free_bytes: 1000 - held,
            snapshots: vec![SnapshotState {
                name: "s".to_owned(),
                repository: None,
                models: Vec::new(),
                phase,
                size_bytes: 1000,
                held_bytes: held,
                origin_bytes: held,
                peer_bytes: 0,
                problem: None,
                verified_at: None,
                fresh: true,
            }],
            ..NodeState::default()
        }
    }

    fn with_problem(message: &str) -> NodeState {
        let mut state = state(Phase::Failed, 10);
        state.snapshots[0].problem = Some(Problem {
            reason: reasons::RATE_LIMITED,
            message: message.to_owned(),
            retry_at: None,
        });
        state
    }

    /// Polls every 100 ms as the reporter at most does, and counts the writes.
    fn run(
        states: impl Iterator<Item = NodeState>,
        throttle: &mut Throttle,
        now: &mut Instant,
    ) -> u32 {
        let mut writes = 0;
        for state in states {
            if throttle.decide(*now, &state) == Decision::Write {
                throttle.wrote(*now, &state);
                writes += 1;
            }
            *now += Duration::from_millis(100);
        }
        writes
    }

    #[test]
    fn a_download_costs_at_most_ten_writes_however_long_it_takes() {
        for steps in [3, 50, 400, 10_000_u64] {
            let mut throttle = Throttle::default();
            let mut now = Instant::now();
            let pending = std::iter::repeat_n(state(Phase::Pending, 0), 30);
            let downloading = (0..steps).map(|step| state(Phase::Downloading, step * 1000 / steps));
            let verifying = std::iter::repeat_n(state(Phase::Verifying, 1000), 30);
            let ready = std::iter::repeat_n(state(Phase::Ready, 1000), 30);
            let all = pending.chain(downloading).chain(verifying).chain(ready);
            let writes = run(all, &mut throttle, &mut now);
            assert!(
                (3..=10).contains(&writes),
                "{writes} writes for {steps} steps"
            );
            assert_eq!(throttle.written.unwrap().1.snapshots[0].phase, Phase::Ready);
        }
    }

    #[test]
    fn a_problem_is_told_once_and_repeated_every_thirty_seconds() {
        let mut throttle = Throttle::default();
        let mut now = Instant::now();
        run(
            std::iter::repeat_n(state(Phase::Downloading, 10), 10),
            &mut throttle,
            &mut now,
        );
        // Ten minutes of ever new words about the same reason.
        let words = (0..6000).map(|number| with_problem(&format!("attempt {number}")));
        let writes = run(words, &mut throttle, &mut now);
        assert!((18..=21).contains(&writes), "{writes}");
    }

    #[test]
    fn a_problem_that_comes_and_goes_does_not_flood() {
        let mut throttle = Throttle::default();
        let mut now = Instant::now();
        let flapping = (0..600).map(|number| {
            if number % 2 == 0 {
                with_problem("x")
            } else {
                state(Phase::Downloading, 10)
            }
        });
        let writes = run(flapping, &mut throttle, &mut now);
        assert!(writes <= 8, "{writes} writes in a minute");
    }

    #[test]
    fn ready_is_told_at_once_even_after_a_failure() {
        let mut throttle = Throttle::default();
        let mut now = Instant::now();
        run(
            std::iter::repeat_n(with_problem("x"), 10),
            &mut throttle,
            &mut now,
        );
        let writes = run(
            std::iter::repeat_n(state(Phase::Ready, 1000), 5),
            &mut throttle,
            &mut now,
        );
        assert_eq!(writes, 1);
    }

    #[test]
    fn nothing_new_costs_nothing() {
        let mut throttle = Throttle::default();
        let mut now = Instant::now();
        run(
            std::iter::repeat_n(state(Phase::Ready, 1000), 10),
            &mut throttle,
            &mut now,
        );
        assert_eq!(
            throttle.decide(now, &state(Phase::Ready, 1000)),
            Decision::Nothing
        );
        throttle.forget();
        assert!(matches!(
            throttle.decide(now, &state(Phase::Ready, 1000)),
            Decision::Later(_)
        ));
    }
}
