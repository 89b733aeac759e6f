//! Opening a snapshot: what its journal and the disk say of it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::{Shared, SnapshotStore, State};
use crate::plan;
use crate::snapshot::Snapshot;
use crate::store::blob::Blob;
use crate::store::error::StoreError;
use crate::store::journal::Record;
use crate::store::publish::Publication;
use crate::store::{Inner, disk, locked};
use crate::verify::{BlobHasher, piece_count};

impl SnapshotStore {
    pub(in crate::store) fn open(
        store: Arc<Inner>,
        snapshot: Arc<Snapshot>,
    ) -> Result<Self, StoreError> {
        let segments = plan::cut(&snapshot);
        let blobs = store.blobs(&snapshot)?;
        let (journal, records) = store.journal(&snapshot.name)?;
        let mut state = State {
            pieces: vec![None; segments.len()],
            unreported: BTreeSet::new(),
            losses: store.losses.load(Ordering::Acquire),
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
            empty: blobs
                .values()
                .filter(|blob| blob.size == 0)
                .cloned()
                .collect(),
            blobs,
            journal,
            state: Mutex::new(state),
            verifying: Mutex::default(),
        };
        for blob in &shared.empty {
            make_empty(&shared.store, blob)?;
        }
        let published = {
            let _turn = locked(&shared.store.publishing);
            Publication::new(&shared.store.layout, &shared.snapshot).check()?
        };
        {
            let mut state = locked(&shared.state);
            state.published = published;
            for segment in &shared.segments {
                if !shared.covers(segment) {
                    state.forget(segment.index);
                } else if state.holds(segment.index) && !shared.is_verified(segment) {
                    state.unreported.insert(segment.index);
                }
            }
        }
        Ok(Self(Arc::new(shared)))
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
