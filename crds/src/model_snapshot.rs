//! `ModelSnapshot`: a model resolved to one commit and an exact list of files. Written by the operator only.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A model at one commit. Immutable.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "modelcache.io",
    version = "v1alpha1",
    kind = "ModelSnapshot",
    plural = "modelsnapshots",
    shortname = "msnap",
    status = "ModelSnapshotStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ModelSnapshotSpec {
    /// Base URL of the hub it was resolved at.
    pub endpoint: String,
    /// Repository.
    pub repository: String,
    /// Revision as asked for.
    pub revision: String,
    /// Commit, 40 hex digits.
    pub commit: String,
    /// All files after include and exclude, sorted bytewise by path.
    pub files: Vec<File>,
    /// Largest segment in bytes, a power of two.
    pub segment_bytes: i64,
    /// Piece length in bytes, a power of two.
    pub piece_bytes: i64,
}

/// One file.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Path within the repository.
    pub path: String,
    /// Length in bytes.
    pub size: i64,
    /// Git object id of the tree entry, 40 hex digits (for LFS files that of the pointer).
    pub git_oid: String,
    /// SHA-256 of the content, 64 hex digits; LFS files only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What the operator knows of the snapshot in the cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelSnapshotStatus {
    /// Sum of the files' sizes.
    #[serde(default)]
    pub size_bytes: i64,
    /// Number of segments.
    #[serde(default)]
    pub segments: i64,
    /// Nodes that hold it whole and verified.
    #[serde(default)]
    pub nodes_ready: i64,
}
