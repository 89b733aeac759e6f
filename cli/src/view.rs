//! How things stand, put together from what operator and agents report. Pure.

use modelcache_crds::conditions::{self, reasons, types};
use modelcache_crds::model_cache::ModelStatus;
use modelcache_crds::model_cache_node::{NodeSnapshotStatus, Phase};
use modelcache_crds::quantity::percent;
use modelcache_crds::{ModelCache, ModelCacheNode};
use serde::Serialize;

/// Reasons that pass by themselves: a node that gives one tries again, and nobody need do anything.
const PASSING: [&str; 5] = [
    reasons::RATE_LIMITED,
    reasons::ORIGIN_UNAVAILABLE,
    reasons::NO_COORDINATOR,
    reasons::WAITING_FOR_PEERS,
    reasons::HASH_MISMATCH,
];

/// Where a ModelCache is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Verdict {
    /// Every node that should holds every model, but for tolerable failures.
    Ready,
    /// Something is under way, or will be tried again by itself.
    Working,
    /// Nothing gets on until a person does something.
    Failed,
    /// `spec.suspend` is set.
    Suspended,
}

/// One ModelCache.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CacheView {
    /// Its name.
    pub name: String,
    /// Where it is going.
    pub verdict: Verdict,
    /// Nodes that hold all their models, of those that should.
    pub ready: String,
    /// Size of its models, for people.
    pub size: String,
    /// Bytes from the hub, as a multiple of the size.
    pub origin_copies: String,
    /// Reason of the condition Ready.
    pub reason: String,
    /// Message of the condition that says most.
    pub message: String,
    /// Its models.
    pub models: Vec<ModelView>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelView {
    /// Its name in the ModelCache.
    pub name: String,
    /// Repository on the hub.
    pub repository: String,
    /// Revision as asked for.
    pub revision: String,
    /// Commit, once it is resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Its size.
    pub size_bytes: i64,
    /// Why it is not resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How it stands on the nodes that should hold it, by name.
    pub nodes: Vec<NodeView>,
}

/// A model on one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeView {
    /// Name of the node.
    pub node: String,
    /// Where it stands.
    pub phase: Phase,
    /// How much of it is there, in whole per cent.
    pub percent: i64,
    /// How much of it is there.
    pub held_bytes: i64,
    /// Its size.
    pub size_bytes: i64,
    /// Bytes this node fetched from the hub.
    pub origin_bytes: i64,
    /// Bytes this node took from other nodes.
    pub peer_bytes: i64,
    /// Why it does not get on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the agent tries again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<String>,
}

/// How one ModelCache stands.
pub(crate) fn view(cache: &ModelCache, nodes: &[&ModelCacheNode]) -> CacheView {
    let name = cache.metadata.name.clone().unwrap_or_default();
    let status = cache.status.clone().unwrap_or_default();
    let models: Vec<ModelView> = cache
        .spec
        .models
        .iter()
        .map(|model| {
            let reported = status.models.iter().find(|one| one.name == model.name);
            let source = model.source.hugging_face.as_ref();
            ModelView {
                name: model.name.clone(),
                repository: source.map(|hub| hub.repository.clone()).unwrap_or_default(),
                revision: source.map(|hub| hub.revision.clone()).unwrap_or_default(),
                commit: reported.and_then(|one| one.commit.clone()),
                size_bytes: reported.map_or(0, |one| one.size_bytes),
                reason: reported.and_then(|one| one.reason.clone()),
                message: reported.and_then(|one| one.message.clone()),
                nodes: on_nodes(&name, &model.name, reported, nodes),
            }
        })
        .collect();
    let current = status.observed_generation == cache.metadata.generation;
    let ready = conditions::get(&status.conditions, types::READY);
    let (reason, message) = match ready {
        Some(ready) if current => (ready.reason.clone(), ready.message.clone()),
        Some(_) => (
            reasons::RESOLVING.to_owned(),
            "the operator has not seen the latest change yet".to_owned(),
        ),
        None => (
            reasons::RESOLVING.to_owned(),
            "the operator has said nothing of it yet; is it running?".to_owned(),
        ),
    };
    CacheView {
        verdict: verdict(cache, &models, current),
        ready: status.ready,
        size: status.size,
        origin_copies: status.origin_copies,
        reason,
        message,
        models,
        name,
    }
}

