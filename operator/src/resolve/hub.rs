//! The hub as the resolver needs it.

use futures_util::future::BoxFuture;
use modelcache_swarm::coordination::OriginAccess;
use modelcache_swarm::origin::{OriginClient, OriginError};
use modelcache_swarm::snapshot::SnapshotFile;

/// A commit and all files of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// 40 hex digits.
    pub commit: String,
    /// Sorted by path.
    pub files: Vec<SnapshotFile>,
}

/// Lists repositories.
pub trait Hub: Send + Sync + 'static {
    /// The files of `repository` at `commit`, or, if that is not known yet, at the commit that `revision` is now.
    fn list<'a>(
        &'a self,
        access: &'a OriginAccess,
        repository: &'a str,
        revision: &'a str,
        commit: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Listing, OriginError>>;
}

/// A real hub.
pub struct LiveHub;

impl Hub for LiveHub {
    fn list<'a>(
        &'a self,
        access: &'a OriginAccess,
        repository: &'a str,
        revision: &'a str,
        commit: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Listing, OriginError>> {
        Box::pin(async move {
            let client = OriginClient::new(access)?;
            let commit = match commit {
                Some(commit) => commit.to_owned(),
                None => client.resolve(repository, revision).await?,
            };
            let files = client.tree(repository, &commit).await?;
            client.readable(repository, &commit, &files).await?;
            Ok(Listing { commit, files })
        })
    }
}
