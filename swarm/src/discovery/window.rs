//! The time within which something signed must have been sent to be believed, whatever the clocks do.

use std::time::Duration;

use super::clock::{Now, UnixMillis};

/// How far clocks may differ, travel included.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// How old a message may be.
    pub past: Duration,
    /// How far in the future.
    pub ahead: Duration,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self {
            past: Duration::from_secs(30),
            ahead: Duration::from_secs(10),
        }
    }
}

/// The window around this machine's clock, and the floor: what was sent until then may have been heard and forgotten.
/// [`guard`](super::guard) says why it begins at the start plus [`Tolerance::ahead`].
#[derive(Debug)]
pub(crate) struct Window {
    tolerance: Tolerance,
    floor: UnixMillis,
    last: Now,
}

impl Window {
    /// Begins now, and with it the floor.
    pub(crate) fn new(tolerance: Tolerance, now: Now) -> Self {
        Self {
            tolerance,
            floor: now.wall.plus(tolerance.ahead),
            last: now,
        }
    }

    /// Moves to `now`. True when the clock was set back: the floor is brought along, or nobody would be believed until the
    /// old time comes again.
    pub(crate) fn follow(&mut self, now: Now) -> bool {
        let passed = now.monotonic.saturating_duration_since(self.last.monotonic);
        let latest = now.wall.plus(self.tolerance.ahead);
        let set_back = latest < self.last.wall.plus(passed);
        if set_back {
            tracing::warn!(
                "the clock was set back; announcements are not believed for some seconds"
            );
            self.floor = latest;
        }
        self.last = now;
        set_back
    }

    /// The earliest time that is not stale.
    pub(crate) fn oldest(&self) -> UnixMillis {
        self.last.wall.minus(self.tolerance.past)
    }

    /// Whether what was sent then is stale, or from the future.
    pub(crate) fn is_stale(&self, sent_at: UnixMillis) -> bool {
        sent_at < self.oldest() || sent_at > self.last.wall.plus(self.tolerance.ahead)
    }

    /// What is believed must be later than this.
    pub(crate) fn floor(&self) -> UnixMillis {
        self.floor
    }

    /// What was sent until then is about to be forgotten.
    pub(crate) fn raise_floor(&mut self, to: UnixMillis) {
        self.floor = self.floor.max(to);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_floor_follows_a_clock_that_is_set_back() {
        let start = Now {
            wall: UnixMillis(1_700_000_000_000),
            monotonic: Instant::now(),
        };
        let seconds = Duration::from_secs;
        let mut window = Window::new(Tolerance::default(), start);
        assert_eq!(window.floor(), start.wall.plus(seconds(10)));
        let later = start.plus(seconds(60));
        assert!(!window.follow(later));
        window.raise_floor(start.wall);
        assert_eq!(window.floor(), start.wall.plus(seconds(10)));
        window.raise_floor(later.wall);
        assert_eq!(window.floor(), later.wall);
        // Ten seconds are within the tolerance, more are not.
        let back = |by| Now {
            wall: later.wall.minus(seconds(by)),
            ..later
        };
        assert!(!window.follow(back(10)));
        assert_eq!(window.floor(), later.wall);
        assert!(window.follow(back(21)));
        assert_eq!(window.floor(), later.wall.minus(seconds(11)));
        assert!(!window.follow(back(21)), "it is said once");
        assert!(window.is_stale(back(52).wall) && !window.is_stale(back(51).wall));
        assert!(window.is_stale(back(10).wall) && !window.is_stale(back(11).wall));
    }
}
