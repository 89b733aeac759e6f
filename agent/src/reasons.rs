//! The reasons that an agent gives in its status and Events. Documented; scripts rely on them.

pub use modelcache_crds::conditions::reasons::{
    DISK_ERROR, DOWNLOADING, GATED, HASH_MISMATCH, NO_COORDINATOR, NO_SPACE, ORIGIN_CERTIFICATE,
    ORIGIN_UNAVAILABLE, RATE_LIMITED, REPOSITORY_NOT_FOUND, REVISION_NOT_FOUND, UNAUTHORIZED,
    UNSAFE_PATH, WAITING_FOR_PEERS,
};

/// The snapshot object says something that no snapshot can say.
pub const INVALID_SNAPSHOT: &str = "InvalidSnapshot";
/// The snapshot object could not be read yet.
pub const SNAPSHOT_UNKNOWN: &str = "SnapshotUnknown";
/// A model is whole, verified and published (Event only).
pub const READY: &str = "Ready";
