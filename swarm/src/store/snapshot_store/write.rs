//! Bringing a segment: its writer, and what makes it durable.

use std::sync::{Arc, PoisonError};

use super::SnapshotStore;
use crate::segment::{PieceHashes, Segment, SegmentIo};
use crate::store::blob::Blob;
use crate::store::error::StoreError;
use crate::store::io::{Claim, PlacedSegment, parts};
use crate::store::journal::Record;
use crate::store::{Source, disk, locked};
use crate::verify::{piece_count, read_pieces};

/// From this many files on, the whole file system is synced instead of each of them.
pub(in crate::store) const MANY_FILES: usize = 16;

impl SnapshotStore {
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

    /// Whether the bytes of a segment that was thrown away with its blob still lie here and have these piece hashes, so
    /// that they need not be brought again: slow, it reads them. For who has its writer, so that nobody changes them.
    #[must_use]
    pub fn is_left(&self, segment: u32, writer: &dyn SegmentIo, pieces: &PieceHashes) -> bool {
        self.all_extents(segment, Blob::may_have)
            && read_pieces(writer, self.0.snapshot.sizes.piece_bytes)
                .is_ok_and(|found| found == *pieces)
    }

    /// Whether it is worth asking [`Self::is_left`]. Answers from memory, without waiting.
    #[must_use]
    pub fn may_be_left(&self, segment: u32) -> bool {
        self.all_extents(segment, Blob::may_have_now)
    }

    fn all_extents(&self, segment: u32, have: impl Fn(&Blob, u64, u64) -> bool) -> bool {
        let segment = self.0.segments.get(segment as usize);
        segment.is_some_and(|segment| {
            segment.extents.iter().all(|extent| {
                let blob = self.0.blobs.get(&extent.blob);
                blob.is_some_and(|blob| have(blob, extent.offset, extent.offset + extent.len))
            })
        })
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
        claim: &Arc<Claim>,
    ) -> Result<(), StoreError> {
        let store = &self.0.store;
        let _kept = store.records.read().unwrap_or_else(PoisonError::into_inner);
        let complete = segment.extents.iter().all(|extent| {
            self.0.blobs.get(&extent.blob).is_some_and(|blob| {
                claim.completes(blob, extent.offset, extent.offset + extent.len)
            })
        });
        if !complete || claim.has_ended() {
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
        let mut records = vec![record];
        records.extend(claim.partial().filter_map(|blob| {
            let checkpoint = locked(&blob.prefix).checkpoint(claim.id)?;
            Some(Record::hashed(blob.id, checkpoint))
        }));
        self.0.journal.append(&records)?;
        locked(&store.claims).fulfil(claim);
        let mut state = locked(&self.0.state);
        state.origin_bytes += origin;
        state.peer_bytes += peer;
        state.hold(segment.index, pieces, false);
        Ok(())
    }

    fn read_claimed(
        &self,
        segment: &Segment,
        claim: &Arc<Claim>,
    ) -> Result<PieceHashes, StoreError> {
        let placed = self.placed(segment).with_claim(claim);
        read_pieces(&placed, self.0.snapshot.sizes.piece_bytes)
            .map_err(|error| StoreError::io("read", &self.0.store.layout.partials(), error))
    }
}
