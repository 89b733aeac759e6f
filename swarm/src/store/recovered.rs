//! What the journals say of a blob at the start of the program.

use std::collections::HashMap;

use super::journal::Record;
use super::ranges::Ranges;
use crate::segment::BlobId;
use crate::verify::Checkpoint;

/// What a journal says of one blob.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// What of it is durable.
    pub(super) durable: Ranges,
    /// How far that was hashed.
    pub(super) hashed: Option<Checkpoint>,
}

/// What one journal's records say of each blob. How far one was hashed is believed only where the same journal has the
/// bytes: these records are dropped in one step.
pub(super) fn recover(records: &[Record]) -> HashMap<BlobId, Recovered> {
    let mut found: HashMap<BlobId, Recovered> = HashMap::new();
    for extent in records.iter().flat_map(Record::extents) {
        let blob = found.entry(extent.blob).or_default();
        blob.durable
            .insert(extent.offset, extent.offset + extent.len);
    }
    for record in records {
        if let Record::Hashed { blob, checkpoint } = record
            && let Some(blob) = blob.parse().ok().and_then(|id: BlobId| found.get_mut(&id))
            && blob.durable.covers(0, checkpoint.position)
        {
            blob.keep(checkpoint.clone());
        }
    }
    found
}

impl Recovered {
    /// Adds what another journal says.
    pub(super) fn merge(&mut self, other: Self) {
        self.durable.add(&other.durable);
        if let Some(checkpoint) = other.hashed {
            self.keep(checkpoint);
        }
    }

    /// The furthest one counts.
    fn keep(&mut self, checkpoint: Checkpoint) {
        let known = self.hashed.as_ref();
        if known.is_none_or(|known| known.position < checkpoint.position) {
            self.hashed = Some(checkpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Recovered, recover};
    use crate::segment::{BlobId, Extent, PieceHashes, Segment};
    use crate::store::journal::Record;
    use crate::verify::Checkpoint;

    const BLOB: BlobId = BlobId::Git([7; 20]);

    /// Ten bytes are held.
    fn held(index: u32) -> Record {
        let extents = vec![Extent {
            blob: BLOB,
            offset: u64::from(index) * 10,
            len: 10,
        }];
        Record::held(&Segment { index, extents }, PieceHashes::new(vec![]), None)
    }

    fn hashed(position: u64) -> Record {
        let checkpoint = serde_json::json!({ "position": position, "state": "00" });
        Record::hashed(BLOB, serde_json::from_value(checkpoint).unwrap())
    }

    fn position(said: &Recovered) -> Option<u64> {
        said.hashed
            .as_ref()
            .map(|Checkpoint { position, .. }| *position)
    }

    #[test]
    fn how_far_a_blob_was_hashed_is_believed_where_its_bytes_are() {
        let mut one = recover(&[held(0), hashed(10), hashed(20), held(2)]);
        let mut said = one.remove(&BLOB).unwrap();
        assert_eq!(position(&said), Some(10));
        let mut other = recover(&[held(1), hashed(20)]);
        said.merge(other.remove(&BLOB).unwrap());
        assert_eq!(position(&said), Some(10));
        assert!(said.durable.covers(0, 30));
        let mut third = recover(&[held(0), held(1), hashed(20), hashed(10)]);
        said.merge(third.remove(&BLOB).unwrap());
        assert_eq!(position(&said), Some(20));
        assert!(recover(&[hashed(20)]).is_empty());
    }
}