fn verdict(cache: &ModelCache, models: &[ModelView], current: bool) -> Verdict {
    let Some(status) = cache.status.as_ref().filter(|_| current) else {
        return Verdict::Working;
    };
    let holds = |type_| conditions::holds(&status.conditions, type_);
    if holds(types::READY) {
        return Verdict::Ready;
    }
    if cache.spec.suspend {
        return Verdict::Suspended;
    }
    if holds(types::PROGRESSING) || !holds(types::DEGRADED) {
        return Verdict::Working;
    }
    let reason =
        conditions::get(&status.conditions, types::READY).map(|ready| ready.reason.as_str());
    let mut failed = models
        .iter()
        .flat_map(|model| &model.nodes)
        .filter(|node| node.phase == Phase::Failed)
        .peekable();
    let all_pass = failed.peek().is_some()
        && failed.all(|node| {
            node.reason
                .as_deref()
                .is_some_and(|why| PASSING.contains(&why))
        });
    if reason == Some(reasons::NODES_FAILED) && all_pass {
        Verdict::Working
    } else {
        Verdict::Failed
    }
}

/// The model on the nodes whose spec names it, by the node's name.
fn on_nodes(
    cache: &str,
    model: &str,
    reported: Option<&ModelStatus>,
    nodes: &[&ModelCacheNode],
) -> Vec<NodeView> {
    let mut views: Vec<NodeView> = nodes
        .iter()
        .filter_map(|node| {
            let wanted = node.spec.snapshots.iter().find(|snapshot| {
                snapshot
                    .models
                    .iter()
                    .any(|one| one.cache == cache && one.model == model)
            })?;
            let status = node.status.as_ref();
            let found = status.and_then(|status| {
                status
                    .snapshots
                    .iter()
                    .find(|snapshot| snapshot.name == wanted.name)
            });
            let size = reported.map_or(0, |one| one.size_bytes);
            Some(match found {
                Some(found) => reported_view(&node.spec.node_name, found),
                None => unreported(&node.spec.node_name, size, status.is_some()),
            })
        })
        .collect();
    views.sort_by(|one, other| one.node.cmp(&other.node));
    views
}

fn reported_view(node: &str, status: &NodeSnapshotStatus) -> NodeView {
    NodeView {
        node: node.to_owned(),
        phase: status.phase,
        percent: percent(status.held_bytes, status.size_bytes),
        held_bytes: status.held_bytes,
        size_bytes: status.size_bytes,
        origin_bytes: status.origin_bytes,
        peer_bytes: status.peer_bytes,
        reason: status.reason.clone(),
        message: status.message.clone(),
        retry_time: status.retry_time.as_ref().map(|time| time.0.to_string()),
    }
}

