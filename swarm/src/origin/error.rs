//! What can go wrong with the origin, in words for the person who has to do something about it.

use std::time::Duration;

use thiserror::Error;

/// Why the origin did not give what it was asked for. No variant carries the token or the query of a signed URL.
#[derive(Debug, Error)]
pub enum OriginError {
    /// The endpoint, the certificate bundle or the token cannot be used as written.
    #[error("the origin cannot be used as configured: {message}")]
    Config {
        /// What is wrong and what to write instead.
        message: String,
    },
    /// The repository does not exist, or is private and the hub hides it.
    #[error(
        "repository '{repository}' was not found at {endpoint}: check its name; if it is private, give a token with access to it"
    )]
    RepositoryNotFound {
        /// Repository on the hub.
        repository: String,
        /// Base URL of the hub.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error(
        "repository '{repository}' at {endpoint} has no revision '{revision}': write an existing branch, tag or commit"
    )]
    RevisionNotFound {
        /// Repository on the hub.
        repository: String,
        /// Base URL of the hub.
        endpoint: String,
        /// Revision that was asked for.
        revision: String,
    },
    /// The commit has no such file (it was in the listing before).
    #[error(
        "file '{path}' of repository '{repository}' was not found at {url}: the repository may have been rewritten; resolve the revision again"
    )]
    EntryNotFound {
        /// Repository on the hub.
        repository: String,
        /// Path of the file.
        path: String,
        /// What was asked for, without query.
        url: String,
    },
    /// The repository's terms must be accepted first.
    #[error(
        "repository '{repository}' at {endpoint} is gated: accept its terms on the hub with the account that owns the token, and give that token"
    )]
    Gated {
        /// Repository on the hub.
        repository: String,
        /// Base URL of the hub.
        endpoint: String,
    },
    /// The token is wrong or has no access.
    #[error("{endpoint} refuses access to repository '{repository}': {remedy}")]
    Unauthorized {
        /// Repository on the hub.
        repository: String,
        /// Base URL of the hub.
        endpoint: String,
        /// What to do about it.
        remedy: String,
    },
    /// The hub has disabled the repository.
    #[error("repository '{repository}' is disabled at {endpoint}: choose another repository")]
    Disabled {
        /// Repository on the hub.
        repository: String,
        /// Base URL of the hub.
        endpoint: String,
    },
    /// The hub says that it is asked too often (HTTP 429).
    #[error(
        "{url} answers that it is asked too often (HTTP 429){}: it is left alone for a while; a token has a larger quota",
        retry_after.map(|wait| format!(", try again in {} s", wait.as_secs())).unwrap_or_default()
    )]
    RateLimited {
        /// How long to leave it alone, when it said so.
        retry_after: Option<Duration>,
        /// What was asked for, without query.
        url: String,
    },
    /// No usable answer: network, time-out or a server error.
    #[error("{url} is not available: {message}")]
    Unavailable {
        /// What was asked for, without query.
        url: String,
        /// What went wrong.
        message: String,
    },
    /// The server's certificate is not trusted.
    #[error(
        "the certificate of {url} is not trusted: {message}; if the hub has a certificate authority of its own, give it as CA bundle"
    )]
    Certificate {
        /// What was asked for, without query.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The answer is not what the protocol allows.
    #[error("{url} gave an answer that cannot be used: {message}")]
    Protocol {
        /// What was asked for, without query.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// A path in the listing could leave the cache.
    #[error(
        "repository '{repository}' lists the unsafe path {path:?}: exclude it by a pattern or choose another repository"
    )]
    UnsafePath {
        /// Repository on the hub.
        repository: String,
        /// The path as listed.
        path: String,
    },
    /// The answer is larger than is sensible.
    #[error("{url} gave too large an answer: {message}")]
    TooLarge {
        /// What was asked for, without query.
        url: String,
        /// Which limit was exceeded.
        message: String,
    },
    /// The bytes could not be written here.
    #[error("cannot write segment {segment} of snapshot '{snapshot}': {source}")]
    Io {
        /// Name of the snapshot.
        snapshot: String,
        /// Segment index.
        segment: u32,
        /// What the disk said.
        source: std::io::Error,
    },
}
