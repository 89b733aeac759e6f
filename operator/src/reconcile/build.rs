//! The objects as they are written: one function a kind. Pure.

use k8s_openapi::api::core::v1::Node;
use kube::Resource as _;
use modelcache_crds::ModelCacheNode;
use modelcache_crds::names::{
    CACHE_LABEL, CLAIM_ANNOTATION, MODEL_ANNOTATION, MODEL_LABEL, OPERATOR_MANAGER, label_value,
};
use serde_json::{Value, json};

use super::plan::{NodePlan, Volume};
use crate::picture::{PUBLISHED_ANNOTATION, model_key, published_text};

/// Options of the mount: the only protection against writers that a pod cannot leave out.
pub const MOUNT_OPTIONS: [&str; 1] = ["ro"];

/// Data outlive their volume.
pub const RECLAIM_POLICY: &str = "Retain";

/// The smallest there is: quotas count it, and nothing enforces it.
const CAPACITY: &str = "1";

/// What one node should hold.
#[must_use]
pub fn intent(node: &str, plan: &NodePlan) -> Value {
    json!({
        "apiVersion": ModelCacheNode::api_version(&()),
        "kind": ModelCacheNode::kind(&()),
        "metadata": {
            "name": node,
            "labels": {"app.kubernetes.io/managed-by": OPERATOR_MANAGER},
            "annotations": {PUBLISHED_ANNOTATION: published_text(&plan.published)},
            "ownerReferences": [{
                "apiVersion": Node::api_version(&()),
                "kind": Node::kind(&()),
                "name": node,
                "uid": plan.owner,
            }],
        },
        "spec": {"nodeName": node, "snapshots": plan.snapshots},
    })
}

/// The volume behind a claim. `claim_uid`: the claim is there already and must find itself in the volume.
#[must_use]
pub fn volume(volume: &Volume, claim_uid: Option<&str>) -> Value {
    let mut claim_ref = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": volume.namespace,
        "name": volume.claim,
    });
    if let Some(uid) = claim_uid {
        claim_ref["uid"] = json!(uid);
    }
    let mut metadata = metadata(volume);
    metadata["name"] = json!(volume.name);
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata,
        "spec": {
            "capacity": {"storage": CAPACITY},
            "accessModes": ["ReadOnlyMany"],
            "mountOptions": MOUNT_OPTIONS,
            "persistentVolumeReclaimPolicy": RECLAIM_POLICY,
            "storageClassName": "",
            "claimRef": claim_ref,
            "local": {"path": volume.path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": volume.gate, "operator": "Exists"}]},
            ]}},
        },
    })
}

/// The claim that pods name.
#[must_use]
pub fn claim(volume: &Volume) -> Value {
    let mut metadata = metadata(volume);
    metadata["namespace"] = json!(volume.namespace);
    metadata["name"] = json!(volume.claim);
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": volume.name,
            "resources": {"requests": {"storage": CAPACITY}},
        },
    })
}

fn metadata(volume: &Volume) -> Value {
    json!({
        "labels": {
            CACHE_LABEL: label_value(&volume.model.cache),
            MODEL_LABEL: label_value(&volume.model.model),
            "app.kubernetes.io/managed-by": OPERATOR_MANAGER,
        },
        "annotations": {
            MODEL_ANNOTATION: model_key(&volume.model),
            CLAIM_ANNOTATION: volume.claim_key(),
        },
    })
}
