//! Where librqbit puts the blocks of one segment: pieces are collected in memory and reach the disk only after their
//! hash matched.
//!
//! librqbit writes block by block, reads a complete piece back to hash it, and then reports it. So one buffer a piece
//! serves the blocks, the check and the single write; a lying peer's bytes never touch the disk. librqbit only logs
//! an error of the report, hence results travel over a channel of our own. All calls come from the engine's thread.

use std::collections::HashMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use librqbit::storage::{BoxStorageFactory, StorageFactory, StorageFactoryExt, TorrentStorage};
use librqbit::{ManagedTorrentShared, TorrentMetadata};
use librqbit_core::lengths::ValidPieceIndex;
use tokio::sync::mpsc::UnboundedSender;

use crate::buffers::Buffer;
use crate::gate::Gate;

/// The unit that librqbit asks for.
pub(super) const BLOCK_BYTES: usize = 16 << 10;

/// What became of a piece: its length once it is on disk.
pub(super) type PieceResult = std::io::Result<u64>;

/// A piece of which blocks have arrived.
struct Piece {
    data: Buffer,
    arrived: Vec<bool>,
}

impl Piece {
    fn is_full(&self) -> bool {
        self.arrived.iter().all(|&arrived| arrived)
    }
}

/// One transfer, as librqbit's storage and our own task see it.
pub(super) struct Transfer {
    len: u64,
    piece_bytes: u32,
    gate: Arc<Gate>,
    results: UnboundedSender<PieceResult>,
    /// Set when librqbit has ended its check of what is there already.
    started: AtomicBool,
    blocks: AtomicU64,
    pieces: Mutex<HashMap<u32, Piece>>,
}

impl Transfer {
    pub(super) fn new(
        len: u64,
        piece_bytes: u32,
        gate: Arc<Gate>,
        results: UnboundedSender<PieceResult>,
    ) -> Arc<Self> {
        Arc::new(Self {
            len,
            piece_bytes,
            gate,
            results,
            started: AtomicBool::new(false),
            blocks: AtomicU64::new(0),
            pieces: Mutex::default(),
        })
    }

    /// Number of blocks that have arrived so far, whatever they hold.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// A piece that is complete but was not accepted: its hash did not match.
    pub(super) fn refused(&self) -> Option<u32> {
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces
            .iter()
            .find(|(_, piece)| piece.is_full())
            .map(|(index, _)| *index)
    }

    pub(super) fn factory(self: &Arc<Self>) -> BoxStorageFactory {
        Factory(self.clone()).boxed()
    }

    /// The piece that `offset` lies in and the place within it.
    fn place(&self, offset: u64, len: usize) -> anyhow::Result<(u32, usize, usize)> {
        let piece_bytes = u64::from(self.piece_bytes);
        let index = offset / piece_bytes;
        let piece_len = piece_bytes.min(self.len.saturating_sub(index * piece_bytes));
        let within = offset % piece_bytes;
        if within + len as u64 > piece_len {
            bail!("{len} bytes at {offset} are not inside one piece");
        }
        Ok((
            u32::try_from(index)?,
            usize::try_from(within)?,
            usize::try_from(piece_len)?,
        ))
    }

