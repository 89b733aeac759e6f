//! The cluster as one pass sees it: reduced forms of all objects that the plan depends on.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt as _};
use modelcache_crds::model_cache_node::{ModelCacheNodeSpec, ModelCacheNodeStatus, NodeModel};
use modelcache_crds::names;
use modelcache_crds::{ModelCache, ModelCacheNode, ModelSnapshot, ModelSnapshotStatus};

use crate::mirror::Objects;
use crate::resolve::Resolutions;
use crate::secrets::Tokens;
use crate::source::{self, Facts};

/// Annotation on a ModelCacheNode: which snapshot of each model was found ready on the node, as JSON. Only the operator
/// reads it: it tells a model that has become corrupt from one whose next revision is on its way.
pub const PUBLISHED_ANNOTATION: &str = "modelcache.io/published";

/// The cluster.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// ModelCaches by name.
    pub caches: Objects<CacheSeen>,
    /// Nodes by name.
    pub nodes: Objects<NodeSeen>,
    /// ModelSnapshots by name.
    pub snapshots: Objects<SnapshotSeen>,
    /// ModelCacheNodes by name, which is also that of the Node.
    pub intents: Objects<IntentSeen>,
    /// Our PersistentVolumes by name.
    pub volumes: Objects<VolumeSeen>,
    /// Our PersistentVolumeClaims by `namespace/name`.
    pub claims: Objects<ClaimSeen>,
    /// What the hub said so far.
    pub resolutions: Resolutions,
    /// The access tokens that models name.
    pub tokens: Tokens,
}

/// A ModelCache.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheSeen {
    /// Its uid.
    pub uid: String,
    /// It is being deleted and only waits for somebody's finalizer.
    pub deleting: bool,
    /// The object, or why it cannot be understood.
    pub object: Result<Arc<ModelCache>, String>,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSeen {
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is being deleted.
    pub deleting: bool,
}

/// A ModelSnapshot without its list of files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotSeen {
    /// Its uid.
    pub uid: String,
    /// When it was made; comparable only.
    pub age: i128,
    /// It is being deleted.
    pub deleting: bool,
    /// What is to be known of it; none if it cannot be understood.
    pub facts: Option<Facts>,
    /// Its status.
    pub status: ModelSnapshotStatus,
}

/// A ModelCacheNode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntentSeen {
    /// Its uid.
    pub uid: String,
    /// uid of the Node that owns it.
    pub owner: Option<String>,
    /// Its spec; none if it cannot be understood.
    pub spec: Option<ModelCacheNodeSpec>,
    /// What the agent says.
    pub status: ModelCacheNodeStatus,
    /// See [`PUBLISHED_ANNOTATION`].
    pub published: BTreeMap<NodeModel, String>,
}

/// A PersistentVolume of ours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeSeen {
    /// Its uid.
    pub uid: String,
    /// `<cache>/<model>` that it shows.
    pub model: String,
    /// `<namespace>/<claim>` that it is for.
    pub claim: String,
    /// Directory on the node.
    pub path: String,
    /// Key of the label that a Node must bear.
    pub gate: String,
    /// Options of the mount.
    pub mount_options: Vec<String>,
    /// What becomes of it when its claim is gone.
    pub reclaim: String,
    /// `Available`, `Bound`, `Released`, …
    pub phase: String,
    /// uid of the claim that it is bound to.
    pub claim_uid: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
}

/// A PersistentVolumeClaim of ours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimSeen {
    /// Its uid.
    pub uid: String,
    /// `<cache>/<model>` that it shows.
    pub model: String,
    /// Name of the volume that it is for.
    pub volume: String,
    /// Kubernetes has bound it to its volume.
    pub bound: bool,
    /// uid of the volume for which it was last woken, see [`names::WAKE_ANNOTATION`].
    pub woken_for: Option<String>,
    /// It is being deleted, and waits for the pods that use it.
    pub deleting: bool,
}

/// Reduces a ModelCache.
#[must_use]
pub fn cache(object: DeserializeGuard<ModelCache>) -> CacheSeen {
    let meta = object.meta();
    CacheSeen {
        uid: meta.uid.clone().unwrap_or_default(),
        deleting: meta.deletion_timestamp.is_some(),
        object: object
            .0
            .map(|mut cache| {
                cache.metadata.managed_fields = None;
                cache.metadata.resource_version = None;
                cache.metadata.annotations = None;
                Arc::new(cache)
            })
            .map_err(|invalid| invalid.error),
    }
}

