//! The disk's end of a fetch: bytes of a segment in order, written, handed to the verifier and hashed by pieces.

use std::io;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::gate::Gate;
use crate::segment::PieceHashes;

/// Bytes written with one call.
const WRITE_BYTES: usize = 512 << 10;
/// Chunks on their way to the disk; each is at most as large as a small file's extent.
const QUEUE: usize = 8;

/// Starts a thread that takes a segment's bytes in order. It ends with the piece hashes when the sender is dropped,
/// or with the disk's error at once.
pub(super) fn start(
    gate: Arc<Gate>,
    piece_bytes: u32,
) -> (mpsc::Sender<Bytes>, JoinHandle<io::Result<PieceHashes>>) {
    let (sender, mut chunks) = mpsc::channel::<Bytes>(QUEUE);
    let thread = tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces::new(piece_bytes);
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        let mut offset = 0;
        while let Some(chunk) = chunks.blocking_recv() {
            buffer.extend_from_slice(&chunk);
            if buffer.len() >= WRITE_BYTES {
                offset = put(&gate, &mut pieces, offset, &mut buffer)?;
            }
        }
        put(&gate, &mut pieces, offset, &mut buffer)?;
        Ok(pieces.finish())
    });
    (sender, thread)
}

fn put(gate: &Gate, pieces: &mut Pieces, offset: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
    if buffer.is_empty() {
        return Ok(offset);
    }
    gate.put(offset, buffer)?;
    pieces.update(buffer);
    let end = offset + buffer.len() as u64;
    buffer.clear();
    Ok(end)
}

/// SHA-1 by pieces of a stream.
struct Pieces {
    piece_bytes: usize,
    context: Context,
    filled: usize,
    hashes: Vec<[u8; 20]>,
}

impl Pieces {
    fn new(piece_bytes: u32) -> Self {
        Self {
            piece_bytes: piece_bytes.max(1) as usize,
            context: Context::new(&SHA1_FOR_LEGACY_USE_ONLY),
            filled: 0,
            hashes: Vec::new(),
        }
    }

    fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(self.piece_bytes - self.filled));
            self.context.update(now);
            self.filled += now.len();
            if self.filled == self.piece_bytes {
                self.end_piece();
            }
            data = later;
        }
    }

    fn end_piece(&mut self) {
        let context = std::mem::replace(&mut self.context, Context::new(&SHA1_FOR_LEGACY_USE_ONLY));
        let mut hash = [0; 20];
        hash.copy_from_slice(context.finish().as_ref());
        self.hashes.push(hash);
        self.filled = 0;
    }

    fn finish(mut self) -> PieceHashes {
        if self.filled > 0 {
            self.end_piece();
        }
        PieceHashes::new(self.hashes)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_do_not_depend_on_how_the_bytes_arrive(
            data in prop::collection::vec(any::<u8>(), 0..500), piece_bytes in 1_u32..200, step in 1_usize..100,
        ) {
            let mut pieces = Pieces::new(piece_bytes);
            for chunk in data.chunks(step) {
                pieces.update(chunk);
            }
            let expected: Vec<[u8; 20]> = data
                .chunks(piece_bytes as usize)
                .map(|piece| digest(&SHA1_FOR_LEGACY_USE_ONLY, piece).as_ref().try_into().unwrap())
                .collect();
            prop_assert_eq!(pieces.finish(), PieceHashes::new(expected));
        }
    }
}
