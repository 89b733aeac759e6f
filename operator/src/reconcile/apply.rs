//! Makes the cluster as the plan says. All writes but statuses and Events; client required.
//!
//! [`actions`] is the difference between plan and picture, a pure function: a cluster that is as it should be costs no
//! write. What fails is tried again with a growing wait of its own and does not keep the rest from being done.

mod action;
mod diff;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use kube::Client;
use thiserror::Error;

use self::write::run;
use crate::metrics::{Metrics, Stage};

pub use self::action::Action;
pub use self::diff::actions;

/// Writes under way at once.
const AT_ONCE: usize = 8;
/// The client repeats by itself for many minutes; the picture is newer by then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// First and longest wait before something that failed is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Why a write failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ApplyError {
    /// The API server said no.
    #[error("{0}")]
    Refused(String),
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout,
    /// Somebody else's claim has the name.
    #[error(
        "PersistentVolumeClaim {0} exists already and is not for this volume: delete it, or give the claim another name"
    )]
    ForeignClaim(String),
}

/// What was written, and what was not.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// What failed, by `verb kind name`; also what was not tried again yet.
    pub failures: BTreeMap<String, ApplyError>,
    /// When the next of it is to be tried again.
    pub retry: Option<Instant>,
}

impl Applied {
    /// Why the volume or its claim could not be made.
    #[must_use]
    pub fn of_volume(&self, namespace: &str, claim: &str, volume: &str) -> Option<&ApplyError> {
        let keys = [
            format!("apply PersistentVolume {volume}"),
            format!("reclaim PersistentVolume {volume}"),
            format!("apply PersistentVolumeClaim {namespace}/{claim}"),
        ];
        keys.iter().find_map(|key| self.failures.get(key))
    }

    /// Why the snapshot could not be written.
    #[must_use]
    pub fn of_snapshot(&self, name: &str) -> Option<&ApplyError> {
        self.failures.get(&format!("create ModelSnapshot {name}"))
    }
}

/// Something that failed, and when it is tried again.
#[derive(Clone, Debug)]
struct Failed {
    error: ApplyError,
    until: Instant,
    wait: Duration,
}

/// Carries out actions.
pub struct Applier {
    client: Client,
    failed: BTreeMap<String, Failed>,
}

impl Applier {
    /// Nothing has failed yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            failed: BTreeMap::new(),
        }
    }

    /// Carries out all of them, each step after the one before.
    pub async fn apply(&mut self, steps: Vec<Vec<Action>>, metrics: &Metrics) -> Applied {
        let keys: BTreeSet<String> = steps.iter().flatten().map(Action::key).collect();
        self.failed.retain(|key, _| keys.contains(key));
        for step in steps {
            let now = Instant::now();
            let due = step.into_iter().filter(|action| {
                self.failed
                    .get(&action.key())
                    .is_none_or(|failed| failed.until <= now)
            });
            let client = &self.client;
            let results: Vec<_> = stream::iter(due.collect::<Vec<_>>())
                .map(|action| async move {
                    let result = tokio::time::timeout(WRITE_TIMEOUT, run(client, &action))
                        .await
                        .unwrap_or(Err(ApplyError::Timeout));
                    (action, result)
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for (action, result) in results {
                self.note(&action, result, metrics);
            }
        }
        Applied {
            failures: self
                .failed
                .iter()
                .map(|(key, failed)| (key.clone(), failed.error.clone()))
                .collect(),
            retry: self.failed.values().map(|failed| failed.until).min(),
        }
    }

    fn note(&mut self, action: &Action, result: Result<(), ApplyError>, metrics: &Metrics) {
        let key = action.key();
        match result {
            Ok(()) => {
                tracing::debug!(action = key, "written");
                metrics.write(action.kind());
                self.failed.remove(&key);
            }
            Err(error) => {
                metrics.failure(Stage::Apply);
                let wait = self.failed.get(&key).map_or(BACK_OFF.0, |failed| {
                    failed.wait.saturating_mul(2).min(BACK_OFF.1)
                });
                tracing::warn!(action = key, %error, retry_in = ?wait, "not written");
                let until = Instant::now() + wait;
                self.failed.insert(key, Failed { error, until, wait });
            }
        }
    }
}

/// What the API server said, without the structure around it.
#[must_use]
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
