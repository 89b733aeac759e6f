//! When to speak, and how: pure, with time and chance passed in.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::announcement::Delivery;

/// How often a node announces itself. Chance keeps nodes that started together from speaking together.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// The first announcement comes within this time after the start.
    pub start: Duration,
    /// Shortest time between two announcements when nothing changes.
    pub least: Duration,
    /// Longest such time.
    pub most: Duration,
    /// Shortest time between two announcements, whatever changes.
    pub spacing: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(25),
            least: Duration::from_secs(25),
            most: Duration::from_secs(40),
            spacing: Duration::from_secs(1),
        }
    }
}

/// When the next announcement is due.
#[derive(Debug)]
pub struct Schedule {
    intervals: Intervals,
    chance: StdRng,
    due: Instant,
    last: Option<Instant>,
}

impl Schedule {
    /// Starts now; `seed` decides about chance.
    #[must_use]
    pub fn new(intervals: Intervals, seed: u64, now: Instant) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let due = now + chance.random_range(Duration::ZERO..=intervals.start);
        Self {
            intervals,
            chance,
            due,
            last: None,
        }
    }

    /// When to speak next.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether the first announcement was due already.
    #[must_use]
    pub fn started(&self) -> bool {
        self.last.is_some()
    }

    /// It was spoken.
    pub fn sent(&mut self, now: Instant) {
        let Intervals { least, most, .. } = self.intervals;
        self.last = Some(now);
        self.due = now + self.chance.random_range(least..=most.max(least));
    }

    /// There is something new to say: at once, or as soon as the spacing allows.
    pub fn changed(&mut self, now: Instant) {
        let soonest = match self.last {
            Some(last) => now.max(last + self.intervals.spacing),
            None => now,
        };
        self.due = self.due.min(soonest);
    }
}

/// Whether multicast arrives on one link, in both directions.
///
/// A node hears only the others' multicast. Whether its own arrives it learns from them: each announcement says whether its
/// sender hears anybody's multicast on that link. So a node broadcasts as well while it hears nobody, and while somebody
/// there hears nobody.
#[derive(Debug)]
pub struct Reach {
    patience: Duration,
    heard: Option<Instant>,
    asked: Option<Instant>,
}

impl Reach {
    /// Has heard nothing. What is heard counts for two of the longest intervals, so that one lost datagram changes nothing.
    #[must_use]
    pub fn new(intervals: &Intervals) -> Self {
        Self {
            patience: intervals.most * 2,
            heard: None,
            asked: None,
        }
    }

    /// Somebody else's announcement arrived on this link.
    pub fn heard(&mut self, delivery: Delivery, now: Instant) {
        if !delivery.broadcast {
            self.heard = Some(now);
        }
        if delivery.deaf {
            self.asked = Some(now);
        }
    }

    /// Nobody's multicast arrives here.
    #[must_use]
    pub fn deaf(&self, now: Instant) -> bool {
        !self.lately(self.heard, now)
    }

    /// Multicast alone may not be enough here.
    #[must_use]
    pub fn broadcast(&self, now: Instant) -> bool {
        self.deaf(now) || self.lately(self.asked, now)
    }

    fn lately(&self, moment: Option<Instant>, now: Instant) -> bool {
        moment.is_some_and(|moment| now.saturating_duration_since(moment) <= self.patience)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nodes_that_start_together_do_not_speak_together() {
        let now = Instant::now();
        let waits: Vec<Duration> = (0..1000)
            .map(|seed| Schedule::new(Intervals::default(), seed, now).due() - now)
            .collect();
        assert!(waits.iter().all(|wait| *wait <= seconds(25)));
        for tenth in 0..10 {
            let (from, to) = (seconds(25) * tenth / 10, seconds(25) * (tenth + 1) / 10);
            let there = waits
                .iter()
                .filter(|wait| from <= **wait && **wait < to)
                .count();
            assert!((50..200).contains(&there), "{there} in tenth {tenth}");
        }
    }

    #[test]
    fn a_change_is_told_at_once_and_the_next_a_second_later() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Intervals::default(), 1, start);
        schedule.changed(start);
        assert_eq!(schedule.due(), start);
        assert!(!schedule.started());
        schedule.sent(start);
        assert!(schedule.started());
        assert!(schedule.due() >= start + seconds(25));
        let soon = start + Duration::from_millis(300);
        schedule.changed(soon);
        schedule.changed(soon);
        assert_eq!(schedule.due(), start + seconds(1));
        schedule.sent(start + seconds(1));
        let later = start + seconds(9);
        schedule.changed(later);
        assert_eq!(schedule.due(), later);
    }

    #[test]
    fn broadcast_is_used_while_multicast_does_not_arrive_on_either_side() {
        let start = Instant::now();
        let at = |after| start + seconds(after);
        let mut reach = Reach::new(&Intervals::default());
        assert!(
            reach.deaf(start) && reach.broadcast(start),
            "nobody was heard yet"
        );
        let delivery = |broadcast, deaf| Delivery { broadcast, deaf };
        reach.heard(delivery(true, false), at(1));
        assert!(
            reach.deaf(at(1)),
            "a broadcast says nothing about multicast"
        );
        reach.heard(delivery(false, true), at(2));
        assert!(
            !reach.deaf(at(2)) && reach.broadcast(at(2)),
            "the other side is deaf"
        );
        reach.heard(delivery(false, false), at(50));
        assert!(reach.broadcast(at(82)) && !reach.broadcast(at(83)));
        assert!(!reach.deaf(at(130)) && reach.deaf(at(131)) && reach.broadcast(at(131)));
    }

    proptest! {
        #[test]
        fn announcements_keep_their_distance(seed: u64, changes in prop::collection::vec(0_u64..30_000, 0..100)) {
            let intervals = Intervals::default();
            let mut now = Instant::now();
            let mut schedule = Schedule::new(intervals, seed, now);
            let mut last: Option<Instant> = None;
            for after in changes {
                let change = now + Duration::from_millis(after);
                while schedule.due() <= change {
                    let due = schedule.due();
                    if let Some(last) = last {
                        prop_assert!(due >= last + intervals.spacing);
                        prop_assert!(due <= last + intervals.most);
                    }
                    schedule.sent(due);
                    prop_assert!(schedule.due() >= due + intervals.least);
                    last = Some(due);
                }
                now = change;
                schedule.changed(now);
            }
        }
    }
}
