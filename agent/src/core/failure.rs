//! What a failed step or transfer means: whose fault it is, what to tell people and the coordinator.

use std::io;
use std::time::Duration;

use modelcache_crds::quantity::human_bytes;
use modelcache_swarm::engine::TakeError;
use modelcache_swarm::origin::OriginError;
use modelcache_swarm::store::StoreError;

use crate::reasons;

/// A transfer that did not bring its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For people.
    pub message: String,
    /// Whose fault it is.
    pub blame: Blame,
}

/// Whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// This node's disk: no other transfer would do better.
    Disk {
        /// One of [`reasons`].
        reason: &'static str,
    },
    /// The hub.
    Origin {
        /// One of [`reasons`].
        reason: &'static str,
        /// HTTP 429.
        rate_limited: bool,
        /// How long the hub wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// Another node, or nobody: the coordinator finds another way.
    Chance,
}

impl Failure {
    pub(super) fn chance(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            blame: Blame::Chance,
        }
    }
}

impl From<OriginError> for Failure {
    fn from(error: OriginError) -> Self {
        let message = error.to_string();
        let mut limited = false;
        let mut wait = None;
        let reason = match error {
            OriginError::Io { source, .. } => {
                return Self {
                    message,
                    blame: of_io(&source),
                };
            }
            OriginError::RateLimited { retry_after, .. } => {
                limited = true;
                wait = retry_after;
                reasons::RATE_LIMITED
            }
            OriginError::RepositoryNotFound { .. } => reasons::REPOSITORY_NOT_FOUND,
            OriginError::RevisionNotFound { .. } => reasons::REVISION_NOT_FOUND,
            OriginError::Gated { .. } => reasons::GATED,
            OriginError::Unauthorized { .. } => reasons::UNAUTHORIZED,
            OriginError::Certificate { .. } => reasons::ORIGIN_CERTIFICATE,
            OriginError::UnsafePath { .. } => reasons::UNSAFE_PATH,
            OriginError::Config { .. }
            | OriginError::EntryNotFound { .. }
            | OriginError::Disabled { .. }
            | OriginError::Unavailable { .. }
            | OriginError::Protocol { .. }
            | OriginError::TooLarge { .. } => reasons::ORIGIN_UNAVAILABLE,
        };
        Self {
            message,
            blame: Blame::Origin {
                reason,
                rate_limited: limited,
                retry_after: wait,
            },
        }
    }
}

impl From<TakeError> for Failure {
    fn from(error: TakeError) -> Self {
        let blame = match &error {
            TakeError::Io { source, .. } => of_io(source),
            _ => Blame::Chance,
        };
        Self {
            message: error.to_string(),
            blame,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let blame = match &error {
            StoreError::Busy { .. }
            | StoreError::Superseded { .. }
            | StoreError::NoSuchSegment { .. }
            | StoreError::BadPieces { .. } => Blame::Chance,
            _ => Blame::Disk {
                reason: of_store(&error),
            },
        };
        Self {
            message: words_of_store(&error),
            blame,
        }
    }
}

/// The reason that a failure of the store is told under.
pub(super) fn of_store(error: &StoreError) -> &'static str {
    if error.is_no_space() {
        return reasons::NO_SPACE;
    }
    match error {
        StoreError::BadName { .. } | StoreError::SizeConflict { .. } => reasons::INVALID_SNAPSHOT,
        _ => reasons::DISK_ERROR,
    }
}

/// A failure of the store for people. The store's own words count bytes: how many terabytes those are is hard to see.
pub(super) fn words_of_store(error: &StoreError) -> String {
    let human = |bytes: u64| human_bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    match error {
        StoreError::NoSpace {
            snapshot,
            root,
            needed,
            free,
        } => format!(
            "snapshot {snapshot} needs {} more below {} but only {} are free for models, {} too few ({needed} bytes \
             needed, {free} free): free space there or take the model off this node's pool",
            human(*needed),
            root.display(),
            human(*free),
            human(needed.saturating_sub(*free)),
        ),
        StoreError::NearlyFull {
            root,
            free,
            reserve,
        } => format!(
            "only {} are free below {}, and the last {} are left to the rest of the node: free space there",
            human(*free),
            root.display(),
            human(*reserve),
        ),
        error => error.to_string(),
    }
}

/// An error of the operating system is the disk's; any other says that the segment was given to somebody else meanwhile.
fn of_io(error: &io::Error) -> Blame {
    if error.raw_os_error().is_none() {
        return Blame::Chance;
    }
    Blame::Disk {
        reason: match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => reasons::NO_SPACE,
            _ => reasons::DISK_ERROR,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_this_nodes_and_a_lost_writer_is_nobodys() {
        let io = |source| {
            Failure::from(OriginError::Io {
                snapshot: "s".to_owned(),
                segment: 1,
                source,
            })
            .blame
        };
        // ENOSPC and EIO.
        assert_eq!(
            io(io::Error::from_raw_os_error(28)),
            Blame::Disk {
                reason: reasons::NO_SPACE
            }
        );
        assert_eq!(
            io(io::Error::from_raw_os_error(5)),
            Blame::Disk {
                reason: reasons::DISK_ERROR
            }
        );
        assert_eq!(
            io(io::Error::other("given to another writer")),
            Blame::Chance
        );
    }

    #[test]
    fn what_does_not_fit_is_told_in_sizes_that_people_read_and_in_bytes() {
        let error = |needed, free| {
            words_of_store(&StoreError::NoSpace {
                snapshot: "big-1".to_owned(),
                root: "/cache".into(),
                needed,
                free,
            })
        };
        assert_eq!(
            error(1_200_000_004_096, 98_300_000_000),
            "snapshot big-1 needs 1.2 TB more below /cache but only 98 GB are free for models, 1.1 TB too few \
             (1200000004096 bytes needed, 98300000000 free): free space there or take the model off this node's pool"
        );
        // By a hair: what is missing is told, not two sizes that look the same.
        assert!(error(1_000_000_000_000, 999_999_000_000).contains(", 1.0 MB too few ("));
        // The disk was fuller than it said.
        assert!(error(5, 9).contains(", 0 B too few ("));
        let nearly = StoreError::NearlyFull {
            root: "/cache".into(),
            free: 1 << 20,
            reserve: 32 << 20,
        };
        assert_eq!(
            words_of_store(&nearly),
            "only 1.0 MB are free below /cache, and the last 34 MB are left to the rest of the node: free space there"
        );
    }

    #[test]
    fn the_hub_that_asks_to_wait_is_told_as_such() {
        let wait = Some(Duration::from_secs(7));
        let failure = Failure::from(OriginError::RateLimited {
            retry_after: wait,
            url: "http://hub".to_owned(),
        });
        assert_eq!(
            failure.blame,
            Blame::Origin {
                reason: reasons::RATE_LIMITED,
                rate_limited: true,
                retry_after: wait
            }
        );
    }
}
