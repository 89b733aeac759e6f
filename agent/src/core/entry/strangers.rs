//! Taking a file from a machine with hali: carries out what [`crate::strangers`] decides.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use modelcache_crds::model_cache::SourcePolicy;
use modelcache_swarm::coordination::Held;
use modelcache_swarm::discovery::hali::seeds::Place;
use modelcache_swarm::engine::{Stranger, StrangerError};
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::store::{Foreign, Proof, SnapshotStore, StoreError};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::super::failure::{of_store, words_of_store};
use super::super::{Context, Link};
use super::{Done, Entry};
use crate::strangers::{End, Standing, fitting};
use crate::work::{Input, Step};

/// What came of asking a machine.
pub(in crate::core) enum Sought {
    /// A file is proved; these segments are held because of it.
    Taken { path: String, held: Vec<Held> },
    /// It gave a good part of it, and then no more.
    Broken(StrangerError),
    /// It gave another content for this file.
    Wrong { path: String, found: BlobId },
    /// What its torrent is, is none of the files that are missing here.
    Unfit(String),
    /// It gave nothing, or not all.
    Lost(StrangerError),
    /// This node's disk does not take it.
    Disk(StoreError),
    /// It is not wanted any longer.
    Stopped,
}

impl Entry {
    /// Asks a machine with hali for a file, if it has come to that. `alone`: there has been no coordinator for a while.
    pub(super) fn seek(&mut self, context: &Arc<Context>, alone: bool) {
        let full = |store: &SnapshotStore| store.segments().len() == self.held.len();
        let store = self
            .store
            .as_ref()
            .filter(|store| self.work.takes_orders() && !full(store))
            .filter(|_| self.wanted.public && self.wanted.source != SourcePolicy::OriginOnly);
        let Some(store) = store.cloned() else {
            self.strangers.pass();
            self.stop_seeking();
            return;
        };
        let now = Instant::now();
        self.strangers.came(now, self.moved.load(Ordering::Relaxed));
        let without_hub = self.wanted.source == SourcePolicy::PeersOnly
            || self.strangers.hub_fails()
            || (alone && !matches!(self.origin, Some(Ok(_))));
        if !without_hub || self.seeking.is_some() || !self.strangers.may_ask(now) {
            return;
        }
        let heard = context.seeds.of(&self.snapshot.repository, now);
        if heard.is_empty() {
            return;
        }
        let files = (0..).zip(&self.snapshot.files);
        let missing: BTreeSet<u32> = files
            .filter(|(_, file)| store.lacks(&file.blob))
            .map(|(number, _)| number)
            .collect();
        let standing = Standing {
            snapshot: &self.snapshot,
            missing: &missing,
            heard: &heard,
        };
        let precedence = |file| self.alone.precedence(file);
        let Some(place) = self.strangers.next(now, standing, precedence) else {
            return;
        };
        // One file at a time on this node.
        let Ok(slot) = context.stranger_slot.clone().try_acquire_owned() else {
            return;
        };
        let cancel = CancellationToken::new();
        self.seeking = Some(cancel.clone());
        tracing::info!(
            snapshot = self.snapshot.name,
            address = %place.0,
            "neither the hub nor another node gives what is missing; asking a machine with hali"
        );
        let send = self.sender(context);
        self.tasks.spawn_blocking(move || {
            let sought = seek(&store, place, &cancel);
            drop(slot);
            send(Done::Sought(place, sought));
        });
    }

    /// A machine is asked no longer: nothing is missing, or it may not be asked any more.
    fn stop_seeking(&self) {
        if let Some(seeking) = &self.seeking {
            seeking.cancel();
        }
    }

