//! Tells people how things stand: statuses, Events, gauges. Client required; what to tell is worked out by [`status`],
//! which is pure.

mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter as Identity};
use kube::{Api, Client, Resource as _};
use modelcache_crds::conditions::{self, Finding, Status, reasons, types};
use modelcache_crds::model_cache_node::Phase;
use modelcache_crds::names::OPERATOR_MANAGER;
use modelcache_crds::quantity::human_bytes;
use modelcache_crds::{ModelCache, ModelCacheStatus, ModelSnapshot, ModelSnapshotStatus};
use serde_json::json;
use thiserror::Error;

use super::apply::{Applied, said};
use super::plan::Plan;
use super::validate::{Cache, World};
use crate::metrics::{ConditionLabel, Metrics, ModelLabel, ModelNumbers, Stage};
use crate::picture::Picture;

pub use self::status::{Note, Subject};

/// Writes under way at once.
const AT_ONCE: usize = 8;
/// The client repeats by itself for many minutes; a status that old is not worth it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// What the API server accepts as the text of an Event, in bytes, less room for the sign that it was cut.
const NOTE_MAX: usize = 1000;

/// Why something could not be told.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The API server said no.
    #[error("{0}")]
    Refused(String),
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout,
}

/// What was told of one ModelCache.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The status that was written last: the watch may not have brought it back yet.
    status: Option<ModelCacheStatus>,
    /// Problems that had their Event.
    problems: BTreeSet<Subject>,
}

/// Tells, and remembers what was told.
pub struct Reporter {
    client: Client,
    recorder: Recorder,
    told: BTreeMap<String, Told>,
    /// What was told of ModelCaches that cannot be understood, by uid.
    frozen: BTreeMap<String, String>,
}

