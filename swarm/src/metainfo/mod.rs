//! The torrent as which one segment travels: single file, BitTorrent v1, private, the same bytes on every node.
//!
//! Both ends compute it from the snapshot's name, the plan and the piece hashes, so it is never sent; its info hash is
//! the name by which a holder is asked for the segment. Whole files for other BitTorrent clients are [`file`]'s.

pub mod file;
mod merkle;

use crate::bencode::Bencode;
use crate::segment::PieceHashes;
use crate::verify::piece_hash;

/// The torrent's info dictionary, whose SHA-1 is the info hash.
fn info(
    snapshot_name: &str,
    index: u32,
    len: u64,
    piece_bytes: u32,
    pieces: &PieceHashes,
) -> Bencode {
    Bencode::dictionary([
        // No segment comes near 2^63 bytes; a length that does gives a torrent that no client accepts.
        (
            "length",
            Bencode::Integer(i64::try_from(len).unwrap_or(i64::MAX)),
        ),
        (
            "name",
            Bencode::Bytes(format!("{snapshot_name}.{index}").into_bytes()),
        ),
        ("piece length", Bencode::Integer(i64::from(piece_bytes))),
        ("pieces", Bencode::Bytes(pieces.as_slice().concat())),
        // Keeps clients from looking for peers anywhere but where they were told (BEP 27).
        ("private", Bencode::Integer(1)),
    ])
}

/// The info hash of one segment: what a holder is asked for.
#[must_use]
pub fn info_hash(
    snapshot_name: &str,
    index: u32,
    len: u64,
    piece_bytes: u32,
    pieces: &PieceHashes,
) -> [u8; 20] {
    piece_hash(&info(snapshot_name, index, len, piece_bytes, pieces).encode())
}

/// The whole torrent file of one segment.
#[must_use]
pub fn torrent(
    snapshot_name: &str,
    index: u32,
    len: u64,
    piece_bytes: u32,
    pieces: &PieceHashes,
) -> Vec<u8> {
    let info = info(snapshot_name, index, len, piece_bytes, pieces);
    Bencode::dictionary([("info", info)]).encode()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verify::piece_count;

    fn pieces(count: u64) -> PieceHashes {
        PieceHashes::new(
            (0..count)
                .map(|i| [u8::try_from(i % 251).unwrap(); 20])
                .collect(),
        )
    }

    #[test]
    fn the_torrent_is_canonical() {
        let torrent = torrent("tiny-0123abcd", 7, 100, 64, &pieces(2));
        let mut expected =
            b"d4:infod6:lengthi100e4:name15:tiny-0123abcd.712:piece lengthi64e6:pieces40:".to_vec();
        expected.extend_from_slice(&[0; 20]);
        expected.extend_from_slice(&[1; 20]);
        expected.extend_from_slice(b"7:privatei1eee");
        assert_eq!(torrent, expected);
    }

    #[test]
    fn everything_that_tells_segments_apart_is_in_the_info_hash() {
        let base = info_hash("a", 1, 100, 64, &pieces(2));
        assert_eq!(base, info_hash("a", 1, 100, 64, &pieces(2)));
        for other in [
            info_hash("b", 1, 100, 64, &pieces(2)),
            info_hash("a", 2, 100, 64, &pieces(2)),
            info_hash("a", 1, 101, 64, &pieces(2)),
            info_hash("a", 1, 100, 65, &pieces(2)),
            info_hash("a", 1, 100, 64, &PieceHashes::new(vec![[9; 20]; 2])),
        ] {
            assert_ne!(base, other);
        }
    }

    proptest! {
        /// The engine reads the torrent as we meant it and agrees on the info hash.
        #[test]
        fn librqbit_agrees(
            name in "[a-z0-9.-]{1,80}",
            index in any::<u32>(),
            len in 1_u64..=64 << 20,
            shift in 14_u32..=23,
        ) {
            let piece_bytes = 1 << shift;
            let pieces = pieces(piece_count(len, piece_bytes));
            let bytes = torrent(&name, index, len, piece_bytes, &pieces);
            let parsed = librqbit::torrent_from_bytes(&bytes).unwrap();
            prop_assert_eq!(parsed.info_hash.0, info_hash(&name, index, len, piece_bytes, &pieces));
            let info = parsed.info.data;
            prop_assert_eq!(info.length, Some(len));
            prop_assert_eq!(info.piece_length, piece_bytes);
            prop_assert!(info.private);
        }
    }
}
