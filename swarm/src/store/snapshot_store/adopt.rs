//! Segments that are here because another snapshot brought their bytes.

use std::sync::PoisonError;

use super::SnapshotStore;
use crate::coordination::Held;
use crate::segment::{PieceHashes, Segment};
use crate::store::error::StoreError;
use crate::store::journal::Record;
use crate::store::locked;

/// Segments whose records are made durable together.
const ADOPTED_AT_ONCE: usize = 64;

impl SnapshotStore {
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
            let read: Vec<_> = batch
                .iter()
                .filter_map(|segment| {
                    let generation = self.0.generation(segment);
                    Some((*segment, self.read_pieces(segment).ok()?, generation))
                })
                .collect();
            self.take_over(read, &mut adopted)?;
        }
        Ok(adopted)
    }

    pub(in crate::store) fn take_over(
        &self,
        mut read: Vec<(&Segment, PieceHashes, u64)>,
        adopted: &mut Vec<Held>,
    ) -> Result<(), StoreError> {
        let store = &self.0.store;
        let _kept = store.records.read().unwrap_or_else(PoisonError::into_inner);
        read.retain(|(segment, _, generation)| {
            self.0.covers(segment) && self.0.generation(segment) == *generation
        });
        let records: Vec<Record> = read
            .iter()
            .map(|(segment, pieces, _)| Record::held(segment, pieces.clone(), None))
            .collect();
        self.0.journal.append(&records)?;
        let mut state = locked(&self.0.state);
        for (segment, pieces, _) in read {
            let verified = self.0.is_verified(segment);
            state.hold(segment.index, pieces.clone(), verified);
            adopted.push(Held {
                segment: segment.index,
                pieces,
                verified,
            });
        }
        Ok(())
    }
}
