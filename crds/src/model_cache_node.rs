//! `ModelCacheNode`: what one node should hold (written by the operator) and what it holds (written by its agent).

// Printer columns are alike in parts; the lint takes them for one attribute written twice.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model_cache::SourcePolicy;
use crate::rules;

/// What one node should hold. Bears the Node's name and is owned by it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "modelcache.io",
    version = "v1alpha1",
    kind = "ModelCacheNode",
    plural = "modelcachenodes",
    shortname = "mcn",
    category = "modelcache",
    status = "ModelCacheNodeStatus",
    derive = "PartialEq",
    cel,
    selectable = ".spec.nodeName",
    validation = rules::node_name_is_own_name(),
    doc = "What one node should hold (spec, written by the operator) and what it holds (status, written by that node's agent).",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Snapshots ready, of those that should be."),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free", description = "What is free on the node's disk."),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion", description = "Version of the agent."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.peerAddress", description = "Where other agents reach this one.", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ModelCacheNodeSpec {
    /// Name of the Node.
    #[schemars(length(max = rules::NAME_LENGTH))]
    #[x_kube(validation = rules::node_name_immutable())]
    pub node_name: String,
    /// What it should hold.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub snapshots: Vec<NodeSnapshot>,
}

/// One snapshot that the node should hold.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSnapshot {
    /// Name of the ModelSnapshot.
    pub name: String,
    /// Where bytes may come from.
    #[serde(default)]
    pub source: SourcePolicy,
    /// Whether other BitTorrent clients may take its files.
    #[serde(default)]
    pub plain_bit_torrent: bool,
    /// Whether these clients are told of each other (peer exchange).
    #[serde(default)]
    pub pex: bool,
    /// Whether its files are announced to the DHT.
    #[serde(default)]
    pub dht: bool,
    /// The models that it is; more than one where ModelCaches name the same snapshot.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cache".into(), "model".into()]))]
    pub models: Vec<NodeModel>,
}

/// A model of a ModelCache.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeModel {
    /// Name of the ModelCache.
    pub cache: String,
    /// Name of the model in it.
    pub model: String,
}

/// What the node's agent knows.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelCacheNodeStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of the agent.
    #[serde(default)]
    pub agent_version: String,
    /// Where other agents reach this one, `ip:port`.
    #[serde(default)]
    pub peer_address: String,
    /// Size of the file system that holds the cache.
    #[serde(default)]
    pub capacity_bytes: i64,
    /// What is free of it for the agent.
    #[serde(default)]
    pub free_bytes: i64,
    /// The same for people, as `1.2 TB`.
    #[serde(default)]
    pub free: String,
    /// For people: snapshots ready, of those that should be, as `1/2`.
    #[serde(default)]
    pub ready: String,
    /// One entry a snapshot of the spec.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub snapshots: Vec<NodeSnapshotStatus>,
}

/// How one snapshot stands on the node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSnapshotStatus {
    /// Name of the ModelSnapshot.
    pub name: String,
    /// The models under whose names it is published here.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cache".into(), "model".into()]))]
    pub models: Vec<NodeModel>,
    /// Where it stands.
    pub phase: Phase,
    /// Its size.
    #[serde(default)]
    pub size_bytes: i64,
    /// How much of it is on disk.
    #[serde(default)]
    pub held_bytes: i64,
    /// Bytes this node fetched from the hub for it.
    #[serde(default)]
    pub origin_bytes: i64,
    /// Bytes this node took from other nodes for it.
    #[serde(default)]
    pub peer_bytes: i64,
    /// Why it does not get on, one of the documented reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the agent tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<Time>,
    /// When every file was last verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,
}

/// Where a snapshot stands on a node.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not begun.
    #[default]
    Pending,
    /// Bytes are coming in.
    Downloading,
    /// All bytes are there; being hashed and published.
    Verifying,
    /// Whole, verified and published.
    Ready,
    /// Does not get on; `reason` says why. The agent tries again by itself.
    Failed,
}
