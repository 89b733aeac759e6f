//! The unit of the swarm: a list of extents of blobs that travels as one BitTorrent torrent.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The hub's name for one file content: what the finished file must hash to.
///
/// Displayed and serialized as `sha256:<64 hex>` or `git:<40 hex>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobId {
    /// SHA-256 of the content (files in Git LFS or Xet).
    Sha256([u8; 32]),
    /// Git object id: SHA-1 of `"blob <size>\0"` followed by the content (regular files).
    Git([u8; 20]),
}

impl BlobId {
    /// The blob's file name in a Hugging Face hub cache (its `ETag`): bare lower-case hex.
    #[must_use]
    pub fn etag(&self) -> String {
        match self {
            Self::Sha256(digest) => hex::encode(digest),
            Self::Git(digest) => hex::encode(digest),
        }
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{}", hex::encode(digest)),
            Self::Git(digest) => write!(f, "git:{}", hex::encode(digest)),
        }
    }
}

/// A string that is neither `sha256:<64 lower-case hex>` nor `git:<40 lower-case hex>`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no blob id: write sha256:<64 hex digits> or git:<40 hex digits>")]
pub struct BlobIdError(String);

impl FromStr for BlobId {
    type Err = BlobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || BlobIdError(text.chars().take(80).collect());
        let (kind, digits) = text.split_once(':').ok_or_else(error)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error());
        }
        match kind {
            "sha256" => {
                let mut digest = [0; 32];
                hex::decode_to_slice(digits, &mut digest).map_err(|_| error())?;
                Ok(Self::Sha256(digest))
            }
            "git" => {
                let mut digest = [0; 20];
                hex::decode_to_slice(digits, &mut digest).map_err(|_| error())?;
                Ok(Self::Git(digest))
            }
            _ => Err(error()),
        }
    }
}

/// A range of one blob, in bytes; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which blob.
    pub blob: BlobId,
    /// First byte within the blob.
    pub offset: u64,
    /// Number of bytes, at least 1.
    pub len: u64,
}

/// One unit of the swarm. Its bytes are its extents, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position in the snapshot's plan, from 0.
    pub index: u32,
    /// What it consists of; at least one.
    pub extents: Vec<Extent>,
}

impl Segment {
    /// Length in bytes, at least 1.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Always false for a planned segment; here because a `len` without it surprises.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }
}

/// The SHA-1 of each piece of one segment, in order (BEP 3 `pieces`).
///
/// Serialized as one string of lower-case hex, 40 digits a piece.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PieceHashes(Vec<[u8; 20]>);

impl PieceHashes {
    /// From one digest a piece.
    #[must_use]
    pub fn new(hashes: Vec<[u8; 20]>) -> Self {
        Self(hashes)
    }

    /// One digest a piece.
    #[must_use]
    pub fn as_slice(&self) -> &[[u8; 20]] {
        &self.0
    }
}

impl fmt::Debug for PieceHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceHashes({} pieces)", self.0.len())
    }
}

impl Serialize for PieceHashes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0.concat()))
    }
}

impl<'de> Deserialize<'de> for PieceHashes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(&text).map_err(serde::de::Error::custom)?;
        let (hashes, rest) = bytes.as_chunks::<20>();
        if !rest.is_empty() {
            return Err(serde::de::Error::custom(
                "piece hashes are not a multiple of 20 bytes",
            ));
        }
        Ok(Self(hashes.to_vec()))
    }
}

/// Where the bytes of one segment lie on disk while they arrive and while they are served.
///
/// Offsets count from the start of the segment. Calls block unless they say otherwise; they are safe to make from several threads at once.
pub trait SegmentIo: Send + Sync + 'static {
    /// Length of the segment in bytes.
    fn size(&self) -> u64;

    /// Writes `data` at `offset`; all of it or an error.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Fills `buffer` from `offset`; all of it or an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Fills `buffer` from `offset` if all of it can be had without waiting for a disk. The one call here that never
    /// blocks. After `false` the buffer's content means nothing, and [`SegmentIo::read_at`] is to be asked.
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let _ = (offset, buffer);
        false
    }

    /// Tells that `data`, already written at `offset`, is what its sender meant to send (its piece hash matched, or it
    /// came over TLS from the origin), while it is still in memory: the moment to hash it towards the blob's own hash.
    fn checked(&self, offset: u64, data: &[u8]);
}
