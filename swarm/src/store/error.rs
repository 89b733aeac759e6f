//! What can go wrong on the node's disk, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::segment::BlobId;

/// A failure of the store. Every message names the path or object, what was attempted and what helps.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A call of the file system failed.
    #[error("could not {action} {path}: {source}{}", remedy(source))]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The disk became full although the space was reserved.
    #[error(
        "could not {action} {path}: {source}; something else fills this disk: free some space, the download goes on by itself"
    )]
    Full {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The snapshot does not fit. Nothing was written.
    #[error(
        "snapshot {snapshot} needs {needed} more bytes below {root} but only {free} are free for models, {} too few: free space there or take the model off this node's pool",
        .needed.saturating_sub(*.free)
    )]
    NoSpace {
        /// Name of the snapshot.
        snapshot: String,
        /// The cache root.
        root: PathBuf,
        /// Bytes still to be allocated for the snapshot.
        needed: u64,
        /// Bytes free for it, after the reserve of the file system and what other snapshots have reserved.
        free: u64,
    },
    /// Somebody else filled the disk. What is left is not touched.
    #[error(
        "only {free} bytes are free below {root}, and the last {reserve} are left to the rest of the node: free space there"
    )]
    NearlyFull {
        /// The cache root.
        root: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes that are left alone.
        reserve: u64,
    },
    /// Another process uses this cache root.
    #[error(
        "{path} is locked by another process: only one agent may use a cache root; stop the other one"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A name from outside that cannot be a path below the cache root.
    #[error("{what} '{name}' cannot be stored: {why}")]
    BadName {
        /// What kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two snapshots give the same content different sizes.
    #[error(
        "snapshot {snapshot} says that {blob} has {size} bytes, another one on this node says {other}: one of the two hubs lies; remove that model"
    )]
    SizeConflict {
        /// Name of the snapshot that came second.
        snapshot: String,
        /// The content.
        blob: BlobId,
        /// Its size in this snapshot.
        size: u64,
        /// Its size in the other one.
        other: u64,
    },
    /// The plan has no such segment.
    #[error(
        "snapshot {snapshot} has no segment {segment}: coordinator and agent cut it differently; run one version of both"
    )]
    NoSuchSegment {
        /// Name of the snapshot.
        snapshot: String,
        /// The index asked for.
        segment: u32,
    },
    /// Another snapshot with the same contents is filling these bytes at this moment.
    #[error(
        "segment {segment} of {snapshot} is being filled for {other}: wait, then ask what is held"
    )]
    Busy {
        /// Name of the snapshot.
        snapshot: String,
        /// The segment asked for.
        segment: u32,
        /// The snapshot whose writer is at work (can be the same one: a commit is under way).
        other: String,
    },
    /// The writer was replaced by a newer one, or what it relied on was thrown away.
    #[error(
        "segment {segment} of {snapshot} was given to another writer meanwhile: ask for it again"
    )]
    Superseded {
        /// Name of the snapshot.
        snapshot: String,
        /// The segment.
        segment: u32,
    },
    /// The number of piece hashes does not fit the segment.
    #[error(
        "segment {segment} of {snapshot} has {expected} pieces but {given} hashes came with it: ask for it again"
    )]
    BadPieces {
        /// Name of the snapshot.
        snapshot: String,
        /// The segment.
        segment: u32,
        /// Number of pieces by its length.
        expected: u64,
        /// Number of hashes given.
        given: usize,
    },
    /// Publishing was asked for before every blob was verified.
    #[error("snapshot {snapshot} is not whole yet, so it cannot be published: verify it first")]
    NotWhole {
        /// Name of the snapshot.
        snapshot: String,
    },
}

impl StoreError {
    /// Whether more free space is what helps.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. } | Self::NearlyFull { .. } | Self::Full { .. }
        )
    }

    /// Whether the file system takes no changes at all.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// Wraps an error of the file system.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full {
                action,
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; the cache root and all below it must belong to the agent's user (chown -R it)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is read-only: look for disk errors in the kernel log, then remount it"
        }
        io::ErrorKind::NotFound => {
            "; something else deleted it: restart the agent, it fetches again what is missing"
        }
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty => {
            "; something else put a file or directory there: remove it"
        }
        io::ErrorKind::CrossesDevices => {
            "; the whole cache root must lie on one file system: mount nothing inside it"
        }
        _ => "; look for disk errors in the node's kernel log",
    }
}
