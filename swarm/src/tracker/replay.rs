//! Signed requests are accepted once.
//!
//! Only what was sent within the tolerance for clocks is acceptable at all, so only that is remembered, by its signature. The
//! floor rises above whatever may have been accepted and is not remembered: what was sent before this process started, and
//! what had to be forgotten to keep memory bounded. As [`guard`](crate::discovery::guard) explains, the price is that nobody
//! with an exact clock is believed for [`Tolerance::ahead`] after the start; members ask again.

use std::collections::BTreeSet;

use super::proof::MAC;
use super::refusal::Refusal;
use crate::discovery::clock::{Now, UnixMillis};
use crate::discovery::window::{Tolerance, Window};

/// Most requests that are remembered, some 60 bytes each: 1,500 a second within the tolerance.
pub const MAX_REQUESTS: usize = 65_536;

/// What was accepted lately.
#[derive(Debug)]
pub struct Replays {
    window: Window,
    most: usize,
    accepted: BTreeSet<(UnixMillis, [u8; MAC])>,
}

impl Replays {
    /// Has accepted nothing, and believes nothing that may have been accepted before.
    #[must_use]
    pub fn new(tolerance: Tolerance, most: usize, now: Now) -> Self {
        Self {
            window: Window::new(tolerance, now),
            most,
            accepted: BTreeSet::new(),
        }
    }

    /// Whether a request, whose signature was checked, is heard for the first time. If so it is remembered.
    pub fn accept(&mut self, sent_at: UnixMillis, mac: [u8; MAC], now: Now) -> Result<(), Refusal> {
        self.window.follow(now);
        if self.window.is_stale(sent_at) {
            return Err(Refusal::Stale);
        }
        if self.accepted.contains(&(sent_at, mac)) {
            return Err(Refusal::Replayed);
        }
        if sent_at <= self.window.floor() {
            return Err(Refusal::PossiblyReplayed);
        }
        while let Some((first, _)) = self.accepted.first().copied() {
            let stale = first < self.window.oldest();
            if !stale && self.accepted.len() < self.most {
                break;
            }
            if !stale {
                self.window.raise_floor(first);
            }
            self.accepted.pop_first();
        }
        self.accepted.insert((sent_at, mac));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn start() -> Now {
        Now {
            wall: UnixMillis(1_700_000_000_000),
            monotonic: std::time::Instant::now(),
        }
    }

    fn later(now: Now, seconds: u64) -> Now {
        now.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_request_is_accepted_once_and_only_in_its_time() {
        let begin = start();
        let mut replays = Replays::new(Tolerance::default(), 100, begin);
        let now = later(begin, 60);
        assert_eq!(replays.accept(now.wall, [1; MAC], now), Ok(()));
        assert_eq!(replays.accept(now.wall, [2; MAC], now), Ok(()));
        assert_eq!(
            replays.accept(now.wall, [1; MAC], later(now, 30)),
            Err(Refusal::Replayed)
        );
        assert_eq!(
            replays.accept(now.wall, [1; MAC], later(now, 31)),
            Err(Refusal::Stale)
        );
        let ahead = later(now, 42).wall;
        assert_eq!(
            replays.accept(ahead, [3; MAC], later(now, 31)),
            Err(Refusal::Stale)
        );
        assert_eq!(replays.accept(ahead, [3; MAC], later(now, 32)), Ok(()));
    }

    #[test]
    fn what_another_life_may_have_accepted_is_refused() {
        let begin = start();
        let mut replays = Replays::new(Tolerance::default(), 100, begin);
        let floor = later(begin, 10);
        assert_eq!(
            replays.accept(floor.wall, [1; MAC], floor),
            Err(Refusal::PossiblyReplayed)
        );
        let now = later(begin, 11);
        assert_eq!(replays.accept(now.wall, [1; MAC], now), Ok(()));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_silence_everybody() {
        let begin = start();
        let mut replays = Replays::new(Tolerance::default(), 100, begin);
        let back = Now {
            wall: begin.wall.minus(Duration::from_hours(1)),
            monotonic: begin.monotonic,
        };
        assert_eq!(
            replays.accept(back.wall, [1; MAC], back),
            Err(Refusal::PossiblyReplayed)
        );
        let now = later(back, 11);
        assert_eq!(replays.accept(now.wall, [1; MAC], now), Ok(()));
    }

    proptest! {
        /// Whatever comes in whatever order: memory is bounded and nothing is accepted twice.
        #[test]
        fn nothing_is_accepted_twice(requests in prop::collection::vec((0_u64..50_000, any::<u8>(), 0_u64..3_000), 0..200)) {
            let mut now = later(start(), 0);
            let mut replays = Replays::new(Tolerance::default(), 20, now);
            let origin = now.wall;
            let mut accepted = BTreeSet::new();
            for (sent_at, mac, after) in requests {
                now = now.plus(Duration::from_millis(after));
                let request = (origin.plus(Duration::from_millis(sent_at)), [mac; MAC]);
                if replays.accept(request.0, request.1, now).is_ok() {
                    prop_assert!(accepted.insert(request));
                }
                prop_assert!(replays.accepted.len() <= 20);
            }
        }
    }
}
