//! The cap on file contents over all clients together.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::locks::lock;

/// Bytes handed to a connection at once.
const STEP: usize = 64 << 10;
/// The same while there is a cap, so that clients share it smoothly.
const CAPPED_STEP: usize = 16 << 10;

/// Lets bytes pass at a rate that can be changed at any time.
#[derive(Debug)]
pub struct Throttle {
    rate: watch::Sender<Option<u64>>,
    /// When the bytes let through so far are paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// With this many bytes per second; 0 stops everything, none lets everything pass.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            rate: watch::Sender::new(rate),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Changes the rate; those who wait start again at the new one.
    pub fn set(&self, rate: Option<u64>) {
        self.rate.send_if_modified(|current| {
            let changed = *current != rate;
            if changed {
                *current = rate;
                *lock(&self.paid) = Instant::now();
            }
            changed
        });
    }

    /// How many bytes to pass at once.
    #[must_use]
    pub fn step(&self) -> usize {
        if self.rate.borrow().is_some() {
            CAPPED_STEP
        } else {
            STEP
        }
    }

    /// Waits until `bytes` more may pass.
    pub async fn pass(&self, bytes: usize) {
        let mut rate = self.rate.subscribe();
        loop {
            let Some(current) = *rate.borrow_and_update() else {
                return;
            };
            let paid = (current > 0).then(|| self.pay(bytes, current));
            let waited = async {
                match paid {
                    Some(paid) => tokio::time::sleep_until(paid).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waited => return,
                changed = rate.changed() => if changed.is_err() { return },
            }
        }
    }

    fn pay(&self, bytes: usize, rate: u64) -> Instant {
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut paid = lock(&self.paid);
        *paid = (*paid).max(Instant::now()) + cost;
        *paid
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn two_share_the_cap_and_a_change_wakes_them() {
        let throttle = Arc::new(Throttle::new(Some(100_000)));
        let run = |throttle: Arc<Throttle>| async move {
            for _ in 0..10 {
                throttle.pass(1_000).await;
            }
        };
        let start = Instant::now();
        tokio::join!(run(throttle.clone()), run(throttle.clone()));
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(190),
            "{took:?} for 20 kB at 100 kB/s"
        );
        throttle.set(Some(0));
        let waiting = tokio::spawn(run(throttle.clone()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        throttle.set(None);
        waiting.await.unwrap();
    }
}
