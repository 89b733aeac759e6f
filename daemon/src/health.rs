//! What the probes ask about.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whether a program is alive and ready.
#[derive(Debug)]
pub struct Health {
    longest_silence: Duration,
    start: Instant,
    /// When its loop last went round, in seconds since the start.
    beat: AtomicU64,
    ready: AtomicBool,
}

impl Health {
    /// Alive from now on, not ready yet. Once it is ready, its loop hangs when it has not gone round for `longest_silence`.
    #[must_use]
    pub fn new(longest_silence: Duration) -> Self {
        Self {
            longest_silence,
            start: Instant::now(),
            beat: AtomicU64::new(0),
            ready: AtomicBool::new(false),
        }
    }

    /// The loop goes round.
    pub fn beat(&self) {
        self.beat
            .store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// What it needs is there.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Whether the loop goes round. Before it is ready there is none yet, and waiting for what it needs is no hang.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive_after(self.start.elapsed())
    }

    fn alive_after(&self, elapsed: Duration) -> bool {
        let beat = Duration::from_secs(self.beat.load(Ordering::Relaxed));
        !self.ready() || elapsed.saturating_sub(beat) < self.longest_silence
    }

    /// Whether what it needs is there.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_hangs_is_not_alive() {
        let longest = Duration::from_mins(1);
        let health = Health::new(longest);
        assert!(health.alive_after(longest * 2));
        health.set_ready();
        assert!(health.alive_after(longest / 2));
        assert!(!health.alive_after(longest));
    }
}
