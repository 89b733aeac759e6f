//! The hub that everything comes from in the end: resolving a revision, listing its files, fetching ranges of bytes.
//!
//! The rules of the protocol that shape this module: a revision is resolved to a commit once; every request for bytes
//! has a bounded range and refuses compression; redirects are followed by hand, so that the access token goes to the
//! hub's own origin only; signed URLs are remembered and asked for again when they expire.

mod error;
mod fetch;
mod headers;
mod http;
mod links;
mod listing;
mod patterns;
mod retry;
mod sink;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::coordination::OriginAccess;
use crate::segment::{PieceHashes, Segment, SegmentIo};
use crate::snapshot::{Snapshot, SnapshotFile};

pub use error::OriginError;
pub use patterns::matches;

/// A client of one hub with one access token. Clones share connections and remembered redirects.
#[derive(Clone)]
pub struct OriginClient {
    inner: Arc<Inner>,
}

struct Inner {
    http: http::Http,
    links: links::Links,
}

impl fmt::Debug for OriginClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginClient")
            .field("endpoint", &self.inner.http.endpoint())
            .finish_non_exhaustive()
    }
}

impl OriginClient {
    /// A client for `access`. Does not speak to the hub yet.
    pub fn new(access: &OriginAccess) -> Result<Self, OriginError> {
        Ok(Self {
            inner: Arc::new(Inner {
                http: http::Http::new(access)?,
                links: links::Links::default(),
            }),
        })
    }

    /// Asks for nothing but an answer, without the token: the HTTP status, and the header `Date` if there is one.
    pub async fn knock(&self) -> Result<(u16, Option<String>), OriginError> {
        self.inner.http.knock().await
    }

    /// Resolves a branch, tag or commit to a commit: 40 lower-case hex digits.
    pub async fn resolve(&self, repository: &str, revision: &str) -> Result<String, OriginError> {
        listing::resolve(&self.inner.http, repository, revision).await
    }

    /// All files of a commit, sorted bytewise by path.
    pub async fn tree(
        &self,
        repository: &str,
        commit: &str,
    ) -> Result<Vec<SnapshotFile>, OriginError> {
        listing::tree(&self.inner.http, repository, commit).await
    }

    /// Checks that files may be read and not only listed, by asking for one byte of the smallest that has any: a gated
    /// repository lists its files to everybody.
    pub async fn readable(
        &self,
        repository: &str,
        commit: &str,
        files: &[SnapshotFile],
    ) -> Result<(), OriginError> {
        let smallest = files
            .iter()
            .filter(|file| file.size > 0)
            .min_by_key(|file| file.size);
        match smallest {
            Some(file) => listing::readable(&self.inner.http, repository, commit, &file.path).await,
            None => Ok(()),
        }
    }

    /// Fetches one segment, writes it to `io` and returns the hash of each piece.
    ///
    /// `on_bytes` is called with the number of payload bytes of each chunk that arrives. The call may be cancelled by
    /// dropping the future: nothing is written to `io` afterwards, and what was written until then is of no use.
    pub async fn fetch_segment(
        &self,
        snapshot: &Snapshot,
        segment: &Segment,
        io: Arc<dyn SegmentIo>,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<PieceHashes, OriginError> {
        let fetch = fetch::Fetch {
            http: &self.inner.http,
            links: &self.inner.links,
            snapshot,
            segment,
            on_bytes,
        };
        fetch.run(io).await
    }
}
