//! How often one request is tried again, and when it is given up.

use std::time::{Duration, Instant};

use super::error::OriginError;

/// The wait before the first retry; it doubles with each failure in a row.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAX_FAILURES_IN_A_ROW: u32 = 4;
const MAX_FAILURES: u32 = 20;
/// A hub that gave nothing for so long is not tried again here: whoever asked decides what to do instead.
const MAX_SILENCE: Duration = Duration::from_secs(11);

/// The state of one request's retries.
pub(super) struct Patience {
    in_a_row: u32,
    failures: u32,
    last_progress: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            in_a_row: 0,
            failures: 0,
            last_progress: Instant::now(),
        }
    }

    /// Waits until the next try is due, or gives the error back when there shall be none. `progressed`: the failed try
    /// brought something.
    pub(super) async fn after(
        &mut self,
        error: OriginError,
        progressed: bool,
    ) -> Result<(), OriginError> {
        if !matches!(error, OriginError::Unavailable { .. }) {
            return Err(error);
        }
        if progressed {
            self.in_a_row = 0;
            self.last_progress = Instant::now();
        }
        self.in_a_row += 1;
        self.failures += 1;
        if self.in_a_row > MAX_FAILURES_IN_A_ROW
            || self.failures > MAX_FAILURES
            || self.last_progress.elapsed() > MAX_SILENCE
        {
            return Err(error);
        }
        tracing::debug!(%error, "trying again");
        tokio::time::sleep(FIRST_WAIT * 2_u32.pow(self.in_a_row - 1)).await;
        Ok(())
    }
}
