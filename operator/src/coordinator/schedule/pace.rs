//! How many segments of a snapshot are fetched from the hub side by side.
//!
//! With too few the hub's way is not full. With too many they only share it: all of them end late, nothing can be passed
//! on meanwhile, and what is fetched last has all of its way to the nodes still before it. How much the way gives is not
//! known, and differs: one link for all, one per node, a limit for each connection. So it is felt for, as TCP Vegas does:
//! of `n` fetches that take `t` where one takes `t0` when it is not held up, `n (1 - t0/t)` only wait for each other.

/// How many at once in the beginning. With more, the first fetches already wait for each other, and how long one takes that
/// does not would never be known.
const FIRST: u32 = 2;
/// Fewest at once: while one begins, the other keeps the way busy.
const FEWEST: u32 = 2;
/// When fewer fetches than this wait, in halves, there is one more at once…
const FEW_WAIT: u64 = 2;
/// …and when more than this, in halves, one less.
const MANY_WAIT: u64 = 3;

/// What takes less time than this is never far too slow, in milliseconds.
const SHORTEST_PATIENCE: u64 = 10_000;
/// How long the first fetches may take, in milliseconds.
const LONGEST_START: u64 = 20_000;

/// How a fetch went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetched {
    /// In milliseconds.
    pub(super) took: u64,
    /// Fetches from that hub that were under way when it began and when it ended, itself included.
    pub(super) fetches: (u32, u32),
}

/// What is known of the way to the hub.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    limit: u32,
    /// How long a fetch takes that is not held up, in microseconds.
    unhindered: Option<u64>,
    /// How long the last fetch took, in microseconds. A shortest time is believed when two in a row were that short: single segments are
    /// short, or held already.
    last: Option<u64>,
    /// Fetches that say one more, less those that say one less, since the last change.
    credit: i64,
    /// Whether every fetch so far says one more.
    growing: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            limit: FIRST,
            unhindered: None,
            last: None,
            credit: 0,
            growing: true,
        }
    }
}

impl Pace {
    /// How many to fetch at once.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// After how many milliseconds a fetch is not waited for any longer before another one begins: its node hangs, or its
    /// own way to the hub is slow.
    pub(super) fn patience(&self) -> u64 {
        let usual = |took: u64| took.saturating_mul(4).max(SHORTEST_PATIENCE);
        self.last.map_or(LONGEST_START, |last| usual(last / 1_000))
    }

