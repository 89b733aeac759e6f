//! From durable bytes to contents that are proved: hashing, moving right blobs to their place, throwing wrong ones away.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::blob::Blob;
use super::error::StoreError;
use super::ranges::Ranges;
use super::snapshot_store::{MANY_FILES, SnapshotStore};
use super::{disk, locked};
use crate::buffers::Buffer;
use crate::segment::BlobId;

/// Bytes read at once when a blob is hashed from disk: they are still in the processor's cache when they are hashed.
const CHUNK: usize = 256 << 10;

/// What [`SnapshotStore::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every blob of these held segments is right.
    Verified {
        /// Segment indices.
        segments: Vec<u32>,
    },
    /// A blob was wrong. These segments were held and are not any more.
    Corrupt {
        /// Segment indices; none when nothing of the blob had to be fetched.
        segments: Vec<u32>,
        /// The blob.
        blob: BlobId,
        /// What was wrong, for people.
        message: String,
    },
}

impl SnapshotStore {
    /// Hashes what is durable and not hashed yet, in order; moves complete right blobs to `blobs/`, throws wrong ones
    /// away. Returns what changed for segments that were held, by this or by another snapshot's verification.
    pub fn verify(&self) -> Result<Vec<Verdict>, StoreError> {
        let _turn = locked(&self.0.verifying);
        let mut right = Vec::new();
        let mut wrong = Vec::new();
        for blob in self.unproved() {
            let Some(found) = self.hash(&blob)? else {
                continue;
            };
            if found == blob.id {
                right.push(blob);
            } else {
                wrong.push((blob, found));
            }
        }
        self.accept(&right)?;
        for (blob, found) in &wrong {
            self.reject(blob, found)?;
        }
        Ok(self.report())
    }

    /// What nobody has proved yet: the blobs of segments that are held and, after a loss, all others too, for then they can be in
    /// none that is. Not always all, because a snapshot can have many thousands of them, and this is asked after each segment.
    pub(super) fn unproved(&self) -> Vec<Arc<Blob>> {
        let state = locked(&self.0.state);
        if state.losses != self.0.store.losses.load(Ordering::Acquire) {
            let blobs = self.0.blobs.values();
            return blobs.filter(|blob| !blob.is_verified()).cloned().collect();
        }
        let mut found = BTreeMap::new();
        for index in &state.unreported {
            let segment = self.0.segments.get(*index as usize);
            for blob in segment
                .into_iter()
                .flat_map(|segment| self.0.blobs_of(segment))
            {
                if !blob.is_verified() {
                    found.entry(blob.id).or_insert_with(|| Arc::clone(blob));
                }
            }
        }
        found.into_values().collect()
    }

