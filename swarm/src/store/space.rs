//! Room on the disk: how much there is for models, and reserving it before a byte is written.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::blob::Blob;
use super::error::StoreError;
use super::{Inner, Store, disk, locked};

/// Never filled by models, whatever they need: kubelet evicts pods and journals fail on a full disk.
const LEAST_RESERVE: u64 = 256 << 20;

/// What is being filled is not filled further with less free than this: journals, names and links need it, and the rest
/// of the node more than we do. Less than [`LEAST_RESERVE`], which only keeps new models out.
const LAST_RESERVE: u64 = 32 << 20;

/// Room on the file system of the cache root, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// What a new model may take: free blocks less a reserve (1 % of the file system, at least 256 MiB) and less what
    /// other models have reserved but not allocated yet.
    pub free: u64,
}

impl Store {
    /// Room for models.
    pub fn space(&self) -> Result<Space, StoreError> {
        self.0.space(None)
    }
}

/// Room on the file system of a cache root, without regard to what is promised to models.
pub(super) fn unpromised(root: &Path) -> Result<Space, StoreError> {
    let (total, available) = measure(root)?;
    let reserve = (total / 100).max(LEAST_RESERVE);
    Ok(Space {
        total,
        free: available.saturating_sub(reserve),
    })
}

/// Size of a file system and what is free of it.
fn measure(root: &Path) -> Result<(u64, u64), StoreError> {
    let found =
        rustix::fs::statvfs(root).map_err(|errno| StoreError::io("measure", root, errno.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((bytes(found.f_blocks), bytes(found.f_bavail)))
}

impl Inner {
    /// Room for models, as seen by one snapshot (its own reservation does not count against it).
    fn space(&self, snapshot: Option<&str>) -> Result<Space, StoreError> {
        let Space { total, free } = unpromised(self.layout.root())?;
        let outstanding: u64 = locked(&self.reserved)
            .iter()
            .filter(|(name, _)| Some(name.as_str()) != snapshot)
            .flat_map(|(_, blobs)| blobs)
            .map(|blob| self.missing(blob))
            .sum();
        Ok(Space {
            total,
            free: free.saturating_sub(outstanding),
        })
    }

    /// Whether `len` bytes may be written, of which `missing` have no blocks yet: somebody else may have filled the disk
    /// since space was reserved, and some file systems give no blocks before.
    pub(super) fn check_room(
        &self,
        len: u64,
        missing: impl FnOnce() -> u64,
    ) -> Result<(), StoreError> {
        let (_, free) = measure(self.layout.root())?;
        let enough = |new: u64| free >= LAST_RESERVE.saturating_add(new);
        // Blobs are looked at only when it matters.
        if enough(len) || enough(missing().min(len)) {
            return Ok(());
        }
        Err(StoreError::NearlyFull {
            root: self.layout.root().to_path_buf(),
            free,
            reserve: LAST_RESERVE,
        })
    }

    /// Checks that so many bytes fit beside all that is promised. The caller has its turn at `reserving`.
    pub(super) fn check_fits(&self, snapshot: &str, needed: u64) -> Result<(), StoreError> {
        let free = self.space(None)?.free;
        if needed > free {
            return Err(StoreError::NoSpace {
                snapshot: snapshot.to_owned(),
                root: self.layout.root().to_path_buf(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// Finds out whether the disk takes anything at all, before anybody is asked for bytes.
    fn probe(&self) -> Result<(), StoreError> {
        let path = self.layout.tmp().join("probe");
        let written = disk::write_file(&path, &[0; 4096], disk::LISTING);
        let removed = disk::remove(&path);
        written.and(removed)
    }

    /// Bytes of a blob that have no blocks on disk yet.
    pub(super) fn missing(&self, blob: &Blob) -> u64 {
        blob.size - self.files.allocated(blob)
    }

    /// Checks that all of these blobs fit, then gives them their blocks.
    pub(super) fn reserve(&self, snapshot: &str, blobs: &[Arc<Blob>]) -> Result<(), StoreError> {
        self.reserve_within(snapshot, blobs, None)
    }

    /// As [`Inner::reserve`], with a given amount of free space.
    pub(super) fn reserve_within(
        &self,
        snapshot: &str,
        blobs: &[Arc<Blob>],
        free: Option<u64>,
    ) -> Result<(), StoreError> {
        // One at a time: two snapshots must not both be promised the same bytes.
        let _turn = locked(&self.reserving);
        let missing: Vec<_> = blobs
            .iter()
            .filter(|blob| !blob.is_verified() && blob.size > 0)
            .cloned()
            .collect();
        let needed: u64 = missing.iter().map(|blob| self.missing(blob)).sum();
        let free = match free {
            Some(free) => free,
            None => self.space(Some(snapshot))?.free,
        };
        let no_space = || StoreError::NoSpace {
            snapshot: snapshot.to_owned(),
            root: self.layout.root().to_path_buf(),
            needed,
            free,
        };
        if needed > free {
            return Err(no_space());
        }
        self.check_room(0, || 0)?;
        self.probe()?;
        locked(&self.reserved).insert(snapshot.to_owned(), missing.clone());
        if let Err(error) = self.allocate(&missing) {
            locked(&self.reserved).remove(snapshot);
            return Err(if error.is_no_space() {
                no_space()
            } else {
                error
            });
        }
        Ok(())
    }

    /// Gives each blob its blocks. When the disk turns out to be too small, those that were new go away again.
    pub(super) fn allocate(&self, blobs: &[Arc<Blob>]) -> Result<(), StoreError> {
        let mut new = Vec::new();
        for blob in blobs {
            let path = self.layout.partial(&blob.id);
            let existed = path.exists();
            if existed && self.missing(blob) == 0 {
                continue;
            }
            if !existed {
                new.push(blob);
            }
            let result = self
                .files
                .partial(blob)
                .map_err(|error: io::Error| StoreError::io("create", &path, error))
                .and_then(|file| {
                    // Another snapshot may have finished it by now: then this is the whole content, open for reading.
                    if blob.is_verified() {
                        return Ok(true);
                    }
                    disk::allocate(&file, &path, blob.size)
                });
            match result {
                Ok(true) => {}
                // This file system allocates only what is written.
                Ok(false) => break,
                Err(error) => {
                    for blob in new {
                        if blob.durable_bytes() == 0 {
                            self.files.close(&blob.id);
                            disk::remove(&self.layout.partial(&blob.id))?;
                        }
                    }
                    return Err(error);
                }
            }
        }
        self.files.sync_names()
    }
}
