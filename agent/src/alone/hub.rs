//! How the hub is left alone after failures, by one node that nobody tells what others met with.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::FETCHES;
use super::order::mix;

/// First and longest wait after a failure.
pub(super) const WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));

/// Longest wait that the hub can ask for.
const MOST: Duration = Duration::from_hours(1);

/// What came of asking the hub lately.
#[derive(Debug, Default)]
pub(super) struct Hub {
    /// In a row.
    failures: u32,
    rests: Option<Instant>,
    /// How often it did not give a segment.
    segments: BTreeMap<u32, u32>,
}

impl Hub {
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests.is_some_and(|until| now < until)
    }

    /// Fetches at once: after a failure one finds out whether it is back.
    pub(super) fn at_once(&self) -> usize {
        if self.failures > 0 { 1 } else { FETCHES }
    }

    /// How often it did not give that segment.
    pub(super) fn failures_of(&self, segment: u32) -> u32 {
        self.segments.get(&segment).copied().unwrap_or(0)
    }

    pub(super) fn gave(&mut self, segment: u32) {
        self.failures = 0;
        self.rests = None;
        self.segments.remove(&segment);
    }

    pub(super) fn refused(
        &mut self,
        now: Instant,
        node: u64,
        segment: u32,
        wait: Option<Duration>,
    ) {
        *self.segments.entry(segment).or_default() += 1;
        self.leave_alone(now, node, wait);
    }

    /// Leaves it alone, at least for `wait`, and up to a quarter longer, so that nodes do not come back all at once.
    pub(super) fn leave_alone(&mut self, now: Instant, node: u64, wait: Option<Duration>) {
        let doubled = WAIT.0 * (1 << self.failures.min(10));
        let wait = doubled.min(WAIT.1).max(wait.unwrap_or_default().min(MOST));
        let part = mix(node ^ u64::from(self.failures)) % 256;
        let part = u32::try_from(part).unwrap_or(0);
        self.failures = self.failures.saturating_add(1);
        self.rests = now.checked_add(wait + wait / 1024 * part).or(self.rests);
    }
}
