//! One segment from the hub or from another node to the disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use modelcache_swarm::coordination::Held;
use modelcache_swarm::engine::{Take, TakeError};
use modelcache_swarm::origin::OriginClient;
use modelcache_swarm::segment::{PieceHashes, Segment, SegmentIo};
use modelcache_swarm::store::{SnapshotStore, Source, StoreError};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::failure::Failure;
use crate::metrics::{self, Model};

/// While another snapshot of this node fills the same bytes, look again after this…
const BUSY_WAIT: Duration = Duration::from_millis(500);
/// …and give up after so many looks.
const BUSY_LOOKS: u32 = 240;

/// What the coordinator ordered about a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Get it from the hub.
    Fetch,
    /// Get it from that node.
    Take {
        /// Piece hashes.
        pieces: PieceHashes,
        /// Name of the node, or its address where nobody says the name.
        holder: String,
        /// Where it serves.
        address: SocketAddr,
    },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The segment is durable now.
    Held(Held),
    /// It failed.
    Failed(Failure),
    /// It was cancelled before it was complete.
    Cancelled,
}

/// Everything that a transfer needs.
pub(super) struct Transfer {
    pub context: Arc<Context>,
    pub store: SnapshotStore,
    pub segment: Segment,
    pub order: Order,
    /// Absent: the coordinator has not said how to reach it.
    pub origin: Option<Result<Arc<OriginClient>, Failure>>,
    pub cancel: CancellationToken,
    /// Other snapshots of this node, whose bytes may be the same.
    pub neighbours: Option<Neighbours>,
    /// Counts the bytes that come in.
    pub moved: Arc<AtomicU64>,
}

/// How a transfer looks for bytes that other snapshots of this node brought.
pub(super) struct Neighbours {
    /// Of all transfers of this snapshot.
    pub turn: Arc<Mutex<()>>,
    /// Where to tell of segments that are held by that.
    pub adopted: Box<dyn Fn(Vec<Held>) + Send + Sync>,
}

enum Place {
    Writer(Arc<dyn SegmentIo>),
    Adopted(Held),
}

impl Transfer {
    /// Runs to the end.
    pub(super) async fn run(self) -> Outcome {
        let moved = tokio::select! {
            () = self.cancel.cancelled() => return Outcome::Cancelled,
            moved = self.bring() => moved,
        };
        // From here on it is not cancelled: what was written is made durable as a whole or not at all.
        let committed = match moved {
            Ok(Brought::Pieces(pieces, writer, from)) => {
                let committed = self.commit(pieces, from).await;
                // Not before: a claim whose writer is gone may be given to another snapshot.
                drop(writer);
                self.count(from, committed.is_ok());
                committed
            }
            Ok(Brought::Adopted(held)) => {
                self.count(None, true);
                Ok(held)
            }
            Err(failure) => {
                self.count(Some(self.source()), false);
                Err(failure)
            }
        };
        match committed {
            Ok(held) => Outcome::Held(held),
            // All of it came in another way meanwhile: nobody failed, and whoever brought it says so.
            Err(_) if self.store.is_here(self.segment.index) => Outcome::Cancelled,
            Err(failure) => Outcome::Failed(failure),
        }
    }

    async fn bring(&self) -> Result<Brought, Failure> {
        let slots = match self.order {
            Order::Fetch => &self.context.fetch_slots,
            Order::Take { .. } => &self.context.take_slots,
        };
        let _slot = slots
            .acquire()
            .await
            .map_err(|_| Failure::chance("the agent is stopping"))?;
        let io = match self.place().await? {
            Place::Writer(io) => io,
            Place::Adopted(held) => return Ok(Brought::Adopted(held)),
        };
        let snapshot = self.store.snapshot();
        let model = Model {
            model: snapshot.repository.clone(),
        };
        match &self.order {
            Order::Fetch => {
                let origin = match &self.origin {
                    Some(Ok(origin)) => origin,
                    Some(Err(failure)) => return Err(failure.clone()),
                    None => {
                        return Err(Failure::chance(
                            "the coordinator has not said how to reach the hub",
                        ));
                    }
                };
                let received = self
                    .context
                    .metrics
                    .origin_received
                    .get_or_create(&model)
                    .clone();
                let on_bytes = |bytes| {
                    self.moved.fetch_add(bytes, Ordering::Relaxed);
                    received.inc_by(bytes);
                };
                let pieces = origin
                    .fetch_segment(snapshot, &self.segment, io.clone(), &on_bytes)
                    .await?;
                Ok(Brought::Pieces(pieces, io, Some(Source::Origin)))
            }
            Order::Take {
                pieces, address, ..
            } => {
                // Of a content that was wrong here most segments are right: only those that are not are moved again.
                if self.is_left(pieces, &io).await? {
                    return Ok(Brought::Pieces(pieces.clone(), io, None));
                }
                let received = self
                    .context
                    .metrics
                    .peer_received
                    .get_or_create(&model)
                    .clone();
                let take = Take {
                    snapshot: snapshot.name.clone(),
                    index: self.segment.index,
                    len: self.segment.len(),
                    piece_bytes: snapshot.sizes.piece_bytes,
                    pieces: pieces.clone(),
                    holder: *address,
                    io: io.clone(),
                };
                let moved = self.moved.clone();
                let on_bytes = move |bytes| {
                    moved.fetch_add(bytes, Ordering::Relaxed);
                    received.inc_by(bytes);
                };
                let taken = self.context.engine.take(take, on_bytes).await;
                self.note(*address, &taken);
                taken?;
                Ok(Brought::Pieces(pieces.clone(), io, Some(Source::Peer)))
            }
        }
    }

