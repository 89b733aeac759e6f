//! The files of a repository, hashed as Git and LFS do.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::admin::{ContentSpec, FileSpec};
use crate::content::Content;
use crate::repository::ContentError;

/// From this size a file lies in LFS unless its specification says otherwise.
const LFS_FROM: u64 = 10 << 20;

/// One file of a commit.
#[derive(Debug)]
pub struct RepositoryFile {
    /// Path in the repository.
    pub path: String,
    /// Size of the content.
    pub size: u64,
    /// Git's object id of what lies in Git: the content, or the pointer to LFS.
    pub oid: String,
    /// Set for files in LFS.
    pub lfs: Option<Lfs>,
    /// The bytes.
    pub content: Content,
    /// Offset of a byte that is served wrongly.
    pub wrong_byte_at: Option<u64>,
}

/// The LFS side of a file.
#[derive(Debug)]
pub struct Lfs {
    /// SHA-256 of the content.
    pub sha256: String,
    /// Size of the pointer file.
    pub pointer_size: u64,
}

impl RepositoryFile {
    /// Hashes the content; blocks as long as that takes.
    pub fn new(spec: &FileSpec) -> Result<Self, ContentError> {
        let path = spec.path.clone();
        let read_error = |source| ContentError::Read {
            path: spec.path.clone(),
            source,
        };
        let content = match &spec.content {
            ContentSpec::Text(text) => Content::Inline(Bytes::from(text.clone())),
            ContentSpec::Hex(digits) => Content::Inline(
                hex::decode(digits)
                    .map_err(|_| ContentError::Hex(path.clone()))?
                    .into(),
            ),
            ContentSpec::Disk(file) => {
                let size = std::fs::metadata(file).map_err(read_error)?.len();
                Content::Disk {
                    path: file.into(),
                    size,
                }
            }
            ContentSpec::Synthetic { seed, size } => Content::Synthetic {
                seed: *seed,
                size: *size,
            },
            ContentSpec::Declared { size } => Content::Synthetic {
                seed: 0,
                size: *size,
            },
        };
        let size = content.size();
        let (oid, lfs) = if spec.lfs.unwrap_or(size >= LFS_FROM) {
            let sha256 = match &spec.content {
                ContentSpec::Declared { size } => {
                    hex::encode(Sha256::digest(format!("declared {path} {size}")))
                }
                _ => content.sha256().map_err(read_error)?,
            };
            let pointer = format!(
                "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
            );
            let pointer_size = pointer.len() as u64;
            let oid = Content::Inline(pointer.into())
                .git_oid()
                .map_err(read_error)?;
            (
                oid,
                Some(Lfs {
                    sha256,
                    pointer_size,
                }),
            )
        } else {
            (content.git_oid().map_err(read_error)?, None)
        };
        Ok(Self {
            path,
            size,
            oid,
            lfs,
            content,
            wrong_byte_at: spec.wrong_byte_at,
        })
    }

    /// The `ETag`: SHA-256 in LFS, else Git's object id.
    #[must_use]
    pub fn etag(&self) -> &str {
        self.lfs.as_ref().map_or(&self.oid, |lfs| &lfs.sha256)
    }
}

/// Makes the files of a commit, hashing each; blocks as long as that takes.
pub fn build_files(specs: &[FileSpec]) -> Result<Vec<RepositoryFile>, ContentError> {
    specs.iter().map(RepositoryFile::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lfs_pointers_are_hashed_as_git_does() {
        let file = RepositoryFile::new(&FileSpec::new(
            "a",
            ContentSpec::Text("hello\n".into()),
            true,
        ))
        .unwrap();
        let lfs = file.lfs.as_ref().unwrap();
        assert_eq!(
            lfs.sha256,
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert_eq!(lfs.pointer_size, 126);
        // printf 'version https://git-lfs.github.com/spec/v1\noid sha256:5891…\nsize 6\n' | git hash-object --stdin
        assert_eq!(file.oid, "fa61e1ef71c9908c0926776a4aa3504b3a27f159");
        assert_eq!(file.etag(), lfs.sha256);
    }
}