/// Reduces a Node.
#[must_use]
pub fn node(object: Node) -> NodeSeen {
    NodeSeen {
        uid: object.uid().unwrap_or_default(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        labels: object.metadata.labels.unwrap_or_default(),
    }
}

/// Reduces a ModelSnapshot.
#[must_use]
pub fn snapshot(object: DeserializeGuard<ModelSnapshot>) -> SnapshotSeen {
    let meta = object.meta();
    let mut seen = SnapshotSeen {
        uid: meta.uid.clone().unwrap_or_default(),
        age: source::age(meta.creation_timestamp.as_ref()),
        deleting: meta.deletion_timestamp.is_some(),
        ..SnapshotSeen::default()
    };
    match object.0 {
        Ok(object) => {
            seen.facts = Some(source::facts(&object));
            seen.status = object.status.unwrap_or_default();
        }
        Err(invalid) => tracing::warn!(
            snapshot = invalid.metadata.name,
            error = invalid.error,
            "a ModelSnapshot cannot be understood and is left alone; delete it, and it is written anew"
        ),
    }
    seen
}

/// Reduces a ModelCacheNode.
#[must_use]
pub fn intent(object: DeserializeGuard<ModelCacheNode>) -> IntentSeen {
    let meta = object.meta();
    let mut seen = IntentSeen {
        uid: meta.uid.clone().unwrap_or_default(),
        owner: meta
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.kind == "Node")
            .map(|owner| owner.uid.clone()),
        published: meta
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(PUBLISHED_ANNOTATION))
            .map(|text| published(text))
            .unwrap_or_default(),
        ..IntentSeen::default()
    };
    match object.0 {
        Ok(object) => {
            seen.spec = Some(object.spec);
            seen.status = object.status.unwrap_or_default();
        }
        Err(invalid) => tracing::warn!(
            node = invalid.metadata.name,
            error = invalid.error,
            "a ModelCacheNode cannot be understood; its spec is written anew"
        ),
    }
    seen
}

/// Reads [`PUBLISHED_ANNOTATION`]; what cannot be read is as good as not written.
fn published(text: &str) -> BTreeMap<NodeModel, String> {
    let entries: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(model, snapshot)| Some((node_model(&model)?, snapshot)))
        .collect()
}

/// Writes [`PUBLISHED_ANNOTATION`].
#[must_use]
pub fn published_text(published: &BTreeMap<NodeModel, String>) -> String {
    let entries: BTreeMap<String, &String> = published
        .iter()
        .map(|(model, snapshot)| (model_key(model), snapshot))
        .collect();
    // A map of strings always serializes.
    serde_json::to_string(&entries).unwrap_or_default()
}

/// `<cache>/<model>`.
#[must_use]
pub fn model_key(model: &NodeModel) -> String {
    format!("{}/{}", model.cache, model.model)
}

/// The reverse of [`model_key`].
#[must_use]
pub fn node_model(key: &str) -> Option<NodeModel> {
    let (cache, model) = key.split_once('/')?;
    Some(NodeModel {
        cache: cache.to_owned(),
        model: model.to_owned(),
    })
}

/// Reduces a PersistentVolume.
#[must_use]
pub fn volume(object: PersistentVolume) -> VolumeSeen {
    let annotation = |key: &str| object.annotations().get(key).cloned().unwrap_or_default();
    let mut seen = VolumeSeen {
        uid: object.uid().unwrap_or_default(),
        model: annotation(names::MODEL_ANNOTATION),
        claim: annotation(names::CLAIM_ANNOTATION),
        deleting: object.metadata.deletion_timestamp.is_some(),
        phase: object
            .status
            .and_then(|status| status.phase)
            .unwrap_or_default(),
        ..VolumeSeen::default()
    };
    if let Some(spec) = object.spec {
        seen.path = spec.local.map(|local| local.path).unwrap_or_default();
        seen.mount_options = spec.mount_options.unwrap_or_default();
        seen.reclaim = spec.persistent_volume_reclaim_policy.unwrap_or_default();
        seen.claim_uid = spec.claim_ref.and_then(|claim| claim.uid);
        seen.gate = spec
            .node_affinity
            .and_then(|affinity| affinity.required)
            .and_then(|required| required.node_selector_terms.into_iter().next())
            .and_then(|term| term.match_expressions)
            .and_then(|expressions| expressions.into_iter().next())
            .map(|expression| expression.key)
            .unwrap_or_default();
    }
    seen
}

/// Reduces a PersistentVolumeClaim.
#[must_use]
pub fn claim(object: PersistentVolumeClaim) -> ClaimSeen {
    ClaimSeen {
        uid: object.uid().unwrap_or_default(),
        model: object
            .annotations()
            .get(names::MODEL_ANNOTATION)
            .cloned()
            .unwrap_or_default(),
        deleting: object.metadata.deletion_timestamp.is_some(),
        woken_for: object.annotations().get(names::WAKE_ANNOTATION).cloned(),
        bound: object
            .status
            .is_some_and(|status| status.phase.as_deref() == Some("Bound")),
        volume: object
            .spec
            .and_then(|spec| spec.volume_name)
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_published_survives_the_annotation() {
        let model = NodeModel {
            cache: "team.a".to_owned(),
            model: "minilm".to_owned(),
        };
        let map = BTreeMap::from([(model, "minilm-1".to_owned())]);
        assert_eq!(published(&published_text(&map)), map);
        assert!(published("no JSON").is_empty());
        assert!(published(r#"{"no-slash": "x"}"#).is_empty());
    }

    #[test]
    fn an_object_that_cannot_be_understood_keeps_its_name_and_uid() {
        let guard: DeserializeGuard<ModelCache> = serde_json::from_value(json!({
            "apiVersion": "modelcache.io/v1alpha1",
            "kind": "ModelCache",
            "metadata": {"name": "odd", "uid": "u1"},
            "spec": {"models": 7},
        }))
        .unwrap();
        let seen = cache(guard);
        assert_eq!(seen.uid, "u1");
        assert!(seen.object.is_err());
    }
}