    /// Takes note of a fetch; never are there to be more than `most`.
    pub(super) fn note(&mut self, fetched: Fetched, most: u32) {
        let Fetched { took, fetches } = fetched;
        let took = took.saturating_mul(1_000).max(1);
        let Some(before) = self.last.replace(took) else {
            return;
        };
        let both = before.max(took);
        // Fewer are never tried: what they take is the best that there is now, even if it was better before.
        let known = self.unhindered.filter(|_| self.limit > FEWEST);
        let unhindered = known.map_or(both, |known| known.min(both));
        self.unhindered = Some(unhindered);
        let twice = u64::from(fetches.0) + u64::from(fetches.1);
        // Fetches tremble, and the shortest of them is no measure: a quarter more is not yet waiting.
        let usual = unhindered.saturating_add(unhindered / 4);
        let waiting = twice * took.saturating_sub(usual) / took;
        if waiting < FEW_WAIT {
            self.credit += 1;
        } else {
            self.growing = false;
            self.credit -= i64::from(waiting > MANY_WAIT);
        }
        let patience = i64::from(self.limit);
        if self.growing || self.credit >= patience {
            self.limit = (self.limit + 1).min(most.max(FEWEST));
            self.credit = 0;
        } else if self.credit <= -patience {
            self.limit = (self.limit - 1).max(FEWEST);
            self.credit = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::schedule::simulation::Dice;

    /// A way to the hub: what all connections carry together and what each carries, in bytes a millisecond.
    #[derive(Clone, Copy)]
    struct Way {
        shared: u64,
        each: u64,
    }

    /// Fetches of segments of 100,000 bytes, as many as the pace allows, some of them of other sizes.
    struct Fetches {
        pace: Pace,
        now: u64,
        /// What is left of each, when it was given and how many there were then.
        under_way: Vec<(u64, u64, u32)>,
        dice: Dice,
    }

    const MOST: u32 = 16;

    impl Fetches {
        fn new() -> Self {
            Self {
                pace: Pace::default(),
                now: 0,
                under_way: Vec::new(),
                dice: Dice::new(1),
            }
        }

        /// Goes on for a while; gives the mean of how many were allowed at once in its second half, in tenths.
        fn run(&mut self, way: Way, time: u64, bytes: impl Fn(&mut Dice) -> u64) -> u64 {
            let mut sum = 0;
            for passed in 0..time {
                while self.under_way.len() < self.pace.limit() as usize {
                    let beside = u32::try_from(self.under_way.len()).unwrap() + 1;
                    let left = bytes(&mut self.dice);
                    self.under_way.push((left, self.now, beside));
                }
                self.now += 1;
                let count = u32::try_from(self.under_way.len()).unwrap();
                let rate = way.each.min(way.shared / u64::from(count));
                for one in &mut self.under_way {
                    one.0 = one.0.saturating_sub(rate);
                }
                let mut left = count;
                for (_, given, beside) in self.under_way.extract_if(.., |one| one.0 == 0) {
                    let fetched = Fetched {
                        took: self.now - given,
                        fetches: (beside, left),
                    };
                    self.pace.note(fetched, MOST);
                    left -= 1;
                }
                if passed >= time / 2 {
                    sum += u64::from(self.pace.limit());
                }
            }
            sum * 10 / (time - time / 2)
        }
    }

    fn even(_: &mut Dice) -> u64 {
        100_000
    }

    fn trembling(dice: &mut Dice) -> u64 {
        80_000 + dice.roll(40_000)
    }

    /// Every eighth is here at once, every eighth comes slowly.
    fn strange(dice: &mut Dice) -> u64 {
        match dice.roll(8) {
            0 => 1,
            1 => 400_000,
            _ => 100_000,
        }
    }

    const SHARED: Way = Way {
        shared: 2_000,
        each: 2_000,
    };
    const EACH: Way = Way {
        shared: 200_000,
        each: 500,
    };
    const EIGHT: Way = Way {
        shared: 4_000,
        each: 500,
    };

    #[test]
    fn fetches_that_only_share_a_link_stay_few() {
        for bytes in [even, trembling, strange] {
            let mean = Fetches::new().run(SHARED, 20_000, bytes);
            // In tenths; with the most that are allowed it would be 160.
            assert!(mean <= 60, "{mean}");
        }
    }

    #[test]
    fn fetches_that_do_not_hold_each_other_up_become_many() {
        for bytes in [even, trembling] {
            let mean = Fetches::new().run(EACH, 20_000, bytes);
            assert!(mean >= 140, "{mean}");
        }
    }

    #[test]
    fn a_link_is_filled_by_as_many_as_it_takes() {
        for bytes in [even, trembling] {
            let mean = Fetches::new().run(EIGHT, 20_000, bytes);
            assert!((80..150).contains(&mean), "{mean}");
        }
    }

    #[test]
    fn the_number_follows_a_rate_that_changes() {
        let mut fetches = Fetches::new();
        assert!(fetches.run(EACH, 20_000, trembling) >= 140);
        assert!(fetches.run(SHARED, 20_000, trembling) < 60);
        let slow = Way {
            shared: 200_000,
            each: 50,
        };
        // What was the best once is not any longer.
        assert!(fetches.run(slow, 200_000, trembling) >= 140);
        assert!(fetches.run(EIGHT, 20_000, trembling) >= 80);
    }

    #[test]
    fn the_limits_are_kept() {
        let mut pace = Pace::default();
        for took in 0..1_000 {
            let fetched = Fetched {
                took,
                fetches: (1, 1),
            };
            pace.note(fetched, 1);
            assert_eq!(pace.limit(), FEWEST);
        }
    }
}
