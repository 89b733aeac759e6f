//! What the probes ask about.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A pass begins at least once a minute; after this time without one, the reconciler hangs.
const LONGEST_SILENCE: Duration = Duration::from_mins(10);

/// Whether the operator is alive and ready.
#[derive(Debug)]
pub struct Health {
    start: Instant,
    beat: AtomicU64,
    ready: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Alive from now on, not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            beat: AtomicU64::new(0),
            ready: AtomicBool::new(false),
        }
    }

    /// A pass begins.
    pub fn beat(&self) {
        self.beat
            .store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// The cluster was seen and agents are served.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Whether the reconciler goes round. Before it begins there is nothing to hang: waiting for the API server is none.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive_after(self.start.elapsed())
    }

    fn alive_after(&self, elapsed: Duration) -> bool {
        let beat = Duration::from_secs(self.beat.load(Ordering::Relaxed));
        !self.ready() || elapsed.saturating_sub(beat) < LONGEST_SILENCE
    }

    /// Whether the cluster was seen and agents are served.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconciler_that_hangs_is_not_alive() {
        let health = Health::new();
        assert!(health.alive_after(LONGEST_SILENCE * 2));
        health.set_ready();
        assert!(health.alive_after(LONGEST_SILENCE / 2));
        assert!(!health.alive_after(LONGEST_SILENCE));
    }
}