fn unreported(node: &str, size: i64, agent_seen: bool) -> NodeView {
    NodeView {
        node: node.to_owned(),
        phase: Phase::Pending,
        percent: 0,
        held_bytes: 0,
        size_bytes: size,
        origin_bytes: 0,
        peer_bytes: 0,
        reason: None,
        message: (!agent_seen)
            .then(|| "no agent has reported from this node; does one run there?".to_owned()),
        retry_time: None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ModelCache with one model, in a state given by its conditions as `Type=Status/Reason`.
    pub(crate) fn cache(conditions: &[&str]) -> ModelCache {
        let conditions: Vec<String> = conditions
            .iter()
            .map(|text| {
                let (type_, rest) = text.split_once('=').unwrap();
                let (status, reason) = rest.split_once('/').unwrap();
                format!(
                    "  - {{type: {type_}, status: '{status}', reason: {reason}, message: about {reason}, lastTransitionTime: 2026-11-21T09:57:28Z}}"
                )
            })
            .collect();
        let conditions = conditions.join("\n");
        serde_norway::from_str(&format!(
            "apiVersion: modelcache.io/v1alpha1
kind: ModelCache
metadata: {{name: demo, generation: 2}}
spec:
  models:
  - {{name: lm, source: {{huggingFace: {{repository: org/lm, revision: main}}}}}}
status:
  observedGeneration: 2
  ready: 1/2
  size: 91 MB
  originCopies: '1.02'
  models:
  - {{name: lm, repository: org/lm, revision: main, commit: c9745ed1d9f207416be6d2e6f8de32d1f16199bf, snapshot: lm-c9745ed1-01234567, sizeBytes: 91000000}}
  conditions:
{conditions}"
        ))
        .unwrap()
    }

    /// A node that should hold that model, with its status as YAML.
    pub(crate) fn node(name: &str, snapshot: &str) -> ModelCacheNode {
        let status = if snapshot.is_empty() {
            String::new()
        } else {
            format!("status: {{snapshots: [{{name: lm-c9745ed1-01234567, {snapshot}}}]}}\n")
        };
        serde_norway::from_str(&format!(
            "apiVersion: modelcache.io/v1alpha1
kind: ModelCacheNode
metadata: {{name: {name}}}
spec:
  nodeName: {name}
  snapshots:
  - {{name: lm-c9745ed1-01234567, models: [{{cache: other, model: x}}, {{cache: demo, model: lm}}]}}
{status}"
        ))
        .unwrap()
    }

    const HALF: &str = "phase: Downloading, sizeBytes: 91000000, heldBytes: 45500000, originBytes: 30000000, peerBytes: 15500000";

    #[test]
    fn nodes_are_those_whose_spec_names_the_model() {
        let mut other = node("node-9", HALF);
        other.spec.snapshots[0].models.remove(1);
        let nodes = [&node("node-2", ""), &other, &node("node-1", HALF)];
        let view = view(
            &cache(&["Ready=False/Downloading", "Progressing=True/Downloading"]),
            &nodes,
        );
        let found = &view.models[0].nodes;
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].node, "node-1");
        assert_eq!(
            (found[0].percent, found[0].origin_bytes, found[0].peer_bytes),
            (50, 30_000_000, 15_500_000)
        );
        assert_eq!(found[1].phase, Phase::Pending);
        assert_eq!(found[1].size_bytes, 91_000_000);
        assert!(found[1].message.as_ref().unwrap().contains("no agent"));
        assert_eq!(view.message, "about Downloading");
    }

    #[test]
    fn the_verdict_follows_the_conditions() {
        let judge = |conditions: &[&str]| view(&cache(conditions), &[]).verdict;
        assert_eq!(judge(&[]), Verdict::Working);
        assert_eq!(
            judge(&["Ready=True/AllNodesReady", "Degraded=False/AllNodesReady"]),
            Verdict::Ready
        );
        // One more node failed than has to be there: ready all the same.
        assert_eq!(
            judge(&["Ready=True/AllNodesReady", "Degraded=True/NodesFailed"]),
            Verdict::Ready
        );
        assert_eq!(
            judge(&[
                "Ready=False/Gated",
                "Progressing=False/Gated",
                "Degraded=True/Gated"
            ]),
            Verdict::Failed
        );
        assert_eq!(
            judge(&[
                "Ready=False/RateLimited",
                "Progressing=True/RateLimited",
                "Degraded=True/RateLimited"
            ]),
            Verdict::Working
        );
        assert_eq!(
            judge(&[
                "Ready=False/NoNodes",
                "Progressing=False/NoNodes",
                "Degraded=False/NoNodes"
            ]),
            Verdict::Working
        );
    }

    #[test]
    fn a_status_of_an_older_generation_decides_nothing() {
        let mut cache = cache(&["Ready=True/AllNodesReady"]);
        cache.metadata.generation = Some(3);
        let view = view(&cache, &[]);
        assert_eq!(view.verdict, Verdict::Working);
        assert!(view.message.contains("latest change"));
    }

    #[test]
    fn nodes_that_try_again_by_themselves_are_no_failure() {
        let cache = cache(&[
            "Ready=False/NodesFailed",
            "Progressing=False/NodesFailed",
            "Degraded=True/NodesFailed",
        ]);
        let limited = node("node-1", "phase: Failed, reason: RateLimited");
        let full = node(
            "node-2",
            "phase: Failed, reason: NoSpace, message: 12 GB are missing",
        );
        assert_eq!(view(&cache, &[&limited]).verdict, Verdict::Working);
        assert_eq!(view(&cache, &[&limited, &full]).verdict, Verdict::Failed);
    }

    #[test]
    fn suspended_is_neither_working_nor_failed() {
        let mut cache = cache(&["Ready=False/Suspended", "Progressing=False/Suspended"]);
        cache.spec.suspend = true;
        assert_eq!(view(&cache, &[]).verdict, Verdict::Suspended);
    }
}
