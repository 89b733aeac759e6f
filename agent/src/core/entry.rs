//! One wanted snapshot: carries out what its state machine says and feeds it what came of it.

mod alone;
mod outcome;
mod strangers;
mod tasks;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use jiff::Timestamp;
use modelcache_swarm::coordination::{AgentMessage, Held, OriginAccess};
use modelcache_swarm::discovery::hali::seeds::Place;
use modelcache_swarm::inventory::Answer;
use modelcache_swarm::origin::OriginClient;
use modelcache_swarm::snapshot::Snapshot;
use modelcache_swarm::store::{Progress, SnapshotStore, StoreError, Verdict};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::failure::Failure;
use super::transfer::{Order, Outcome, Transfer};
use super::{Context, Link};
use crate::alone::Alone;
use crate::intent::Wanted;
use crate::strangers::Strangers;
use crate::work::{Action, Input, Work};

/// What a task of a snapshot sends back.
pub(super) enum Done {
    Opened(Result<(SnapshotStore, Vec<Held>), StoreError>),
    Reserved(Result<(), StoreError>),
    Transferred(u32, Outcome),
    Verified(Result<Vec<Verdict>, StoreError>),
    Adopted(Vec<Held>),
    Discarded(Vec<u32>, Result<Vec<u32>, StoreError>),
    Published(Result<Timestamp, StoreError>),
    /// What another node says of the snapshot, if it answered.
    Answered(String, Option<Answer>),
    /// What came of asking a machine with hali.
    Sought(Place, strangers::Sought),
}

/// A transfer that is under way.
struct Running {
    order: Order,
    cancel: CancellationToken,
    /// Cancelled when the task has ended.
    ended: CancellationToken,
    /// What the coordinator ordered instead in the meantime.
    instead: Option<Order>,
}

/// A wanted snapshot.
pub(super) struct Entry {
    epoch: u64,
    wanted: Wanted,
    snapshot: Arc<Snapshot>,
    work: Work,
    store: Option<SnapshotStore>,
    held: BTreeMap<u32, Held>,
    origin: Option<Result<Arc<OriginClient>, Failure>>,
    running: HashMap<u32, Running>,
    alone: Alone,
    strangers: Strangers,
    /// A file is being taken from a machine with hali; ends that.
    seeking: Option<CancellationToken>,
    /// Bytes that came from the hub and from nodes.
    moved: Arc<AtomicU64>,
    discarding: BTreeSet<u32>,
    tasks: TaskTracker,
    /// Other snapshots are wanted on this node too.
    has_neighbours: bool,
    adopting: Arc<Mutex<()>>,
    /// The coordinator is to know of it.
    tracked: bool,
    fresh: bool,
    verified_at: Option<Timestamp>,
    last_order: Instant,
    /// The time of day of the fault's retry, so that it does not tremble.
    retry: Option<(Instant, Timestamp)>,
    progress: Progress,
}

