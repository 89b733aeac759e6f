//! The hub that everything comes from in the end: resolving a revision, listing its files, fetching ranges of bytes.
//!
//! The rules of the protocol that shape this module: a revision is resolved to a commit once; every request for bytes
//! has a bounded range and refuses compression; redirects are followed by hand, so that the access token goes to the
//! hub's own origin only; signed URLs are remembered and asked for again when they expire.

use std::sync::Arc;

use crate::coordination::OriginAccess;
use crate::segment::{PieceHashes, Segment, SegmentIo};
use crate::snapshot::{Snapshot, SnapshotFile};

mod error;

pub use error::OriginError;

/// A client of one hub with one access token.
#[derive(Clone, Debug)]
pub struct OriginClient {}

impl OriginClient {
    /// A client for `access`. Does not speak to the hub yet.
    pub fn new(_access: &OriginAccess) -> Result<Self, OriginError> {
        Ok(Self {})
    }

    /// Resolves a branch, tag or commit to a commit: 40 lower-case hex digits.
    pub async fn resolve(&self, _repository: &str, _revision: &str) -> Result<String, OriginError> {
        todo!()
    }

    /// All files of a commit, sorted bytewise by path.
    pub async fn tree(
        &self,
        _repository: &str,
        _commit: &str,
    ) -> Result<Vec<SnapshotFile>, OriginError> {
        todo!()
    }

    /// Fetches one segment, writes it to `io` and returns the hash of each piece.
    ///
    /// `on_bytes` is called with the number of payload bytes of each chunk that arrives. The call may be cancelled by
    /// dropping the future; what was written until then is of no use.
    pub async fn fetch_segment(
        &self,
        _snapshot: &Snapshot,
        _segment: &Segment,
        _io: Arc<dyn SegmentIo>,
        _on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<PieceHashes, OriginError> {
        todo!()
    }
}

/// Whether the user's patterns choose this path: `fnmatch` patterns like those of the official client, where `*`
/// crosses `/` and a pattern that ends in `/` means everything below it. No `include` pattern means every file.
#[must_use]
pub fn matches(_include: &[String], _exclude: &[String], _path: &str) -> bool {
    todo!()
}
