//! Why the tracker does not answer.

use thiserror::Error;

use super::query::QueryError;

/// Why an announce or a scrape is refused. Its text is the `failure reason` that the client shows.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// It is not what BEP 3 or BEP 48 says.
    #[error("malformed: {0}")]
    Malformed(#[from] QueryError),
    /// Its signature is not written as members write it, or its address is one that nobody can dial.
    #[error("malformed: the signature or the address in it is not as members write it")]
    Unsound,
    /// It is not signed, and must be.
    #[error(
        "this tracker answers members of the cluster only: the announce must be signed with the cluster's key"
    )]
    Missing,
    /// It is signed with a key that is not valid here.
    #[error("signed with a key that is not valid here: use the cluster's current key")]
    UnknownKey,
    /// Its signature does not fit.
    #[error("the signature does not fit what was asked")]
    Wrong,
    /// Its time is too far from this machine's.
    #[error("the time of the announce is too far from the tracker's: set the clock (NTP)")]
    Stale,
    /// It was heard before.
    #[error("this very announce was heard before")]
    Replayed,
    /// It may have been heard before the tracker started, or before it had to forget.
    #[error("this announce may have been heard before: announce again in some seconds")]
    PossiblyReplayed,
    /// It is about a torrent that is not tracked here.
    #[error("no torrent of this info hash is tracked here")]
    Unregistered,
    /// Its source has asked too much.
    #[error("too many requests: ask more slowly")]
    TooMany,
    /// There is no room for one more peer.
    #[error("there is no room for one more peer: announce again later")]
    Full,
}

impl Refusal {
    /// The names of all of them in metrics.
    pub const NAMES: [&str; 10] = [
        "malformed",
        "missing",
        "unknown_key",
        "wrong",
        "stale",
        "replayed",
        "possibly_replayed",
        "unregistered",
        "too_many",
        "full",
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Unsound => "malformed",
            Self::Missing => "missing",
            Self::UnknownKey => "unknown_key",
            Self::Wrong => "wrong",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::PossiblyReplayed => "possibly_replayed",
            Self::Unregistered => "unregistered",
            Self::TooMany => "too_many",
            Self::Full => "full",
        }
    }
}
