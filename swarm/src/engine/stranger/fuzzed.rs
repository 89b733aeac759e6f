//! Fuzz target of what strangers say, see [`crate::fuzzing`].

// Targets are tests: they panic.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::collections::BTreeSet;

use super::blocks::{BLOCK_BYTES, Blocks};
use super::torrent::{Described, Hello};
use crate::engine::wire::{self, Message, Said};

const PIECE_BYTES: u32 = 32 << 10;
/// A whole piece and a block of five bytes.
const LEN: u64 = PIECE_BYTES as u64 + 5;
const HELLO: &[u8] = b"\0d1:md11:ut_metadatai3ee13:metadata_sizei600ee";
const METADATA: usize = 600;

/// An info dictionary, and messages with lengths of two bytes before them: metadata is no longer than was said, each byte of the
/// file is taken once and only where it lies, and nothing is asked for that the file does not have.
pub fn stranger(bytes: &[u8]) {
    if let Ok(file) = Described::read(bytes) {
        assert!(file.len > 0 && file.piece_bytes > 0 && file.piece_bytes % BLOCK_BYTES == 0);
        assert!(file.len.div_ceil(file.piece_bytes) * 20 <= bytes.len() as u64);
        assert!(
            bytes
                .windows(file.name.len().max(1))
                .any(|part| part.starts_with(&file.name))
        );
    }
    let hello = Hello::read(HELLO).unwrap().unwrap();
    let mut info = 0;
    let mut blocks = Blocks::new(LEN, PIECE_BYTES.into());
    let mut had = BTreeSet::new();
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len)).min(after.len());
        let message;
        (message, rest) = after.split_at(len);
        match wire::said(message) {
            Said::Choke => blocks.choked(),
            Said::Unchoke => judge(&blocks.ask()),
            Said::Block { piece, begin, data } => {
                if let Some(offset) = blocks.arrived(piece, begin, data.len()) {
                    assert!(offset + data.len() as u64 <= LEN);
                    assert!(had.insert(offset));
                }
            }
            Said::Extended(body) => {
                if let Ok(Some(theirs)) = Hello::read(body) {
                    assert!((1..=4 << 20).contains(&theirs.size()));
                    assert!(theirs.ask(theirs.size() - 1).len() < 60);
                }
                if let Ok(Some(block)) = hello.block(body, info) {
                    info += block.len();
                    assert!(info <= METADATA);
                }
            }
            Said::Other => {}
        }
    }
    assert!(blocks.bytes() <= LEN);
}

/// Whether these are requests for parts of the file.
fn judge(mut requests: &[u8]) {
    while let Some((message, taken)) = wire::parse(requests).unwrap() {
        let request = match message {
            Message::Request(request) => Some(request),
            _ => None,
        };
        wire::locate(request.unwrap(), LEN, PIECE_BYTES).unwrap();
        requests = &requests[taken..];
    }
    assert_eq!(requests, b"");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(all: &[&[u8]]) -> Vec<u8> {
        let all = all.iter();
        all.flat_map(|one| [&u16::try_from(one.len()).unwrap().to_be_bytes()[..], one].concat())
            .collect()
    }

    #[test]
    fn fuzz_stranger() {
        let last = [&[7, 0, 0, 0, 1, 0, 0, 0, 0][..], b"bytes"].concat();
        let hello = [&[20][..], HELLO].concat();
        let data = b"\x14\x01d8:msg_typei1e5:piecei0e10:total_sizei600ee";
        let first = [&data[..], &[7; METADATA]].concat();
        let corpus = [
            b"d6:lengthi70000e4:name1:a12:piece lengthi65536e6:pieces40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbe"
                .to_vec(),
            messages(&[&hello, &[5, 255], &[4, 0, 0, 0, 1], &[1], &last, &last]),
            messages(&[&[1], &[0], &last, &[1], &[], &[20, 1, b'd', b'e']]),
            messages(&[&first, b"\x14\x01d8:msg_typei0e5:piecei0ee"]),
        ];
        crate::fuzzing::run("stranger", &corpus, stranger);
    }

    /// What the target would miss if it reached nothing.
    #[test]
    fn a_block_that_was_asked_for_is_taken() {
        let mut blocks = Blocks::new(LEN, PIECE_BYTES.into());
        judge(&blocks.ask());
        assert_eq!(blocks.arrived(1, 0, 5), Some(u64::from(PIECE_BYTES)));
    }
}
