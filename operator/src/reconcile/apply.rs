//! Makes the cluster as the plan says. All writes but statuses and Events; client required.
//!
//! [`actions`] is the difference between plan and picture, a pure function: a cluster that is as it should be costs no
//! write. What fails is tried again with a growing wait of its own and does not keep the rest from being done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use modelcache_crds::model_cache_node::{ModelCacheNodeSpec, NodeSnapshot};
use modelcache_crds::names::{OPERATOR_MANAGER, READY_LABEL_PREFIX, READY_LABEL_VALUE};
use modelcache_crds::{ModelCacheNode, ModelSnapshot};
use serde_json::{Value, json};
use thiserror::Error;

use super::build;
use super::plan::{NodePlan, Plan, Volume};
use crate::metrics::{Metrics, Stage};
use crate::picture::{IntentSeen, Picture, VolumeSeen, model_key};
use crate::source::SOURCE_LABEL;

/// Writes under way at once.
const AT_ONCE: usize = 8;
/// The client repeats by itself for many minutes; the picture is newer by then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// First and longest wait before something that failed is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Writes a snapshot that was resolved.
    CreateSnapshot(Box<ModelSnapshot>),
    /// Sets (`true`) and removes (`false`) ready labels of a Node.
    Label {
        /// Name of the Node.
        node: String,
        /// By key.
        labels: BTreeMap<String, bool>,
    },
    /// Writes what a node should hold.
    ApplyIntent {
        /// Name of the Node.
        node: String,
        /// The whole object.
        object: Value,
    },
    /// Removes the object of a node that holds nothing.
    DeleteIntent {
        /// Name of the Node.
        node: String,
        /// uid of the object.
        uid: String,
    },
    /// Writes a PersistentVolume.
    ApplyVolume {
        /// What it is.
        volume: Volume,
        /// uid of its claim, where that is there already.
        claim_uid: Option<String>,
    },
    /// Lets a PersistentVolume whose claim was deleted be claimed again.
    ReclaimVolume(Volume),
    /// Writes a PersistentVolumeClaim.
    ApplyClaim {
        /// What it is for.
        volume: Volume,
        /// It is there already, and ours.
        exists: bool,
    },
    /// Removes a PersistentVolumeClaim.
    DeleteClaim {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Removes a PersistentVolume.
    DeleteVolume {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Removes a snapshot.
    DeleteSnapshot {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

impl Action {
    /// Kind of the object.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateSnapshot(_) | Self::DeleteSnapshot { .. } => "ModelSnapshot",
            Self::Label { .. } => "Node",
            Self::ApplyIntent { .. } | Self::DeleteIntent { .. } => "ModelCacheNode",
            Self::ApplyVolume { .. } | Self::ReclaimVolume(_) | Self::DeleteVolume { .. } => {
                "PersistentVolume"
            }
            Self::ApplyClaim { .. } | Self::DeleteClaim { .. } => "PersistentVolumeClaim",
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Self::CreateSnapshot(_) => "create",
            Self::Label { .. } => "label",
            Self::ApplyIntent { .. } | Self::ApplyVolume { .. } | Self::ApplyClaim { .. } => {
                "apply"
            }
            Self::ReclaimVolume(_) => "reclaim",
            Self::DeleteIntent { .. }
            | Self::DeleteClaim { .. }
            | Self::DeleteVolume { .. }
            | Self::DeleteSnapshot { .. } => "delete",
        }
    }

    /// Name of the object.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::CreateSnapshot(object) => object.name_any(),
            Self::Label { node, .. }
            | Self::ApplyIntent { node, .. }
            | Self::DeleteIntent { node, .. } => node.clone(),
            Self::ApplyVolume { volume, .. } | Self::ReclaimVolume(volume) => volume.name.clone(),
            Self::ApplyClaim { volume, .. } => volume.claim_key(),
            Self::DeleteClaim {
                namespace, name, ..
            } => format!("{namespace}/{name}"),
            Self::DeleteVolume { name, .. } | Self::DeleteSnapshot { name, .. } => name.clone(),
        }
    }

    fn key(&self) -> String {
        format!("{} {} {}", self.verb(), self.kind(), self.object())
    }
}

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

/// All that is to be written, in steps that follow each other; the writes of one step do not depend on each other.
#[must_use]
pub fn actions(picture: &Picture, plan: &Plan) -> Vec<Vec<Action>> {
    // Without `..`: whatever is added to the plan must be applied here, or be left out knowingly.
    let Plan {
        outlooks: _,
        requests: _,
        coordinated: _,
        snapshots,
        stale_snapshots,
        nodes,
        managed,
        labels,
        volumes,
        stale_volumes,
        stale_claims,
    } = plan;
    let (set, remove) = label_actions(picture, managed, labels);
    vec![
        snapshots
            .iter()
            .filter(|(name, _)| !picture.snapshots.contains_key(*name))
            .map(|(_, resolved)| Action::CreateSnapshot(Box::new(resolved.object.clone())))
            .collect(),
        // Before the agent stops showing a model, the scheduler stops sending pods.
        remove,
        intent_actions(picture, managed, nodes),
        volume_actions(picture, volumes),
        claim_actions(picture, volumes),
        set,
        delete_claims(picture, stale_claims),
        delete_volumes(picture, stale_volumes),
        stale_snapshots
            .iter()
            .filter_map(|name| {
                let seen = picture.snapshots.get(name)?;
                Some(Action::DeleteSnapshot {
                    name: name.clone(),
                    uid: seen.uid.clone(),
                })
            })
            .collect(),
    ]
}