    /// Goes on hashing a blob from disk. Its real name when it is complete.
    fn hash(&self, blob: &Blob) -> Result<Option<BlobId>, StoreError> {
        loop {
            let start = locked(&blob.prefix).position();
            if start == blob.size {
                let whole = blob.covers(0, blob.size);
                return Ok(if whole {
                    locked(&blob.prefix).finished()
                } else {
                    None
                });
            }
            let end = blob.durable_end(start);
            if end <= start {
                return Ok(None);
            }
            // Read and hashed without the lock: writers that go on with this blob must not wait.
            let mut copy = locked(&blob.prefix).detach();
            if copy.position() != start {
                continue;
            }
            let len = usize::try_from(end - start).map_or(CHUNK, |left| left.min(CHUNK));
            let mut buffer = Buffer::of(len);
            match self.0.store.files.read(blob, start, &mut buffer) {
                Ok(()) => copy.update(&buffer),
                // Another snapshot's verification was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => {
                    let path = self.0.store.layout.partial(&blob.id);
                    return Err(StoreError::io("read", &path, error));
                }
            }
            locked(&blob.prefix).attach(copy);
        }
    }

    /// Moves right blobs to where they stay.
    fn accept(&self, blobs: &[Arc<Blob>]) -> Result<(), StoreError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let store = &self.0.store;
        let _alone = store
            .records
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let blobs: Vec<_> = blobs.iter().filter(|blob| !blob.is_verified()).collect();
        for blob in &blobs {
            disk::protect(&store.layout.partial(&blob.id))?;
        }
        if blobs.len() > MANY_FILES {
            disk::sync_all(store.layout.root())?;
        } else {
            for blob in &blobs {
                disk::sync_path(&store.layout.partial(&blob.id))?;
            }
        }
        for blob in &blobs {
            let mut state = locked(&blob.state);
            disk::rename(
                &store.layout.partial(&blob.id),
                &store.layout.blob(&blob.id),
            )?;
            store.files.close(&blob.id);
            state.verified = true;
            state.durable = Ranges::default();
            state.leftover = Ranges::default();
            state.fault = None;
        }
        disk::sync_directory(&store.layout.blobs())?;
        disk::sync_directory(&store.layout.partials())
    }

    /// Throws a wrong blob away: first what the journals say of it. Most of its bytes are right, as a rule, so the file stays
    /// for [`SnapshotStore::is_left`]; but a blob that is wrong once more begins from nothing.
    fn reject(&self, blob: &Arc<Blob>, found: &BlobId) -> Result<(), StoreError> {
        let store = &self.0.store;
        let _alone = store
            .records
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if blob.is_verified() || !blob.covers(0, blob.size) {
            return Ok(());
        }
        let path = store.layout.partial(&blob.id);
        tracing::warn!(blob = %blob.id, %found, "a content has the wrong hash and is thrown away");
        let message = format!(
            "{} bytes that should be {} hash to {found}; they are thrown away and fetched again",
            blob.size, blob.id
        );
        let again = locked(&blob.state).fault.replace(message).is_some();
        store.forget_on_disk(&[(Arc::clone(blob), 0, blob.size)])?;
        if again {
            store.files.close(&blob.id);
            disk::remove(&path)?;
            disk::sync_directory(&store.layout.partials())?;
            store.files.close(&blob.id);
        }
        store.forget_in_memory(&[(Arc::clone(blob), 0, blob.size)]);
        let mut state = locked(&blob.state);
        state.leftover = Ranges::default();
        if !again {
            state.leftover.insert(0, blob.size);
        }
        Ok(())
    }

    /// Compares what is so with what was told.
    fn report(&self) -> Vec<Verdict> {
        let mut verified = Vec::new();
        let mut lost: BTreeMap<BlobId, Vec<u32>> = BTreeMap::new();
        let mut state = locked(&self.0.state);
        let losses = self.0.store.losses.load(Ordering::Acquire);
        let looked_at: Vec<u32> = if losses == state.losses {
            state.unreported.iter().copied().collect()
        } else {
            state.held().collect()
        };
        state.losses = losses;
        for index in looked_at {
            let Some(segment) = self.0.segments.get(index as usize) else {
                continue;
            };
            if let Some(extent) = self.0.missing(segment) {
                state.forget(index);
                lost.entry(extent.blob).or_default().push(index);
            } else if !self.0.is_verified(segment) {
                // Also one that was reported, lost, and brought again by another snapshot.
                state.unreported.insert(index);
            } else if state.unreported.remove(&index) {
                verified.push(index);
            }
        }
        drop(state);
        let mut verdicts: Vec<Verdict> = lost
            .into_iter()
            .map(|(blob, segments)| Verdict::Corrupt {
                segments,
                blob,
                message: self.fault(&blob),
            })
            .collect();
        for blob in &self.0.empty {
            if !blob.is_verified() {
                verdicts.push(Verdict::Corrupt {
                    segments: Vec::new(),
                    blob: blob.id,
                    message: format!(
                        "the hub lists an empty file as {}, which is not the hash of nothing",
                        blob.id
                    ),
                });
            }
        }
        if !verified.is_empty() {
            verdicts.push(Verdict::Verified { segments: verified });
        }
        verdicts
    }

    fn fault(&self, blob: &BlobId) -> String {
        self.0
            .blobs
            .get(blob)
            .and_then(|blob| locked(&blob.state).fault.clone())
            .unwrap_or_else(|| format!("{blob} was thrown away on this node and is fetched again"))
    }

    /// Throws segments away whose blobs are not verified here. Returns those that were held until now.
    pub fn discard(&self, segments: &[u32]) -> Result<Vec<u32>, StoreError> {
        let store = &self.0.store;
        let _alone = store
            .records
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        for index in segments {
            let segment = self.0.segment(*index)?;
            for extent in &segment.extents {
                if let Some(blob) = self.0.blobs.get(&extent.blob)
                    && !blob.is_verified()
                    && blob.durable_bytes() > 0
                {
                    let end = extent.offset + extent.len;
                    gone.push((Arc::clone(blob), extent.offset, end));
                }
            }
        }
        store.forget(&gone)?;
        for (blob, start, end) in &gone {
            locked(&blob.state).leftover.insert(*start, *end);
        }
        let mut state = locked(&self.0.state);
        let mut dropped = Vec::new();
        for index in segments {
            let segment = self.0.segment(*index)?;
            if state.holds(*index) && !self.0.covers(segment) {
                state.forget(*index);
                dropped.push(*index);
            }
        }
        Ok(dropped)
    }
}
