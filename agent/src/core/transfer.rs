//! One segment from the hub or from another node to the disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use modelcache_swarm::coordination::Held;
use modelcache_swarm::engine::Take;
use modelcache_swarm::origin::OriginClient;
use modelcache_swarm::segment::{PieceHashes, Segment, SegmentIo};
use modelcache_swarm::store::{SnapshotStore, Source, StoreError};
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
        /// Name of the node.
        holder: String,
        /// Where it serves.
        address: SocketAddr,
    },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// These segments are durable now; normally only the ordered one.
    Held(Vec<Held>),
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
}

enum Place {
    Writer(Arc<dyn SegmentIo>),
    Adopted(Vec<Held>),
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
            Ok(Brought::Pieces(pieces)) => self.commit(pieces).await.map(|held| vec![held]),
            Ok(Brought::Adopted(held)) => Ok(held),
            Err(failure) => Err(failure),
        };
        self.count(committed.is_ok());
        match committed {
            Ok(held) => Outcome::Held(held),
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
                let received = self.context.metrics.origin_received.get_or_create(&model).clone();
                let on_bytes = |bytes| {
                    received.inc_by(bytes);
                };
                let pieces = origin
                    .fetch_segment(snapshot, &self.segment, io, &on_bytes)
                    .await?;
                Ok(Brought::Pieces(pieces))
            }
            Order::Take {
                pieces, address, ..
            } => {
                let received = self.context.metrics.peer_received.get_or_create(&model).clone();
                let take = Take {
                    snapshot: snapshot.name.clone(),
                    index: self.segment.index,
                    len: self.segment.len(),
                    piece_bytes: snapshot.sizes.piece_bytes,
                    pieces: pieces.clone(),
                    holder: *address,
                    io,
                };
                let on_bytes = move |bytes| {
                    received.inc_by(bytes);
                };
                self.context.engine.take(take, on_bytes).await?;
                Ok(Brought::Pieces(pieces.clone()))
            }
        }
    }

    /// Where to write, once no other snapshot of this node fills the same bytes; perhaps they are all here then.
    async fn place(&self) -> Result<Place, Failure> {
        let index = self.segment.index;
        let mut looks = 0;
        loop {
            let store = self.store.clone();
            let writer = blocking(move || store.writer(index)).await?;
            match writer {
                Ok(io) => return Ok(Place::Writer(io)),
                Err(StoreError::Busy { .. }) if looks < BUSY_LOOKS => looks += 1,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(BUSY_WAIT).await;
            let store = self.store.clone();
            let adopted = blocking(move || store.adopt()).await??;
            if adopted.iter().any(|held| held.segment == index) {
                return Ok(Place::Adopted(adopted));
            }
        }
    }

    async fn commit(&self, pieces: PieceHashes) -> Result<Held, Failure> {
        let index = self.segment.index;
        let from = match self.order {
            Order::Fetch => Source::Origin,
            Order::Take { .. } => Source::Peer,
        };
        let store = self.store.clone();
        blocking(move || {
            store.commit(index, pieces, from)?;
            // Its piece hashes are not always those that came along: bytes that were here before are kept.
            let mut held = store.held().into_iter();
            held.find(|held| held.segment == index)
                .ok_or_else(|| Failure::chance("the segment was thrown away meanwhile"))
        })
        .await?
    }

    fn count(&self, held: bool) {
        let labels = metrics::Transfer {
            source: match self.order {
                Order::Fetch => metrics::Origin::origin,
                Order::Take { .. } => metrics::Origin::peer,
            },
            result: if held {
                metrics::Outcome::held
            } else {
                metrics::Outcome::failed
            },
        };
        self.context.metrics.segments.get_or_create(&labels).inc();
    }
}

enum Brought {
    Pieces(PieceHashes),
    Adopted(Vec<Held>),
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::chance(format!("the agent is stopping: {error}")))
}