fn label_actions(
    picture: &Picture,
    managed: &BTreeSet<String>,
    labels: &BTreeMap<String, BTreeSet<String>>,
) -> (Vec<Action>, Vec<Action>) {
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for name in managed {
        let (Some(node), Some(wanted)) = (picture.nodes.get(name), labels.get(name)) else {
            continue;
        };
        let missing = wanted
            .iter()
            .filter(|key| node.labels.get(*key).map(String::as_str) != Some(READY_LABEL_VALUE))
            .map(|key| (key.clone(), true));
        let surplus = node
            .labels
            .keys()
            .filter(|key| key.starts_with(READY_LABEL_PREFIX) && !wanted.contains(*key))
            .map(|key| (key.clone(), false));
        for (labels, actions) in [
            (missing.collect::<BTreeMap<_, _>>(), &mut set),
            (surplus.collect(), &mut remove),
        ] {
            if !labels.is_empty() {
                actions.push(Action::Label {
                    node: name.clone(),
                    labels,
                });
            }
        }
    }
    (set, remove)
}

fn intent_actions(
    picture: &Picture,
    managed: &BTreeSet<String>,
    nodes: &BTreeMap<String, NodePlan>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for node in managed {
        let seen = picture.intents.get(node);
        match (nodes.get(node), seen) {
            (Some(plan), Some(seen)) if is_as_planned(seen, plan) => {}
            (Some(plan), _) => actions.push(Action::ApplyIntent {
                node: node.clone(),
                object: build::intent(node, plan),
            }),
            (None, Some(seen)) => actions.push(Action::DeleteIntent {
                node: node.clone(),
                uid: seen.uid.clone(),
            }),
            (None, None) => {}
        }
    }
    actions
}

fn is_as_planned(seen: &IntentSeen, plan: &NodePlan) -> bool {
    seen.owner.as_ref() == Some(&plan.owner)
        && seen.published == plan.published
        && seen
            .spec
            .as_ref()
            .is_some_and(|spec| in_order(spec) == plan.snapshots)
}

/// The API server keeps lists in the order in which they grew.
fn in_order(spec: &ModelCacheNodeSpec) -> Vec<NodeSnapshot> {
    let mut snapshots = spec.snapshots.clone();
    snapshots.sort_by(|one, other| one.name.cmp(&other.name));
    for snapshot in &mut snapshots {
        snapshot.models.sort();
    }
    snapshots
}

fn volume_actions(picture: &Picture, volumes: &BTreeMap<String, Volume>) -> Vec<Action> {
    volumes
        .values()
        .filter_map(|volume| {
            let claim = picture.claims.get(&volume.claim_key());
            match picture.volumes.get(&volume.name) {
                Some(seen) if seen.deleting => None,
                Some(seen) if has_our_form(seen, volume) && seen.phase == "Released" => {
                    // While the old claim is not quite gone, the volume still belongs to it.
                    let gone =
                        claim.is_none_or(|claim| Some(&claim.uid) != seen.claim_uid.as_ref());
                    gone.then(|| Action::ReclaimVolume(volume.clone()))
                }
                Some(seen) if has_our_form(seen, volume) => None,
                _ => Some(Action::ApplyVolume {
                    volume: volume.clone(),
                    claim_uid: claim
                        .filter(|claim| !claim.deleting)
                        .map(|claim| claim.uid.clone()),
                }),
            }
        })
        .collect()
}

fn has_our_form(seen: &VolumeSeen, volume: &Volume) -> bool {
    seen.claim == volume.claim_key()
        && seen.mount_options == build::MOUNT_OPTIONS
        && seen.reclaim == build::RECLAIM_POLICY
}

fn claim_actions(picture: &Picture, volumes: &BTreeMap<String, Volume>) -> Vec<Action> {
    volumes
        .values()
        .filter_map(|volume| {
            let exists = match picture.claims.get(&volume.claim_key()) {
                Some(seen) if seen.deleting => return None,
                Some(seen)
                    if seen.volume == volume.name && seen.model == model_key(&volume.model) =>
                {
                    return None;
                }
                seen => seen.is_some(),
            };
            Some(Action::ApplyClaim {
                volume: volume.clone(),
                exists,
            })
        })
        .collect()
}

fn delete_claims(picture: &Picture, stale: &BTreeSet<String>) -> Vec<Action> {
    stale
        .iter()
        .filter_map(|key| {
            let seen = picture.claims.get(key).filter(|seen| !seen.deleting)?;
            let (namespace, name) = key.split_once('/')?;
            Some(Action::DeleteClaim {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: seen.uid.clone(),
            })
        })
        .collect()
}

