//! Cutting a snapshot into segments: pure, and the same on every node.

use crate::segment::{BlobId, Extent, Segment};
use crate::snapshot::{SegmentSizes, Snapshot};

/// Most extents in one segment: bounds the files that one durable write has to sync.
pub const MAX_EXTENTS: usize = 512;

/// Smallest segment, in bytes: a smaller one costs more in messages than it saves in waiting.
pub const MIN_SEGMENT: u64 = 256 << 10;
const MAX_SEGMENT: u64 = 64 << 20;
const FEWEST_SEGMENTS: u64 = 362;
const MIN_PIECE: u64 = 64 << 10;

/// Sizes for a model of `total` bytes: 362 to 724 segments of between 256 KiB and 64 MiB each, and fewer or more of them only
/// where that range does not allow it; eight pieces a segment.
///
/// A node can give away what it has only by whole segments, so with fewer the last ones are on their way for longer, and
/// with more the messages about them cost more than that saves.
#[must_use]
pub fn sizes(total: u64) -> SegmentSizes {
    let wanted = (total / FEWEST_SEGMENTS).clamp(MIN_SEGMENT, MAX_SEGMENT);
    let segment_bytes = 1 << wanted.ilog2();
    let piece = (segment_bytes / 8).max(MIN_PIECE);
    SegmentSizes {
        segment_bytes,
        piece_bytes: u32::try_from(piece).unwrap_or(u32::MAX),
    }
}

/// The segments of a snapshot.
///
/// A blob of at least a segment's size is cut alone at multiples of it; smaller ones are packed together in the order
/// in which they are listed. Every byte of every distinct blob is in exactly one segment; empty blobs are in none.
#[must_use]
pub fn cut(snapshot: &Snapshot) -> Vec<Segment> {
    let largest = snapshot.sizes.segment_bytes.max(1);
    let mut segments = Segments::default();
    let mut pack = Vec::new();
    let mut packed = 0;
    for (blob, size) in snapshot.blobs() {
        if size >= largest {
            segments.push_cut(blob, size, largest);
        } else if size > 0 {
            if packed + size > largest || pack.len() == MAX_EXTENTS {
                segments.push(std::mem::take(&mut pack));
                packed = 0;
            }
            packed += size;
            pack.push(Extent {
                blob,
                offset: 0,
                len: size,
            });
        }
    }
    segments.push(pack);
    segments.0
}

#[derive(Default)]
struct Segments(Vec<Segment>);

impl Segments {
    fn push(&mut self, extents: Vec<Extent>) {
        if !extents.is_empty() {
            let index = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
            self.0.push(Segment { index, extents });
        }
    }

    fn push_cut(&mut self, blob: BlobId, size: u64, largest: u64) {
        let mut offset = 0;
        while offset < size {
            let len = largest.min(size - offset);
            self.push(vec![Extent { blob, offset, len }]);
            offset += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{MAX_EXTENTS, cut, sizes};
    use crate::segment::BlobId;
    use crate::snapshot::{SegmentSizes, Snapshot, SnapshotFile};

    fn snapshot(segment_bytes: u64, files: &[(u16, u64)]) -> Snapshot {
        let mut size_of = BTreeMap::new();
        let files = files
            .iter()
            .enumerate()
            .map(|(number, (content, size))| {
                let size = *size_of.entry(*content).or_insert(*size);
                let mut digest = [0; 20];
                digest[..2].copy_from_slice(&content.to_be_bytes());
                SnapshotFile {
                    path: format!("{number:06}"),
                    size,
                    blob: BlobId::Git(digest),
                    git_oid: hex::encode(digest),
                }
            })
            .collect();
        Snapshot {
            name: "s".into(),
            repository: "a/b".into(),
            revision: "main".into(),
            commit: "0".repeat(40),
            files,
            sizes: SegmentSizes {
                segment_bytes,
                piece_bytes: 16 << 10,
            },
        }
    }

    #[test]
    fn sizes_follow_the_model() {
        for (total, segment, piece) in [
            (0, 256 << 10, 64 << 10),
            (180 << 20, 256 << 10, 64 << 10),
            (181 << 20, 512 << 10, 64 << 10),
            (1 << 30, 2 << 20, 256 << 10),
            (16 << 30, 32 << 20, 4 << 20),
            (23 << 30, 64 << 20, 8 << 20),
            (800 << 30, 64 << 20, 8 << 20),
            (u64::MAX, 64 << 20, 8 << 20),
        ] {
            let sizes = sizes(total);
            assert_eq!(
                (sizes.segment_bytes, sizes.piece_bytes),
                (segment, piece),
                "{total}"
            );
        }
    }

    #[test]
    fn small_files_are_packed_in_order_and_large_ones_cut_alone() {
        let plan = cut(&snapshot(
            1000,
            &[
                (1, 400),
                (2, 2500),
                (3, 0),
                (1, 400),
                (4, 500),
                (5, 200),
                (6, 1000),
            ],
        ));
        let shape: Vec<Vec<(u64, u64)>> = plan
            .iter()
            .map(|s| s.extents.iter().map(|e| (e.offset, e.len)).collect())
            .collect();
        assert_eq!(
            shape,
            vec![
                vec![(0, 1000)],
                vec![(1000, 1000)],
                vec![(2000, 500)],
                vec![(0, 400), (0, 500)],
                vec![(0, 1000)],
                vec![(0, 200)],
            ]
        );
    }

    #[test]
    fn no_segment_holds_more_files_than_allowed() {
        let files: Vec<(u16, u64)> = (0..3000).map(|n| (n, 7)).collect();
        let plan = cut(&snapshot(1 << 20, &files));
        assert_eq!(plan.len(), 3000_usize.div_ceil(MAX_EXTENTS));
        assert!(plan.iter().all(|s| s.extents.len() <= MAX_EXTENTS));
    }

    proptest! {
        #[test]
        fn every_byte_is_in_exactly_one_segment(
            segment_bytes in 1_u64..5000,
            files in prop::collection::vec((0_u16..60, 0_u64..20_000), 0..200),
        ) {
            let snapshot = snapshot(segment_bytes, &files);
            let plan = cut(&snapshot);
            prop_assert_eq!(&plan, &cut(&snapshot));
            let mut ranges: BTreeMap<BlobId, Vec<(u64, u64)>> = BTreeMap::new();
            for (index, segment) in plan.iter().enumerate() {
                prop_assert_eq!(segment.index as usize, index);
                prop_assert!(segment.len() <= segment_bytes && !segment.is_empty());
                prop_assert!(segment.extents.len() <= MAX_EXTENTS);
                for extent in &segment.extents {
                    prop_assert!(extent.len > 0 && extent.offset % segment_bytes == 0);
                    ranges.entry(extent.blob).or_default().push((extent.offset, extent.len));
                }
            }
            for (blob, size) in snapshot.blobs() {
                let mut end = 0;
                let mut parts = ranges.remove(&blob).unwrap_or_default();
                parts.sort_unstable();
                for (offset, len) in parts {
                    prop_assert_eq!(offset, end);
                    end += len;
                }
                prop_assert_eq!(end, size);
            }
            prop_assert!(ranges.is_empty());
        }
    }
}