impl Entry {
    /// Begins with reading the journal, after the tasks of an earlier time have ended.
    pub(super) fn new(
        context: &Arc<Context>,
        epoch: u64,
        wanted: &Wanted,
        snapshot: Arc<Snapshot>,
        previous: Option<TaskTracker>,
    ) -> Self {
        let mut entry = Self {
            epoch,
            wanted: wanted.clone(),
            progress: Progress {
                size_bytes: snapshot.blobs().iter().map(|(_, size)| size).sum(),
                ..Progress::default()
            },
            snapshot,
            work: Work::new(),
            store: None,
            held: BTreeMap::new(),
            origin: None,
            running: HashMap::new(),
            alone: Alone::new(&context.node, &wanted.name),
            strangers: Strangers::default(),
            seeking: None,
            moved: Arc::default(),
            discarding: BTreeSet::new(),
            tasks: TaskTracker::new(),
            has_neighbours: false,
            adopting: Arc::default(),
            tracked: false,
            fresh: false,
            verified_at: None,
            last_order: Instant::now(),
            retry: None,
        };
        entry.open(context, previous);
        entry
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes over what is asked for now: names and policy. The contents never change.
    pub(super) fn set_wanted(&mut self, context: &Arc<Context>, link: &Link, wanted: &Wanted) {
        let renamed = self.wanted.models != wanted.models;
        self.wanted = wanted.clone();
        if renamed {
            self.feed(context, link, Input::ModelsChanged);
        }
    }

    pub(super) fn set_origin(&mut self, access: &OriginAccess) {
        let client = OriginClient::new(access);
        self.origin = Some(client.map(Arc::new).map_err(Failure::from));
    }

    /// Tells the coordinator everything, if it is to know of it.
    pub(super) fn track(&mut self, link: &Link) {
        self.last_order = Instant::now();
        let Some(store) = self.store.as_ref().filter(|_| self.tracked) else {
            return;
        };
        link.send(AgentMessage::Track {
            snapshot: self.snapshot.name.clone(),
            segments: u32::try_from(store.segments().len()).unwrap_or(u32::MAX),
            held: self.held.values().cloned().collect(),
        });
    }

    /// Stops everything. The tasks that still run are to be waited for.
    pub(super) fn leave(mut self, context: &Context, link: &Link) -> TaskTracker {
        self.withdraw(context, link);
        self.tasks.close();
        self.tasks
    }

    fn withdraw(&mut self, context: &Context, link: &Link) {
        for running in self.running.values() {
            running.cancel.cancel();
        }
        if let Some(seeking) = self.seeking.take() {
            seeking.cancel();
        }
        context.serving.withdraw_all(&self.snapshot.name);
        if self.tracked {
            self.tracked = false;
            link.send(AgentMessage::Untrack {
                snapshot: self.snapshot.name.clone(),
            });
        }
    }

    /// An order of the coordinator about one segment.
    pub(super) fn order(&mut self, context: &Arc<Context>, link: &Link, index: u32, order: Order) {
        self.last_order = Instant::now();
        if let Some(held) = self.held.get(&index) {
            link.send(AgentMessage::Have {
                snapshot: self.snapshot.name.clone(),
                held: held.clone(),
            });
            return;
        }
        // After a Discard the coordinator gives its orders anew.
        if self.discarding.contains(&index) || !self.work.takes_orders() {
            return;
        }
        if let Some(running) = self.running.get_mut(&index) {
            running.instead = (running.order != order).then_some(order);
            return;
        }
        let Some(store) = self.store.clone() else {
            return;
        };
        let Some(segment) = store.segments().get(index as usize).cloned() else {
            let failure = Failure::chance(format!(
                "there is no segment {index}: coordinator and agent cut the snapshot differently; install the same version of both"
            ));
            return self.failed(context, link, index, &order, failure);
        };
        let cancel = CancellationToken::new();
        let ended = CancellationToken::new();
        let transfer = Transfer {
            context: context.clone(),
            store,
            segment,
            order: order.clone(),
            origin: self.origin.clone(),
            cancel: cancel.clone(),
            neighbours: self.neighbours(context),
            moved: self.moved.clone(),
        };
        let guard = ended.clone().drop_guard();
        let send = self.sender(context);
        self.tasks.spawn(async move {
            let outcome = transfer.run().await;
            drop(guard);
            send(Done::Transferred(index, outcome));
        });
        self.running.insert(
            index,
            Running {
                order,
                cancel,
                ended,
                instead: None,
            },
        );
        self.feed(context, link, Input::Started);
    }

    /// Whether other snapshots are wanted on this node too, which may bring bytes of this one.
    pub(super) fn set_neighbours(&mut self, has_neighbours: bool) {
        self.has_neighbours = has_neighbours;
    }

    /// The coordinator says that these segments are wrong.
    pub(super) fn discard(&mut self, context: &Arc<Context>, segments: Vec<u32>) {
        let Some(store) = self.store.clone() else {
            return;
        };
        tracing::warn!(
            snapshot = self.snapshot.name,
            ?segments,
            "another node found a wrong hash; throwing these away unless they are verified here"
        );
        let mut ends = Vec::new();
        for segment in &segments {
            if let Some(running) = self.running.get(segment) {
                running.cancel.cancel();
                ends.push(running.ended.clone());
            }
        }
        self.discarding.extend(&segments);
        let send = self.sender(context);
        self.tasks.spawn(async move {
            for ended in ends {
                ended.cancelled().await;
            }
            let result = tokio::task::spawn_blocking(move || {
                let result = store.discard(&segments);
                (segments, result)
            });
            if let Ok((segments, result)) = result.await {
                send(Done::Discarded(segments, result));
            }
        });
    }

    /// Looks at times. `alone`: there has been no coordinator for a while.
    pub(super) fn tick(&mut self, context: &Arc<Context>, link: &Link, adopt: bool, alone: bool) {
        self.feed(context, link, Input::Tick);
        if alone {
            self.fend(context, link);
        }
        self.seek(context, alone);
        self.stand(context, link.connected);
        if adopt && self.work.takes_orders() {
            self.adopt(context);
        }
    }

    /// Feeds the state machine and carries out what it says.
    fn feed(&mut self, context: &Arc<Context>, link: &Link, input: Input) {
        for action in self.work.next(Instant::now(), input) {
            match action {
                Action::Open => {
                    self.withdraw(context, link);
                    self.epoch += 1;
                    self.store = None;
                    self.held.clear();
                    self.running.clear();
                    self.discarding.clear();
                    let previous = std::mem::take(&mut self.tasks);
                    self.open(context, Some(previous));
                }
                Action::Withdraw => self.withdraw(context, link),
                Action::Track => {
                    self.tracked = true;
                    if let Some(store) = &self.store {
                        for held in self.held.values() {
                            context.serving.offer(store, held.segment, &held.pieces);
                        }
                    }
                    self.track(link);
                }
                Action::Reserve => {
                    self.run_blocking(context, |_, store| Done::Reserved(store.reserve()));
                }
                Action::Verify => self.verify(context),
                Action::Publish => self.run_blocking(context, |context, store| {
                    Done::Published(context.names.publish(store))
                }),
            }
        }
    }
}
