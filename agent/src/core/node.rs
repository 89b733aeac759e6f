//! All snapshots of the node, and what is said to and by the coordinator about them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::coordination::CoordinatorMessage;
use modelcache_swarm::store::Space;
use tokio_util::task::TaskTracker;

use super::entry::Entry;
use super::transfer::Order;
use super::{Context, Event, Link, Outbox, Public};
use crate::coordinator::LinkEvent;
use crate::intent::{Intent, Wanted};
use crate::reasons;
use crate::state::{NodeState, Problem, SnapshotState};

/// How often free space is measured.
const SPACE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a snapshot looks whether another one of this node brought some of its bytes.
const ADOPT_INTERVAL: Duration = Duration::from_secs(10);
/// How long no connection to the coordinator is no problem yet.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// The state of the node, owned by the work loop.
pub(super) struct Node {
    context: Arc<Context>,
    link: Link,
    /// When the link was last connected or lost.
    changed: Instant,
    /// The same as a time of day, in whole seconds.
    changed_at: Timestamp,
    peer_address: SocketAddr,
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

impl Node {
    pub(super) fn new(
        context: Arc<Context>,
        outbox: impl Outbox,
        peer_address: SocketAddr,
    ) -> Self {
        Self {
            context,
            link: Link {
                outbox: Box::new(outbox),
                connected: false,
            },
            changed: Instant::now(),
            changed_at: whole_seconds(Timestamp::now()),
            peer_address,
            intent: Intent::default(),
            entries: BTreeMap::new(),
            leaving: BTreeMap::new(),
            epoch: 0,
            space: None,
            measured: None,
            adopted: Instant::now(),
            shown: Vec::new(),
        }
    }

    /// Takes over what is wanted now.
    pub(super) fn follow(&mut self, intent: Intent) {
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

    /// Carries out what the coordinator says.
    pub(super) fn order(&mut self, event: LinkEvent) {
        let message = match event {
            LinkEvent::Connected => {
                self.link_changed(true);
                for entry in self.entries.values_mut() {
                    entry.connected(&self.link);
                }
                return;
            }
            LinkEvent::Disconnected => {
                self.link_changed(false);
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
            CoordinatorMessage::Members { snapshot, members } => {
                if let Some(entry) = self.entries.get_mut(&snapshot) {
                    entry.set_members(members);
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

    fn link_changed(&mut self, connected: bool) {
        self.link.connected = connected;
        self.changed = Instant::now();
        self.changed_at = whole_seconds(Timestamp::now());
    }

    /// Takes note of what came of a task.
    pub(super) fn result(&mut self, event: Event) {
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

    /// Looks at times: retries, other snapshots' bytes, free space.
    pub(super) fn tick(&mut self) {
        let adopt = self.adopted.elapsed() >= ADOPT_INTERVAL;
        if adopt {
            self.adopted = Instant::now();
        }
        let alone = self.outlook(Instant::now()).alone.is_some();
        for entry in self.entries.values_mut() {
            entry.tick(&self.context, &self.link, adopt, alone);
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
    pub(super) fn state(&mut self, always: bool) -> Option<NodeState> {
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
            peer_address: Some(self.peer_address),
            total_bytes: self.space.map_or(0, |space| space.total),
            free_bytes: self.space.map_or(0, |space| space.free),
            connected: self.link.connected,
            snapshots,
        })
    }

    /// The snapshots whose files other BitTorrent clients may take now.
    pub(super) fn public(&self) -> Public {
        let now = Instant::now();
        let public = self
            .entries
            .iter()
            .filter_map(|(name, entry)| Some((name.clone(), entry.public(now)?)));
        public.collect()
    }

    fn outlook(&self, now: Instant) -> Outlook {
        let since = now.saturating_duration_since(self.changed);
        Outlook {
            alone: (!self.link.connected && since >= LINK_PATIENCE).then_some(self.changed_at),
            connected_for: self.link.connected.then_some(since),
        }
    }

    /// Stops everything and waits until nothing is half-written.
    pub(super) async fn stop(self) {
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
pub(super) struct Outlook {
    /// Since when there is no coordinator, once that is a while.
    pub(super) alone: Option<Timestamp>,
    /// Since when there is one.
    pub(super) connected_for: Option<Duration>,
}

/// The state of a snapshot whose contents are not known.
fn unknown(wanted: &Wanted) -> SnapshotState {
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

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A moment of the monotonic clock as a time of day.
pub(super) fn time_of(now: Instant, moment: Instant) -> Timestamp {
    let ahead = moment.saturating_duration_since(now);
    let seconds = i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX);
    Timestamp::now()
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
