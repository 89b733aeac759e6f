//! `ModelCache`: which models which node pools hold. Written by people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Which models which pools of nodes hold.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "modelcache.io",
    version = "v1alpha1",
    kind = "ModelCache",
    plural = "modelcaches",
    shortname = "mc",
    status = "ModelCacheStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ModelCacheSpec {
    /// The models; at least one.
    pub models: Vec<Model>,
    /// Which nodes hold which of them. Empty: every node that can run the agent holds every model.
    #[serde(default)]
    pub node_pools: Vec<NodePool>,
    /// Where bytes may come from.
    #[serde(default)]
    pub source: SourcePolicy,
    /// Claims through which pods mount a model, made by the operator.
    #[serde(default)]
    pub volume_claims: Vec<VolumeClaim>,
    /// Stop planning and downloading; what is there stays and can be mounted.
    #[serde(default)]
    pub suspend: bool,
}

/// One model.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Name within this ModelCache: a DNS label of at most 63 characters.
    pub name: String,
    /// Where it comes from; exactly one member.
    pub source: ModelSource,
}

/// Where a model comes from: exactly one member is set.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelSource {
    /// A repository on Hugging Face or on a hub that speaks the same API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceSource>,
}

/// A repository on an HF-compatible hub.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSource {
    /// `name` or `namespace/name`. Cannot be changed; use another model name for another repository.
    pub repository: String,
    /// Branch, tag, `refs/pr/N` or commit.
    #[serde(default = "default_revision")]
    pub revision: String,
    /// Only files that match one of these `fnmatch` patterns (`*` crosses `/`); empty: all. At most 32.
    #[serde(default)]
    pub include: Vec<String>,
    /// Not the files that match one of these patterns. At most 32.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Base URL of the hub; absent: the operator's default, normally `https://huggingface.co`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Secret with an access token, for gated and private repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret: Option<TokenSecret>,
    /// Certificate authorities to trust for this endpoint besides the system's, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
}

fn default_revision() -> String {
    "main".to_owned()
}

/// A key of a Secret in the operator's own namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecret {
    /// Name of the Secret, in the namespace of the operator.
    pub name: String,
    /// Key within it.
    #[serde(default = "default_token_key")]
    pub key: String,
}

fn default_token_key() -> String {
    "token".to_owned()
}

/// A set of nodes and the models they hold.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePool {
    /// Name within this ModelCache.
    pub name: String,
    /// Which nodes, by their labels. Empty: all.
    #[serde(default)]
    pub node_selector: LabelSelector,
    /// Names of the models they hold; empty: all.
    #[serde(default)]
    pub models: Vec<String>,
    /// How many nodes of the pool may be without a model while the ModelCache still counts as Ready.
    #[serde(default)]
    pub tolerable_failures: i32,
}

/// Where bytes may come from.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourcePolicy {
    /// From other nodes where they have it, else from the hub.
    #[default]
    PeersFirst,
    /// Only from other nodes.
    PeersOnly,
    /// Only from the hub.
    OriginOnly,
}

/// A claim through which pods of one namespace mount one model.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaim {
    /// Namespace of the pods.
    pub namespace: String,
    /// Name of the PersistentVolumeClaim.
    pub name: String,
    /// Name of the model.
    pub model: String,
}

/// What the operator knows.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelCacheStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Resolved, Progressing, Ready, Degraded.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// For people: nodes that hold all their models, of those that should, as `2/3`.
    #[serde(default)]
    pub ready: String,
    /// For people: total size of the models, as `91 MB`.
    #[serde(default)]
    pub size: String,
    /// For people: the revision and commit of the first model.
    #[serde(default)]
    pub revision: String,
    /// For people: bytes fetched from the hub, as a multiple of the size.
    #[serde(default)]
    pub origin_copies: String,
    /// One entry a model of the spec.
    #[serde(default)]
    pub models: Vec<ModelStatus>,
}

/// What the operator knows of one model.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Name of the model in the spec.
    pub name: String,
    /// Repository on the hub.
    pub repository: String,
    /// Revision as asked for.
    pub revision: String,
    /// Commit it was resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Name of the ModelSnapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Number of files.
    #[serde(default)]
    pub files: i64,
    /// Sum of the files' sizes.
    #[serde(default)]
    pub size_bytes: i64,
    /// Nodes that should hold it.
    #[serde(default)]
    pub nodes_desired: i64,
    /// Nodes that hold it, verified.
    #[serde(default)]
    pub nodes_ready: i64,
    /// Nodes that report an error.
    #[serde(default)]
    pub nodes_failed: i64,
    /// Bytes fetched from the hub, by all nodes.
    #[serde(default)]
    pub origin_bytes: i64,
    /// Bytes taken from other nodes, by all nodes.
    #[serde(default)]
    pub peer_bytes: i64,
    /// Why it is not resolved, if so: one of the documented reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
