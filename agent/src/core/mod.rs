//! The agent without Kubernetes: takes intents from a channel, orders from a coordinator, and tells how the node stands
//! through a channel.
//!
//! One task owns all state and never waits for a disk or a network: what takes time runs in tasks of its own, which send
//! back what came of it. Everything that must survive a crash is in the store.

mod entry;
mod failure;
mod names;
mod node;
mod transfer;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelcache_daemon::health::Health;
use modelcache_swarm::coordination::AgentMessage;
use modelcache_swarm::discovery::hali::seeds::Seeds;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::engine::{Engine, EngineError, Uploader, UploaderError};
use modelcache_swarm::link::Security;
use modelcache_swarm::store::{SnapshotStore, Space, Store, StoreError};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::coordinator::{LinkEvent, LinkHandle};
use crate::intent::Intent;
use crate::metrics::Metrics;
use crate::serving::Serving;
use crate::state::NodeState;
use crate::state_file::StateFileError;

use names::Names;
use node::Node;

/// Segments that come from the hub at once, whatever the coordinator orders: each holds a few pieces in memory.
const FETCHES: usize = 4;
/// Segments that come from other nodes at once, whatever the coordinator orders.
const TAKES: usize = 16;
/// Snapshots whose files are hashed at once.
const HASHERS: usize = 2;
/// How often time-outs are looked at and progress is told.
const TICK: Duration = Duration::from_millis(500);
/// The loop beats at every tick; after this time without one, it hangs.
pub const LONGEST_SILENCE: Duration = Duration::from_mins(1);
/// How long a lock that another agent holds is waited for: on an update the old pod is just ending.
const LOCK_PATIENCE: Duration = Duration::from_mins(1);
/// How long tasks are waited for at the end; what they do not finish is done again after the next start.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

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
    /// How this node and the others know each other.
    pub security: Security,
    /// Where to find others while there is no coordinator.
    pub peers: Peers,
    /// What machines with hali seed; nothing where they are not listened to.
    pub seeds: Seeds,
}

/// The snapshots whose files other BitTorrent clients may take, by name.
pub type Public = BTreeMap<String, PublicSnapshot>;

/// A snapshot whose files other BitTorrent clients may take.
#[derive(Clone, PartialEq)]
pub struct PublicSnapshot {
    /// Its files.
    pub store: SnapshotStore,
    /// How they learn where.
    pub learn: Learn,
}

/// How other BitTorrent clients learn where a snapshot's files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learn {
    /// From us: where other nodes have a part in it. They are told of each other too. Absent: they are told of nobody.
    pub pex: Option<Vec<IpAddr>>,
    /// From the DHT.
    pub dht: bool,
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
    /// Name of the Node.
    node: String,
    store: Store,
    engine: Engine,
    serving: Arc<Serving>,
    peers: Peers,
    seeds: Seeds,
    metrics: Arc<Metrics>,
    names: Names,
    results: mpsc::UnboundedSender<Event>,
    fetch_slots: Semaphore,
    take_slots: Semaphore,
    hash_slots: Semaphore,
    /// One file at a time comes from a machine with hali.
    stranger_slot: Arc<Semaphore>,
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
    context: Arc<Context>,
    results: mpsc::UnboundedReceiver<Event>,
    peer_address: SocketAddr,
    health: Arc<Health>,
    state: watch::Sender<NodeState>,
    public: watch::Sender<Public>,
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
        let engine = Engine::start(settings.security.clone())?;
        let serving = Arc::new(Serving::new(metrics.clone()));
        let counting = serving.clone();
        let uploader = Uploader::bind(
            settings.peer_listen,
            settings.security,
            serving.clone(),
            Arc::new(move |hash, bytes| counting.sent(hash, bytes)),
        )
        .await?;
        let peer_address = SocketAddr::new(settings.node_ip, uploader.local_addr().port());
        let (sender, results) = mpsc::unbounded_channel();
        let context = Arc::new(Context {
            node: settings.node,
            store,
            engine,
            serving,
            peers: settings.peers,
            seeds: settings.seeds,
            metrics,
            names,
            results: sender,
            fetch_slots: Semaphore::new(FETCHES),
            take_slots: Semaphore::new(TAKES),
            hash_slots: Semaphore::new(HASHERS),
            stranger_slot: Arc::new(Semaphore::new(1)),
        });
        health.beat();
        health.set_ready();
        let (state, _) = watch::channel(NodeState {
            peer_address: Some(peer_address),
            ..NodeState::default()
        });
        Ok(Self {
            context,
            results,
            peer_address,
            health,
            state,
            public: watch::Sender::default(),
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

    /// What other BitTorrent clients may take, from now on.
    #[must_use]
    pub fn public(&self) -> watch::Receiver<Public> {
        self.public.subscribe()
    }

    /// Follows intents and orders until `stop`, then waits until nothing is half-written.
    pub async fn run(
        mut self,
        outbox: impl Outbox,
        mut orders: mpsc::Receiver<LinkEvent>,
        mut intents: watch::Receiver<Intent>,
        stop: CancellationToken,
    ) {
        let mut node = Node::new(self.context.clone(), outbox, self.peer_address);
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
                    node.follow(intent);
                }
                Some(event) = orders.recv() => node.order(event),
                Some(event) = self.results.recv() => node.result(event),
                _ = ticks.tick() => {
                    self.health.beat();
                    node.tick();
                    tick = true;
                }
            }
            if let Some(state) = node.state(tick) {
                let public = node.public();
                self.public.send_if_modified(|old| {
                    let changed = *old != public;
                    *old = public;
                    changed
                });
                self.context.metrics.show(&state);
                self.state.send_if_modified(|old| {
                    let changed = *old != state;
                    *old = state;
                    changed
                });
            }
        }
        if tokio::time::timeout(STOP_PATIENCE, node.stop())
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