/// A volume goes when its claim is gone: until then a pod may be using it.
fn delete_volumes(picture: &Picture, stale: &BTreeSet<String>) -> Vec<Action> {
    stale
        .iter()
        .filter_map(|name| {
            let seen = picture.volumes.get(name).filter(|seen| !seen.deleting)?;
            (!picture.claims.contains_key(&seen.claim)).then(|| Action::DeleteVolume {
                name: name.clone(),
                uid: seen.uid.clone(),
            })
        })
        .collect()
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

async fn run(client: &Client, action: &Action) -> Result<(), ApplyError> {
    let refused = |error: kube::Error| ApplyError::Refused(said(&error));
    let apply = PatchParams::apply(OPERATOR_MANAGER).force();
    let merge = PatchParams {
        field_manager: Some(OPERATOR_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let client = client.clone();
    match action {
        Action::CreateSnapshot(object) => create_snapshot(client, object, &merge)
            .await
            .map_err(refused),
        Action::Label { node, labels } => {
            let labels: BTreeMap<&String, Option<&str>> = labels
                .iter()
                .map(|(key, set)| (key, set.then_some(READY_LABEL_VALUE)))
                .collect();
            let patch = json!({"metadata": {"labels": labels}});
            let api: Api<Node> = Api::all(client);
            let patched = api
                .patch_metadata(node, &merge, &Patch::Merge(&patch))
                .await;
            gone_is_fine(patched.map(drop)).map_err(refused)
        }
        Action::ApplyIntent { node, object } => {
            let api: Api<ModelCacheNode> = Api::all(client);
            let patched = api
                .patch_metadata(node, &apply, &Patch::Apply(object))
                .await;
            patched.map(drop).map_err(refused)
        }
        Action::DeleteIntent { node, uid } => {
            delete(Api::<ModelCacheNode>::all(client), node, uid).await
        }
        Action::ApplyVolume { volume, claim_uid } => {
            let object = build::volume(volume, claim_uid.as_deref());
            let api: Api<PersistentVolume> = Api::all(client);
            let patched = api
                .patch_metadata(&volume.name, &apply, &Patch::Apply(&object))
                .await;
            patched.map(drop).map_err(refused)
        }
        Action::ReclaimVolume(volume) => {
            let patch = json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}});
            let api: Api<PersistentVolume> = Api::all(client);
            let patched = api
                .patch_metadata(&volume.name, &merge, &Patch::Merge(&patch))
                .await;
            gone_is_fine(patched.map(drop)).map_err(refused)
        }
        Action::ApplyClaim { volume, exists } => apply_claim(client, volume, *exists, &apply).await,
        Action::DeleteClaim {
            namespace,
            name,
            uid,
        } => {
            delete(
                Api::<PersistentVolumeClaim>::namespaced(client, namespace),
                name,
                uid,
            )
            .await
        }
        Action::DeleteVolume { name, uid } => {
            delete(Api::<PersistentVolume>::all(client), name, uid).await
        }
        Action::DeleteSnapshot { name, uid } => {
            delete(Api::<ModelSnapshot>::all(client), name, uid).await
        }
    }
}

/// Immutable objects are created, not applied. One of that name that is there has the same content, because the name
/// says it; only its label may have been lost.
async fn create_snapshot(
    client: Client,
    object: &ModelSnapshot,
    merge: &PatchParams,
) -> Result<(), kube::Error> {
    let api: Api<ModelSnapshot> = Api::all(client);
    let parameters = PostParams {
        field_manager: Some(OPERATOR_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let label = object.labels().get(SOURCE_LABEL);
            let patch = json!({"metadata": {"labels": {SOURCE_LABEL: label}}});
            api.patch_metadata(&object.name_any(), merge, &Patch::Merge(&patch))
                .await
                .map(drop)
        }
        created => created.map(drop),
    }
}

/// A claim of that name that is not ours is not touched, unless it was made for our volume.
async fn apply_claim(
    client: Client,
    volume: &Volume,
    exists: bool,
    apply: &PatchParams,
) -> Result<(), ApplyError> {
    let refused = |error: kube::Error| ApplyError::Refused(said(&error));
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client, &volume.namespace);
    if !exists && let Some(other) = api.get_opt(&volume.claim).await.map_err(refused)? {
        let named = other.spec.and_then(|spec| spec.volume_name);
        if named.as_deref() != Some(volume.name.as_str()) {
            return Err(ApplyError::ForeignClaim(volume.claim_key()));
        }
    }
    let object = build::claim(volume);
    let patched = api
        .patch_metadata(&volume.claim, apply, &Patch::Apply(&object))
        .await;
    patched.map(drop).map_err(refused)
}

async fn delete<K>(api: Api<K>, name: &str, uid: &str) -> Result<(), ApplyError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &parameters).await {
        // Another object of that name is none of this action's business.
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
        deleted => {
            gone_is_fine(deleted.map(drop)).map_err(|error| ApplyError::Refused(said(&error)))
        }
    }
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result,
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
