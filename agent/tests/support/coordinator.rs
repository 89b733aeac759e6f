//! The simplest coordinator that works: every segment is fetched once, then taken from whoever has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use modelcache_agent::coordinator::LinkEvent;
use modelcache_swarm::coordination::{
    AgentMessage, CoordinatorMessage, Held, Member, OriginAccess,
};
use tokio::sync::{Mutex, mpsc};

/// Fetches of one model by one agent at once.
pub const FETCHES: usize = 2;
const TAKES: usize = 4;
/// Every so often orders are given anew; a failed segment waits until then.
const ROUND: Duration = Duration::from_millis(50);

/// Clones are the same coordinator.
#[derive(Clone)]
pub struct Coordinator(Arc<Mutex<State>>);

struct State {
    access: OriginAccess,
    /// Nodes with another way to the hub.
    ways: BTreeMap<String, OriginAccess>,
    agents: BTreeMap<String, Agent>,
    connections: u64,
    /// What agents said, in order, for assertions.
    said: Vec<(String, AgentMessage)>,
    /// Gives no orders.
    silent: bool,
    /// Hears nothing either.
    dead: bool,
}

/// Name, address and what it holds.
type Holder = (String, SocketAddr, Held);

struct Agent {
    address: SocketAddr,
    orders: mpsc::Sender<LinkEvent>,
    connection: u64,
    tracks: BTreeMap<String, Tracked>,
}

#[derive(Default)]
struct Tracked {
    segments: u32,
    held: BTreeMap<u32, Held>,
    fetching: BTreeSet<u32>,
    taking: BTreeSet<u32>,
    /// Discarded, and Track not said again yet.
    discarding: bool,
}

impl Coordinator {
    pub fn start(access: OriginAccess) -> Self {
        let coordinator = Self(Arc::new(Mutex::new(State {
            access,
            ways: BTreeMap::new(),
            agents: BTreeMap::new(),
            connections: 0,
            said: Vec::new(),
            silent: false,
            dead: false,
        })));
        let rounds = coordinator.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(ROUND).await;
                rounds.0.lock().await.give().await;
            }
        });
        coordinator
    }

    /// Gives a node another way to the hub.
    pub async fn lead(&self, node: &str, access: OriginAccess) {
        let mut state = self.0.lock().await;
        state.ways.insert(node.to_owned(), access);
    }

    /// The two ends of a connection for an agent.
    pub async fn connect(
        &self,
        node: &str,
        address: SocketAddr,
    ) -> (
        mpsc::UnboundedSender<AgentMessage>,
        mpsc::Receiver<LinkEvent>,
    ) {
        let (orders, inbox) = mpsc::channel(4096);
        let (outbox, mut messages) = mpsc::unbounded_channel();
        orders.send(LinkEvent::Connected).await.unwrap();
        let connection = {
            let mut state = self.0.lock().await;
            state.connections += 1;
            let agent = Agent {
                address,
                orders,
                connection: state.connections,
                tracks: BTreeMap::new(),
            };
            state.agents.insert(node.to_owned(), agent);
            state.connections
        };
        let (state, node) = (self.0.clone(), node.to_owned());
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                let mut state = state.lock().await;
                state.hear(&node, message).await;
            }
            let mut state = state.lock().await;
            if state
                .agents
                .get(&node)
                .is_some_and(|agent| agent.connection == connection)
            {
                state.agents.remove(&node);
            }
        });
        (outbox, inbox)
    }

    /// Loses the connection of an agent for a while.
    pub async fn interrupt(&self, node: &str, pause: Duration) {
        let orders = {
            let mut state = self.0.lock().await;
            let agent = state.agents.get_mut(node).unwrap();
            agent.tracks.clear();
            agent.orders.clone()
        };
        orders.send(LinkEvent::Disconnected).await.unwrap();
        tokio::time::sleep(pause).await;
        orders.send(LinkEvent::Connected).await.unwrap();
    }

    /// From now on only says who has a part in what, and how to reach the hub.
    pub async fn fall_silent(&self) {
        self.0.lock().await.silent = true;
    }

    /// Loses all connections and whatever it knew.
    pub async fn die(&self) {
        let mut state = self.0.lock().await;
        state.dead = true;
        for agent in state.agents.values_mut() {
            agent.tracks.clear();
            agent.orders.send(LinkEvent::Disconnected).await.unwrap();
        }
    }

    /// All agents are connected again.
    pub async fn come_back(&self) {
        let mut state = self.0.lock().await;
        state.dead = false;
        for agent in state.agents.values_mut() {
            agent.orders.send(LinkEvent::Connected).await.unwrap();
        }
    }

    pub async fn said(&self, what: impl Fn(&AgentMessage) -> bool) -> usize {
        let state = self.0.lock().await;
        state
            .said
            .iter()
            .filter(|(_, message)| what(message))
            .count()
    }
}

