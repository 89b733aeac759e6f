//! Making a whole snapshot visible: as a volume of its own, in the node-wide hub cache, and under its models' names.
//!
//! Everything is staged in `tmp/` and synced before it appears by a rename, so a reader finds a snapshot whole or not at
//! all. The hub cache comes first and its refs last; the volume's own rename says that all of that was done. What
//! clients of three versions want to find in a hub cache, and why, is told at each step.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::StoreError;
use super::layout::{Layout, check_element, repository_folder, volume_link};
use super::{disk, entries};
use crate::segment::BlobId;
use crate::snapshot::{Snapshot, SnapshotFile};

/// One snapshot and where it appears.
pub(super) struct Publication<'a> {
    layout: &'a Layout,
    snapshot: &'a Snapshot,
    folder: String,
}

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

/// What a file's link in `snapshots/<commit>/` points to: relative, so that it survives being mounted elsewhere.
fn link_target(file: &SnapshotFile) -> String {
    let up = "../".repeat(file.path.matches('/').count() + 2);
    format!("{up}blobs/{}", file.blob.etag())
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(one), Ok(other)) => one.ino() == other.ino() && one.dev() == other.dev(),
        _ => false,
    }
}

fn points_to(link: &Path, target: &str) -> bool {
    fs::read_link(link).is_ok_and(|found| found == Path::new(target))
}

impl<'a> Publication<'a> {
    pub(super) fn new(layout: &'a Layout, snapshot: &'a Snapshot) -> Self {
        Self {
            layout,
            snapshot,
            folder: repository_folder(&snapshot.repository),
        }
    }

    fn volume(&self) -> PathBuf {
        self.layout.volume(&self.snapshot.name)
    }

    /// The repository's folder in the node-wide hub cache.
    fn hub(&self) -> PathBuf {
        self.layout.hub().join(&self.folder)
    }

    fn hub_snapshot(&self) -> PathBuf {
        self.hub().join("snapshots").join(&self.snapshot.commit)
    }

    fn hub_tree(&self) -> PathBuf {
        self.hub().join("trees").join(self.tree_name())
    }

    fn hub_ref(&self) -> PathBuf {
        self.hub().join("refs").join(&self.snapshot.revision)
    }

    fn tree_name(&self) -> String {
        format!("{}.json", self.snapshot.commit)
    }

    fn staging(&self, what: &str) -> PathBuf {
        self.layout
            .tmp()
            .join(format!("{what}-{}", self.snapshot.name))
    }

