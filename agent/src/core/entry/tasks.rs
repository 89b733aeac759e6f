//! What a snapshot does in tasks of its own, because it takes time.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::super::transfer::Neighbours;
use super::super::{Context, Event};
use super::{Done, Entry};
use modelcache_swarm::store::{SnapshotStore, StoreError};

fn cannot_adopt(error: &StoreError) {
    tracing::warn!(%error, "cannot look for bytes of other snapshots");
}

impl Entry {
    pub(super) fn open(&mut self, context: &Arc<Context>, previous: Option<TaskTracker>) {
        let send = self.sender(context);
        let snapshot = self.snapshot.clone();
        let store = context.store.clone();
        self.tasks.spawn(async move {
            if let Some(previous) = previous {
                previous.close();
                previous.wait().await;
            }
            let opened = tokio::task::spawn_blocking(move || {
                let store = store.snapshot(snapshot)?;
                store.adopt()?;
                let held = store.held();
                Ok((store, held))
            });
            if let Ok(opened) = opened.await {
                send(Done::Opened(opened));
            }
        });
    }

    pub(super) fn verify(&self, context: &Arc<Context>) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let send = self.sender(context);
        let context = context.clone();
        self.tasks.spawn(async move {
            let Ok(_slot) = context.hash_slots.acquire().await else {
                return;
            };
            let verified = tokio::task::spawn_blocking(move || {
                let verified = store.verify();
                // Others may have brought what completed it; afterwards nobody looks any more.
                let brought = if store.is_whole() {
                    store.adopt()
                } else {
                    Ok(Vec::new())
                };
                (verified, brought)
            });
            let Ok((verified, brought)) = verified.await else {
                return;
            };
            match brought {
                Ok(held) if held.is_empty() => {}
                Ok(held) => send(Done::Adopted(held)),
                Err(error) => cannot_adopt(&error),
            }
            send(Done::Verified(verified));
        });
    }

    pub(super) fn run_blocking(
        &self,
        context: &Arc<Context>,
        work: impl FnOnce(&Context, &SnapshotStore) -> Done + Send + 'static,
    ) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let send = self.sender(context);
        let context = context.clone();
        self.tasks
            .spawn_blocking(move || send(work(&context, &store)));
    }

    /// Sends back what came of a task of this opening.
    pub(super) fn sender(&self, context: &Arc<Context>) -> impl Fn(Done) + Send + Sync + 'static {
        let results = context.results.clone();
        let name = self.snapshot.name.clone();
        let epoch = self.epoch;
        move |done| {
            // The loop is gone only when the agent stops.
            let _ = results.send(Event::Snapshot {
                name: name.clone(),
                epoch,
                done,
            });
        }
    }

    /// Looks for bytes that other snapshots of this node brought.
    pub(super) fn adopt(&self, context: &Arc<Context>) {
        let (Some(store), Some(neighbours)) = (self.store.clone(), self.neighbours(context)) else {
            return;
        };
        self.tasks.spawn(async move {
            let _turn = neighbours.turn.lock().await;
            match tokio::task::spawn_blocking(move || store.adopt()).await {
                // Also when there is nothing new: another snapshot may have verified what is shared.
                Ok(Ok(held)) => (neighbours.adopted)(held),
                Ok(Err(error)) => cannot_adopt(&error),
                Err(_) => {}
            }
        });
    }

    pub(super) fn neighbours(&self, context: &Arc<Context>) -> Option<Neighbours> {
        let send = self.sender(context);
        self.has_neighbours.then(|| Neighbours {
            turn: self.adopting.clone(),
            adopted: Box::new(move |held| send(Done::Adopted(held))),
        })
    }
}