impl State {
    async fn hear(&mut self, node: &str, message: AgentMessage) {
        if self.dead {
            return;
        }
        self.said.push((node.to_owned(), message.clone()));
        if let AgentMessage::Corrupt {
            snapshot, segments, ..
        } = &message
        {
            self.discard(node, snapshot, segments).await;
        }
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        match message {
            AgentMessage::Track {
                snapshot,
                segments,
                held,
            } => {
                let tracked = Tracked {
                    segments,
                    held: held.into_iter().map(|held| (held.segment, held)).collect(),
                    ..Tracked::default()
                };
                agent.tracks.insert(snapshot.clone(), tracked);
                self.introduce(&snapshot).await;
            }
            AgentMessage::Untrack { snapshot } => {
                agent.tracks.remove(&snapshot);
            }
            AgentMessage::Have { snapshot, held } => {
                if let Some(tracked) = agent.tracks.get_mut(&snapshot) {
                    tracked.fetching.remove(&held.segment);
                    tracked.taking.remove(&held.segment);
                    tracked.held.insert(held.segment, held);
                }
            }
            AgentMessage::FetchFailed {
                snapshot, segment, ..
            }
            | AgentMessage::TakeFailed {
                snapshot, segment, ..
            } => {
                if let Some(tracked) = agent.tracks.get_mut(&snapshot) {
                    tracked.fetching.remove(&segment);
                    tracked.taking.remove(&segment);
                }
            }
            AgentMessage::Corrupt {
                snapshot, segments, ..
            } => {
                if let Some(tracked) = agent.tracks.get_mut(&snapshot) {
                    tracked
                        .held
                        .retain(|segment, _| !segments.contains(segment));
                }
            }
            AgentMessage::Hello { .. } | AgentMessage::Verified { .. } => {}
        }
    }

    async fn discard(&mut self, finder: &str, snapshot: &str, segments: &[u32]) {
        for (_, agent) in self.agents.iter_mut().filter(|(node, _)| *node != finder) {
            let Some(tracked) = agent.tracks.get_mut(snapshot) else {
                continue;
            };
            tracked.discarding = true;
            tracked
                .held
                .retain(|segment, _| !segments.contains(segment));
            let order = CoordinatorMessage::Discard {
                snapshot: snapshot.to_owned(),
                segments: segments.to_vec(),
            };
            let _ = agent.orders.send(LinkEvent::Message(order)).await;
        }
    }

    /// Tells all members of a snapshot of each other.
    async fn introduce(&mut self, snapshot: &str) {
        let tracking = |(_, agent): &(&String, &mut Agent)| agent.tracks.contains_key(snapshot);
        let members: Vec<Member> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.tracks.contains_key(snapshot))
            .map(|(node, agent)| Member {
                node: node.clone(),
                address: agent.address,
            })
            .collect();
        for (node, agent) in self.agents.iter_mut().filter(tracking) {
            let access = self.ways.get(node).unwrap_or(&self.access);
            for order in [
                CoordinatorMessage::Origin {
                    snapshot: snapshot.to_owned(),
                    access: access.clone(),
                },
                CoordinatorMessage::Members {
                    snapshot: snapshot.to_owned(),
                    members: members.clone(),
                },
            ] {
                let _ = agent.orders.send(LinkEvent::Message(order)).await;
            }
        }
    }

    async fn give(&mut self) {
        if self.dead || self.silent {
            return;
        }
        let mut holders: BTreeMap<(String, u32), Vec<Holder>> = BTreeMap::new();
        let mut fetching: BTreeSet<(String, u32)> = BTreeSet::new();
        for (node, agent) in &self.agents {
            for (snapshot, tracked) in &agent.tracks {
                for held in tracked.held.values() {
                    let holder = (node.clone(), agent.address, held.clone());
                    holders
                        .entry((snapshot.clone(), held.segment))
                        .or_default()
                        .push(holder);
                }
                fetching.extend(
                    tracked
                        .fetching
                        .iter()
                        .map(|segment| (snapshot.clone(), *segment)),
                );
            }
        }
        for (position, agent) in self.agents.values_mut().enumerate() {
            let mut orders = Vec::new();
            for (snapshot, tracked) in &mut agent.tracks {
                if tracked.discarding {
                    continue;
                }
                // Each node begins elsewhere, so that they fetch different segments.
                let shift = u32::try_from(position).unwrap() * (tracked.segments / 3 + 1);
                for number in 0..tracked.segments {
                    let segment = (number + shift) % tracked.segments;
                    let key = (snapshot.clone(), segment);
                    let busy =
                        tracked.fetching.contains(&segment) || tracked.taking.contains(&segment);
                    if tracked.held.contains_key(&segment) || busy {
                        continue;
                    }
                    if let Some(holders) = holders.get(&key) {
                        if tracked.taking.len() < TAKES {
                            tracked.taking.insert(segment);
                            let (holder, address, held) =
                                &holders[segment as usize % holders.len()];
                            orders.push(CoordinatorMessage::Take {
                                snapshot: snapshot.clone(),
                                segment,
                                pieces: held.pieces.clone(),
                                holder: holder.clone(),
                                address: *address,
                            });
                        }
                    } else if !fetching.contains(&key) && tracked.fetching.len() < FETCHES {
                        tracked.fetching.insert(segment);
                        fetching.insert(key);
                        orders.push(CoordinatorMessage::Fetch {
                            snapshot: snapshot.clone(),
                            segment,
                        });
                    }
                }
            }
            for order in orders {
                let _ = agent.orders.send(LinkEvent::Message(order)).await;
            }
        }
    }
}