    /// Whether all of it is visible and right. What is visible and not right is withdrawn.
    pub(super) fn check(&self) -> Result<bool, StoreError> {
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

    fn links_are_right(&self, directory: &Path) -> bool {
        self.snapshot
            .files
            .iter()
            .all(|file| points_to(&directory.join(&file.path), &link_target(file)))
    }

    fn tree_lists_us(&self) -> bool {
        let listed = listed_files(&self.hub_tree());
        self.snapshot
            .files
            .iter()
            .all(|file| listed.contains_key(&file.path))
    }

    /// A ref that leads to another whole snapshot was moved by a later one and is left alone.
    fn hub_ref_leads_somewhere(&self) -> bool {
        fs::read_to_string(self.hub_ref())
            .is_ok_and(|commit| self.hub().join("snapshots").join(commit).is_dir())
    }

    /// Makes all of it visible. The caller sees to it that every blob is verified and that nobody else publishes.
    pub(super) fn publish(&self) -> Result<(), StoreError> {
        let new_volume = fs::symlink_metadata(self.volume()).is_err();
        let new_ref = new_volume || !self.hub_ref_leads_somewhere();
        self.make_hub_folders()?;
        self.link_blobs(&self.hub().join("blobs"))?;
        let staged_snapshot = self.stage_hub_snapshot()?;
        let staged_volume = self.staging("volume");
        if new_volume {
            self.stage_volume(&staged_volume)?;
        }
        // One sync for thousands of links: none of them may be missing or empty behind a name that is durable.
        disk::sync_all(self.layout.root())?;
        if let Some(staged) = staged_snapshot {
            self.show_hub_snapshot(&staged)?;
        }
        self.write_hub_tree()?;
        if new_ref {
            self.write_hub_ref()?;
        }
        if new_volume {
            disk::rename(&staged_volume, &self.volume())?;
            disk::sync_directory(&self.layout.volumes())?;
        }
        Ok(())
    }

    fn make_hub_folders(&self) -> Result<(), StoreError> {
        let base = self.layout.hub();
        // Old clients make this folder even for a cached file, which fails on a read-only mount unless it is there.
        disk::make_directories(&base, &base.join(".locks").join(&self.folder))?;
        for name in ["blobs", "snapshots", "trees", "refs"] {
            disk::make_directories(&base, &self.hub().join(name))?;
        }
        // A branch can have become a directory of branches since, and the other way round.
        let refs = self.hub().join("refs");
        let mut above = self.hub_ref();
        while above.pop() && above != refs {
            if above.is_file() {
                disk::remove(&above)?;
            }
        }
        if self.hub_ref().is_dir() {
            disk::remove_tree(&self.hub_ref())?;
        }
        match self.hub_ref().parent() {
            Some(parent) => disk::make_directories(&base, parent),
            None => Ok(()),
        }
    }

    fn link_blobs(&self, directory: &Path) -> Result<(), StoreError> {
        for (id, _) in self.snapshot.blobs() {
            let (from, to) = (self.layout.blob(&id), directory.join(id.etag()));
            if same_file(&from, &to) {
                continue;
            }
            if fs::symlink_metadata(&to).is_ok() {
                let staged = self.staging("blob");
                disk::remove_tree(&staged)?;
                disk::link(&from, &staged)?;
                disk::rename(&staged, &to)?;
            } else {
                disk::link(&from, &to)?;
            }
        }
        Ok(())
    }

    /// The new content of `snapshots/<commit>`, unless that is right already. Outside of `snapshots/`: a temporary
    /// directory in there hides the whole repository from clients' cache tools.
    fn stage_hub_snapshot(&self) -> Result<Option<PathBuf>, StoreError> {
        let live = self.hub_snapshot();
        if self.links_are_right(&live) && live.is_dir() {
            return Ok(None);
        }
        // Another snapshot of the same commit with other patterns shares the directory: nothing of it may go.
        let mut links = BTreeMap::new();
        collect_links(&live, "", &mut links)?;
        for file in &self.snapshot.files {
            links.insert(file.path.clone(), link_target(file));
        }
        let staged = self.staging("snapshot");
        disk::remove_tree(&staged)?;
        disk::make_directory(&staged)?;
        for (path, target) in &links {
            place(&staged, path, |at| disk::symlink(target, at))?;
        }
        Ok(Some(staged))
    }

    fn show_hub_snapshot(&self, staged: &Path) -> Result<(), StoreError> {
        let live = self.hub_snapshot();
        if !live.is_dir() {
            disk::rename(staged, &live)?;
        } else if disk::exchange(staged, &live)? {
            disk::remove_tree(staged)?;
        } else {
            for file in &self.snapshot.files {
                let (path, target) = (live.join(&file.path), link_target(file));
                if !points_to(&path, &target) {
                    let link = self.staging("link");
                    disk::remove_tree(&link)?;
                    disk::symlink(&target, &link)?;
                    place(&live, &file.path, |at| disk::rename(&link, at))?;
                }
            }
            disk::remove_tree(staged)?;
            disk::sync_all(self.layout.root())?;
        }
        disk::sync_directory(&self.hub().join("snapshots"))
    }

    /// Without this listing clients of some versions cannot load by commit offline, others retry for 23 seconds.
    fn write_hub_tree(&self) -> Result<(), StoreError> {
        if self.tree_lists_us() {
            return Ok(());
        }
        let path = self.hub_tree();
        let mut files = listed_files(&path);
        files.extend(self.tree_files());
        self.replace(&path, &tree_text(&files))
    }

    fn write_hub_ref(&self) -> Result<(), StoreError> {
        self.replace(&self.hub_ref(), self.snapshot.commit.as_bytes())
    }

    /// Writes a small file by a rename.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let staged = self.staging("file");
        disk::write_file(&staged, content, disk::LISTING)?;
        disk::rename(&staged, path)?;
        match path.parent() {
            Some(parent) => disk::sync_directory(parent),
            None => Ok(()),
        }
    }

