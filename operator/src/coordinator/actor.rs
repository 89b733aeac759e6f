//! The one task that owns the schedule: reports in, orders out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::metrics::CoordinatorMetrics;
use super::schedule::{CoordinatedSnapshot, Outgoing, Schedule, Settings};

/// How often the schedule looks at the clock; the shortest back-off is a second.
const TICK: Duration = Duration::from_millis(250);

/// What a connection tells the task.
pub(super) enum Event {
    /// An agent said Hello. Orders for it go to `orders`; when that closes, the connection is to end.
    Connected {
        node: String,
        connection: u64,
        peer_address: SocketAddr,
        /// Whether it had a connection until now and goes on with what it does.
        resumes: bool,
        orders: mpsc::Sender<CoordinatorMessage>,
    },
    /// An agent reports something.
    Message {
        node: String,
        connection: u64,
        message: AgentMessage,
    },
    /// A connection ended.
    Gone { node: String, connection: u64 },
}

/// Runs until every handle and connection is gone.
pub(super) async fn run(
    settings: Settings,
    mut inbox: mpsc::Receiver<Event>,
    mut wanted: watch::Receiver<Vec<CoordinatedSnapshot>>,
    connected: watch::Sender<BTreeSet<String>>,
    metrics: Arc<CoordinatorMetrics>,
) {
    let mut actor = Actor {
        schedule: Schedule::new(settings),
        connections: BTreeMap::new(),
        connected,
        metrics,
        started: Instant::now(),
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut handles = true;
    loop {
        tokio::select! {
            event = inbox.recv() => match event {
                Some(event) => actor.handle(event),
                None => return,
            },
            changed = wanted.changed(), if handles => {
                if changed.is_err() {
                    handles = false;
                } else {
                    let snapshots = wanted.borrow_and_update().clone();
                    let now = actor.now();
                    let outgoing = actor.schedule.set_snapshots(snapshots, now);
                    actor.deliver(outgoing);
                }
            }
            _ = ticks.tick() => {
                let now = actor.now();
                let outgoing = actor.schedule.tick(now);
                actor.deliver(outgoing);
            }
        }
    }
}

struct Connection {
    id: u64,
    peer_address: SocketAddr,
    orders: mpsc::Sender<CoordinatorMessage>,
}

struct Actor {
    schedule: Schedule,
    connections: BTreeMap<String, Connection>,
    connected: watch::Sender<BTreeSet<String>>,
    metrics: Arc<CoordinatorMetrics>,
    started: Instant,
}

impl Actor {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Connected {
                node,
                connection,
                peer_address,
                resumes,
                orders,
            } => {
                let link = Connection {
                    id: connection,
                    peer_address,
                    orders,
                };
                // Dropping the older connection's sender ends it; what it still says is recognised by its id.
                let before = self.connections.insert(node.clone(), link);
                if resumes && before.is_some_and(|before| before.peer_address == peer_address) {
                    return;
                }
                let outgoing = self.schedule.agent_connected(&node, peer_address, now);
                self.tell_connected();
                self.deliver(outgoing);
            }
            Event::Message {
                node,
                connection,
                message,
            } => {
                if self.is_current(&node, connection) {
                    self.count_report(&message);
                    let outgoing = self.schedule.message(&node, message, now);
                    self.deliver(outgoing);
                }
            }
            Event::Gone { node, connection } => {
                if self.is_current(&node, connection) {
                    self.connections.remove(&node);
                    self.tell_connected();
                    let outgoing = self.schedule.agent_gone(&node, now);
                    self.deliver(outgoing);
                }
            }
        }
    }

    fn is_current(&self, node: &str, connection: u64) -> bool {
        self.connections
            .get(node)
            .is_some_and(|current| current.id == connection)
    }

    /// Hands orders to the connections. One that does not keep up is ended: its agent comes back and says everything anew.
    fn deliver(&mut self, outgoing: Outgoing) {
        let known = self.metrics.distrusted.get();
        let distrusted = self.schedule.distrusted().saturating_sub(known);
        self.metrics.distrusted.inc_by(distrusted);
        let mut queue = VecDeque::from(outgoing);
        while let Some((node, order)) = queue.pop_front() {
            let Some(connection) = self.connections.get(&node) else {
                continue;
            };
            let (fetch, take) = (
                matches!(order, CoordinatorMessage::Fetch { .. }),
                matches!(order, CoordinatorMessage::Take { .. }),
            );
            if connection.orders.try_send(order).is_ok() {
                self.metrics.fetches.inc_by(fetch.into());
                self.metrics.takes.inc_by(take.into());
                continue;
            }
            tracing::warn!(
                node,
                "the agent does not read its orders: its connection is ended"
            );
            self.connections.remove(&node);
            self.tell_connected();
            let now = self.now();
            queue.extend(self.schedule.agent_gone(&node, now));
        }
    }

    fn tell_connected(&self) {
        let names: BTreeSet<String> = self.connections.keys().cloned().collect();
        self.metrics
            .connected
            .set(i64::try_from(names.len()).unwrap_or(i64::MAX));
        self.connected.send_replace(names);
    }

    fn count_report(&self, message: &AgentMessage) {
        match message {
            AgentMessage::FetchFailed { .. } => self.metrics.fetch_failures.inc(),
            AgentMessage::TakeFailed { .. } => self.metrics.take_failures.inc(),
            AgentMessage::Corrupt { .. } => self.metrics.corrupt.inc(),
            _ => return,
        };
    }
}
