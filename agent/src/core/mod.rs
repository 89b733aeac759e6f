//! The agent without Kubernetes: takes intents from a channel, orders from a coordinator, and tells how the node stands
//! through a channel.
//!
//! One task owns all state and never waits for a disk or a network: what takes time runs in tasks of its own, which send
//! back what came of it. Everything that must survive a crash is in the store.

mod entry;
mod failure;
mod names;
mod transfer;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage};
use modelcache_swarm::engine::{Engine, EngineError, Uploader, UploaderError};
use modelcache_swarm::store::{Space, Store, StoreError};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::coordinator::{LinkEvent, LinkHandle};
use crate::http::Health;
use crate::intent::{Intent, StateFileError};
use crate::metrics::Metrics;
use crate::reasons;
use crate::serving::Serving;
use crate::state::{NodeState, Problem, SnapshotState};

use entry::Entry;
use names::Names;
use transfer::Order;

/// Segments that come from the hub at once, whatever the coordinator orders: each holds a few pieces in memory.
const FETCHES: usize = 4;
/// Segments that come from other nodes at once, whatever the coordinator orders.
const TAKES: usize = 16;
/// Snapshots whose files are hashed at once.
const HASHERS: usize = 2;
/// How often time-outs are looked at and progress is told.
const TICK: Duration = Duration::from_millis(500);
/// How often free space is measured.
const SPACE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a snapshot looks whether another one of this node brought some of its bytes.
const ADOPT_INTERVAL: Duration = Duration::from_secs(10);
/// How long a lock that another agent holds is waited for: on an update the old pod is just ending.
const LOCK_PATIENCE: Duration = Duration::from_mins(1);
/// How long no connection to the coordinator is no problem yet.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// How long tasks are waited for at the end; what they do not finish is done again after the next start.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long no order from the coordinator is no problem yet.
const ORDER_PATIENCE: Duration = Duration::from_secs(20);

/// Why the core does not start.
#[derive(Debug, Error)]
pub enum CoreError {
    /// The cache cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The receiving side cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The giving side cannot be used.
    #[error(transparent)]
    Uploader(#[from] UploaderError),
    /// The agent's own state cannot be read.
    #[error(transparent)]
    State(#[from] StateFileError),
    /// The runtime is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

/// Who and where this node is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the Node.
    pub node: String,
    /// Address under which other agents reach this one.
    pub node_ip: IpAddr,
    /// Where the uploader listens; with port 0 it chooses one.
    pub peer_listen: SocketAddr,
    /// Root of the cache.
    pub cache_dir: PathBuf,
}

/// Takes messages to the coordinator; drops them while there is no connection.
pub trait Outbox: Send + 'static {
    /// Sends without waiting.
    fn send(&self, message: AgentMessage);
}

impl Outbox for LinkHandle {
    fn send(&self, message: AgentMessage) {
        Self::send(self, message);
    }
}

impl Outbox for mpsc::UnboundedSender<AgentMessage> {
    fn send(&self, message: AgentMessage) {
        // Nobody listens: as without a connection.
        let _ = Self::send(self, message);
    }
}

/// What all tasks share.
struct Context {
    store: Store,
    engine: Engine,
    serving: Arc<Serving>,
    metrics: Arc<Metrics>,
    names: Names,
    results: mpsc::UnboundedSender<Event>,
    fetch_slots: Semaphore,
    take_slots: Semaphore,
    hash_slots: Semaphore,
}

/// What a task sends back.
enum Event {
    Snapshot {
        name: String,
        /// Which opening of the snapshot the task belongs to; those of an earlier one come too late.
        epoch: u64,
        done: entry::Done,
    },
    Space(Space),
}

/// The connection as the entries see it.
struct Link {
    outbox: Box<dyn Outbox>,
    connected: bool,
}

impl Link {
    fn send(&self, message: AgentMessage) {
        if self.connected {
            self.outbox.send(message);
        }
    }
}

/// An agent that has opened its cache and serves what it holds, but follows no orders yet.
pub struct Core {
    settings: Settings,
    context: Arc<Context>,
    results: mpsc::UnboundedReceiver<Event>,
    peer_address: SocketAddr,
    health: Arc<Health>,
    state: watch::Sender<NodeState>,
    // Dropped last: other nodes can take until the end.
    _uploader: Uploader,
}

impl Core {
    /// Opens the cache, starts the engine and listens for peers.
    pub async fn open(
        settings: Settings,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Result<Self, CoreError> {
        let store = open_store(settings.cache_dir.clone()).await?;
        let names = Names::load(&settings.cache_dir)?;
        let engine = Engine::start()?;
        let serving = Arc::new(Serving::new(metrics.clone()));
        let counting = serving.clone();
        let uploader = Uploader::bind(
            settings.peer_listen,
            serving.clone(),
            Arc::new(move |hash, bytes| counting.sent(hash, bytes)),
        )
        .await?;
        let peer_address = SocketAddr::new(settings.node_ip, uploader.local_addr().port());
        let (sender, results) = mpsc::unbounded_channel();
        let context = Arc::new(Context {
            store,
            engine,
            serving,
            metrics,
            names,
            results: sender,
            fetch_slots: Semaphore::new(FETCHES),
            take_slots: Semaphore::new(TAKES),
            hash_slots: Semaphore::new(HASHERS),
        });
        health.beat();
        health.set_ready();
        let (state, _) = watch::channel(NodeState {
            peer_address: Some(peer_address),
            ..NodeState::default()
        });
        Ok(Self {
            settings,
            context,
            results,
            peer_address,
            health,
            state,
            _uploader: uploader,
        })
    }

    /// Where other agents reach this one.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// How the node stands, from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<NodeState> {
        self.state.subscribe()
    }