    fn tree_files(&self) -> Map<String, Value> {
        let mut files = Map::new();
        for file in &self.snapshot.files {
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

    /// One snapshot in both forms, never changed once it is in place.
    fn stage_volume(&self, staged: &Path) -> Result<(), StoreError> {
        disk::remove_tree(staged)?;
        let hub = staged.join("hub");
        let folder = hub.join(&self.folder);
        let snapshot = folder.join("snapshots").join(&self.snapshot.commit);
        let files = staged.join("files");
        let base = self.layout.tmp();
        for directory in [
            hub.join(".locks").join(&self.folder),
            folder.join("blobs"),
            folder.join("refs"),
            folder.join("trees"),
            snapshot.clone(),
            files.clone(),
        ] {
            disk::make_directories(&base, &directory)?;
        }
        self.link_blobs(&folder.join("blobs"))?;
        for file in &self.snapshot.files {
            place(&snapshot, &file.path, |at| {
                disk::symlink(&link_target(file), at)
            })?;
            let blob = self.layout.blob(&file.blob);
            place(&files, &file.path, |at| disk::link(&blob, at))?;
        }
        let tree = tree_text(&self.tree_files());
        disk::write_file(
            &folder.join("trees").join(self.tree_name()),
            &tree,
            disk::LISTING,
        )?;
        // Also as main: a volume shows one snapshot, and from_pretrained without a revision asks for that.
        let mut names = vec![self.snapshot.revision.as_str()];
        if !self.snapshot.revision.starts_with("main/") && self.snapshot.revision != "main" {
            names.push("main");
        }
        for name in names {
            place(&folder.join("refs"), name, |at| {
                disk::write_file(at, self.snapshot.commit.as_bytes(), disk::LISTING)
            })?;
        }
        Ok(())
    }

    /// Lets each model (cache, model) show this snapshot.
    pub(super) fn link_models(&self, models: &[(String, String)]) -> Result<(), StoreError> {
        let target = volume_link(&self.snapshot.name);
        for (cache, model) in models {
            check_element("cache", cache)?;
            check_element("model", model)?;
            let directory = self.layout.models().join(cache);
            let link = directory.join(model);
            if points_to(&link, &target) {
                continue;
            }
            disk::make_directory(&directory)?;
            let staged = self.staging("link");
            disk::remove_tree(&staged)?;
            disk::symlink(&target, &staged)?;
            disk::rename(&staged, &link)?;
            disk::sync_directory(&directory)?;
            disk::sync_directory(&self.layout.models())?;
        }
        Ok(())
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

/// Makes the directories above `path` and then what `make` makes at it.
fn place(
    base: &Path,
    path: &str,
    make: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let at = base.join(path);
    if let Some(parent) = at.parent() {
        disk::make_directories(base, parent)?;
    }
    make(&at)
}

/// `files` of a tree listing; empty when there is none that clients would read.
fn listed_files(path: &Path) -> Map<String, Value> {
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

fn tree_text(files: &Map<String, Value>) -> Vec<u8> {
    json!({"format_version": 1, "files": files})
        .to_string()
        .into_bytes()
}

/// Links below a directory that lead to a file: path and target.
fn collect_links(
    directory: &Path,
    prefix: &str,
    links: &mut BTreeMap<String, String>,
) -> Result<(), StoreError> {
    for name in entries(directory)? {
        let (at, path) = (directory.join(&name), format!("{prefix}{name}"));
        if let Ok(target) = fs::read_link(&at) {
            if let (Some(target), true) = (target.to_str(), at.is_file()) {
                links.insert(path, target.to_owned());
            }
        } else if at.is_dir() {
            collect_links(&at, &format!("{path}/"), links)?;
        }
    }
    Ok(())
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
