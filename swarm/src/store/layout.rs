//! Where everything lies below the cache root, and which names may become paths there.

use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::segment::BlobId;
use crate::snapshot::{Snapshot, is_safe_path};

/// Paths below one cache root.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn blob(&self, id: &BlobId) -> PathBuf {
        self.blobs().join(id.etag())
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn partial(&self, id: &BlobId) -> PathBuf {
        self.partials().join(id.etag())
    }

    pub(super) fn journals(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Only there once a file was given to other BitTorrent clients.
    pub(super) fn all_pieces(&self) -> PathBuf {
        self.root.join("pieces")
    }

    pub(super) fn pieces(&self, id: &BlobId) -> PathBuf {
        self.all_pieces().join(id.etag())
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(super) fn volume(&self, snapshot: &str) -> PathBuf {
        self.volumes().join(snapshot)
    }

    pub(super) fn hub(&self) -> PathBuf {
        self.root.join("hub")
    }

    pub(super) fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// Every directory that exists from the start.
    pub(super) fn directories(&self) -> [PathBuf; 7] {
        [
            self.blobs(),
            self.partials(),
            self.journals(),
            self.tmp(),
            self.volumes(),
            self.hub(),
            self.models(),
        ]
    }
}

/// Folder of a repository in a hub cache.
pub(super) fn repository_folder(repository: &str) -> String {
    format!("models--{}", repository.replace('/', "--"))
}

/// What a link in `models/<cache>/` points to.
pub(super) fn volume_link(snapshot: &str) -> String {
    format!("../../volumes/{snapshot}")
}

/// Refuses names that could leave their directory.
pub(super) fn check_element(what: &'static str, name: &str) -> Result<(), StoreError> {
    if is_safe_path(name) && !name.contains('/') {
        return Ok(());
    }
    Err(StoreError::BadName {
        what,
        name: name.to_owned(),
        why: "it must be one path element of at most 255 bytes",
    })
}

/// Refuses a snapshot any of whose names could leave its directory.
pub(super) fn check_snapshot(snapshot: &Snapshot) -> Result<(), StoreError> {
    let bad = |what, name: &str, why| {
        Err(StoreError::BadName {
            what,
            name: name.to_owned(),
            why,
        })
    };
    check_element("snapshot", &snapshot.name)?;
    check_element("repository", &repository_folder(&snapshot.repository))?;
    if !is_safe_path(&snapshot.repository) {
        return bad(
            "repository",
            &snapshot.repository,
            "write it as name or namespace/name",
        );
    }
    if !is_safe_path(&snapshot.revision) {
        return bad(
            "revision",
            &snapshot.revision,
            "it must be a branch, a tag or a commit",
        );
    }
    let commit = &snapshot.commit;
    if commit.len() != 40 || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return bad("commit", commit, "it must be 40 hex digits");
    }
    for file in &snapshot.files {
        if !is_safe_path(&file.path) {
            return bad("file", &file.path, "its path would leave the cache");
        }
    }
    Ok(())
}
