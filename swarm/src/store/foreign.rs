//! A whole content from somebody of whom nothing is believed: it lies in `tmp/`, which no start believes either, until all of
//! it hashed to the blob's name. Only then it is moved to `blobs/`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use super::blob::Blob;
use super::error::StoreError;
use super::ranges::Ranges;
use super::{SnapshotStore, disk, locked};
use crate::segment::BlobId;
use crate::verify::BlobHasher;

/// Bytes read at once when it is hashed.
const CHUNK: usize = 256 << 10;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What [`Foreign::prove`] found.
#[derive(Debug)]
pub enum Proof {
    /// It is the content, and has taken its place: [`SnapshotStore::adopt`] says which segments are held because of it.
    Right,
    /// It is another content, with this name. Nothing of it is left.
    Wrong(BlobId),
    /// It was told to stop before the end. Nothing of it is left.
    Stopped,
}

/// Where such a content is written. Gone when dropped.
pub struct Foreign {
    store: SnapshotStore,
    blob: Arc<Blob>,
    path: PathBuf,
    file: File,
    /// It has its blocks, so that writing takes no more room.
    allocated: bool,
}

impl SnapshotStore {
    /// Whether a content of this snapshot is not all here.
    #[must_use]
    pub fn lacks(&self, id: &BlobId) -> bool {
        let blob = self.0.blobs.get(id);
        blob.is_some_and(|blob| blob.durable_bytes() < blob.size)
    }

    /// A place for all of a content that is lacking here, beside what of it is here already; `None` when it is not lacking.
    /// When there is no room for it, nothing was written.
    pub fn foreign(&self, id: &BlobId) -> Result<Option<Foreign>, StoreError> {
        let Some(blob) = self.0.blobs.get(id).filter(|_| self.lacks(id)) else {
            return Ok(None);
        };
        let store = &self.0.store;
        let name = &self.0.snapshot.name;
        let _turn = locked(&store.reserving);
        store.check_fits(name, blob.size)?;
        // A name of its own, so that what is proved is what takes the blob's place.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = store.layout.tmp().join(format!("foreign-{number}"));
        let opened = disk::open_sized(&path, blob.size);
        let (file, _) = opened.map_err(|error| {
            // It may have been created and not been given its length; a start removes what cannot be removed now.
            let _ = disk::remove(&path);
            StoreError::io("create", &path, error)
        })?;
        let mut foreign = Foreign {
            store: self.clone(),
            blob: Arc::clone(blob),
            path,
            file,
            allocated: false,
        };
        foreign.allocated = disk::allocate(&foreign.file, &foreign.path, blob.size)?;
        Ok(Some(foreign))
    }

    /// Takes a file that is the content of a blob for it. What of it was here before, whoever is writing it, and the records
    /// about it go first: that may be other bytes.
    fn take_content(&self, blob: &Arc<Blob>, path: &Path) -> Result<(), StoreError> {
        let store = &self.0.store;
        let partial = store.layout.partial(&blob.id);
        let snapshots = locked(&store.snapshots);
        let _alone = store
            .records
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if blob.is_verified() {
            return Ok(());
        }
        let mut claims = locked(&store.claims);
        claims.revoke_all(&blob.id);
        store.forget(&[(Arc::clone(blob), 0, blob.size)])?;
        let mut state = locked(&blob.state);
        disk::rename(path, &store.layout.blob(&blob.id))?;
        store.files.close(&blob.id);
        state.verified = true;
        state.durable = Ranges::default();
        state.leftover = Ranges::default();
        state.fault = None;
        drop(state);
        drop(claims);
        for shared in snapshots.values().filter_map(Weak::upgrade) {
            shared.forget_pieces(&blob.id);
        }
        disk::sync_directory(&store.layout.blobs())?;
        disk::remove(&partial)?;
        disk::sync_directory(&store.layout.partials())
    }
}

impl Foreign {
    /// Writes bytes at an offset. Blocks.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > self.blob.size) {
            let source = std::io::ErrorKind::InvalidInput.into();
            return Err(StoreError::io(
                "write beyond the end of",
                &self.path,
                source,
            ));
        }
        let len = data.len() as u64;
        let missing = if self.allocated { 0 } else { len };
        self.store.0.store.check_room(len, || missing)?;
        disk::write_at(&self.file, &self.path, offset, data)
            .map_err(|error| StoreError::io("write", &self.path, error))
    }

    /// Hashes what was written, from the first byte to the last. If it is the content it takes its place. Slow: off the hot path.
    pub fn prove(self, stop: impl Fn() -> bool) -> Result<Proof, StoreError> {
        let Some(found) = self.hash(stop)? else {
            return Ok(Proof::Stopped);
        };
        if found != self.blob.id {
            return Ok(Proof::Wrong(found));
        }
        disk::protect(&self.path)?;
        disk::sync_path(&self.path)?;
        self.store.take_content(&self.blob, &self.path)?;
        Ok(Proof::Right)
    }

    /// What it is called; `None` when it was told to stop.
    fn hash(&self, stop: impl Fn() -> bool) -> Result<Option<BlobId>, StoreError> {
        let mut hasher = BlobHasher::new(&self.blob.id, self.blob.size);
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < self.blob.size {
            if stop() {
                return Ok(None);
            }
            let len = usize::try_from(self.blob.size - at).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = buffer.get_mut(..len).unwrap_or_default();
            self.file
                .read_exact_at(chunk, at)
                .map_err(|error| StoreError::io("read", &self.path, error))?;
            hasher.update(chunk);
            at += len as u64;
        }
        Ok(Some(hasher.finish()))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // A start removes what cannot be removed now. Of a content that took its place nothing is left here.
        let _ = disk::remove(&self.path);
    }
}
