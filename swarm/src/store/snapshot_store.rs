//! What one snapshot sees of the store: its segments, what of them is held, and the way to a whole model.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::blob::Blob;
use super::error::StoreError;
use super::io::{PlacedSegment, parts};
use super::journal::{Journal, Record};
use super::publish::Publication;
use super::{Inner, Source, disk, locked};
use crate::coordination::Held;
use crate::plan;
use crate::segment::{BlobId, PieceHashes, Segment, SegmentIo};
use crate::snapshot::Snapshot;
use crate::verify::{BlobHasher, piece_count, read_pieces};

/// From this many files on, the whole file system is synced instead of each of them.
const MANY_FILES: usize = 16;
/// Bytes read at once when a blob is hashed from disk.
const CHUNK: usize = 1 << 20;

/// One snapshot in the store. Clones are the same.
#[derive(Clone)]
pub struct SnapshotStore(Arc<Shared>);

/// How far a snapshot is. Contents that several files share count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that make the snapshot.
    pub size_bytes: u64,
    /// Bytes durable on this node.
    pub held_bytes: u64,
    /// Bytes that came from the origin, since the snapshot was first asked for.
    pub origin_bytes: u64,
    /// Bytes that came from peers, since the snapshot was first asked for.
    pub peer_bytes: u64,
}

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

pub(super) struct Shared {
    store: Arc<Inner>,
    snapshot: Arc<Snapshot>,
    segments: Vec<Segment>,
    blobs: BTreeMap<BlobId, Arc<Blob>>,
    journal: Arc<Journal>,
    state: Mutex<State>,
    /// One thread hashes at a time.
    verifying: Mutex<()>,
}

struct State {
    /// Piece hashes of the segments that are held, as far as known.
    pieces: Vec<Option<PieceHashes>>,
    /// Whether the segment was reported as verified.
    reported: Vec<bool>,
    origin_bytes: u64,
    peer_bytes: u64,
    published: bool,
}

impl Shared {
    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    fn blobs_of<'a>(&'a self, segment: &'a Segment) -> impl Iterator<Item = &'a Arc<Blob>> {
        segment
            .extents
            .iter()
            .filter_map(|extent| self.blobs.get(&extent.blob))
    }

    fn covers(&self, segment: &Segment) -> bool {
        segment.extents.iter().all(|extent| {
            self.blobs
                .get(&extent.blob)
                .is_some_and(|blob| blob.covers(extent.offset, extent.offset + extent.len))
        })
    }

    fn is_verified(&self, segment: &Segment) -> bool {
        self.blobs_of(segment).all(|blob| blob.is_verified())
    }

    fn segment(&self, index: u32) -> Result<&Segment, StoreError> {
        self.segments
            .get(index as usize)
            .ok_or_else(|| StoreError::NoSuchSegment {
                snapshot: self.snapshot.name.clone(),
                segment: index,
            })
    }

    fn superseded(&self, segment: &Segment) -> StoreError {
        StoreError::Superseded {
            snapshot: self.snapshot.name.clone(),
            segment: segment.index,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        locked(&self.store.reserved).remove(&self.snapshot.name);
    }
}

impl From<Arc<Shared>> for SnapshotStore {
    fn from(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl SnapshotStore {
    pub(super) fn open(store: Arc<Inner>, snapshot: Arc<Snapshot>) -> Result<Self, StoreError> {
        let segments = plan::cut(&snapshot);
        let blobs = store.blobs(&snapshot)?;
        let (journal, records) = store.journal(&snapshot.name)?;
        let mut state = State {
            pieces: vec![None; segments.len()],
            reported: vec![false; segments.len()],
            origin_bytes: 0,
            peer_bytes: 0,
            published: false,
        };
        for record in records {
            let (origin, peer) = record.received();
            state.origin_bytes += origin;
            state.peer_bytes += peer;
            let extents = record.extents();
            let Record::Held {
                segment, pieces, ..
            } = record
            else {
                continue;
            };
            let expected = segments
                .get(segment as usize)
                .filter(|planned| planned.extents == extents)
                .map(|planned| piece_count(planned.len(), snapshot.sizes.piece_bytes));
            if expected == Some(pieces.as_slice().len() as u64)
                && let Some(known) = state.pieces.get_mut(segment as usize)
            {
                *known = Some(pieces);
            }
        }
        let shared = Shared {
            store,
            snapshot,
            segments,
            blobs,
            journal,
            state: Mutex::new(state),
            verifying: Mutex::default(),
        };
        for blob in shared.blobs.values().filter(|blob| blob.size == 0) {
            make_empty(&shared.store, blob)?;
        }
        let published = Publication::new(&shared.store.layout, &shared.snapshot).check()?;
        {
            let mut state = locked(&shared.state);
            let state = &mut *state;
            state.published = published;
            let flags = state.pieces.iter_mut().zip(&mut state.reported);
            for (segment, (pieces, reported)) in shared.segments.iter().zip(flags) {
                if !shared.covers(segment) {
                    *pieces = None;
                }
                *reported = pieces.is_some() && shared.is_verified(segment);
            }
        }
        Ok(Self(Arc::new(shared)))
    }

    pub(super) fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.0)
    }

    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.0.snapshot
    }

