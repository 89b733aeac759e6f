//! A model at one commit: an exact list of files with sizes and hashes.

use std::collections::BTreeSet;

use crate::segment::BlobId;

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Path within the repository: relative, `/`-separated, already known to be safe (see [`is_safe_path`]).
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// What the content must hash to.
    pub blob: BlobId,
    /// Git object id of the file in the repository, 40 hex digits. For LFS files that of the pointer file, not of the
    /// content; hub clients want it in their tree listing.
    pub git_oid: String,
}

/// How a snapshot is cut; fixed with the snapshot, so that every node cuts alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSizes {
    /// Largest segment in bytes; a power of two of at least 1 MiB.
    pub segment_bytes: u64,
    /// Piece length in bytes; a power of two, at least 16 KiB, at most `segment_bytes`.
    pub piece_bytes: u32,
}

/// A model at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of its `ModelSnapshot` object.
    pub name: String,
    /// Repository on the hub, `name` or `namespace/name`.
    pub repository: String,
    /// Revision as the user wrote it: branch, tag or commit.
    pub revision: String,
    /// The commit it was resolved to, 40 lower-case hex digits.
    pub commit: String,
    /// Its files, sorted bytewise by path, each path once.
    pub files: Vec<SnapshotFile>,
    /// How it is cut.
    pub sizes: SegmentSizes,
}

impl Snapshot {
    /// Sum of the files' sizes in bytes, as a user counts them (equal contents counted each time).
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Distinct contents with their sizes in bytes, in the order in which their first file is listed.
    #[must_use]
    pub fn blobs(&self) -> Vec<(BlobId, u64)> {
        let mut seen = BTreeSet::new();
        let mut blobs = Vec::new();
        for file in &self.files {
            if seen.insert(file.blob) {
                blobs.push((file.blob, file.size));
            }
        }
        blobs
    }
}

/// Whether a path from the hub may be created below a directory of ours: relative, no empty, `.` or `..` element, no
/// NUL or backslash, no element longer than 255 bytes, at most 1,024 bytes in all.
#[must_use]
pub fn is_safe_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains(['\0', '\\'])
        && path
            .split('/')
            .all(|element| !matches!(element, "" | "." | "..") && element.len() <= 255)
}

#[cfg(test)]
mod tests {
    use super::is_safe_path;

    #[test]
    fn paths_that_leave_the_cache_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../b",
            "a//b",
            "a/",
            "./a",
            "a\0b",
            "a\\..\\b",
        ] {
            assert!(!is_safe_path(bad), "{bad:?}");
        }
        for good in [
            "a",
            "a/b.c",
            "..a/b..",
            "späß/#1 +%20.bin",
            ".gitattributes",
        ] {
            assert!(is_safe_path(good), "{good:?}");
        }
    }
}
