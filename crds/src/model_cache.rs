//! `ModelCache`: which models which node pools hold. Written by people.

// Printer columns are alike in parts; the lint takes them for one attribute written twice.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// Which models which pools of nodes hold.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "modelcache.io",
    version = "v1alpha1",
    kind = "ModelCache",
    plural = "modelcaches",
    shortname = "mc",
    category = "modelcache",
    status = "ModelCacheStatus",
    derive = "PartialEq",
    cel,
    doc = "Which models which pools of nodes hold: each model is fetched from the hub about once for the whole cluster, nodes give it to each other, and pods can mount it where it is whole.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.ready",
        description = "Nodes that hold all their models, of those that should."
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        description = "Why it is ready or not."
    ),
    printcolumn(
        name = "Size",
        type_ = "string",
        json_path = ".status.size",
        description = "Total size of the models."
    ),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".status.revision",
        description = "Revision and commit of the first model."
    ),
    printcolumn(
        name = "Origin",
        type_ = "string",
        json_path = ".status.originCopies",
        description = "Bytes fetched from the hub, as a multiple of the size."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        description = "The status in a sentence.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::repository_immutable())]
#[x_kube(validation = rules::pool_models_exist())]
#[x_kube(validation = rules::claim_models_exist())]
pub struct ModelCacheSpec {
    /// The models: 1 to 64.
    #[schemars(length(max = rules::MODELS_MAX))]
    #[x_kube(validation = rules::models_not_empty(), validation = rules::models_unique())]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub models: Vec<Model>,
    /// Which nodes hold which of them, at most 32 pools. Empty: every node that can run the agent holds every model.
    #[serde(default)]
    #[schemars(length(max = rules::POOLS_MAX))]
    #[x_kube(validation = rules::pools_unique())]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub node_pools: Vec<NodePool>,
    /// Where bytes may come from.
    #[serde(default)]
    pub source: SourcePolicy,
    /// Claims through which pods mount a model, made by the operator; at most 128.
    #[serde(default)]
    #[schemars(length(max = rules::CLAIMS_MAX))]
    #[x_kube(validation = rules::claims_unique())]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    pub volume_claims: Vec<VolumeClaim>,
    /// Stop planning and downloading; what is there stays and can be mounted.
    #[serde(default)]
    pub suspend: bool,
}

/// One model.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::plain_without_token())]
#[x_kube(validation = rules::pex_needs_plain(), validation = rules::dht_needs_plain())]
pub struct Model {
    /// Name within this ModelCache: a DNS label of at most 63 characters.
    #[schemars(length(max = rules::LABEL_LENGTH))]
    #[x_kube(validation = rules::model_name())]
    pub name: String,
    /// Where it comes from; exactly one member.
    pub source: ModelSource,
    /// Who besides the nodes may take it.
    #[serde(default)]
    pub peers: Peers,
}

/// Who besides the cluster's nodes may take a model.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peers {
    /// Give its files to every BitTorrent client that reaches the agents' plain port, unencrypted. Only for a model that the
    /// hub gives to everybody: one with a tokenSecret is never given.
    #[serde(default)]
    pub plain_bit_torrent: bool,
    /// Tell BitTorrent clients that take its files of each other and of other nodes (peer exchange, BEP 11). Needs
    /// plainBitTorrent.
    #[serde(default)]
    pub pex: bool,
    /// Announce its large files to the DHT (BEP 5), which tells everybody who asks where they are; agents need a port for it.
    /// Needs plainBitTorrent.
    #[serde(default)]
    pub dht: bool,
}

/// Where a model comes from: exactly one member is set.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_source())]
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
    #[schemars(length(max = rules::REPOSITORY_LENGTH))]
    #[x_kube(validation = rules::repository_form(), validation = rules::repository_words())]
    pub repository: String,
    /// Branch, tag, `refs/pr/N` or commit.
    #[serde(default = "default_revision")]
    #[schemars(length(max = rules::REVISION_LENGTH))]
    #[x_kube(validation = rules::revision())]
    pub revision: String,
    /// Only files that match one of these `fnmatch` patterns (`*` crosses `/`); empty: all. At most 32.
    #[serde(default)]
    #[schemars(length(max = rules::PATTERNS_MAX), inner(length(max = rules::PATTERN_LENGTH)))]
    #[x_kube(validation = rules::patterns())]
    pub include: Vec<String>,
    /// Not the files that match one of these patterns. At most 32.
    #[serde(default)]
    #[schemars(length(max = rules::PATTERNS_MAX), inner(length(max = rules::PATTERN_LENGTH)))]
    #[x_kube(validation = rules::patterns())]
    pub exclude: Vec<String>,
    /// Base URL of the hub; absent: the operator's default, normally `https://huggingface.co`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ENDPOINT_LENGTH))]
    #[x_kube(validation = rules::endpoint())]
    pub endpoint: Option<String>,
    /// Secret with an access token, for gated and private repositories. The token is sent only to the hub that the Secret is
    /// for: the one in its annotation modelcache.io/endpoint; without it, the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret: Option<TokenSecret>,
    /// Certificate authorities to trust for this endpoint besides the system's, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::CA_BUNDLE_LENGTH))]
    #[x_kube(validation = rules::ca_bundle(), validation = rules::ca_bundle_without_key())]
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
    #[schemars(length(max = rules::NAME_LENGTH))]
    #[x_kube(validation = rules::secret_name())]
    pub name: String,
    /// Key within it.
    #[serde(default = "default_token_key")]
    #[schemars(length(max = rules::NAME_LENGTH))]
    #[x_kube(validation = rules::secret_key())]
    pub key: String,
}

fn default_token_key() -> String {
    "token".to_owned()
}

/// A set of nodes and the models they hold.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePool {
    /// Name within this ModelCache: a DNS label of at most 63 characters.
    #[schemars(length(max = rules::LABEL_LENGTH))]
    #[x_kube(validation = rules::pool_name())]
    pub name: String,
    /// Which nodes, by their labels: a label selector with `matchLabels` and `matchExpressions`. Empty: all.
    #[serde(default)]
    #[schemars(schema_with = "rules::label_selector")]
    #[x_kube(validation = rules::match_labels())]
    pub node_selector: LabelSelector,
    /// Names of the models they hold; empty: all.
    #[serde(default)]
    #[schemars(length(max = rules::MODELS_MAX), inner(length(max = rules::LABEL_LENGTH)))]
    pub models: Vec<String>,
    /// How many nodes of the pool may be without a model while the ModelCache still counts as Ready.
    #[serde(default)]
    #[x_kube(validation = rules::tolerable_failures())]
    pub tolerable_failures: i32,
}

/// Where bytes may come from.
#[derive(
    JsonSchema,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
)]
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
    #[schemars(length(max = rules::LABEL_LENGTH))]
    #[x_kube(validation = rules::claim_namespace())]
    pub namespace: String,
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(max = rules::NAME_LENGTH))]
    #[x_kube(validation = rules::claim_name())]
    pub name: String,
    /// Name of the model.
    #[schemars(length(max = rules::LABEL_LENGTH))]
    #[x_kube(validation = rules::claim_model())]
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
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
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
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
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
