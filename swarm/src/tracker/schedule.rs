//! When a client of the tracker says what. Pure: times come in, turns go out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::query::Event;
use super::{INTERVAL, MIN_INTERVAL};
use crate::discovery::announcement::ContentId;

/// Nodes that are started together do not all speak at once.
const START_WITHIN: Duration = Duration::from_secs(2);
/// After a failure, doubled with each further one up to the usual interval. Longer than a tracker that was started anew
/// believes nobody.
const RETRY: Duration = Duration::from_secs(12);
/// Longest interval that is kept, whatever the tracker says: less than peers stay usable in the table.
const LONGEST: Duration = Duration::from_mins(10);

/// What is to be said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// About which torrent.
    pub torrent: ContentId,
    /// What happened.
    pub event: Option<Event>,
    /// Bytes that are missing; 0 when it is whole.
    pub left: u64,
}

#[derive(Debug)]
struct Entry {
    left: u64,
    /// To be told; kept until the tracker has heard it.
    event: Option<Event>,
    due: Instant,
    failures: u32,
    /// Whether the tracker has heard of it.
    known: bool,
}

/// The torrents that are announced.
#[derive(Debug)]
pub struct Schedule {
    entries: BTreeMap<ContentId, Entry>,
    chance: StdRng,
}

impl Schedule {
    /// Nothing to announce. Times are spread as follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            chance: StdRng::seed_from_u64(seed),
        }
    }

    /// From now on these are announced, each with the bytes that are missing.
    pub fn set(&mut self, torrents: &BTreeMap<ContentId, u64>, now: Instant) {
        self.entries.retain(|torrent, entry| {
            let wanted = torrents.contains_key(torrent);
            if !wanted && entry.event != Some(Event::Stopped) {
                entry.event = Some(Event::Stopped);
                entry.due = now;
            }
            wanted || entry.known
        });
        for (torrent, left) in torrents {
            if let Some(entry) = self.entries.get_mut(torrent) {
                entry.change(*left, now);
                continue;
            }
            let entry = Entry {
                left: *left,
                event: Some(Event::Started),
                due: now + START_WITHIN.mul_f64(self.chance.random()),
                failures: 0,
                known: false,
            };
            self.entries.insert(*torrent, entry);
        }
    }

    /// When the next turn is; never while there is nothing to announce.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.entries.values().map(|entry| entry.due).min()
    }

    /// What is to be said now, if anything; what came of it is to be told by [`answered`](Self::answered) or
    /// [`failed`](Self::failed).
    #[must_use]
    pub fn turn(&self, now: Instant) -> Option<Turn> {
        let (torrent, entry) = self.entries.iter().min_by_key(|(_, entry)| entry.due)?;
        (entry.due <= now).then_some(Turn {
            torrent: *torrent,
            event: entry.event,
            left: entry.left,
        })
    }

    /// The tracker has heard it and wants to hear again after `interval`.
    pub fn answered(&mut self, turn: Turn, interval: Duration, now: Instant) {
        let early = self.chance.random_range(0.8..0.95);
        if turn.event == Some(Event::Stopped) {
            self.entries.remove(&turn.torrent);
        } else if let Some(entry) = self.entries.get_mut(&turn.torrent) {
            entry.known = true;
            entry.failures = 0;
            entry.event = None;
            entry.due = now + interval.clamp(MIN_INTERVAL, LONGEST).mul_f64(early);
        }
    }

    /// The tracker has not heard it, or does not answer. A torrent that is left is not told of again: it expires.
    pub fn failed(&mut self, turn: Turn, now: Instant) {
        let spread = self.chance.random_range(1.0..1.25);
        if turn.event == Some(Event::Stopped) {
            self.entries.remove(&turn.torrent);
        } else if let Some(entry) = self.entries.get_mut(&turn.torrent) {
            let wait = RETRY * 2_u32.saturating_pow(entry.failures.min(10));
            entry.failures = entry.failures.saturating_add(1);
            entry.due = now + wait.min(INTERVAL).mul_f64(spread);
        }
    }
}

