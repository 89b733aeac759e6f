//! The one step that needs root: giving the cache directory to the agent's user.
//!
//! Runs in an init container with the capability `CHOWN` and no other. The kubelet makes the directory of a hostPath
//! volume as root; this hands it over, and nothing else: what lies below was written by the agent itself.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the directory could not be handed over.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// It does not exist or cannot be looked at.
    #[error(
        "cannot look at {path}: {source}; mount the node's cache directory there (hostPath of type DirectoryOrCreate)"
    )]
    Look {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{path} is not a directory; mount the node's cache directory there (hostPath of type DirectoryOrCreate)"
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Its owner cannot be changed.
    #[error(
        "cannot give {path} to {uid}:{gid}: {source}; run this step as root with the capability CHOWN on a file system that can be written"
    )]
    Chown {
        /// The directory.
        path: PathBuf,
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Why not.
        source: io::Error,
    },
}

/// Gives the directory itself to that user and group. Nothing is done when it is theirs already.
pub fn prepare(path: &Path, uid: u32, gid: u32) -> Result<(), PrepareError> {
    let look = |source| PrepareError::Look {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(look)?;
    if !metadata.is_dir() {
        return Err(PrepareError::NotADirectory {
            path: path.to_owned(),
        });
    }
    if metadata.uid() == uid && metadata.gid() == gid {
        tracing::info!(path = %path.display(), uid, gid, "the cache directory belongs to the agent already");
        return Ok(());
    }
    chown(path, Some(uid), Some(gid)).map_err(|source| PrepareError::Chown {
        path: path.to_owned(),
        uid,
        gid,
        source,
    })?;
    tracing::info!(path = %path.display(), uid, gid, "the cache directory belongs to the agent now");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_says_what_to_mount() {
        let directory = tempfile::tempdir().unwrap();
        let error = prepare(&directory.path().join("absent"), 1, 1).unwrap_err();
        assert!(error.to_string().contains("hostPath"), "{error}");
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(
            prepare(&file, 1, 1),
            Err(PrepareError::NotADirectory { .. })
        ));
    }

    #[test]
    fn only_the_directory_itself_changes_hands() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let before = fs::metadata(&inside).unwrap().uid();
        match prepare(directory.path(), 65532, 65532) {
            Ok(()) => {
                assert_eq!(fs::metadata(directory.path()).unwrap().uid(), 65532);
                assert_eq!(fs::metadata(&inside).unwrap().uid(), before);
                prepare(directory.path(), 65532, 65532).unwrap();
            }
            // Not root: then the error must say so.
            Err(error) => assert!(error.to_string().contains("CHOWN"), "{error}"),
        }
    }
}
