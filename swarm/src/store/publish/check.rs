//! Whether what is visible of a snapshot is right, and the withdrawal of what is not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::listing::listed_files;
use super::{Publication, link_target};
use crate::store::error::StoreError;
use crate::store::layout::volume_link;
use crate::store::{disk, entries};

pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(one), Ok(other)) => one.ino() == other.ino() && one.dev() == other.dev(),
        _ => false,
    }
}

pub(super) fn points_to(link: &Path, target: &str) -> bool {
    fs::read_link(link).is_ok_and(|found| found == Path::new(target))
}

impl Publication<'_> {
    /// Whether all of it is visible and right. What is visible and not right is withdrawn.
    pub(in crate::store) fn check(&self) -> Result<bool, StoreError> {
        let volume = self.volume();
        let volume_there = fs::symlink_metadata(&volume).is_ok();
        let volume_right = volume_there && self.volume_is_right();
        if !volume_right {
            self.unlink_models()?;
        }
        if volume_there && !volume_right {
            tracing::warn!(
                snapshot = self.snapshot.name,
                "withdrawing a volume whose contents are no longer right"
            );
            let old = self.staging("withdrawn");
            disk::remove_tree(&old)?;
            disk::rename(&volume, &old)?;
            disk::sync_directory(&self.layout.volumes())?;
            disk::remove_tree(&old)?;
        }
        let blobs = self.hub().join("blobs");
        let stale: Vec<PathBuf> = self
            .snapshot
            .blobs()
            .iter()
            .map(|(id, _)| (blobs.join(id.etag()), self.layout.blob(id)))
            .filter(|(seen, right)| fs::symlink_metadata(seen).is_ok() && !same_file(seen, right))
            .map(|(seen, _)| seen)
            .collect();
        if !stale.is_empty() {
            self.withdraw_from_hub(&stale)?;
        }
        Ok(volume_right && self.hub_is_right())
    }

    fn volume_is_right(&self) -> bool {
        let folder = self.volume().join("hub").join(&self.folder);
        let snapshot = folder.join("snapshots").join(&self.snapshot.commit);
        let files = self.volume().join("files");
        let blobs = folder.join("blobs");
        self.blobs_are_right(&blobs)
            && self.links_are_right(&snapshot)
            && self
                .snapshot
                .files
                .iter()
                .all(|file| same_file(&files.join(&file.path), &self.layout.blob(&file.blob)))
            && folder.join("trees").join(self.tree_name()).is_file()
    }

    fn hub_is_right(&self) -> bool {
        self.blobs_are_right(&self.hub().join("blobs"))
            && self.links_are_right(&self.hub_snapshot())
            && self.tree_lists_us()
            && self.hub_ref_leads_somewhere()
            && self.layout.hub().join(".locks").join(&self.folder).is_dir()
    }

    fn blobs_are_right(&self, directory: &Path) -> bool {
        self.snapshot
            .blobs()
            .iter()
            .all(|(id, _)| same_file(&directory.join(id.etag()), &self.layout.blob(id)))
    }

    pub(super) fn links_are_right(&self, directory: &Path) -> bool {
        self.snapshot
            .files
            .iter()
            .all(|file| points_to(&directory.join(&file.path), &link_target(file)))
    }

    pub(super) fn tree_lists_us(&self) -> bool {
        let listed = listed_files(&self.hub_tree());
        self.snapshot
            .files
            .iter()
            .all(|file| listed.contains_key(&file.path))
    }

    /// A ref that leads to another whole snapshot was moved by a later one and is left alone.
    pub(super) fn hub_ref_leads_somewhere(&self) -> bool {
        fs::read_to_string(self.hub_ref())
            .is_ok_and(|commit| self.hub().join("snapshots").join(commit).is_dir())
    }

    /// Removes every model's link to this snapshot.
    fn unlink_models(&self) -> Result<(), StoreError> {
        let target = volume_link(&self.snapshot.name);
        let models = self.layout.models();
        for cache in entries(&models)? {
            let directory = models.join(&cache);
            for model in entries(&directory)? {
                if points_to(&directory.join(&model), &target) {
                    disk::remove(&directory.join(&model))?;
                    disk::sync_directory(&directory)?;
                }
            }
        }
        Ok(())
    }

    /// Takes this commit out of the node-wide hub cache: refs first, the wrong contents last.
    fn withdraw_from_hub(&self, stale: &[PathBuf]) -> Result<(), StoreError> {
        tracing::warn!(
            snapshot = self.snapshot.name,
            "withdrawing a commit from the hub cache: its contents are no longer right"
        );
        let mut refs = Vec::new();
        collect_refs(&self.hub().join("refs"), &self.snapshot.commit, &mut refs)?;
        for path in refs.iter().chain([&self.hub_tree()]) {
            disk::remove(path)?;
        }
        if self.hub_snapshot().is_dir() {
            let old = self.staging("withdrawn");
            disk::remove_tree(&old)?;
            disk::rename(&self.hub_snapshot(), &old)?;
            disk::remove_tree(&old)?;
        }
        for path in stale {
            disk::remove_tree(path)?;
        }
        disk::sync_all(self.layout.root())
    }
}

/// Refs that name a commit.
fn collect_refs(directory: &Path, commit: &str, refs: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    for name in entries(directory)? {
        let path = directory.join(name);
        if path.is_dir() {
            collect_refs(&path, commit, refs)?;
        } else if fs::read_to_string(&path).is_ok_and(|found| found.trim() == commit) {
            refs.push(path);
        }
    }
    Ok(())
}
