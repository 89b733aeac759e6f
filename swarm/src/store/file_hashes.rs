//! Whole published files for other BitTorrent clients: their bytes, and what their pieces hash to.
//!
//! A content is read for its piece hashes once; they are kept in `pieces/<etag>`, one line with a checksum. What is there is
//! not right is computed anew.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::io::{PlacedSegment, parts};
use super::journal::checksum;
use super::{SnapshotStore, disk};
use crate::metainfo::file::FileHashes;
use crate::segment::{BlobId, Extent, Segment, SegmentIo};

impl SnapshotStore {
    /// Reads a whole file of a published snapshot.
    #[must_use]
    pub fn content(&self, id: &BlobId) -> Option<Arc<dyn SegmentIo>> {
        let blob = self.0.blobs.get(id).filter(|blob| blob.is_verified())?;
        if blob.size == 0 || !self.published() {
            return None;
        }
        let whole = Segment {
            index: 0,
            extents: vec![Extent {
                blob: *id,
                offset: 0,
                len: blob.size,
            }],
        };
        let parts = parts(&whole, &self.0.blobs);
        Some(Arc::new(PlacedSegment::reader(
            &whole,
            parts,
            &self.0.store.files,
        )))
    }

    /// The piece hashes of a file of a published snapshot, read from the whole of it unless they are known. `None` when it is
    /// not there, is empty, or `stop` came first. Slow: off the hot path.
    pub fn file_hashes(
        &self,
        id: &BlobId,
        stop: &CancellationToken,
    ) -> Result<Option<FileHashes>, StoreError> {
        let Some(content) = self.content(id) else {
            return Ok(None);
        };
        let layout = &self.0.store.layout;
        let path = layout.pieces(id);
        if let Some(known) = known(&path).filter(|known| known.fit(content.size())) {
            return Ok(Some(known));
        }
        let read = FileHashes::read(&*content, || stop.is_cancelled());
        let read = read.map_err(|error| StoreError::io("read", &layout.blob(id), error))?;
        let Some(hashes) = read else {
            return Ok(None);
        };
        // Strings and numbers only: this cannot fail, and an empty line would only be computed anew.
        let text = serde_json::to_string(&hashes).unwrap_or_default();
        let line = format!("{} {text}\n", checksum(&text));
        let staged = layout.tmp().join(format!("pieces-{}", id.etag()));
        disk::make_directory(&layout.all_pieces())?;
        disk::write_file(&staged, line.as_bytes(), disk::LISTING)?;
        disk::rename(&staged, &path)?;
        disk::sync_directory(&layout.all_pieces())?;
        Ok(Some(hashes))
    }
}

fn known(path: &Path) -> Option<FileHashes> {
    let line = fs::read_to_string(path).ok()?;
    let (sum, text) = line.strip_suffix('\n')?.split_once(' ')?;
    (sum == checksum(text)).then(|| serde_json::from_str(text).ok())?
}