impl Entry {
    fn change(&mut self, left: u64, now: Instant) {
        // Wanted again before the tracker could be told that it is not.
        if self.event == Some(Event::Stopped) {
            self.event = None;
        }
        if (left == 0) != (self.left == 0) {
            if left > 0 {
                self.event = self.event.filter(|event| *event != Event::Completed);
            } else if self.event.is_none() {
                self.event = Some(Event::Completed);
            }
            // Where the tracker does not answer, it is not asked more often for that.
            if self.failures == 0 {
                self.due = now;
            }
        }
        self.left = left;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: ContentId = ContentId([1; 20]);
    const TWO: ContentId = ContentId([2; 20]);

    fn set(schedule: &mut Schedule, torrents: &[(ContentId, u64)], now: Instant) {
        schedule.set(&torrents.iter().copied().collect(), now);
    }

    /// The next turn, whenever it is, and when.
    fn next(schedule: &Schedule) -> (Turn, Instant) {
        let due = schedule.due().unwrap();
        assert_eq!(
            schedule.turn(due.checked_sub(Duration::from_millis(1)).unwrap()),
            None
        );
        (schedule.turn(due).unwrap(), due)
    }

    #[test]
    fn a_torrent_is_started_completed_and_stopped() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1);
        assert_eq!((schedule.due(), schedule.turn(start)), (None, None));
        set(&mut schedule, &[(ONE, 10)], start);
        let (turn, due) = next(&schedule);
        assert!(due <= start + START_WITHIN);
        assert_eq!((turn.event, turn.left), (Some(Event::Started), 10));
        schedule.answered(turn, INTERVAL, due);
        let (turn, again) = next(&schedule);
        assert!((due + INTERVAL.mul_f64(0.8)..due + INTERVAL.mul_f64(0.95)).contains(&again));
        assert_eq!(turn.event, None);
        // Progress alone is not worth a word; being whole is.
        set(&mut schedule, &[(ONE, 5)], due);
        assert_eq!(next(&schedule).1, again);
        set(&mut schedule, &[(ONE, 0)], due);
        let (turn, at) = next(&schedule);
        assert_eq!(
            (turn.event, turn.left, at),
            (Some(Event::Completed), 0, due)
        );
        schedule.answered(turn, INTERVAL, due);
        set(&mut schedule, &[], due);
        let (turn, at) = next(&schedule);
        assert_eq!((turn.event, at), (Some(Event::Stopped), due));
        schedule.answered(turn, INTERVAL, due);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn events_wait_for_a_tracker_that_does_not_answer_and_it_is_not_hammered() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(1);
        set(&mut schedule, &[(ONE, 10)], now);
        let mut waits = Vec::new();
        for left in (0..10).rev() {
            let (turn, due) = next(&schedule);
            waits.push(due - now);
            now = due;
            assert_eq!(turn.event, Some(Event::Started));
            schedule.failed(turn, now);
            set(&mut schedule, &[(ONE, left)], now);
        }
        assert!(waits[1] >= RETRY && waits[2] >= 2 * RETRY, "{waits:?}");
        assert!(waits[9] <= INTERVAL.mul_f64(1.25), "{waits:?}");
        // Whole by now: it starts as a seed.
        let (turn, _) = next(&schedule);
        assert_eq!((turn.event, turn.left), (Some(Event::Started), 0));
    }

    #[test]
    fn what_the_tracker_never_heard_of_is_left_without_a_word() {
        let now = Instant::now();
        let mut schedule = Schedule::new(1);
        set(&mut schedule, &[(ONE, 1)], now);
        set(&mut schedule, &[(TWO, 1)], now);
        assert_eq!(next(&schedule).0.torrent, TWO);
        let (turn, due) = next(&schedule);
        schedule.answered(turn, INTERVAL, due);
        // Gone and wanted again at once: nothing happened.
        set(&mut schedule, &[], due);
        set(&mut schedule, &[(TWO, 1)], due);
        assert_eq!(next(&schedule).0.event, None);
        set(&mut schedule, &[], due);
        schedule.failed(next(&schedule).0, due);
        assert_eq!(schedule.due(), None);
    }

    proptest! {
        /// Whatever happens: what is wanted has a turn before peers are gone from the table, what is not leaves.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((prop::collection::btree_map(0_u8..4, 0_u64..3, 0..4), any::<bool>()), 1..60)) {
            let mut now = Instant::now();
            let mut schedule = Schedule::new(7);
            for (torrents, answers) in steps {
                let torrents: BTreeMap<_, _> = torrents.into_iter().map(|(number, left)| (ContentId([number; 20]), left)).collect();
                schedule.set(&torrents, now);
                for (torrent, left) in &torrents {
                    let entry = &schedule.entries[torrent];
                    prop_assert_eq!(entry.left, *left);
                    prop_assert!(entry.due <= now + Duration::from_mins(15));
                    prop_assert!(entry.event != Some(Event::Stopped));
                }
                let Some(due) = schedule.due() else { continue };
                now = now.max(due);
                let turn = schedule.turn(now).unwrap();
                if answers {
                    schedule.answered(turn, INTERVAL, now);
                } else {
                    schedule.failed(turn, now);
                }
                prop_assert_eq!(schedule.entries.contains_key(&turn.torrent), torrents.contains_key(&turn.torrent));
            }
        }
    }
}
