//! The cluster's secret: made when it is absent, never overwritten, and changed on request and by the clock.
//!
//! Agents get it as a mounted volume, never through the API; the operator, who makes it, reads it there. While one key
//! follows another both are valid, so that no connection fails however long the kubelets take to bring the new one.

mod events;
mod object;
mod plan;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use modelcache_crds::names::OPERATOR_MANAGER;
use modelcache_swarm::secret::{KeySetter, Keyring, Keys};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use events::{Change, Teller};
use object::ObjectError;
pub use plan::Policy;
use plan::Step;

/// How often the Secret is looked at.
const LOOK_EVERY: Duration = if cfg!(test) {
    Duration::from_millis(5)
} else {
    Duration::from_secs(10)
};
/// The client repeats by itself for many minutes; a look cannot wait for that.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Length of a secret in bytes.
const SECRET_BYTES: usize = 32;

/// Why there are no keys.
#[derive(Debug, Error)]
enum Problem {
    #[error(
        "Secret {name} cannot be used: {source}; correct it, or delete it and the operator makes a new one"
    )]
    Object { name: String, source: ObjectError },
    #[error("Secret {name} cannot be read or written: {source}")]
    Api { name: String, source: kube::Error },
    #[error("the API server did not answer in time about Secret {name}")]
    Timeout { name: String },
    #[error("the system gives no random numbers")]
    Random,
}

/// Looks after the Secret.
pub struct KeySecret {
    api: Api<Secret>,
    name: String,
    policy: Policy,
    teller: Teller,
}

impl KeySecret {
    /// Looks after the Secret `name` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: String, policy: Policy) -> Self {
        Self {
            teller: Teller::new(client.clone()),
            api: Api::namespaced(client, namespace),
            name,
            policy,
        }
    }

    /// The keys, once there are some; `None` when the process is to stop before. Goes on looking after them until then.
    pub async fn keep(self, stop: CancellationToken) -> Option<Keys> {
        let mut told = None;
        let ring = loop {
            match self.look().await {
                Ok(ring) => break ring,
                Err(problem) => tell(&mut told, &problem),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return None,
            }
        };
        tracing::info!(secret = self.name, key = %ring.current().id(), "the cluster's secret is known");
        let (setter, keys) = Keys::set_by_hand(ring);
        tokio::spawn(self.follow(setter, stop));
        Some(keys)
    }

    async fn follow(self, keys: KeySetter, stop: CancellationToken) {
        let mut told = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            match self.look().await {
                Ok(ring) => {
                    told = None;
                    keys.set(ring);
                }
                // The keys that were valid stay valid: an API server that is away must not end connections.
                Err(problem) => tell(&mut told, &problem),
            }
        }
    }

    /// Looks once, and does what is to be done.
    async fn look(&self) -> Result<Keyring, Problem> {
        let Some(secret) = self.call(self.api.get_opt(&self.name)).await? else {
            let secret = object::first(&self.name, random()?, Timestamp::now());
            // Only creates: where somebody else was faster, it fails, and the next look finds theirs.
            let made = self.call(self.api.create(&params(), &secret)).await?;
            let ring = self.read(&made)?.0;
            self.teller.tell(&made, Change::Made(ring.current().id()));
            return Ok(ring);
        };
        let (ring, stored) = self.read(&secret)?;
        let step = plan::next_step(&stored, &self.policy, Timestamp::now());
        let changed = match step {
            Step::Keep => return Ok(ring),
            Step::Rotate => object::rotated(secret, random()?, Timestamp::now()),
            Step::Retire => object::retired(secret),
        };
        // Bears the version that was read: a change that somebody else made meanwhile is not lost.
        let changed = self
            .call(self.api.replace(&self.name, &params(), &changed))
            .await?;
        let before = ring;
        let ring = self.read(&changed)?.0;
        if let Some(change) = self.change(step, &before, &ring) {
            self.teller.tell(&changed, change);
        }
        Ok(ring)
    }

    /// What a step did to the keys.
    fn change(&self, step: Step, before: &Keyring, after: &Keyring) -> Option<Change> {
        let new = after.current().id();
        match step {
            Step::Keep => None,
            Step::Rotate => Some(Change::Rotated {
                new,
                old: before.current().id(),
                overlap: self.policy.overlap,
            }),
            Step::Retire => {
                let mut gone = before.keys().map(|key| key.id());
                let old = gone.find(|key| *key != new)?;
                Some(Change::Retired { new, old })
            }
        }
    }

    fn read(&self, secret: &Secret) -> Result<(Keyring, plan::Stored), Problem> {
        object::read(secret).map_err(|source| Problem::Object {
            name: self.name.clone(),
            source,
        })
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Problem> {
        let name = self.name.clone();
        match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(Problem::Api { name, source }),
            Err(_) => Err(Problem::Timeout { name }),
        }
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(OPERATOR_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// A new secret, as text.
fn random() -> Result<String, Problem> {
    let mut bytes = [0; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Problem::Random)?;
    Ok(hex::encode(bytes))
}

/// Once is enough while it stays the same.
fn tell(told: &mut Option<String>, problem: &Problem) {
    let text = problem.to_string();
    if told.as_ref() != Some(&text) {
        tracing::warn!(%problem, "the cluster's secret");
        *told = Some(text);
    }
}

#[cfg(test)]
mod tests;
