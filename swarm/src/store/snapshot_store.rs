//! What one snapshot sees of the store: its segments, what of them is held, and the way to a whole model.

mod adopt;
mod open;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use super::blob::Blob;
use super::error::StoreError;
use super::io::{PlacedSegment, parts};
use super::journal::Journal;
use super::publish::Publication;
use super::{Inner, locked};
use crate::coordination::Held;
use crate::segment::{BlobId, Extent, PieceHashes, Segment, SegmentIo};
use crate::snapshot::Snapshot;
use crate::verify::read_pieces;

pub(super) use write::MANY_FILES;

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
    /// Those of no bytes, which are in no segment.
    pub(super) empty: Vec<Arc<Blob>>,
    pub(super) journal: Arc<Journal>,
    pub(super) state: Mutex<State>,
    /// One thread hashes at a time.
    pub(super) verifying: Mutex<()>,
}

pub(super) struct State {
    /// Piece hashes of the segments that are held, as far as known.
    pub(super) pieces: Vec<Option<PieceHashes>>,
    /// Segments that are held and were not reported as verified.
    pub(super) unreported: BTreeSet<u32>,
    /// The store's number of losses when all held segments were last looked at.
    pub(super) losses: u64,
    pub(super) origin_bytes: u64,
    pub(super) peer_bytes: u64,
    pub(super) published: bool,
}

impl State {
    /// The segments that are held.
    pub(super) fn held(&self) -> impl Iterator<Item = u32> {
        let known = (0..).zip(&self.pieces);
        known.filter_map(|(index, pieces)| pieces.is_some().then_some(index))
    }

    pub(super) fn holds(&self, segment: u32) -> bool {
        let pieces = self.pieces.get(segment as usize);
        pieces.is_some_and(Option::is_some)
    }

    /// A segment is held from now on.
    pub(super) fn hold(&mut self, segment: u32, pieces: PieceHashes, reported: bool) {
        if let Some(known) = self.pieces.get_mut(segment as usize) {
            *known = Some(pieces);
            if reported {
                self.unreported.remove(&segment);
            } else {
                self.unreported.insert(segment);
            }
        }
    }

    /// It is not held any more.
    pub(super) fn forget(&mut self, segment: u32) {
        if let Some(known) = self.pieces.get_mut(segment as usize) {
            *known = None;
        }
        self.unreported.remove(&segment);
    }
}

impl Shared {
    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(super) fn blobs_of<'a>(
        &'a self,
        segment: &'a Segment,
    ) -> impl Iterator<Item = &'a Arc<Blob>> {
        segment
            .extents
            .iter()
            .filter_map(|extent| self.blobs.get(&extent.blob))
    }

    pub(super) fn covers(&self, segment: &Segment) -> bool {
        self.missing(segment).is_none()
    }

    /// The first extent of a segment that is not durable here.
    pub(super) fn missing<'a>(&self, segment: &'a Segment) -> Option<&'a Extent> {
        segment.extents.iter().find(|extent| {
            let blob = self.blobs.get(&extent.blob);
            !blob.is_some_and(|blob| blob.covers(extent.offset, extent.offset + extent.len))
        })
    }

    /// Changes when bytes of its blobs are thrown away.
    pub(super) fn generation(&self, segment: &Segment) -> u64 {
        self.blobs_of(segment)
            .map(|blob| locked(&blob.state).generation)
            .sum()
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

    /// Forgets what the pieces of segments with a part of this blob hash to: its bytes may be others than before.
    pub(super) fn forget_pieces(&self, blob: &BlobId) {
        let mut state = locked(&self.state);
        for segment in &self.segments {
            if segment.extents.iter().any(|extent| extent.blob == *blob) {
                state.forget(segment.index);
            }
        }
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
        let known = locked(&self.0.state).holds(segment);
        known && self.is_here(segment)
    }

    /// Whether all bytes of a segment are durable here, whoever brought them: [`SnapshotStore::adopt`] makes it one of those
    /// that are held.
    #[must_use]
    pub fn is_here(&self, segment: u32) -> bool {
        let segment = self.0.segments.get(segment as usize);
        segment.is_some_and(|segment| self.0.covers(segment))
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
