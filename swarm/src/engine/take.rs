//! One take: adds the torrent, watches it, removes it whatever happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use librqbit::api::TorrentIdOrHash;
use librqbit::{
    AddTorrent, AddTorrentOptions, AddTorrentResponse, ManagedTorrent, ManagedTorrentState, Session,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::forward::{Forwarder, Way, WayError};
use super::storage::{PieceResult, Transfer};
use super::{Take, TakeError};
use crate::metainfo;

/// How often the peer's state is looked at; completion does not wait for it.
const TICK: Duration = Duration::from_millis(100);
/// A holder from which no block came for so long is given up.
const SILENCE: Duration = Duration::from_secs(15);
/// A holder that trickles is given up too: after this time...
const PATIENCE: Duration = Duration::from_mins(1);
/// ... it must have sent so many bytes a second on average.
const MIN_BYTES_PER_SECOND: u64 = 4 << 10;

/// Everything one take needs on the engine's thread.
pub(super) struct Work {
    pub(super) session: Arc<Session>,
    pub(super) forwarder: Arc<Forwarder>,
    /// Of the torrent.
    pub(super) info_hash: [u8; 20],
    /// Held while the torrent is known to librqbit.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) request: Take,
    pub(super) transfer: Arc<Transfer>,
    pub(super) pieces: UnboundedReceiver<PieceResult>,
    pub(super) cancel: CancellationToken,
}

impl Work {
    pub(super) async fn run(mut self, on_bytes: impl Fn(u64)) -> Result<(), TakeError> {
        let turn = self.turn.clone();
        let cancel = self.cancel.clone();
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = cancel.cancelled() => return Err(self.failed("cancelled")),
        };
        let way = tokio::select! {
            way = self.way() => way?,
            () = cancel.cancelled() => return Err(self.failed("cancelled")),
        };
        let torrent = self.add().await?;
        let result = tokio::select! {
            result = self.watch(&torrent, on_bytes) => result,
            () = cancel.cancelled() => Err(self.failed("cancelled")),
        };
        self.delete(&torrent).await;
        drop(way);
        result
    }

    /// Makes a way to the holder. librqbit hears of it only when the holder has said that it serves the segment.
    async fn way(&self) -> Result<Way, TakeError> {
        let Take {
            holder,
            len,
            piece_bytes,
            ..
        } = self.request;
        let led = self
            .forwarder
            .lead(self.info_hash, holder, len, piece_bytes);
        match led.await {
            Ok(way) => Ok(way),
            Err(WayError::Connect(error)) => {
                tracing::debug!(%holder, %error, "a holder cannot be reached or does not serve the segment");
                Err(self.lost(0))
            }
            Err(WayError::Link(source)) => Err(TakeError::Link {
                segment: self.request.name(),
                holder,
                source,
            }),
        }
    }

    fn lost(&self, received: u64) -> TakeError {
        TakeError::Lost {
            segment: self.request.name(),
            holder: self.request.holder,
            received,
            len: self.request.len,
        }
    }

    fn failed(&self, message: &str) -> TakeError {
        TakeError::Engine {
            segment: self.request.name(),
            message: message.to_owned(),
        }
    }

    async fn delete(&self, torrent: &ManagedTorrent) {
        if let Err(error) = self
            .session
            .delete(TorrentIdOrHash::Id(torrent.id()), false)
            .await
        {
            tracing::debug!(segment = self.request.name(), %error, "torrent was gone already");
        }
    }

    async fn add(&self) -> Result<Arc<ManagedTorrent>, TakeError> {
        let peer = self.forwarder.local_addr();
        // Twice, because a take whose task died may have left its torrent, with its storage, behind.
        for _ in 0..2 {
            let torrent = metainfo::torrent(
                &self.request.snapshot,
                self.request.index,
                self.request.len,
                self.request.piece_bytes,
                &self.request.pieces,
            );
            let options = AddTorrentOptions {
                overwrite: true,
                initial_peers: Some(vec![peer]),
                storage_factory: Some(self.transfer.factory()),
                output_folder: Some(String::new()),
                ..AddTorrentOptions::default()
            };
            match self
                .session
                .add_torrent(AddTorrent::from_bytes(torrent), Some(options))
                .await
            {
                Ok(AddTorrentResponse::Added(_, torrent)) => return Ok(torrent),
                Ok(AddTorrentResponse::AlreadyManaged(_, left)) => self.delete(&left).await,
                Ok(AddTorrentResponse::ListOnly(_)) => break,
                Err(error) => return Err(self.failed(&format!("{error:#}"))),
            }
        }
        Err(self.failed("the torrent cannot be added"))
    }

    /// Waits until every piece is written, or until that will not happen.
    async fn watch(
        &mut self,
        torrent: &ManagedTorrent,
        on_bytes: impl Fn(u64),
    ) -> Result<(), TakeError> {
        let started = Instant::now();
        let mut received = 0;
        let mut blocks = 0;
        let mut last_block = started;
        let mut tick = tokio::time::interval(TICK);
        while received < self.request.len {
            tokio::select! {
                biased;
                piece = self.pieces.recv() => match piece {
                    Some(Ok(len)) => {
                        received += len;
                        on_bytes(len);
                        continue;
                    }
                    Some(Err(source)) => {
                        return Err(TakeError::Io { segment: self.request.name(), source });
                    }
                    None => return Err(self.failed("its storage is gone")),
                },
                _ = tick.tick() => {}
            }
            if self.transfer.blocks() != blocks {
                blocks = self.transfer.blocks();
                last_block = Instant::now();
            }
            self.check_torrent(torrent, received)?;
            let elapsed = started.elapsed();
            let too_slow = elapsed > PATIENCE
                && blocks * super::BLOCK_BYTES as u64 / elapsed.as_secs() < MIN_BYTES_PER_SECOND;
            if last_block.elapsed() > SILENCE || too_slow {
                return Err(TakeError::Stalled {
                    segment: self.request.name(),
                    holder: self.request.holder,
                    received,
                    len: self.request.len,
                    seconds: elapsed.as_secs(),
                });
            }
        }
        Ok(())
    }

    /// librqbit would try a lost or lying peer again and again; here the coordinator decides who is asked next.
    fn check_torrent(&self, torrent: &ManagedTorrent, received: u64) -> Result<(), TakeError> {
        torrent.with_state(|state| match state {
            ManagedTorrentState::Error(error) => Err(self.failed(&format!("{error:#}"))),
            ManagedTorrentState::Live(live) => {
                let peers = live.stats_snapshot().peer_stats;
                // Not needed: the peer was let go because the segment is complete.
                if peers.dead == 0 && (peers.not_needed == 0 || received == self.request.len) {
                    return Ok(());
                }
                if let Some(piece) = self.transfer.refused() {
                    return Err(TakeError::WrongBytes {
                        segment: self.request.name(),
                        holder: self.request.holder,
                        piece,
                    });
                }
                Err(self.lost(received))
            }
            _ => Ok(()),
        })
    }
}