    /// What a take says of the address that it came from.
    fn note(&self, address: SocketAddr, taken: &Result<(), TakeError>) {
        let (mut peers, now) = (self.context.peers.lock(), Instant::now());
        match taken {
            Ok(()) => peers.verified(address, now),
            Err(error) if error.is_of_the_link() => peers.failed(address, now),
            Err(_) => {}
        }
    }

    /// Where to write, once no other snapshot of this node fills the same bytes; perhaps they are all here then.
    async fn place(&self) -> Result<Place, Failure> {
        let index = self.segment.index;
        for _ in 0..BUSY_LOOKS {
            let store = self.store.clone();
            let writer = blocking(move || store.writer(index)).await?;
            // Looked at after the writer has its claim: from then on nobody else fills what is missing.
            if let Some(neighbours) = &self.neighbours {
                // One at a time, so that the same bytes are not hashed by several.
                let _turn = neighbours.turn.lock().await;
                let store = self.store.clone();
                let adopted = blocking(move || store.adopt()).await??;
                if !adopted.is_empty() {
                    (neighbours.adopted)(adopted);
                }
                if self.store.is_held(index) {
                    return Ok(Place::Adopted(self.held().await?));
                }
            }
            match writer {
                Ok(io) => return Ok(Place::Writer(io)),
                Err(StoreError::Busy { .. }) => tokio::time::sleep(BUSY_WAIT).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::chance(
            "another snapshot of this node has been filling the same bytes for long",
        ))
    }

    /// The ordered segment as it is held. Its piece hashes are not always those that came along: bytes that were here
    /// before are kept.
    async fn held(&self) -> Result<Held, Failure> {
        let index = self.segment.index;
        let store = self.store.clone();
        let held = blocking(move || store.held_segment(index)).await?;
        held.ok_or_else(thrown_away)
    }

    /// Whether the segment lies here with these piece hashes although its blob was thrown away.
    async fn is_left(
        &self,
        pieces: &PieceHashes,
        io: &Arc<dyn SegmentIo>,
    ) -> Result<bool, Failure> {
        let (store, index) = (self.store.clone(), self.segment.index);
        if !store.may_be_left(index) {
            return Ok(false);
        }
        let (pieces, io) = (pieces.clone(), io.clone());
        blocking(move || store.is_left(index, &*io, &pieces)).await
    }

    /// Where the order says that it comes from.
    fn source(&self) -> Source {
        match self.order {
            Order::Fetch => Source::Origin,
            Order::Take { .. } => Source::Peer,
        }
    }

    async fn commit(&self, pieces: PieceHashes, from: Option<Source>) -> Result<Held, Failure> {
        let index = self.segment.index;
        let store = self.store.clone();
        let held = blocking(move || {
            store.commit(index, pieces, from)?;
            Ok::<_, StoreError>(store.held_segment(index))
        });
        held.await??.ok_or_else(thrown_away)
    }

    fn count(&self, from: Option<Source>, held: bool) {
        let labels = metrics::Transfer {
            source: match from {
                Some(Source::Origin) => metrics::Origin::Hub,
                Some(Source::Peer) => metrics::Origin::Peer,
                None => metrics::Origin::Disk,
            },
            result: if held {
                metrics::Outcome::Held
            } else {
                metrics::Outcome::Failed
            },
        };
        self.context.metrics.segments.get_or_create(&labels).inc();
    }
}

enum Brought {
    /// With where they came from; absent: they were left here from before.
    Pieces(PieceHashes, Arc<dyn SegmentIo>, Option<Source>),
    Adopted(Held),
}

fn thrown_away() -> Failure {
    Failure::chance("the segment was thrown away meanwhile")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::chance(format!("the agent is stopping: {error}")))
}
