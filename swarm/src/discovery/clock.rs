//! The two clocks that discovery reads.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 by the wall clock, which may jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Later by `by`; the end of time at most.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// Earlier by `by`; 1970 at least.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One moment by both clocks: the wall clock is compared with other machines, the monotonic one measures.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The wall clock.
    pub wall: UnixMillis,
    /// The monotonic clock.
    pub monotonic: Instant,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            wall: UnixMillis(millis(since)),
            monotonic: Instant::now(),
        }
    }
}

#[cfg(test)]
impl Now {
    /// Later by `by` on both clocks.
    pub(crate) fn plus(self, by: Duration) -> Self {
        Self {
            wall: self.wall.plus(by),
            monotonic: self.monotonic + by,
        }
    }
}
