//! Proving contents: a whole blob by the hub's own hash, a segment by the hashes of its pieces.

mod prefix;

use std::io;

use aws_lc_rs::digest;
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};

use crate::segment::{BlobId, PieceHashes, SegmentIo};

pub(crate) use prefix::{Checkpoint, ClaimId, Prefix};

/// Hashes one blob from its first byte to its last.
#[derive(Clone)]
pub struct BlobHasher(Context);

#[derive(Clone)]
enum Context {
    /// Of a library whose state can be kept.
    Sha256(Sha256),
    Git(digest::Context),
}

impl BlobHasher {
    /// A hasher of the kind that `id` names, for a content of `size` bytes (which a git object id hashes first).
    #[must_use]
    pub fn new(id: &BlobId, size: u64) -> Self {
        match id {
            BlobId::Sha256(_) => Self(Context::Sha256(Sha256::new())),
            BlobId::Git(_) => {
                let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                Self(Context::Git(context))
            }
        }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            Context::Sha256(context) => context.update(data),
            Context::Git(context) => context.update(data),
        }
    }

    /// What the content is called.
    #[must_use]
    pub fn finish(self) -> BlobId {
        match self.0 {
            Context::Sha256(context) => BlobId::Sha256(context.finalize().into()),
            Context::Git(context) => BlobId::Git(fixed(context.finish().as_ref())),
        }
    }

    /// Its state in hexadecimal digits. `None` for git object ids: files that have one are small.
    fn save(&self) -> Option<String> {
        match &self.0 {
            Context::Sha256(context) => Some(hex::encode(context.serialize())),
            Context::Git(_) => None,
        }
    }

    /// A hasher of SHA-256 that goes on from a saved state.
    fn resume(state: &str) -> Option<Self> {
        let bytes = hex::decode(state).ok()?;
        let context = Sha256::deserialize(bytes.as_slice().try_into().ok()?).ok()?;
        Some(Self(Context::Sha256(context)))
    }
}

/// The first `N` bytes of a digest of at least that length.
fn fixed<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(digest) {
        *to = *from;
    }
    out
}

/// SHA-1 of one piece.
#[must_use]
pub fn piece_hash(piece: &[u8]) -> [u8; 20] {
    fixed(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, piece).as_ref())
}

/// Number of pieces of a segment of `len` bytes.
#[must_use]
pub fn piece_count(len: u64, piece_bytes: u32) -> u64 {
    len.div_ceil(u64::from(piece_bytes.max(1)))
}

/// Hashes the pieces of a segment by reading it.
pub fn read_pieces(io: &dyn SegmentIo, piece_bytes: u32) -> io::Result<PieceHashes> {
    const CHUNK: usize = 256 << 10;
    let size = io.size();
    let step = u64::from(piece_bytes.max(1));
    let mut buffer = vec![0; CHUNK];
    let mut hashes = Vec::new();
    let mut start = 0;
    while start < size {
        let end = size.min(start + step);
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        let mut position = start;
        while position < end {
            let len = usize::try_from(end - position).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = &mut buffer[..len];
            io.read_at(position, chunk)?;
            context.update(chunk);
            position += len as u64;
        }
        hashes.push(fixed(context.finish().as_ref()));
        start = end;
    }
    Ok(PieceHashes::new(hashes))
}

#[cfg(test)]
mod tests {
    use super::BlobHasher;
    use crate::segment::BlobId;

    #[test]
    fn names_are_those_of_the_hub() {
        let git: BlobId = "git:b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
            .parse()
            .unwrap();
        let mut hasher = BlobHasher::new(&git, 5);
        hasher.update(b"hel");
        hasher.update(b"lo");
        assert_eq!(hasher.finish(), git);
        let empty: BlobId =
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
                .parse()
                .unwrap();
        assert_eq!(BlobHasher::new(&empty, 0).finish(), empty);
        let empty: BlobId = "git:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
            .parse()
            .unwrap();
        assert_eq!(BlobHasher::new(&empty, 0).finish(), empty);
    }
}
