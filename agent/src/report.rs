//! Writes this node's status and its Events. Never in the way of the bytes: the API server may be away for days.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use modelcache_crds::model_cache_node::{NodeSnapshotStatus, Phase};
use modelcache_crds::quantity::human_bytes;
use modelcache_crds::{ModelCacheNode, ModelCacheNodeSpec, ModelCacheNodeStatus, names};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Note};
use crate::metrics::Metrics;
use crate::state::{NodeState, SnapshotState};
use crate::throttle::{Decision, Throttle};

/// The client repeats by itself for many minutes; a status that old is not worth it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between writes that failed: first and longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Least time between two Events about the same reason of the same snapshot.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// The object that is reported on, as the watch last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its uid: another one is another object, which needs everything told anew.
    pub uid: Option<String>,
}

/// Follows the state and writes it to the object until `stop`.
pub struct Reports {
    /// Client of the API server.
    pub client: Client,
    /// Name of the node and of its object.
    pub node: String,
    /// The object, while there is one.
    pub target: watch::Receiver<Option<Target>>,
    /// What to tell.
    pub state: watch::Receiver<NodeState>,
    /// Counts the writes.
    pub metrics: Arc<Metrics>,
}

impl Reports {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let api: Api<ModelCacheNode> = Api::all(self.client.clone());
        let recorder = Recorder::new(
            self.client.clone(),
            Reporter {
                controller: names::AGENT_MANAGER.to_owned(),
                instance: Some(self.node.clone()),
            },
        );
        let mut throttle = Throttle::default();
        let mut target: Option<Target> = None;
        let mut told = NodeState::default();
        let mut retry: Option<(Instant, Duration)> = None;
        let mut warned: HashMap<(String, &'static str), Instant> = HashMap::new();
        loop {
            let current = self.target.borrow_and_update().clone();
            if current != target {
                throttle.forget();
                target = current;
            }
            let state = self.state.borrow_and_update().clone();
            let mut wake = None;
            if let Some(target) = &target {
                // Events are about what happened, so each state counts, whether its status could be written or not.
                let mut notes = events::between(&told, &state);
                told.clone_from(&state);
                warned.retain(|_, at: &mut Instant| at.elapsed() < WARNING_INTERVAL);
                // A problem that comes and goes is one Event in a while, not one each time.
                notes.retain(|note| {
                    !note.warning
                        || warned
                            .insert((note.snapshot.clone(), note.reason), Instant::now())
                            .is_none()
                });
                if !notes.is_empty() {
                    tokio::spawn(publish(
                        recorder.clone(),
                        self.node.clone(),
                        target.uid.clone(),
                        notes,
                    ));
                }
                let now = Instant::now();
                let decision = match retry {
                    Some((until, _)) if now < until => Decision::Later(until),
                    _ => throttle.decide(now, &state),
                };
                match decision {
                    Decision::Write => match write(&api, &self.node, &state).await {
                        Ok(()) => {
                            self.metrics.status_writes.inc();
                            throttle.wrote(Instant::now(), &state);
                            retry = None;
                            continue;
                        }
                        Err(error) => {
                            self.metrics.status_write_errors.inc();
                            let wait = retry.map_or(BACK_OFF.0, |(_, wait)| {
                                wait.saturating_mul(2).min(BACK_OFF.1)
                            });
                            tracing::warn!(%error, retry_in = ?wait, "cannot write the status");
                            retry = Some((Instant::now() + wait, wait));
                            wake = retry.map(|(until, _)| until);
                        }
                    },
                    Decision::Later(moment) => wake = Some(moment),
                    Decision::Nothing => {}
                }
            }
            let timer = async {
                match wake {
                    Some(moment) => tokio::time::sleep_until(moment.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = timer => {}
                changed = self.state.changed() => if changed.is_err() { return },
                changed = self.target.changed() => if changed.is_err() { return },
            }
        }
    }
}

async fn write(api: &Api<ModelCacheNode>, node: &str, state: &NodeState) -> Result<(), String> {
    let object = json!({
        "apiVersion": ModelCacheNode::api_version(&()),
        "kind": ModelCacheNode::kind(&()),
        "metadata": { "name": node },
        "status": status(state),
    });
    let parameters = PatchParams::apply(names::AGENT_MANAGER).force();
    let patch = Patch::Apply(&object);
    let write = api.patch_status(node, &parameters, &patch);
    match tokio::time::timeout(WRITE_TIMEOUT, write).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "the API server did not answer within {} s",
            WRITE_TIMEOUT.as_secs()
        )),
    }
}

