//! Fuzz target of torrents and magnet links, see [`crate::fuzzing`]. We read neither; what is in them comes from the hub.

// Targets are tests: they panic.
#![allow(clippy::missing_panics_doc)]

use std::sync::Arc;

use url::Url;

use super::{FileHashes, FileTorrent, Kind, MIB, piece_bytes};
use crate::bencode::found::{Dictionary, Found};
use crate::segment::PieceHashes;
use crate::verify::piece_count;

/// A file of some length, hashes and name: others find in its torrents and links what we mean.
pub fn torrent(bytes: &[u8]) {
    let Some((numbers, name)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let [a, b, c, d, digest] = *numbers;
    let len = 1 + u64::from(u32::from_be_bytes([a, b, c, d]) % (8 * MIB));
    let pieces = piece_count(len, piece_bytes(len));
    let hashes = (0..pieces).map(|_| [digest; 20]).collect();
    let layer = (0..pieces * 32).map(|_| digest).collect();
    let hashes = Arc::new(FileHashes {
        len,
        pieces: PieceHashes::new(hashes),
        layer,
    });
    assert!(hashes.fit(len));
    let name = String::from_utf8_lossy(name);
    let kind = if digest & 1 == 0 {
        Kind::V1
    } else {
        Kind::Hybrid
    };
    let torrent = FileTorrent::new(kind, &name, hashes);
    let bytes = torrent.torrent();
    let info = Dictionary::read(&bytes)
        .ok()
        .and_then(|whole| whole.get(b"info"));
    let Some(Found::Dictionary(info)) = info else {
        unreachable!("no info dictionary");
    };
    assert_eq!(
        info.get(b"name").and_then(Found::bytes),
        Some(name.as_bytes())
    );
    let found = info.get(b"length").and_then(Found::integer);
    assert_eq!(found.and_then(|len| u64::try_from(len).ok()), Some(len));
    let found = info.get(b"pieces").and_then(Found::bytes);
    assert_eq!(found.map(<[u8]>::len), usize::try_from(pieces * 20).ok());
    assert!(bytes[7..].starts_with(torrent.info()));

    let peer = ([10, 0, 0, 7], 9493).into();
    let link = Url::parse(&torrent.magnet(&[peer]));
    let mut dn = Vec::new();
    for (key, value) in link.iter().flat_map(Url::query_pairs) {
        if key == "dn" {
            dn.push(value.into_owned());
        }
    }
    assert_eq!(dn, [&*name]);
}

#[test]
#[cfg(test)]
fn fuzz_torrents() {
    let corpus = [
        b"\0\0\0\0\x01model 1.gguf".to_vec(),
        b"\0\x60\0\0\x02a&b=c/\xc3\xa4#?%20+.bin".to_vec(),
        b"\0\x20\0\0\x03".to_vec(),
    ];
    crate::fuzzing::run("torrent", &corpus, torrent);
}
