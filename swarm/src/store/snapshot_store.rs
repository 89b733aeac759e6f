//! What one snapshot sees of the store: its segments, what of them is held, and the way to a whole model.

use std::collections::BTreeMap;
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
pub(super) const MANY_FILES: usize = 16;
/// Segments whose records are made durable together.
const ADOPTED_AT_ONCE: usize = 64;

/// One snapshot in the store. Clones are the same.
#[derive(Clone)]
pub struct SnapshotStore(pub(super) Arc<Shared>);

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

impl PartialEq for SnapshotStore {
    /// Whether they are the same opening of a snapshot.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

pub(super) struct Shared {
    pub(super) store: Arc<Inner>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) segments: Vec<Segment>,
    pub(super) blobs: BTreeMap<BlobId, Arc<Blob>>,
    pub(super) journal: Arc<Journal>,
    pub(super) state: Mutex<State>,
    /// One thread hashes at a time.
    pub(super) verifying: Mutex<()>,
}

pub(super) struct State {
    /// Piece hashes of the segments that are held, as far as known.
    pub(super) pieces: Vec<Option<PieceHashes>>,
    /// Whether the segment was reported as verified.
    pub(super) reported: Vec<bool>,
    pub(super) origin_bytes: u64,
    pub(super) peer_bytes: u64,
    pub(super) published: bool,
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

    pub(super) fn covers(&self, segment: &Segment) -> bool {
        segment.extents.iter().all(|extent| {
            self.blobs
                .get(&extent.blob)
                .is_some_and(|blob| blob.covers(extent.offset, extent.offset + extent.len))
        })
    }

    pub(super) fn is_verified(&self, segment: &Segment) -> bool {
        self.blobs_of(segment).all(|blob| blob.is_verified())
    }

    fn held(&self, segment: &Segment, pieces: &PieceHashes) -> Option<Held> {
        self.covers(segment).then(|| Held {
            segment: segment.index,
            pieces: pieces.clone(),
            verified: self.is_verified(segment),
        })
    }

    pub(super) fn segment(&self, index: u32) -> Result<&Segment, StoreError> {
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
        let published = {
            let _turn = locked(&shared.store.publishing);
            Publication::new(&shared.store.layout, &shared.snapshot).check()?
        };
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
            .filter_map(|(segment, pieces)| self.0.held(segment, pieces.as_ref()?))
            .collect()
    }

    /// One of those that [`SnapshotStore::held`] lists.
    #[must_use]
    pub fn held_segment(&self, segment: u32) -> Option<Held> {
        let state = locked(&self.0.state);
        let pieces = state.pieces.get(segment as usize)?.as_ref()?;
        self.0.held(self.0.segments.get(segment as usize)?, pieces)
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
    /// filling right now make it [`StoreError::Busy`], and a disk that is nearly full [`StoreError::NearlyFull`].
    pub fn writer(&self, segment: u32) -> Result<Arc<dyn SegmentIo>, StoreError> {
        let segment = self.0.segment(segment)?;
        self.0.store.check_room(segment.len(), || {
            let blobs = self.0.blobs_of(segment);
            blobs.map(|blob| self.0.store.missing(blob)).sum()
        })?;
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

    /// Whether the bytes of a segment that was thrown away with its blob still lie here and have these piece hashes, so
    /// that they need not be brought again: slow, it reads them. For who has its writer, so that nobody changes them.
    #[must_use]
    pub fn is_left(&self, segment: u32, writer: &dyn SegmentIo, pieces: &PieceHashes) -> bool {
        let Some(segment) = self.0.segments.get(segment as usize) else {
            return false;
        };
        let lies_here = segment.extents.iter().all(|extent| {
            let blob = self.0.blobs.get(&extent.blob);
            blob.is_some_and(|blob| blob.may_have(extent.offset, extent.offset + extent.len))
        });
        lies_here
            && read_pieces(writer, self.0.snapshot.sizes.piece_bytes)
                .is_ok_and(|found| found == *pieces)
    }

    /// The bytes of a segment are all written: makes them durable and records it. Ends its writer. `from` is absent when
    /// they were left here from before.
    pub fn commit(
        &self,
        segment: u32,
        pieces: PieceHashes,
        from: impl Into<Option<Source>>,
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
            .and_then(|()| self.record(segment, pieces, from.into(), &claim));
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
        from: Option<Source>,
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
        let record = Record::held(segment, pieces.clone(), from);
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
        let candidates: Vec<&Segment> = {
            let state = locked(&self.0.state);
            let known = self.0.segments.iter().zip(&state.pieces);
            known
                .filter(|(segment, pieces)| pieces.is_none() && self.0.covers(segment))
                .map(|(segment, _)| segment)
                .collect()
        };
        let mut adopted = Vec::new();
        for batch in candidates.chunks(ADOPTED_AT_ONCE) {
            // What cannot be read was thrown away meanwhile, or says so when it is wanted.
            let read: Vec<(&Segment, PieceHashes)> = batch
                .iter()
                .filter_map(|segment| Some((*segment, self.read_pieces(segment).ok()?)))
                .collect();
            self.take_over(read, &mut adopted)?;
        }
        Ok(adopted)
    }

    fn take_over(
        &self,
        mut read: Vec<(&Segment, PieceHashes)>,
        adopted: &mut Vec<Held>,
    ) -> Result<(), StoreError> {
        let store = &self.0.store;
        let _kept = store.records.read().unwrap_or_else(PoisonError::into_inner);
        read.retain(|(segment, _)| self.0.covers(segment));
        let records: Vec<Record> = read
            .iter()
            .map(|(segment, pieces)| Record::held(segment, pieces.clone(), None))
            .collect();
        self.0.journal.append(&records)?;
        let mut state = locked(&self.0.state);
        for (segment, pieces) in read {
            let verified = self.0.is_verified(segment);
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
        Ok(())
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