async fn publish(recorder: Recorder, node: String, uid: Option<String>, notes: Vec<Note>) {
    let mut reference = ModelCacheNode::new(
        &node,
        ModelCacheNodeSpec {
            node_name: node.clone(),
            snapshots: Vec::new(),
        },
    )
    .object_ref(&());
    reference.uid = uid;
    for note in notes {
        let event = Event {
            type_: if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: note.reason.to_owned(),
            // The API server accepts 1,024 bytes.
            note: Some(cut(&note.message, 1000)),
            action: "Fill".to_owned(),
            secondary: None,
        };
        let published = recorder.publish(&event, &reference);
        match tokio::time::timeout(WRITE_TIMEOUT, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(reason = note.reason, %error, "cannot publish an Event");
            }
            Err(_) => tracing::warn!(reason = note.reason, "cannot publish an Event in time"),
        }
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// The whole status, as the API has it.
#[must_use]
pub fn status(state: &NodeState) -> ModelCacheNodeStatus {
    let ready = state
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.phase == Phase::Ready)
        .count();
    ModelCacheNodeStatus {
        observed_generation: state.generation,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_address: state
            .peer_address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        capacity_bytes: signed(state.total_bytes),
        free_bytes: signed(state.free_bytes),
        free: human_bytes(signed(state.free_bytes)),
        ready: format!("{ready}/{}", state.snapshots.len()),
        snapshots: state.snapshots.iter().map(snapshot_status).collect(),
    }
}

fn snapshot_status(snapshot: &SnapshotState) -> NodeSnapshotStatus {
    let problem = snapshot.problem.as_ref();
    NodeSnapshotStatus {
        name: snapshot.name.clone(),
        models: snapshot.models.clone(),
        phase: snapshot.phase,
        size_bytes: signed(snapshot.size_bytes),
        held_bytes: signed(snapshot.held_bytes),
        origin_bytes: signed(snapshot.origin_bytes),
        peer_bytes: signed(snapshot.peer_bytes),
        reason: problem.map(|problem| problem.reason.to_owned()),
        message: problem.map(|problem| cut(&problem.message, 2000)),
        retry_time: problem
            .and_then(|problem| problem.retry_at)
            .map(|at| Time(seconds(at))),
        verified_at: snapshot.verified_at.map(|at| Time(seconds(at))),
    }
}

// The API keeps whole seconds.
fn seconds(at: jiff::Timestamp) -> jiff::Timestamp {
    at.checked_sub(SignedDuration::from_nanos(i64::from(
        at.subsec_nanosecond(),
    )))
    .unwrap_or(at)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::reasons;
    use crate::state::Problem;

    use super::*;

    #[test]
    fn the_status_is_rebuilt_in_full() {
        let at: jiff::Timestamp = "2026-11-21T09:00:00.75Z".parse().unwrap();
        let state = NodeState {
            generation: Some(3),
            peer_address: Some("10.0.0.7:9492".parse().unwrap()),
            total_bytes: 100,
            free_bytes: 40,
            connected: true,
            snapshots: vec![
                SnapshotState {
                    name: "ready".to_owned(),
                    repository: None,
                    models: Vec::new(),
                    phase: Phase::Ready,
                    size_bytes: 60,
                    held_bytes: 60,
                    origin_bytes: 20,
                    peer_bytes: 40,
                    problem: None,
                    verified_at: Some(at),
                    fresh: true,
                },
                SnapshotState {
                    name: "failed".to_owned(),
                    repository: None,
                    models: Vec::new(),
                    phase: Phase::Failed,
                    size_bytes: 60,
                    held_bytes: 0,
                    origin_bytes: 0,
                    peer_bytes: 0,
                    problem: Some(Problem {
                        reason: reasons::NO_SPACE,
                        message: "ü".repeat(3000),
                        retry_at: Some(at),
                    }),
                    verified_at: None,
                    fresh: false,
                },
            ],
        };
        let json = serde_json::to_value(status(&state)).unwrap();
        assert_eq!(json["ready"], "1/2");
        assert_eq!(json["observedGeneration"], 3);
        assert_eq!(json["peerAddress"], "10.0.0.7:9492");
        assert_eq!(json["snapshots"][0]["verifiedAt"], "2026-11-21T09:00:00Z");
        assert_eq!(json["snapshots"][0]["reason"], serde_json::Value::Null);
        assert_eq!(json["snapshots"][1]["reason"], "NoSpace");
        assert_eq!(json["snapshots"][1]["retryTime"], "2026-11-21T09:00:00Z");
        let message = json["snapshots"][1]["message"].as_str().unwrap();
        assert!(message.len() <= 2010, "{}", message.len());
    }
}