    /// What came of it.
    pub(super) fn sought(
        &mut self,
        context: &Arc<Context>,
        link: &Link,
        place: Place,
        sought: Sought,
    ) {
        self.seeking = None;
        let (snapshot, address, node) = (self.snapshot.name.clone(), place.0, &context.node);
        let (end, result) = match &sought {
            Sought::Taken { path, .. } => {
                tracing::info!(snapshot, path, %address, node, "took a file from a machine with hali");
                (End::Taken, "taken")
            }
            Sought::Wrong { path, found } => {
                tracing::warn!(snapshot, path, %address, node, %found, "a machine with hali gave another content than the hub lists; it is thrown away");
                (End::Wrong, "wrong")
            }
            Sought::Unfit(why) => {
                tracing::info!(snapshot, %address, node, why, "what a machine with hali seeds is not what is missing");
                (End::Unfit, "unfit")
            }
            Sought::Lost(error) => {
                tracing::info!(snapshot, %address, node, %error, "a machine with hali did not give a file");
                (End::Lost, "lost")
            }
            Sought::Broken(error) => {
                tracing::warn!(snapshot, %address, node, %error, "a machine with hali gave a part of a file and no more; it is thrown away");
                (End::Broken, "lost")
            }
            // Another file, or another machine's, may fit.
            Sought::Disk(error) if error.is_no_space() => {
                tracing::warn!(snapshot, %address, node, %error, "no room to prove a file from a machine with hali beside the room of the model");
                (End::Lost, "disk")
            }
            Sought::Disk(error) => {
                tracing::warn!(snapshot, %address, node, %error, "cannot write a file from a machine with hali");
                (End::Stopped, "disk")
            }
            Sought::Stopped => (End::Stopped, "stopped"),
        };
        context.metrics.count_hali_file(result);
        self.strangers.ended(Instant::now(), place, end);
        match sought {
            Sought::Taken { held, .. } => {
                // What is here now need not come from hub or nodes too.
                let running = held
                    .iter()
                    .filter_map(|held| self.running.get(&held.segment));
                running.for_each(|running| running.cancel.cancel());
                self.have(context, link, held);
            }
            // The hub or another node may still bring it: that takes no more room.
            Sought::Disk(error) if !error.is_no_space() => {
                let input = Input::Failed {
                    step: Step::Open,
                    reason: of_store(&error),
                    message: words_of_store(&error),
                };
                self.feed(context, link, input);
            }
            _ => {}
        }
    }
}

/// Has one machine give a file, writes it, proves it. Blocks for as long as that takes.
fn seek(store: &SnapshotStore, place: Place, cancel: &CancellationToken) -> Sought {
    let brought = Handle::current().block_on(async {
        tokio::select! {
            () = cancel.cancelled() => Err(Sought::Stopped),
            brought = bring(store, place) => brought,
        }
    });
    let (path, foreign) = match brought {
        Ok(brought) => brought,
        Err(sought) => return sought,
    };
    match foreign.prove(|| cancel.is_cancelled()) {
        Ok(Proof::Right) => match store.adopt() {
            Ok(held) => Sought::Taken { path, held },
            Err(error) => Sought::Disk(error),
        },
        Ok(Proof::Wrong(found)) => Sought::Wrong { path, found },
        Ok(Proof::Stopped) => Sought::Stopped,
        Err(error) => Sought::Disk(error),
    }
}

/// All bytes of a file, of which nothing is proved, and its path in the snapshot.
async fn bring(
    store: &SnapshotStore,
    (address, info_hash): Place,
) -> Result<(String, Foreign), Sought> {
    let stranger = Stranger::meet(address, info_hash)
        .await
        .map_err(|error| match error {
            StrangerError::Torrent(unusable) => Sought::Unfit(unusable.to_string()),
            error => Sought::Lost(error),
        })?;
    let described = stranger.file();
    let lacks = |blob: &BlobId| store.lacks(blob);
    let fitting = fitting(store.snapshot(), &described.name, described.len, lacks);
    let unfit = || {
        let name = described.name.escape_ascii();
        Sought::Unfit(format!("{name} of {} bytes", described.len))
    };
    let file = fitting.ok_or_else(unfit)?.clone();
    let foreign = store.foreign(&file.blob).map_err(Sought::Disk)?;
    let foreign = foreign.ok_or(Sought::Stopped)?;
    let mut refused = None;
    let mut came = 0;
    let put = |offset, data: &[u8]| match foreign.write_at(offset, data) {
        // The hub or another node was faster.
        Ok(()) if !store.lacks(&file.blob) => ControlFlow::Break(()),
        Ok(()) => {
            came += data.len() as u64;
            ControlFlow::Continue(())
        }
        Err(error) => {
            refused = Some(error);
            ControlFlow::Break(())
        }
    };
    let taken = stranger.take(put).await;
    match (refused, taken) {
        (Some(error), _) => Err(Sought::Disk(error)),
        (None, Err(StrangerError::Stopped)) => Err(Sought::Stopped),
        (None, Err(error)) if came > file.size / 16 => Err(Sought::Broken(error)),
        (None, Err(error)) => Err(Sought::Lost(error)),
        (None, Ok(())) => Ok((file.path, foreign)),
    }
}
