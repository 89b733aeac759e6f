//! Awaiting conditions instead of sleeping.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a condition is looked at again.
const INTERVAL: Duration = Duration::from_millis(150);

/// Asks `probe` again and again until it answers `Ok`; after `limit` its last error is returned, naming `what`.
pub async fn until<T, F, Fut>(what: impl Display, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match tokio::time::timeout(limit, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if Instant::now() >= deadline => {
                return Err(error)
                    .with_context(|| format!("waited {} s for {what}", limit.as_secs()));
            }
            Err(_) => anyhow::bail!(
                "no answer within {} s while waiting for {what}",
                limit.as_secs()
            ),
            Ok(Err(_)) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// Watches that `probe` stays `Ok` for the whole of `span`; its first error is returned.
pub async fn stays<F, Fut>(what: impl Display, span: Duration, mut probe: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let end = Instant::now() + span;
    while Instant::now() < end {
        probe()
            .await
            .with_context(|| format!("{what} did not stay true"))?;
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}
