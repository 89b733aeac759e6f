//! `trees/<commit>.json`: the listing of a commit that clients of the hub keep and read offline.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::segment::BlobId;
use crate::snapshot::Snapshot;

/// One file in `trees/<commit>.json`. Without `xet_hash`: it would send clients to the Xet store for missing files.
#[derive(Serialize)]
struct TreeFile<'a> {
    size: u64,
    blob_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
}

/// `files` of a snapshot's listing.
pub(super) fn tree_files(snapshot: &Snapshot) -> Map<String, Value> {
    let mut files = Map::new();
    for file in &snapshot.files {
        let lfs = match file.blob {
            BlobId::Sha256(_) => Some(file.blob.etag()),
            BlobId::Git(_) => None,
        };
        let entry = TreeFile {
            size: file.size,
            blob_id: &file.git_oid,
            lfs_size: lfs.as_ref().map(|_| file.size),
            lfs_sha256: lfs,
        };
        files.insert(file.path.clone(), json!(entry));
    }
    files
}

/// `files` of a tree listing; empty when there is none that clients would read.
pub(super) fn listed_files(path: &Path) -> Map<String, Value> {
    let Ok(bytes) = fs::read(path) else {
        return Map::new();
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(mut tree)) if tree.get("format_version") == Some(&json!(1)) => {
            match tree.remove("files") {
                Some(Value::Object(files)) => files,
                _ => Map::new(),
            }
        }
        _ => Map::new(),
    }
}

pub(super) fn tree_text(files: &Map<String, Value>) -> Vec<u8> {
    json!({"format_version": 1, "files": files})
        .to_string()
        .into_bytes()
}
