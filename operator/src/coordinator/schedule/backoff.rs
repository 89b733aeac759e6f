//! Waiting longer after each wave of failures.

/// Waves of failures that are more than bad luck.
const HOPELESS: u32 = 3;

/// A wait that doubles. Failures of orders given before the last one that counted belong to the same wave.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    raised: u64,
    until: u64,
}

impl Backoff {
    /// An order given at `given` failed now; wait `first`, doubling to `longest`, and not less than `at_least`.
    pub(super) fn fail(
        &mut self,
        now: u64,
        given: u64,
        (first, longest): (u64, u64),
        at_least: u64,
    ) {
        if self.failures > 0 && given <= self.raised {
            self.until = self.until.max(now + at_least);
            return;
        }
        let wait = first
            .saturating_mul(1 << self.failures.min(32))
            .min(longest)
            .max(at_least);
        self.failures += 1;
        self.raised = now;
        self.until = now + wait;
    }

    /// An order given at `given` succeeded.
    pub(super) fn succeed(&mut self, given: u64) {
        if given > self.raised {
            *self = Self::default();
        }
    }

    /// Whether the last order of its kind failed.
    pub(super) fn failing(&self) -> bool {
        self.failures > 0
    }

    /// Waves of failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether more than one wave failed.
    pub(super) fn again(&self) -> bool {
        self.failures > 1
    }

    /// Whether so many waves failed one after another that chance hardly explains it.
    pub(super) fn hopeless(&self) -> bool {
        self.failures >= HOPELESS
    }

    /// Whether to wait now.
    pub(super) fn waits(&self, now: u64) -> bool {
        now < self.until
    }

    /// When the wait ends.
    pub(super) fn until(&self) -> u64 {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;

    #[test]
    fn waits_double_by_wave_and_end_with_success() {
        let mut backoff = Backoff::default();
        assert!(!backoff.failing() && !backoff.waits(0));
        backoff.fail(1_000, 500, (1_000, 300_000), 0);
        // The others of that wave change nothing.
        backoff.fail(1_100, 900, (1_000, 300_000), 0);
        assert_eq!(backoff.until(), 2_000);
        backoff.fail(2_500, 2_001, (1_000, 300_000), 0);
        assert_eq!(backoff.until(), 4_500);
        // An order of the old wave that succeeds late proves nothing.
        backoff.succeed(2_400);
        assert!(backoff.failing());
        backoff.succeed(5_000);
        assert!(!backoff.failing());
    }

    #[test]
    fn waits_have_a_longest_and_honour_what_the_hub_says() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        for _ in 0..100 {
            backoff.fail(now, now, (1_000, 300_000), 0);
            now = backoff.until() + 1;
            backoff.fail(now, now, (1_000, 300_000), 0);
            assert!(backoff.until() - now <= 300_000);
            now = backoff.until() + 1;
        }
        backoff.fail(now, now, (1_000, 300_000), 900_000);
        assert_eq!(backoff.until() - now, 900_000);
    }
}