    /// Follows intents and orders until `stop`, then waits until nothing is half-written.
    pub async fn run(
        mut self,
        outbox: impl Outbox,
        mut orders: mpsc::Receiver<LinkEvent>,
        mut intents: watch::Receiver<Intent>,
        stop: CancellationToken,
    ) {
        let mut work = Loop {
            context: self.context.clone(),
            link: Link {
                outbox: Box::new(outbox),
                connected: false,
            },
            changed: Instant::now(),
            intent: Intent::default(),
            entries: BTreeMap::new(),
            leaving: BTreeMap::new(),
            epoch: 0,
            space: None,
            measured: None,
            adopted: Instant::now(),
            shown: Vec::new(),
        };
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        intents.mark_changed();
        loop {
            let mut tick = false;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = intents.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let intent = intents.borrow_and_update().clone();
                    work.follow(intent);
                }
                Some(event) = orders.recv() => work.order(event),
                Some(event) = self.results.recv() => work.result(event),
                _ = ticks.tick() => {
                    self.health.beat();
                    work.tick();
                    tick = true;
                }
            }
            if let Some(state) = work.state(tick, self.peer_address) {
                self.context.metrics.show(&state);
                self.state.send_if_modified(|old| {
                    let changed = *old != state;
                    *old = state;
                    changed
                });
            }
        }
        tracing::info!(node = self.settings.node, "stopping");
        if tokio::time::timeout(STOP_PATIENCE, work.stop())
            .await
            .is_err()
        {
            tracing::warn!("stopping although the disk is still busy; nothing is lost by that");
        }
    }
}

