//! The torrents as which one whole file is given to other BitTorrent clients.
//!
//! There are two of the same pieces: one of BitTorrent v1 for every client, and a hybrid of v1 and v2 (BEP 52) as hali makes
//! it, because aria2 cannot read such a one. Nothing but the file's name and content decides the info dictionary, so that
//! every node of every cluster, and every hali that has the file, is a seed of one and the same torrent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::merkle::{self, LEAF_BYTES, Node};
use crate::bencode::Bencode;
use crate::segment::{PieceHashes, SegmentIo};
use crate::verify::piece_count;

const MIB: u32 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What stays as it is in a magnet link (RFC 3986: unreserved).
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Piece length, in bytes, of the torrent of a file of `len` bytes.
#[must_use]
pub fn piece_bytes(len: u64) -> u32 {
    match len / GIB {
        0..8 => 2 * MIB,
        8..32 => 4 * MIB,
        32..80 => 8 * MIB,
        _ => 16 * MIB,
    }
}

/// What the pieces of one file hash to, by v1 and by v2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileHashes {
    /// Length of the file in bytes, at least 1.
    len: u64,
    /// One SHA-1 a piece.
    pieces: PieceHashes,
    /// One root a piece (BEP 52 `piece layers`), as hex; for a file of one piece its root.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    layer: Vec<u8>,
}

impl FileHashes {
    /// Reads a file of at least one byte once; `None` when `stop` said yes between two pieces. Memory: 48 KiB, and 52 bytes a
    /// piece. Blocks.
    pub fn read(file: &dyn SegmentIo, stop: impl Fn() -> bool) -> io::Result<Option<Self>> {
        let len = file.size();
        let piece = u64::from(piece_bytes(len));
        let mut buffer = vec![0; LEAF_BYTES];
        let mut pieces = Vec::new();
        let mut layer = Vec::new();
        let mut start = 0;
        while start < len {
            if stop() {
                return Ok(None);
            }
            let end = len.min(start + piece);
            let mut v1 = digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            let mut leaves = Vec::new();
            let mut at = start;
            while at < end {
                let size =
                    usize::try_from(end - at).map_or(LEAF_BYTES, |left| left.min(LEAF_BYTES));
                let block = &mut buffer[..size];
                file.read_at(at, block)?;
                v1.update(block);
                leaves.push(merkle::leaf(block));
                at += size as u64;
            }
            let mut hash = [0; 20];
            hash.copy_from_slice(v1.finish().as_ref());
            pieces.push(hash);
            // The tree of a file that is no longer than a piece is only as wide as the file.
            let width = if len <= piece { 1 } else { leaves_of(len) };
            layer.extend_from_slice(&merkle::root(leaves, [0; 32], width));
            start = end;
        }
        Ok(Some(Self {
            len,
            pieces: PieceHashes::new(pieces),
            layer,
        }))
    }

    /// Whether there are as many hashes as a file of `len` bytes needs.
    #[must_use]
    pub fn fit(&self, len: u64) -> bool {
        let pieces = piece_count(len, piece_bytes(len));
        len > 0
            && self.len == len
            && self.pieces.as_slice().len() as u64 == pieces
            && self.layer.len() as u64 == pieces * 32
    }

    fn pieces_root(&self) -> Node {
        let roots: Vec<Node> = self.layer.as_chunks::<32>().0.to_vec();
        merkle::root(roots, merkle::empty_piece(leaves_of(self.len)), 1)
    }
}

fn to_hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    hex::decode(&text).map_err(serde::de::Error::custom)
}

/// Leaves of one piece.
fn leaves_of(len: u64) -> usize {
    piece_bytes(len) as usize / LEAF_BYTES
}

/// Which torrent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BitTorrent v1 alone, which every client knows.
    V1,
    /// v1 and v2 in one, with the piece length and fields of hali's torrents.
    Hybrid,
}

/// A torrent of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTorrent {
    kind: Kind,
    name: String,
    hashes: Arc<FileHashes>,
    info: Vec<u8>,
}

impl FileTorrent {
    /// The torrent of a file with this `name`, one path element.
    #[must_use]
    pub fn new(kind: Kind, name: &str, hashes: Arc<FileHashes>) -> Self {
        // No file comes near 2^63 bytes; a length that does gives a torrent that no client accepts.
        let len = i64::try_from(hashes.len).unwrap_or(i64::MAX);
        let piece = i64::from(piece_bytes(hashes.len));
        let pieces = hashes.pieces.as_slice().concat();
        let mut entries = BTreeMap::from([
            (b"length".to_vec(), Bencode::Integer(len)),
            (b"name".to_vec(), Bencode::Bytes(name.as_bytes().to_vec())),
            (b"piece length".to_vec(), Bencode::Integer(piece)),
            (b"pieces".to_vec(), Bencode::Bytes(pieces)),
        ]);
        if kind == Kind::Hybrid {
            let root = hashes.pieces_root().to_vec();
            let file = Bencode::dictionary([
                ("length", Bencode::Integer(len)),
                ("pieces root", Bencode::Bytes(root)),
            ]);
            let tree = Bencode::dictionary([(name, Bencode::dictionary([("", file)]))]);
            entries.insert(b"file tree".to_vec(), tree);
            entries.insert(b"meta version".to_vec(), Bencode::Integer(2));
        }
        let info = Bencode::Dictionary(entries).encode();
        Self {
            kind,
            name: name.to_owned(),
            hashes,
            info,
        }
    }

    /// Length of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.hashes.len
    }

    /// The info dictionary, bencoded: what a client that has only a magnet link asks for (BEP 9).
    #[must_use]
    pub fn info(&self) -> &[u8] {
        &self.info
    }

    /// The v1 info hash.
    #[must_use]
    pub fn info_hash(&self) -> [u8; 20] {
        crate::verify::piece_hash(&self.info)
    }

    /// The v2 info hash of a hybrid.
    #[must_use]
    pub fn info_hash_v2(&self) -> [u8; 32] {
        merkle::leaf(&self.info)
    }

    /// The whole torrent file, without trackers.
    #[must_use]
    pub fn torrent(&self) -> Vec<u8> {
        // The info dictionary stands before the layers, and is written as it was hashed.
        let mut out = b"d4:info".to_vec();
        out.extend_from_slice(&self.info);
        if self.kind == Kind::Hybrid && self.hashes.pieces.as_slice().len() > 1 {
            let root = self.hashes.pieces_root();
            out.extend_from_slice(b"12:piece layers");
            let layers = (root.to_vec(), Bencode::Bytes(self.hashes.layer.clone()));
            out.extend(Bencode::Dictionary(BTreeMap::from([layers])).encode());
        }
        out.push(b'e');
        out
    }

    /// A magnet link that names these peers (BEP 9).
    #[must_use]
    pub fn magnet(&self, peers: &[SocketAddr]) -> String {
        let mut link = format!("magnet:?xt=urn:btih:{}", hex::encode(self.info_hash()));
        // Writing to a string does not fail.
        if self.kind == Kind::Hybrid {
            let _ = write!(
                link,
                "&xt=urn:btmh:1220{}",
                hex::encode(self.info_hash_v2())
            );
        }
        let _ = write!(link, "&dn={}", utf8_percent_encode(&self.name, KEPT));
        for peer in peers {
            let _ = write!(link, "&x.pe={peer}");
        }
        link
    }
}

#[cfg(test)]
mod tests;