    fn write(&self, offset: u64, parts: &[&[u8]]) -> anyhow::Result<()> {
        let len = parts.iter().map(|part| part.len()).sum();
        let (index, within, piece_len) = self.place(offset, len)?;
        let whole_block =
            within % BLOCK_BYTES == 0 && len == BLOCK_BYTES.min(piece_len - within) && len > 0;
        if !whole_block {
            bail!("{len} bytes at {offset} are not one block");
        }
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = pieces.entry(index).or_insert_with(|| Piece {
            data: Buffer::of(piece_len),
            arrived: vec![false; piece_len.div_ceil(BLOCK_BYTES)],
        });
        let mut at = within;
        for part in parts {
            piece.data[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        piece.arrived[within / BLOCK_BYTES] = true;
        self.blocks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> anyhow::Result<()> {
        if !self.started.load(Ordering::Relaxed) {
            // Ends the initial check at once: nothing is there that would be worth hashing.
            bail!("nothing held yet");
        }
        let (index, within, _) = self.place(offset, out.len())?;
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = pieces.get(&index).context("piece is not in memory")?;
        out.copy_from_slice(&piece.data[within..within + out.len()]);
        Ok(())
    }

    fn accept(&self, index: u32) {
        let piece = self
            .pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&index);
        let Some(piece) = piece else { return };
        let offset = u64::from(index) * u64::from(self.piece_bytes);
        let result = self
            .gate
            .put(offset, &piece.data)
            .map(|()| piece.data.len() as u64);
        // Nobody listens any more when the transfer was cancelled.
        let _ = self.results.send(result);
    }
}

struct Factory(Arc<Transfer>);

impl StorageFactory for Factory {
    type Storage = Storage;

    fn create(&self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<Storage> {
        Ok(Storage(self.0.clone()))
    }

    fn clone_box(&self) -> BoxStorageFactory {
        self.0.factory()
    }
}

struct Storage(Arc<Transfer>);

impl TorrentStorage for Storage {
    fn init(&mut self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<()> {
        Ok(())
    }

    fn pread_exact(&self, _file: usize, offset: u64, out: &mut [u8]) -> anyhow::Result<()> {
        self.0.read(offset, out)
    }

    fn pwrite_all(&self, _file: usize, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        self.0.write(offset, &[data])
    }

    fn pwrite_all_vectored(
        &self,
        _file: usize,
        offset: u64,
        parts: [IoSlice<'_>; 2],
    ) -> anyhow::Result<usize> {
        self.0.write(offset, &[&parts[0], &parts[1]])?;
        Ok(parts[0].len() + parts[1].len())
    }

    fn remove_file(&self, _file: usize, _name: &Path) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove_directory_if_empty(&self, _path: &Path) -> anyhow::Result<()> {
        Ok(())
    }

    fn ensure_file_length(&self, _file: usize, _len: u64) -> anyhow::Result<()> {
        Ok(())
    }

    /// librqbit calls this first when its initial check is over, later when the torrent is removed.
    fn take(&self) -> anyhow::Result<Box<dyn TorrentStorage>> {
        self.0.started.store(true, Ordering::Relaxed);
        Ok(Box::new(Self(self.0.clone())))
    }

    fn on_piece_completed(&self, piece: ValidPieceIndex) -> anyhow::Result<()> {
        self.0.accept(piece.get());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::memory::MemoryIo;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    fn transfer(len: u64) -> (Arc<Transfer>, Arc<MemoryIo>, UnboundedReceiver<PieceResult>) {
        let io = Arc::new(MemoryIo::empty(usize::try_from(len).unwrap()));
        let (tx, rx) = unbounded_channel();
        let transfer = Transfer::new(len, 32 << 10, Gate::new(io.clone()), tx);
        transfer.started.store(true, Ordering::Relaxed);
        (transfer, io, rx)
    }

    #[test]
    fn a_piece_reaches_the_disk_when_it_was_accepted_and_not_before() {
        let (transfer, io, mut results) = transfer(40_000);
        transfer.write(32_768, &[&[1; 7000], &[2; 232]]).unwrap();
        transfer.write(16_384, &[&vec![3; 16_384]]).unwrap();
        assert_eq!(transfer.refused(), Some(1), "complete, not yet accepted");
        transfer.accept(1);
        assert_eq!(transfer.refused(), None);
        assert_eq!(results.try_recv().unwrap().unwrap(), 7232);
        assert_eq!(io.take()[32_768..39_768], [1; 7000]);
        assert!(io.take()[..32_768].iter().all(|&byte| byte == 0));
        assert_eq!(*io.checked.lock().unwrap(), [(32_768, 7232)]);
    }

    #[test]
    fn a_block_that_comes_twice_does_not_complete_a_piece() {
        let (transfer, _, _results) = transfer(40_000);
        transfer.write(0, &[&vec![1; 16_384]]).unwrap();
        transfer.write(0, &[&vec![1; 16_384]]).unwrap();
        assert_eq!(transfer.refused(), None);
    }

    #[test]
    fn blocks_out_of_place_are_refused() {
        let (transfer, _, _results) = transfer(40_000);
        for (offset, len) in [
            (1, 16_384),
            (0, 100),
            (16_384, 32_768),
            (49_152, 10),
            (0, 0),
        ] {
            assert!(
                transfer.write(offset, &[&vec![0; len]]).is_err(),
                "{len} bytes at {offset}"
            );
        }
    }

    #[test]
    fn nothing_is_written_through_a_closed_gate() {
        let (transfer, io, mut results) = transfer(20_000);
        transfer.write(0, &[&vec![1; 16_384]]).unwrap();
        transfer.write(16_384, &[&[1; 3616]]).unwrap();
        transfer.gate.close();
        transfer.accept(0);
        assert!(results.try_recv().unwrap().is_err());
        assert_eq!(io.take(), vec![0; 20_000]);
    }
}
