//! Telling a peer the info dictionary of a torrent that it knows by a magnet link only (BEP 9).

use std::collections::VecDeque;
use std::sync::Arc;

use thiserror::Error;

use super::wire;
use crate::bencode::Bencode;
use crate::bencode::found::{Dictionary, Found};

/// Metadata travels in blocks of this length.
pub(super) const BLOCK_BYTES: usize = 16 << 10;
/// Blocks that a peer may wait for at once: 8 MiB, more than any info dictionary of ours.
const MAX_WAITING: usize = 512;

pub(super) const REQUEST: i64 = 0;
pub(super) const DATA: i64 = 1;
const REJECT: i64 = 2;

/// A peer asks for more blocks at once than there can be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("asks for more than {MAX_WAITING} blocks of metadata at once")]
pub(super) struct TooMany;

/// What one peer asks.
#[derive(Debug)]
pub(super) struct Metadata {
    info: Arc<[u8]>,
    /// What the peer calls `ut_metadata`, once it has said so.
    their_id: Option<u8>,
    waiting: VecDeque<i64>,
}

impl Metadata {
    pub(super) fn new(info: Arc<[u8]>) -> Self {
        Self {
            info,
            their_id: None,
            waiting: VecDeque::new(),
        }
    }

    /// Length of the info dictionary in bytes.
    pub(super) fn len(&self) -> usize {
        self.info.len()
    }

    /// The peer says what it calls `ut_metadata`; 0: that it does not want it any longer.
    pub(super) fn named(&mut self, id: i64) {
        self.their_id = u8::try_from(id).ok().filter(|id| *id != 0);
    }

    /// Takes note of a message of the peer. What makes no sense is passed over.
    pub(super) fn hear(&mut self, said: Dictionary<'_>) -> Result<(), TooMany> {
        let number = |key| said.get(key).and_then(Found::integer);
        if let (Some(REQUEST), Some(piece)) = (number(b"msg_type"), number(b"piece")) {
            if self.waiting.len() == MAX_WAITING {
                return Err(TooMany);
            }
            self.waiting.push_back(piece);
        }
        Ok(())
    }

    /// Whether there is something to say.
    pub(super) fn is_asked(&self) -> bool {
        self.their_id.is_some() && !self.waiting.is_empty()
    }

    /// Appends the answer to the next request to `out`, if there is one.
    pub(super) fn answer(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(id) = self.their_id else {
            return false;
        };
        let Some(piece) = self.waiting.pop_front() else {
            return false;
        };
        let block = usize::try_from(piece)
            .ok()
            .and_then(|piece| self.info.chunks(BLOCK_BYTES).nth(piece));
        let piece = ("piece", Bencode::Integer(piece));
        let head = if block.is_some() {
            let total = i64::try_from(self.info.len()).unwrap_or(i64::MAX);
            let total = ("total_size", Bencode::Integer(total));
            Bencode::dictionary([("msg_type", Bencode::Integer(DATA)), piece, total])
        } else {
            Bencode::dictionary([("msg_type", Bencode::Integer(REJECT)), piece])
        };
        out.extend(wire::extended(&[
            &[id],
            &head.encode(),
            block.unwrap_or_default(),
        ]));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::EXTENDED;
    use super::*;

    fn ask(metadata: &mut Metadata, piece: i64) -> Result<(), TooMany> {
        let message = format!("d8:msg_typei0e5:piecei{piece}ee");
        metadata.hear(Dictionary::read(message.as_bytes()).unwrap())
    }

    fn answers(metadata: &mut Metadata) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut out = Vec::new();
        while metadata.answer(&mut out) {
            all.push(std::mem::take(&mut out));
        }
        all
    }

    #[test]
    fn blocks_are_given_as_the_peer_calls_them() {
        let info: Vec<u8> = (0..20_000_u32)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let mut metadata = Metadata::new(info.clone().into());
        ask(&mut metadata, 1).unwrap();
        assert!(!metadata.is_asked(), "nobody knows yet how to answer");
        metadata.named(3);
        assert!(metadata.is_asked());
        for piece in [0, 2, -1, i64::MAX] {
            ask(&mut metadata, piece).unwrap();
        }
        let answers = answers(&mut metadata);
        assert!(!metadata.is_asked());
        let data = |piece, block: &[u8]| {
            let head = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei20000ee");
            [&[EXTENDED, 3][..], head.as_bytes(), block].concat()
        };
        assert_eq!(answers[0][4..], data(1, &info[BLOCK_BYTES..]));
        assert_eq!(answers[1][4..], data(0, &info[..BLOCK_BYTES]));
        let len = u32::from_be_bytes(answers[1][..4].try_into().unwrap());
        assert_eq!(len as usize, answers[1].len() - 4);
        assert_eq!(answers[2][4..], *b"\x14\x03d8:msg_typei2e5:piecei2ee");
        assert_eq!(answers[3][4..], *b"\x14\x03d8:msg_typei2e5:piecei-1ee");
        assert_eq!(answers.len(), 5);
    }

    #[test]
    fn more_than_there_can_be_is_too_much() {
        let mut metadata = Metadata::new(Arc::from(&b"de"[..]));
        for _ in 0..MAX_WAITING {
            ask(&mut metadata, 0).unwrap();
        }
        assert_eq!(ask(&mut metadata, 0), Err(TooMany));
    }
}