async fn open_store(root: PathBuf) -> Result<Store, CoreError> {
    let began = Instant::now();
    loop {
        let path = root.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&path))
            .await
            .map_err(|_| CoreError::Stopping)?;
        match opened {
            Err(error @ StoreError::Locked { .. }) if began.elapsed() < LOCK_PATIENCE => {
                tracing::warn!(%error, "waiting for the cache");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

struct Loop {
    context: Arc<Context>,
    link: Link,
    /// When the link was last connected or lost.
    changed: Instant,
    intent: Intent,
    entries: BTreeMap<String, Entry>,
    /// Tasks of snapshots that are no longer wanted: to be waited for before the snapshot is opened again.
    leaving: BTreeMap<String, TaskTracker>,
    epoch: u64,
    space: Option<Space>,
    measured: Option<Instant>,
    adopted: Instant,
    shown: Vec<(Phase, Option<&'static str>)>,
}

impl Loop {
    fn follow(&mut self, intent: Intent) {
        let wanted: Vec<String> = self.entries.keys().cloned().collect();
        for name in wanted {
            if !intent.snapshots.iter().any(|wanted| wanted.name == name) {
                tracing::info!(snapshot = name, "no longer wanted; what is on disk stays");
                if let Some(entry) = self.entries.remove(&name) {
                    let tasks = entry.leave(&self.context, &self.link);
                    self.leaving.insert(name, tasks);
                }
            }
        }
        self.context.names.set(&intent);
        for wanted in &intent.snapshots {
            let Ok(snapshot) = &wanted.content else {
                continue;
            };
            if let Some(entry) = self.entries.get_mut(&wanted.name) {
                entry.set_wanted(&self.context, &self.link, wanted);
                continue;
            }
            tracing::info!(
                snapshot = wanted.name,
                repository = snapshot.repository,
                bytes = snapshot.size(),
                "wanted"
            );
            self.epoch += 1;
            let previous = self.leaving.remove(&wanted.name);
            let entry = Entry::new(
                &self.context,
                self.epoch << 32,
                wanted,
                snapshot.clone(),
                previous,
            );
            self.entries.insert(wanted.name.clone(), entry);
        }
        let several = self.entries.len() > 1;
        for entry in self.entries.values_mut() {
            entry.set_neighbours(several);
        }
        self.intent = intent;
        let context = self.context.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = context.names.retain(&context.store) {
                tracing::warn!(%error, "cannot remove links of models that are no longer wanted");
            }
        });
    }

    fn order(&mut self, event: LinkEvent) {
        let message = match event {
            LinkEvent::Connected => {
                self.link.connected = true;
                self.changed = Instant::now();
                for entry in self.entries.values_mut() {
                    entry.track(&self.link);
                }
                return;
            }
            LinkEvent::Disconnected => {
                self.link.connected = false;
                self.changed = Instant::now();
                return;
            }
            LinkEvent::Message(message) => message,
        };
        // Orders about a snapshot that is no longer wanted cross our Untrack on the way.
        let (context, link) = (&self.context, &self.link);
        match message {
            CoordinatorMessage::Origin { snapshot, access } => {
                if let Some(entry) = self.entries.get_mut(&snapshot) {
                    entry.set_origin(&access);
                }
            }
            CoordinatorMessage::Fetch { snapshot, segment } => {
                if let Some(entry) = self.entries.get_mut(&snapshot) {
                    entry.order(context, link, segment, Order::Fetch);
                }
            }
            CoordinatorMessage::Take {
                snapshot,
                segment,
                pieces,
                holder,
                address,
            } => {
                if let Some(entry) = self.entries.get_mut(&snapshot) {
                    let order = Order::Take {
                        pieces,
                        holder,
                        address,
                    };
                    entry.order(context, link, segment, order);
                }
            }
            CoordinatorMessage::Discard { snapshot, segments } => {
                if let Some(entry) = self.entries.get_mut(&snapshot) {
                    entry.discard(context, segments);
                }
            }
            // The link ends the connection by itself.
            CoordinatorMessage::Refused { .. } => {}
        }
    }

    fn result(&mut self, event: Event) {
        match event {
            Event::Space(space) => self.space = Some(space),
            Event::Snapshot { name, epoch, done } => {
                if let Some(entry) = self.entries.get_mut(&name)
                    && entry.epoch() == epoch
                {
                    entry.done(&self.context, &self.link, done);
                }
            }
        }
    }

    fn tick(&mut self) {
        let adopt = self.adopted.elapsed() >= ADOPT_INTERVAL;
        if adopt {
            self.adopted = Instant::now();
        }
        for entry in self.entries.values_mut() {
            entry.tick(&self.context, &self.link, adopt);
        }
        self.leaving.retain(|_, tasks| !tasks.is_empty());
        if self
            .measured
            .is_none_or(|at| at.elapsed() >= SPACE_INTERVAL)
        {
            self.measured = Some(Instant::now());
            let context = self.context.clone();
            tokio::task::spawn_blocking(move || match context.store.space() {
                Ok(space) => {
                    let _ = context.results.send(Event::Space(space));
                }
                Err(error) => tracing::warn!(%error, "cannot measure free space"),
            });
        }
    }

    /// The whole state; without `always` only when a phase or a reason changed.
    fn state(&mut self, always: bool, peer_address: SocketAddr) -> Option<NodeState> {
        let now = Instant::now();
        let outlook = self.outlook(now);
        let shown: Vec<_> = self
            .intent
            .snapshots
            .iter()
            .map(|wanted| match self.entries.get(&wanted.name) {
                Some(entry) => entry.phase(now),
                None => (Phase::Pending, None),
            })
            .collect();
        if !always && shown == self.shown {
            return None;
        }
        self.shown = shown;
        let snapshots = self
            .intent
            .snapshots
            .iter()
            .map(|wanted| match self.entries.get_mut(&wanted.name) {
                Some(entry) => entry.state(now, &outlook),
                None => unknown(wanted),
            })
            .collect();
        Some(NodeState {
            generation: self.intent.generation,
            peer_address: Some(peer_address),
            total_bytes: self.space.map_or(0, |space| space.total),
            free_bytes: self.space.map_or(0, |space| space.free),
            connected: self.link.connected,
            snapshots,
        })
    }

    fn outlook(&self, now: Instant) -> Outlook {
        let since = now.saturating_duration_since(self.changed);
        Outlook {
            alone: !self.link.connected && since >= LINK_PATIENCE,
            connected_for: self.link.connected.then_some(since),
        }
    }

    async fn stop(self) {
        let mut tasks: Vec<TaskTracker> = self.leaving.into_values().collect();
        for entry in self.entries.into_values() {
            tasks.push(entry.leave(&self.context, &self.link));
        }
        for tasks in tasks {
            tasks.close();
            tasks.wait().await;
        }
    }
}

/// What can be said of a snapshot without bytes coming in.
struct Outlook {
    /// There has been no coordinator for a while.
    alone: bool,
    /// Since when there is one.
    connected_for: Option<Duration>,
}

/// The state of a snapshot whose contents are not known.
fn unknown(wanted: &crate::intent::Wanted) -> SnapshotState {
    let problem: Option<Problem> = wanted.content.as_ref().err().cloned();
    let waits = problem
        .as_ref()
        .is_none_or(|problem| problem.reason == reasons::SNAPSHOT_UNKNOWN);
    SnapshotState {
        name: wanted.name.clone(),
        repository: None,
        models: wanted.models.clone(),
        phase: if waits { Phase::Pending } else { Phase::Failed },
        size_bytes: 0,
        held_bytes: 0,
        origin_bytes: 0,
        peer_bytes: 0,
        problem,
        verified_at: None,
        fresh: false,
    }
}

/// A moment of the monotonic clock as a time of day.
fn time_of(now: Instant, moment: Instant) -> Timestamp {
    let ahead = moment.saturating_duration_since(now);
    let seconds = i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX);
    Timestamp::now()
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
