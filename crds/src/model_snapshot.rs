//! `ModelSnapshot`: a model resolved to one commit and an exact list of files. Written by the operator only.

// Printer columns are alike in parts; the lint takes them for one attribute written twice.
#![allow(clippy::duplicated_attributes)]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::rules;

/// A model at one commit. Immutable.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "modelcache.io",
    version = "v1alpha1",
    kind = "ModelSnapshot",
    plural = "modelsnapshots",
    shortname = "msnap",
    category = "modelcache",
    status = "ModelSnapshotStatus",
    derive = "PartialEq",
    cel,
    doc = "A model resolved to one commit and an exact list of files. Written by the operator only; immutable.",
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository"),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".spec.revision",
        description = "Revision as asked for."
    ),
    printcolumn(name = "Commit", type_ = "string", json_path = ".spec.commit"),
    printcolumn(
        name = "Size",
        type_ = "string",
        json_path = ".status.size",
        description = "Sum of the files' sizes."
    ),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        json_path = ".status.nodesReady",
        description = "Nodes that hold it whole and verified."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Segments",
        type_ = "integer",
        json_path = ".status.segments",
        priority = 1
    ),
    printcolumn(
        name = "Endpoint",
        type_ = "string",
        json_path = ".spec.endpoint",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::snapshot_immutable())]
pub struct ModelSnapshotSpec {
    /// Base URL of the hub it was resolved at.
    #[schemars(length(max = rules::ENDPOINT_LENGTH))]
    pub endpoint: String,
    /// Repository.
    #[schemars(length(max = rules::REPOSITORY_LENGTH))]
    pub repository: String,
    /// Revision as asked for.
    #[schemars(length(max = rules::REVISION_LENGTH))]
    pub revision: String,
    /// Commit, 40 hex digits.
    #[schemars(regex(pattern = "^[0-9a-f]{40}$"), length(max = 40))]
    pub commit: String,
    /// The hub listed it, and gave a part of it, to somebody without a token: it is neither gated nor private.
    #[serde(default)]
    pub public: bool,
    /// All files after include and exclude, sorted bytewise by path.
    #[schemars(length(max = rules::FILES_MAX))]
    pub files: Vec<File>,
    /// Largest segment in bytes, a power of two.
    #[schemars(range(min = 1))]
    pub segment_bytes: i64,
    /// Piece length in bytes, a power of two.
    #[schemars(range(min = 1))]
    pub piece_bytes: i64,
}

/// One file.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Path within the repository.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
    /// Length in bytes.
    #[schemars(range(min = 0))]
    pub size: i64,
    /// Git object id of the tree entry, 40 hex digits (for LFS files that of the pointer).
    #[schemars(regex(pattern = "^[0-9a-f]{40}$"), length(max = 40))]
    pub git_oid: String,
    /// SHA-256 of the content, 64 hex digits; LFS files only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"), length(max = 64))]
    pub sha256: Option<String>,
}

/// What the operator knows of the snapshot in the cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelSnapshotStatus {
    /// Sum of the files' sizes.
    #[serde(default)]
    pub size_bytes: i64,
    /// The same for people, as `91 MB`.
    #[serde(default)]
    pub size: String,
    /// Number of segments.
    #[serde(default)]
    pub segments: i64,
    /// Nodes that hold it whole and verified.
    #[serde(default)]
    pub nodes_ready: i64,
}