impl Reporter {
    /// Nothing told yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let identity = Identity::from(OPERATOR_MANAGER);
        Self {
            recorder: Recorder::new(client.clone(), identity),
            client,
            told: BTreeMap::new(),
            frozen: BTreeMap::new(),
        }
    }

    /// Tells all of it; what failed is tried again with the next pass. True when everything was told.
    pub async fn report(
        &mut self,
        picture: &Picture,
        world: &World,
        plan: &Plan,
        applied: &Applied,
        metrics: &Metrics,
    ) -> bool {
        let now = whole_seconds(Timestamp::now());
        let mut conditions = Vec::new();
        let mut models = Vec::new();
        let mut writes: Vec<Write> = Vec::new();
        let mut uids = BTreeSet::new();
        for (cache, outlook) in world.caches.iter().zip(&plan.outlooks) {
            let uid = cache.object.metadata.uid.clone().unwrap_or_default();
            let first = !self.told.contains_key(&uid);
            let told = self.told.entry(uid.clone()).or_default();
            uids.insert(uid.clone());
            let written = cache.object.status.clone().unwrap_or_default();
            let before = told.status.clone().unwrap_or_else(|| written.clone());
            let problems = status::problems(cache, outlook, applied);
            let status = status::status(cache, outlook, &problems, &before, now);
            conditions.extend(status.conditions.iter().map(|condition| ConditionLabel {
                condition: condition.type_.clone(),
                status: condition.status.clone(),
            }));
            models.extend(status.models.iter().map(|model| {
                let label = ModelLabel {
                    cache: cache.name.clone(),
                    model: model.name.clone(),
                };
                let numbers = ModelNumbers {
                    desired: model.nodes_desired,
                    ready: model.nodes_ready,
                    failed: model.nodes_failed,
                    size_bytes: model.size_bytes,
                };
                (label, numbers)
            }));
            if first {
                told.problems = status::told_before(cache, &problems, &before);
            }
            let notes = status::notes(&problems, &told.problems, &before, &status);
            if status != written || status != before {
                writes.push(Write::Cache {
                    name: cache.name.clone(),
                    uid,
                    reference: reference(cache),
                    status: Box::new(status),
                    problems: status::told_now(cache, outlook, &problems, &told.problems),
                    notes,
                });
            }
        }
        self.told.retain(|uid, _| uids.contains(uid));
        self.frozen_caches(picture, world, &mut writes, now);
        snapshot_statuses(picture, &mut writes);
        metrics.show(&conditions, &models);
        self.carry_out(writes, metrics).await
    }

    /// What is to be told of ModelCaches that cannot be understood: once, and again when the error changes.
    fn frozen_caches(
        &mut self,
        picture: &Picture,
        world: &World,
        writes: &mut Vec<Write>,
        now: Timestamp,
    ) {
        let mut uids = BTreeSet::new();
        for (name, error) in &world.frozen {
            let Some(seen) = picture.caches.get(name) else {
                continue;
            };
            uids.insert(seen.uid.clone());
            if self.frozen.get(&seen.uid) == Some(error) {
                continue;
            }
            tracing::error!(cache = name, error, "a ModelCache cannot be understood");
            let message = format!(
                "this ModelCache cannot be understood: {error}; what was planned for it before stays as it is; correct it with kubectl edit modelcache {name}"
            );
            let mut conditions = Vec::new();
            for (type_, status) in [
                (types::READY, Status::Unknown),
                (types::DEGRADED, Status::True),
            ] {
                let finding = Finding {
                    type_,
                    status,
                    reason: reasons::INVALID_SPEC,
                    message: message.clone(),
                };
                conditions::set(&mut conditions, finding, None, now);
            }
            writes.push(Write::Frozen {
                name: name.clone(),
                uid: seen.uid.clone(),
                error: error.clone(),
                status: Box::new(ModelCacheStatus {
                    conditions,
                    ..ModelCacheStatus::default()
                }),
                message,
            });
        }
        self.frozen.retain(|uid, _| uids.contains(uid));
    }

    async fn carry_out(&mut self, writes: Vec<Write>, metrics: &Metrics) -> bool {
        let client = &self.client;
        let results: Vec<_> = stream::iter(writes)
            .map(|write| async move {
                let result = tokio::time::timeout(WRITE_TIMEOUT, run(client, &write))
                    .await
                    .unwrap_or(Err(ReportError::Timeout));
                (write, result)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut all = true;
        for (write, result) in results {
            if let Err(error) = result {
                all = false;
                metrics.failure(Stage::Report);
                tracing::warn!(object = write.name(), %error, "a status was not written");
                continue;
            }
            metrics.write(write.kind());
            self.note(write);
        }
        all
    }

    /// Remembers what was told, and sends the Events that belong to it.
    fn note(&mut self, write: Write) {
        let (reference, notes) = match write {
            Write::Cache {
                uid,
                reference,
                status,
                problems,
                notes,
                ..
            } => {
                let told = self.told.entry(uid).or_default();
                told.status = Some(*status);
                told.problems = problems;
                (reference, notes)
            }
            Write::Frozen {
                name,
                uid,
                error,
                message,
                ..
            } => {
                let note = Note {
                    warning: true,
                    reason: reasons::INVALID_SPEC,
                    message,
                    model: None,
                };
                let reference = ObjectReference {
                    api_version: Some(ModelCache::api_version(&()).into_owned()),
                    kind: Some(ModelCache::kind(&()).into_owned()),
                    name: Some(name),
                    uid: Some(uid.clone()),
                    ..ObjectReference::default()
                };
                self.frozen.insert(uid, error);
                (reference, vec![note])
            }
            Write::Snapshot { .. } => return,
        };
        if !notes.is_empty() {
            tokio::spawn(publish(self.recorder.clone(), reference, notes));
        }
    }
}

/// A status to write.
enum Write {
    Cache {
        name: String,
        uid: String,
        reference: ObjectReference,
        status: Box<ModelCacheStatus>,
        problems: BTreeSet<Subject>,
        notes: Vec<Note>,
    },
    Frozen {
        name: String,
        uid: String,
        error: String,
        status: Box<ModelCacheStatus>,
        message: String,
    },
    Snapshot {
        name: String,
        status: ModelSnapshotStatus,
    },
}

impl Write {
    fn name(&self) -> &str {
        match self {
            Self::Cache { name, .. } | Self::Frozen { name, .. } | Self::Snapshot { name, .. } => {
                name
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Cache { .. } | Self::Frozen { .. } => "ModelCache",
            Self::Snapshot { .. } => "ModelSnapshot",
        }
    }
}

async fn run(client: &Client, write: &Write) -> Result<(), ReportError> {
    let parameters = PatchParams::apply(OPERATOR_MANAGER).force();
    let client = client.clone();
    let written = match write {
        Write::Cache { name, status, .. } | Write::Frozen { name, status, .. } => {
            let object = json!({
                "apiVersion": ModelCache::api_version(&()),
                "kind": ModelCache::kind(&()),
                "metadata": {"name": name},
                "status": status,
            });
            // The answer is not read as a ModelCache: it may be one that cannot be understood.
            let api: Api<kube::core::PartialObjectMeta<ModelCache>> = Api::all(client);
            api.patch_status(name, &parameters, &Patch::Apply(&object))
                .await
                .map(drop)
        }
        Write::Snapshot { name, status } => {
            let object = json!({
                "apiVersion": ModelSnapshot::api_version(&()),
                "kind": ModelSnapshot::kind(&()),
                "metadata": {"name": name},
                "status": status,
            });
            let api: Api<kube::core::PartialObjectMeta<ModelSnapshot>> = Api::all(client);
            api.patch_status(name, &parameters, &Patch::Apply(&object))
                .await
                .map(drop)
        }
    };
    match written {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        written => written.map_err(|error| ReportError::Refused(said(&error))),
    }
}

/// Statuses of the snapshots that are not as they should be.
fn snapshot_statuses(picture: &Picture, writes: &mut Vec<Write>) {
    for (name, seen) in &picture.snapshots {
        let Some(facts) = seen.facts.as_ref().filter(|_| !seen.deleting) else {
            continue;
        };
        let size_bytes = i64::try_from(facts.size_bytes).unwrap_or(i64::MAX);
        let ready = picture.intents.values().filter(|intent| {
            let mut snapshots = intent.status.snapshots.iter();
            snapshots.any(|one| one.name == *name && one.phase == Phase::Ready)
        });
        let status = ModelSnapshotStatus {
            size_bytes,
            size: human_bytes(size_bytes),
            segments: i64::from(facts.segments),
            nodes_ready: i64::try_from(ready.count()).unwrap_or(i64::MAX),
        };
        if status != seen.status {
            writes.push(Write::Snapshot {
                name: name.clone(),
                status,
            });
        }
    }
}

fn reference(cache: &Cache) -> ObjectReference {
    cache.object.object_ref(&())
}

async fn publish(recorder: Recorder, reference: ObjectReference, notes: Vec<Note>) {
    for note in notes {
        let mut reference = reference.clone();
        // As the kubelet names containers: it also keeps Events of two models with the same reason apart.
        reference.field_path = note.model.map(|model| format!("spec.models{{{model}}}"));
        let event = Event {
            type_: if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: note.reason.to_owned(),
            note: Some(cut(note.message, NOTE_MAX)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let published = recorder.publish(&event, &reference);
        match tokio::time::timeout(WRITE_TIMEOUT, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                reason = note.reason,
                error = said(&error),
                "an Event was not published"
            ),
            Err(_) => tracing::warn!(reason = note.reason, "an Event was not published in time"),
        }
    }
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Times of conditions have no fractions, by convention.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