    /// Its plan.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0.segments
    }

    /// The segments that are durable here and whose piece hashes are known. Call [`SnapshotStore::adopt`] first when
    /// another snapshot may have brought some.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let state = locked(&self.0.state);
        let known = self.0.segments.iter().zip(&state.pieces);
        known
            .filter_map(|(segment, pieces)| {
                let pieces = pieces.clone()?;
                self.0.covers(segment).then(|| Held {
                    segment: segment.index,
                    pieces,
                    verified: self.0.is_verified(segment),
                })
            })
            .collect()
    }

    /// Whether a segment is among those that [`SnapshotStore::held`] lists.
    #[must_use]
    pub fn is_held(&self, segment: u32) -> bool {
        let known = locked(&self.0.state)
            .pieces
            .get(segment as usize)
            .is_some_and(Option::is_some);
        known
            && self
                .0
                .segments
                .get(segment as usize)
                .is_some_and(|segment| self.0.covers(segment))
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = locked(&self.0.state);
        Progress {
            size_bytes: self.0.blobs.values().map(|blob| blob.size).sum(),
            held_bytes: self.0.blobs.values().map(|blob| blob.durable_bytes()).sum(),
            origin_bytes: state.origin_bytes,
            peer_bytes: state.peer_bytes,
        }
    }

    /// Checks that the whole snapshot fits on the disk, with what other snapshots have reserved, and gives it its
    /// blocks. When it does not fit, nothing was written.
    pub fn reserve(&self) -> Result<(), StoreError> {
        let blobs: Vec<_> = self.0.blobs.values().cloned().collect();
        self.0.store.reserve(&self.0.snapshot.name, &blobs)
    }

    /// Where to write a segment. A new writer ends an earlier one of the same segment; bytes that another snapshot is
    /// filling right now make it [`StoreError::Busy`].
    pub fn writer(&self, segment: u32) -> Result<Arc<dyn SegmentIo>, StoreError> {
        let segment = self.0.segment(segment)?;
        Ok(Arc::new(PlacedSegment::writer(
            &self.0.snapshot.name,
            segment,
            parts(segment, &self.0.blobs),
            &self.0.store.files,
            &self.0.store.claims,
        )?))
    }

    /// Reads a held segment.
    #[must_use]
    pub fn reader(&self, segment: u32) -> Option<Arc<dyn SegmentIo>> {
        self.is_held(segment)
            .then(|| self.0.segments.get(segment as usize))
            .flatten()
            .map(|segment| -> Arc<dyn SegmentIo> { Arc::new(self.placed(segment)) })
    }

    fn placed(&self, segment: &Segment) -> PlacedSegment {
        PlacedSegment::reader(segment, parts(segment, &self.0.blobs), &self.0.store.files)
    }

    fn read_pieces(&self, segment: &Segment) -> Result<PieceHashes, StoreError> {
        read_pieces(&self.placed(segment), self.0.snapshot.sizes.piece_bytes)
            .map_err(|error| StoreError::io("read", &self.0.store.layout.partials(), error))
    }

    /// The bytes of a segment were all written: makes them durable and records it. Ends its writer.
    pub fn commit(
        &self,
        segment: u32,
        pieces: PieceHashes,
        from: Source,
    ) -> Result<(), StoreError> {
        let segment = self.0.segment(segment)?;
        let expected = piece_count(segment.len(), self.0.snapshot.sizes.piece_bytes);
        if pieces.as_slice().len() as u64 != expected {
            return Err(StoreError::BadPieces {
                snapshot: self.0.snapshot.name.clone(),
                segment: segment.index,
                expected,
                given: pieces.as_slice().len(),
            });
        }
        let claims = &self.0.store.claims;
        let sealed = locked(claims).seal(&self.0.snapshot.name, segment.index);
        let Some(claim) = sealed else {
            return if self.is_held(segment.index) {
                Ok(())
            } else {
                Err(self.0.superseded(segment))
            };
        };
        let result = self
            .sync(&claim.blobs)
            .and_then(|()| self.record(segment, pieces, from, &claim));
        if result.is_err() {
            locked(claims).revoke(&claim);
        }
        result
    }

    fn sync(&self, blobs: &[Arc<Blob>]) -> Result<(), StoreError> {
        let store = &self.0.store;
        if blobs.len() > MANY_FILES {
            disk::sync_all(store.layout.root())?;
        } else {
            for blob in blobs {
                let path = store.layout.partial(&blob.id);
                let file = store
                    .files
                    .partial(blob)
                    .map_err(|error| StoreError::io("open", &path, error))?;
                disk::sync_file(&file, &path)?;
            }
        }
        store.files.sync_names()
    }

    fn record(
        &self,
        segment: &Segment,
        pieces: PieceHashes,
        from: Source,
        claim: &Arc<super::io::Claim>,
    ) -> Result<(), StoreError> {
        let store = &self.0.store;
        let _kept = store.records.read().unwrap_or_else(PoisonError::into_inner);
        let complete = segment.extents.iter().all(|extent| {
            self.0.blobs.get(&extent.blob).is_some_and(|blob| {
                claim.completes(blob, extent.offset, extent.offset + extent.len)
            })
        });
        if !complete {
            return Err(self.0.superseded(segment));
        }
        // Where other bytes were here already, what arrived was not written: ours are what others will get.
        let pieces = if claim.is_all_of(segment) {
            pieces
        } else {
            self.read_claimed(segment, claim)?
        };
        let record = Record::held(segment, pieces.clone(), Some(from));
        let (origin, peer) = record.received();
        self.0.journal.append(&[record])?;
        locked(&store.claims).fulfil(claim);
        let mut state = locked(&self.0.state);
        state.origin_bytes += origin;
        state.peer_bytes += peer;
        if let Some(known) = state.pieces.get_mut(segment.index as usize) {
            *known = Some(pieces);
        }
        Ok(())
    }

    fn read_claimed(
        &self,
        segment: &Segment,
        claim: &Arc<super::io::Claim>,
    ) -> Result<PieceHashes, StoreError> {
        let placed = self.placed(segment).with_claim(claim);
        read_pieces(&placed, self.0.snapshot.sizes.piece_bytes)
            .map_err(|error| StoreError::io("read", &self.0.store.layout.partials(), error))
    }

    /// Finds segments that another snapshot's bytes complete, and hashes their pieces by reading them: slow, off the
    /// hot path. Returns those that are held from now on. Call it after [`super::Store::snapshot`], after
    /// [`StoreError::Busy`], and now and then while another snapshot of the node is being filled.
    pub fn adopt(&self) -> Result<Vec<Held>, StoreError> {
        let mut adopted = Vec::new();
        for segment in &self.0.segments {
            let known = locked(&self.0.state)
                .pieces
                .get(segment.index as usize)
                .is_some_and(Option::is_some);
            if known || !self.0.covers(segment) {
                continue;
            }
            let Ok(pieces) = self.read_pieces(segment) else {
                // Thrown away while it was read.
                continue;
            };
            let store = &self.0.store;
            let _kept = store.records.read().unwrap_or_else(PoisonError::into_inner);
            if !self.0.covers(segment) {
                continue;
            }
            let record = Record::held(segment, pieces.clone(), None);
            self.0.journal.append(&[record])?;
            let verified = self.0.is_verified(segment);
            let mut state = locked(&self.0.state);
            let index = segment.index as usize;
            if let Some(known) = state.pieces.get_mut(index) {
                *known = Some(pieces.clone());
            }
            if let Some(reported) = state.reported.get_mut(index) {
                *reported = verified;
            }
            adopted.push(Held {
                segment: segment.index,
                pieces,
                verified,
            });
        }
        Ok(adopted)
    }

    /// Hashes what is durable and not hashed yet, in order; moves complete right blobs to `blobs/`, throws wrong ones
    /// away. Returns what changed for segments that were held, by this or by another snapshot's verification.
    pub fn verify(&self) -> Result<Vec<Verdict>, StoreError> {
        let _turn = locked(&self.0.verifying);
        let mut right = Vec::new();
        let mut wrong = Vec::new();
        for blob in self.0.blobs.values() {
            if blob.is_verified() {
                continue;
            }
            let Some(found) = self.hash(blob)? else {
                continue;
            };
            if found == blob.id {
                right.push(Arc::clone(blob));
            } else {
                wrong.push((Arc::clone(blob), found));
            }
        }
        self.accept(&right)?;
        for (blob, found) in &wrong {
            self.reject(blob, found)?;
        }
        Ok(self.report())
    }

    /// Goes on hashing a blob from disk. Its real name when it is complete.
    fn hash(&self, blob: &Blob) -> Result<Option<BlobId>, StoreError> {
        let mut buffer = Vec::new();
        loop {
            // Taken anew for each chunk, so that nobody who feeds from memory waits for long.
            let mut prefix = locked(&blob.prefix);
            let start = prefix.position();
            let end = blob.durable_end(start);
            if start == blob.size {
                let whole = blob.covers(0, blob.size);
                return Ok(if whole { prefix.finished() } else { None });
            }
            if end <= start {
                return Ok(None);
            }
            let len = usize::try_from(end - start).map_or(CHUNK, |left| left.min(CHUNK));
            buffer.resize(len, 0);
            match self.0.store.files.read(blob, start, &mut buffer) {
                Ok(()) => prefix.feed(start, &buffer, None),
                // Another snapshot's verification was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => {
                    let path = self.0.store.layout.partial(&blob.id);
                    return Err(StoreError::io("read", &path, error));
                }
            }
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
            state.durable = super::Ranges::default();
            state.fault = None;
        }
        disk::sync_directory(&store.layout.blobs())?;
        disk::sync_directory(&store.layout.partials())
    }

    /// Throws a wrong blob away: first what the journals say of it, then the file.
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
        locked(&blob.state).fault = Some(message);
        store.forget_on_disk(&[(Arc::clone(blob), 0, blob.size)])?;
        store.files.close(&blob.id);
        disk::remove(&path)?;
        disk::sync_directory(&store.layout.partials())?;
        store.files.close(&blob.id);
        Inner::forget_in_memory(&[(Arc::clone(blob), 0, blob.size)]);
        Ok(())
    }

    /// Compares what is so with what was told.
    fn report(&self) -> Vec<Verdict> {
        let mut verified = Vec::new();
        let mut lost: BTreeMap<BlobId, Vec<u32>> = BTreeMap::new();
        let mut state = locked(&self.0.state);
        let state = &mut *state;
        let flags = state.pieces.iter_mut().zip(&mut state.reported);
        for (segment, (pieces, reported)) in self.0.segments.iter().zip(flags) {
            if pieces.is_none() {
                continue;
            }
            let missing = segment.extents.iter().find(|extent| {
                !self
                    .0
                    .blobs
                    .get(&extent.blob)
                    .is_some_and(|blob| blob.covers(extent.offset, extent.offset + extent.len))
            });
            if let Some(extent) = missing {
                *pieces = None;
                *reported = false;
                lost.entry(extent.blob).or_default().push(segment.index);
            } else if !*reported && self.0.is_verified(segment) {
                *reported = true;
                verified.push(segment.index);
            }
        }
        let mut verdicts: Vec<Verdict> = lost
            .into_iter()
            .map(|(blob, segments)| Verdict::Corrupt {
                segments,
                blob,
                message: self.fault(&blob),
            })
            .collect();
        for blob in self.0.blobs.values() {
            if blob.size == 0 && !blob.is_verified() {
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
        let mut state = locked(&self.0.state);
        let state = &mut *state;
        let mut dropped = Vec::new();
        for index in segments {
            let segment = self.0.segment(*index)?;
            if let Some(pieces) = state.pieces.get_mut(*index as usize)
                && pieces.is_some()
                && !self.0.covers(segment)
            {
                *pieces = None;
                dropped.push(*index);
            }
        }
        Ok(dropped)
    }

    /// Whether every blob is verified, so that it can be published.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.blobs.values().all(|blob| blob.is_verified())
    }

    /// Whether it is visible to pods.
    #[must_use]
    pub fn published(&self) -> bool {
        locked(&self.0.state).published
    }

    /// Makes a whole snapshot visible, and lets each model (cache, model) point to it. Can be called again at any time,
    /// also to add models.
    pub fn publish(&self, models: &[(String, String)]) -> Result<(), StoreError> {
        if !self.is_whole() {
            return Err(StoreError::NotWhole {
                snapshot: self.0.snapshot.name.clone(),
            });
        }
        let _turn = locked(&self.0.store.publishing);
        let publication = Publication::new(&self.0.store.layout, &self.0.snapshot);
        if !self.published() {
            publication.publish()?;
            locked(&self.0.state).published = true;
        }
        publication.link_models(models)
    }
}

/// Puts the empty blob in its place when nothing is what its name says.
fn make_empty(store: &Inner, blob: &Blob) -> Result<(), StoreError> {
    let mut state = locked(&blob.state);
    if state.verified || BlobHasher::new(&blob.id, 0).finish() != blob.id {
        return Ok(());
    }
    let staged = store.layout.tmp().join(blob.id.etag());
    disk::write_file(&staged, &[], disk::CONTENT)?;
    disk::rename(&staged, &store.layout.blob(&blob.id))?;
    disk::sync_directory(&store.layout.blobs())?;
    state.verified = true;
    Ok(())
}
