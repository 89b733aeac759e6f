//! Making a whole snapshot visible: as a volume of its own, in the node-wide hub cache, and under its models' names.
//!
//! Everything is staged in `tmp/` and synced before it appears by a rename, so a reader finds a snapshot whole or not at
//! all. The hub cache comes first and its refs last; the volume's own rename says that all of that was done. What
//! clients of three versions want to find in a hub cache, and why, is told at each step.

mod check;
mod listing;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use self::check::{points_to, same_file};
use self::listing::{listed_files, tree_files, tree_text};
use super::error::StoreError;
use super::layout::{Layout, check_element, repository_folder, volume_link};
use super::{disk, entries};
use crate::snapshot::{Snapshot, SnapshotFile};

/// One snapshot and where it appears.
pub(super) struct Publication<'a> {
    layout: &'a Layout,
    snapshot: &'a Snapshot,
    folder: String,
}

/// What a file's link in `snapshots/<commit>/` points to: relative, so that it survives being mounted elsewhere.
fn link_target(file: &SnapshotFile) -> String {
    let up = "../".repeat(file.path.matches('/').count() + 2);
    format!("{up}blobs/{}", file.blob.etag())
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
            // As a rule nothing lies there, so that is not asked first.
            if disk::link_new(&from, &to)? || same_file(&from, &to) {
                continue;
            }
            let staged = self.staging("blob");
            disk::remove_tree(&staged)?;
            disk::link(&from, &staged)?;
            disk::rename(&staged, &to)?;
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
        files.extend(tree_files(self.snapshot));
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
        let tree = tree_text(&tree_files(self.snapshot));
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
