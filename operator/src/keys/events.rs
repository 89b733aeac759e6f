//! Events of the Secret: what happened to its keys, by their names, which say nothing about them.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use modelcache_crds::conditions::reasons;
use modelcache_crds::names::OPERATOR_MANAGER;
use modelcache_swarm::secret::KeyId;

/// The client repeats by itself for many minutes; an Event that old is not worth it.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What happened to the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The Secret was absent and has its first key.
    Made(KeyId),
    /// A new key is valid beside the one before it.
    Rotated {
        new: KeyId,
        old: KeyId,
        overlap: SignedDuration,
    },
    /// The one before is no longer valid.
    Retired { new: KeyId, old: KeyId },
}

impl Change {
    fn event(self) -> Event {
        let (reason, note) = match self {
            Self::Made(key) => (
                reasons::KEY_MADE,
                format!("The Secret was absent; its first key is {key}"),
            ),
            Self::Rotated { new, old, overlap } => (
                reasons::KEY_ROTATED,
                format!("The new key is {new}; {old} stays valid beside it for {overlap:#}"),
            ),
            Self::Retired { new, old } => (
                reasons::KEY_RETIRED,
                format!("Key {old} is no longer valid; {new} is the only one"),
            ),
        };
        Event {
            type_: EventType::Normal,
            reason: reason.to_owned(),
            note: Some(note),
            action: "ChangeKeys".to_owned(),
            secondary: None,
        }
    }
}

/// Publishes them.
pub(super) struct Teller(Recorder);

impl Teller {
    pub(super) fn new(client: Client) -> Self {
        Self(Recorder::new(client, Reporter::from(OPERATOR_MANAGER)))
    }

    /// Tells of a change of `secret`. The keys do not wait for that.
    pub(super) fn tell(&self, secret: &Secret, change: Change) {
        tracing::info!(?change, "the cluster's keys changed");
        let (recorder, reference) = (self.0.clone(), secret.object_ref(&()));
        tokio::spawn(async move {
            let event = change.event();
            match tokio::time::timeout(TIMEOUT, recorder.publish(&event, &reference)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "an Event was not published"),
                Err(_) => tracing::warn!("an Event was not published in time"),
            }
        });
    }
}
