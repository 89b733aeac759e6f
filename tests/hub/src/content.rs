//! File contents that cost no memory: bytes at hand, a file on disk, or generated from a seed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// How much is read at once when hashing.
const HASH_STEP: u64 = 1 << 20;

/// Where the bytes of a file come from.
#[derive(Clone, Debug)]
pub enum Content {
    /// Held in memory.
    Inline(Bytes),
    /// A file on disk, whose size must not change.
    Disk {
        /// Where it lies.
        path: PathBuf,
        /// Its size when it was added.
        size: u64,
    },
    /// Pseudo-random bytes that depend only on seed and position.
    Synthetic {
        /// Chooses the sequence.
        seed: u64,
        /// Number of bytes.
        size: u64,
    },
}

impl Content {
    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Disk { size, .. } | Self::Synthetic { size, .. } => *size,
        }
    }

    /// The `len` bytes from `offset`. Blocks on the disk for [`Content::Disk`]; an error when they are not all there.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self {
            Self::Inline(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                Ok(bytes.slice(start..start + len))
            }
            Self::Disk { path, .. } => {
                let mut buffer = vec![0; len];
                File::open(path)?.read_exact_at(&mut buffer, offset)?;
                Ok(buffer.into())
            }
            Self::Synthetic { seed, .. } => Ok(synthetic(*seed, offset, len).into()),
        }
    }

    /// SHA-256 as lower-case hex.
    pub fn sha256(&self) -> io::Result<String> {
        let mut hasher = Sha256::new();
        self.each_step(|bytes| hasher.update(bytes))?;
        Ok(hex::encode(hasher.finalize()))
    }

    /// Git's object id of this content as a blob, lower-case hex.
    pub fn git_oid(&self) -> io::Result<String> {
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", self.size()));
        self.each_step(|bytes| hasher.update(bytes))?;
        Ok(hex::encode(hasher.finalize()))
    }

    fn each_step(&self, mut step: impl FnMut(&[u8])) -> io::Result<()> {
        let mut offset = 0;
        while offset < self.size() {
            let len = (self.size() - offset).min(HASH_STEP);
            step(&self.read(offset, usize::try_from(len).map_err(io::Error::other)?)?);
            offset += len;
        }
        Ok(())
    }
}

/// The `len` bytes from `offset` of the endless sequence of `seed`.
///
/// Word `i` is a strong mix of seed and `i`, so any position costs the same. Clients in tests use this to know the
/// right bytes without storing them.
#[must_use]
pub fn synthetic(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let skip = usize::try_from(offset % 8).unwrap_or(0);
    let words = (skip + len).div_ceil(8);
    let mut bytes = Vec::with_capacity(words * 8);
    let base = seed.wrapping_mul(0xd605_bbb5_8c8a_bbf5);
    for word in (offset / 8..).take(words) {
        bytes.extend_from_slice(
            &mix(base.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes(),
        );
    }
    bytes.drain(..skip);
    bytes.truncate(len);
    bytes
}

/// The finalizer of the splitmix64 generator: every input bit changes every output bit.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_bytes_do_not_depend_on_how_they_are_asked_for() {
        let whole = synthetic(7, 0, 1000);
        for (offset, len) in [(0, 1), (1, 7), (8, 8), (13, 500), (999, 1), (500, 0)] {
            assert_eq!(
                synthetic(7, offset as u64, len),
                whole[offset..offset + len],
                "{offset}+{len}"
            );
        }
        assert_ne!(synthetic(8, 0, 1000), whole);
    }

    #[test]
    fn hashes_are_those_of_the_standard_tools() {
        let content = Content::Inline(Bytes::from_static(b"hello\n"));
        // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
        assert_eq!(
            content.git_oid().unwrap(),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        assert_eq!(
            content.sha256().unwrap(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        let empty = Content::Synthetic { seed: 1, size: 0 };
        assert_eq!(
            empty.git_oid().unwrap(),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        );
    }

    #[test]
    fn disk_and_memory_hash_alike() {
        let bytes = synthetic(3, 0, 3 << 20);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        let disk = Content::Disk {
            path: file.path().into(),
            size: bytes.len() as u64,
        };
        let generated = Content::Synthetic {
            seed: 3,
            size: bytes.len() as u64,
        };
        assert_eq!(disk.sha256().unwrap(), generated.sha256().unwrap());
        assert_eq!(
            disk.git_oid().unwrap(),
            Content::Inline(bytes.into()).git_oid().unwrap()
        );
        assert!(disk.read(3 << 20, 1).is_err());
    }
}
