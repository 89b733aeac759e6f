//! Which blocks of a file are asked for next. Pure.

use std::collections::BTreeSet;

use super::super::wire::{self, Request};

/// What is asked for at once.
pub(super) const BLOCK_BYTES: u64 = 16 << 10;
/// Blocks asked for ahead: 1 MiB, as much as clients keep in mind of one peer without dropping the connection.
const WINDOW: usize = 64;

/// The blocks of one file by number, in order as far as the stranger lets it.
pub(super) struct Blocks {
    len: u64,
    piece_bytes: u64,
    /// The first that was never asked for.
    next: u64,
    /// Asked for and not here.
    asked: BTreeSet<u64>,
    /// Asked for before the stranger choked: to be asked for again.
    again: BTreeSet<u64>,
    /// Bytes that are here.
    bytes: u64,
}

impl Blocks {
    /// Nothing is here. The length of a piece is a multiple of [`BLOCK_BYTES`].
    pub(super) fn new(len: u64, piece_bytes: u64) -> Self {
        Self {
            len,
            piece_bytes,
            next: 0,
            asked: BTreeSet::new(),
            again: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Bytes that are here.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn all_here(&self) -> bool {
        self.bytes == self.len
    }

    /// The requests to send now: none while many are out, so that several travel together.
    pub(super) fn ask(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.asked.len() > WINDOW / 2 {
            return out;
        }
        while self.asked.len() < WINDOW {
            let Some(block) = self.again.pop_first().or_else(|| self.fresh()) else {
                break;
            };
            let offset = block * BLOCK_BYTES;
            // They fit: a torrent is read only if its pieces can be counted by 32 bits, and are as short.
            let [piece, begin, len] = [
                offset / self.piece_bytes,
                offset % self.piece_bytes,
                self.len_of(block),
            ]
            .map(|number| u32::try_from(number).unwrap_or(u32::MAX));
            out.extend(wire::request(Request { piece, begin, len }));
            self.asked.insert(block);
        }
        out
    }

    /// The stranger forgets what it was asked for. What is on its way may arrive all the same.
    pub(super) fn choked(&mut self) {
        self.again.append(&mut self.asked);
    }

    /// A block came: its offset, unless nobody waits for it.
    pub(super) fn arrived(&mut self, piece: u32, begin: u32, len: usize) -> Option<u64> {
        let begin = Some(u64::from(begin)).filter(|begin| *begin < self.piece_bytes)?;
        let offset = u64::from(piece).checked_mul(self.piece_bytes)? + begin;
        let block = offset / BLOCK_BYTES;
        let whole = offset % BLOCK_BYTES == 0 && self.len_of(block) == len as u64;
        if !whole || !(self.asked.remove(&block) || self.again.remove(&block)) {
            return None;
        }
        self.bytes += len as u64;
        Some(offset)
    }

    fn fresh(&mut self) -> Option<u64> {
        let block = self.next;
        (self.len_of(block) > 0)
            .then(|| self.next += 1)
            .map(|()| block)
    }

    /// Length of a block; 0: there is none.
    fn len_of(&self, block: u64) -> u64 {
        let rest = self.len.saturating_sub(block.saturating_mul(BLOCK_BYTES));
        rest.min(BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::wire::{Message, locate, parse};
    use super::*;

    const PIECE: u32 = 32 << 10;

    /// What is asked for now.
    fn asked(blocks: &mut Blocks) -> Vec<Request> {
        let bytes = blocks.ask();
        let mut rest = &bytes[..];
        let mut requests = Vec::new();
        while let Some((Message::Request(request), taken)) = parse(rest).unwrap() {
            requests.push(request);
            rest = &rest[taken..];
        }
        assert!(rest.is_empty());
        requests
    }

    proptest! {
        /// However a stranger orders its blocks and chokes, each byte comes once, and no more is out than there may be.
        #[test]
        fn every_byte_comes_once(len in 1_u64..4_000_000, turns in prop::collection::vec((any::<prop::sample::Index>(), 0..100_u8), 300..1000)) {
            let mut blocks = Blocks::new(len, PIECE.into());
            let mut out: Vec<Request> = Vec::new();
            let mut had = BTreeSet::new();
            let mut turns = turns.iter().cycle();
            while !blocks.all_here() {
                out.extend(asked(&mut blocks));
                prop_assert!(!out.is_empty() && blocks.asked.len() <= WINDOW);
                let (index, chance) = turns.next().unwrap();
                if *chance == 0 {
                    blocks.choked();
                    // One was on its way, the others are forgotten.
                    out.truncate(1);
                    continue;
                }
                let request = out.swap_remove(index.index(out.len()));
                let offset = locate(request, len, PIECE).unwrap();
                let Some(found) = blocks.arrived(request.piece, request.begin, request.len as usize) else {
                    prop_assert!(had.contains(&offset));
                    continue;
                };
                prop_assert_eq!(found, offset);
                prop_assert!(had.insert(offset));
                prop_assert_eq!(blocks.arrived(request.piece, request.begin, request.len as usize), None);
            }
            prop_assert_eq!(had.len() as u64, len.div_ceil(BLOCK_BYTES));
        }

        #[test]
        fn what_nobody_asked_for_is_not_taken(piece: u32, begin: u32, len in 0_usize..40_000) {
            let mut blocks = Blocks::new(5_000_000, PIECE.into());
            prop_assert_eq!(blocks.arrived(piece, begin, len), None);
            blocks.ask();
            if blocks.arrived(piece, begin, len).is_some() {
                prop_assert!(piece < 32 && len == 16 << 10 && begin % (16 << 10) == 0);
            }
        }
    }
}
