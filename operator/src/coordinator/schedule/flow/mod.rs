//! How fast a plan is: the schedule, agents that obey it, and links whose bytes flow like a fluid.
//!
//! Nothing here depends on the machine: the same plan always takes the same time, and what chance decides is always the same. What is left out: loss,
//! queues, disks, processors. Links count Ethernet and TCP headers as the laboratory's do, so that figures can be compared.

mod cases;
mod links;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, Held, OriginAccess};
use modelcache_swarm::segment::PieceHashes;

use self::links::Links;
use super::simulation::{Dice, NAME, address, node_name};
use super::{CoordinatedSnapshot, Outgoing, Schedule, Settings, SourcePolicy};

/// Payload bytes of each second of a link of so many megabits: a packet of 1,514 bytes carries 1,448.
const fn megabits(rate: u64) -> u64 {
    rate * 125_000 * 1448 / 1514
}

/// From when on a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joins {
    Empty,
    Full,
    /// Empty, when the hub has sent half of the model.
    HalfWay,
}

/// What a run is made of. Rates in payload bytes a second, times in milliseconds.
#[derive(Clone, Debug)]
struct World {
    nodes: Vec<Joins>,
    segments: u32,
    segment_bytes: u64,
    /// The hub's link; absent: there is no hub.
    hub: Option<u64>,
    /// What one connection to the hub carries at most.
    connection: u64,
    /// Each node's own way to the hub, beside its link to the others.
    egress: Option<u64>,
    /// Each node's link, in each direction.
    link: u64,
    /// Of a message between agent and coordinator.
    latency: u64,
    /// From an order to the first byte of the transfer.
    start: u64,
    /// From the last byte of a transfer until the segment is durable.
    commit: u64,
    /// The share of a link that a fetch gets beside a take, on average. In the laboratory's `cold` four fetches at once take as
    /// long as the hub's link needs for four, while takes share each node's link with them. From half of it to half as much
    /// again: connections never share evenly, and if they did, fetches that began together would end together, and leave the
    /// hub's link idle.
    fetch_share: u64,
    /// When the hub's link changes to another rate.
    change: Option<(u64, u64)>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            nodes: vec![Joins::Empty; 8],
            segments: 384,
            segment_bytes: 512 << 10,
            hub: Some(megabits(160)),
            connection: u64::MAX,
            egress: None,
            link: megabits(160),
            latency: 3,
            start: 5,
            commit: 4,
            fetch_share: 4,
            change: None,
        }
    }
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    /// When each node had everything, in order; counted from the moment from which the case counts.
    finished: Vec<u64>,
    /// Segments that left the hub.
    fetched: u32,
    /// Segments that each node gave away.
    given: Vec<u32>,
    /// Segments that each node fetched.
    fetched_by: Vec<u32>,
    /// Sum over all segments that arrived of how far they are beyond what has arrived without a gap.
    ahead: u64,
    arrived: u64,
}

impl Outcome {
    fn last(&self) -> u64 {
        *self.finished.last().unwrap()
    }

    /// When half of the nodes that had something to get had it.
    fn median(&self) -> u64 {
        let late = self.finished.iter().position(|time| *time > 0).unwrap();
        self.finished[late + (self.finished.len() - late) / 2]
    }

    /// How far from the plan's order segments arrive, on average.
    fn mean_ahead(&self) -> u64 {
        self.ahead / self.arrived.max(1)
    }
}

#[derive(Debug)]
enum Event {
    ToAgent(usize, CoordinatorMessage),
    ToCoordinator(usize, AgentMessage),
    Begin(u64),
    Durable(usize, u32),
    Tick,
    Change(u64),
}

#[derive(Clone, Copy, Debug)]
struct Transfer {
    node: usize,
    segment: u32,
    /// Absent: from the hub.
    holder: Option<usize>,
}

#[derive(Debug, Default)]
struct Agent {
    joined: bool,
    held: BTreeSet<u32>,
    /// Segments that have arrived without a gap.
    prefix: u32,
    ordered: BTreeSet<u32>,
}

struct Run {
    world: World,
    schedule: Schedule,
    links: Links,
    agents: Vec<Agent>,
    transfers: BTreeMap<u64, Transfer>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    now: u64,
    counts_from: u64,
    outcome: Outcome,
    dice: Dice,
}

/// The link of the hub, and those of a node to the others and to the hub.
const HUB: usize = 0;
const fn down(node: usize) -> usize {
    1 + node * 3
}
const fn up(node: usize) -> usize {
    2 + node * 3
}
const fn egress(node: usize) -> usize {
    3 + node * 3
}

impl Run {
    fn play(world: World) -> Outcome {
        let mut rates = vec![world.hub.unwrap_or(1)];
        for _ in &world.nodes {
            rates.extend([world.link, world.link, world.egress.unwrap_or(1)]);
        }
        // When all began the coordinator had been there for long.
        let settings = Settings::default();
        let now = settings.grace;
        let mut run = Self {
            schedule: Schedule::new(settings),
            links: Links::new(rates),
            agents: world.nodes.iter().map(|_| Agent::default()).collect(),
            transfers: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            now,
            counts_from: now,
            dice: Dice::new(1),
            outcome: Outcome {
                given: vec![0; world.nodes.len()],
                fetched_by: vec![0; world.nodes.len()],
                ..Outcome::default()
            },
            world,
        };
        run.links.advance(now);
        run.begin();
        while run.outcome.finished.len() < run.world.nodes.len() {
            run.step();
        }
        run.outcome
    }

    fn begin(&mut self) {
        self.schedule.tick(0);
        let snapshot = CoordinatedSnapshot {
            name: NAME.to_owned(),
            segments: self.world.segments,
            policy: if self.world.hub.is_some() {
                SourcePolicy::PeersFirst
            } else {
                SourcePolicy::PeersOnly
            },
            access: OriginAccess {
                endpoint: "https://hub".to_owned(),
                token: None,
                ca_bundle: None,
            },
        };
        self.schedule.set_snapshots(vec![snapshot], self.now);
        for node in 0..self.agents.len() {
            if self.world.nodes[node] != Joins::HalfWay {
                self.join(node);
            }
        }
        if let Some((time, rate)) = self.world.change {
            self.at(self.now + time, Event::Change(rate));
        }
        self.at(self.now + 250, Event::Tick);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn step(&mut self) {
        let event = self
            .queue
            .peek()
            .map_or(u64::MAX, |Reverse((time, _))| *time);
        self.now = self.links.next_end().map_or(event, |end| end.min(event));
        for id in self.links.advance(self.now) {
            self.arrived(id);
        }
        while let Some(Reverse((time, number))) = self.queue.peek().copied() {
            if time > self.now {
                return;
            }
            self.queue.pop();
            let event = self.events.remove(&number).unwrap();
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToAgent(node, message) => self.obey(node, message),
            Event::ToCoordinator(node, message) => {
                let outgoing = self.schedule.message(&node_name(node), message, self.now);
                self.deliver(outgoing);
            }
            Event::Begin(id) => {
                let Transfer { node, holder, .. } = self.transfers[&id];
                let share = self.world.fetch_share;
                let fetch = share / 2 + self.dice.roll(share + 1);
                let (path, weight, most) = match (holder, self.world.egress) {
                    (Some(holder), _) => (vec![up(holder), down(node)], 1, u64::MAX),
                    (None, Some(_)) => (vec![HUB, egress(node)], fetch, self.world.connection),
                    (None, None) => (vec![HUB, down(node)], fetch, self.world.connection),
                };
                let bytes = self.world.segment_bytes;
                self.links.start(id, path, weight, most, bytes);
            }
            Event::Durable(node, segment) => self.durable(node, segment),
            Event::Tick => {
                let outgoing = self.schedule.tick(self.now);
                self.deliver(outgoing);
                self.at(self.now + 250, Event::Tick);
                assert!(self.now < 3_600_000, "stuck");
            }
            Event::Change(rate) => self.links.set_rate(HUB, rate),
        }
    }

    fn join(&mut self, node: usize) {
        self.agents[node].joined = true;
        let full = self.world.nodes[node] == Joins::Full;
        let held: Vec<Held> = if full {
            self.agents[node].held = (0..self.world.segments).collect();
            self.outcome.finished.push(0);
            (0..self.world.segments).map(held).collect()
        } else {
            Vec::new()
        };
        let outgoing = self
            .schedule
            .agent_connected(&node_name(node), address(), self.now);
        self.deliver(outgoing);
        self.say(
            node,
            AgentMessage::Track {
                snapshot: NAME.to_owned(),
                segments: self.world.segments,
                held,
            },
        );
    }

    fn say(&mut self, node: usize, message: AgentMessage) {
        let time = self.now + self.world.latency;
        self.at(time, Event::ToCoordinator(node, message));
    }

    fn deliver(&mut self, outgoing: Outgoing) {
        for (name, message) in outgoing {
            let node = name["node-".len()..].parse().unwrap();
            let time = self.now + self.world.latency;
            self.at(time, Event::ToAgent(node, message));
        }
    }

    fn obey(&mut self, node: usize, message: CoordinatorMessage) {
        let (segment, holder) = match message {
            CoordinatorMessage::Fetch { segment, .. } => (segment, None),
            CoordinatorMessage::Take {
                segment, holder, ..
            } => (segment, Some(holder["node-".len()..].parse().unwrap())),
            CoordinatorMessage::Origin { .. } | CoordinatorMessage::Members { .. } => return,
            other => panic!("{other:?}"),
        };
        let agent = &mut self.agents[node];
        assert!(agent.ordered.insert(segment), "{segment} ordered twice");
        self.sequence += 1;
        let id = self.sequence;
        self.transfers.insert(
            id,
            Transfer {
                node,
                segment,
                holder,
            },
        );
        self.at(self.now + self.world.start, Event::Begin(id));
    }

    /// The last byte of a transfer has arrived.
    fn arrived(&mut self, id: u64) {
        let Transfer {
            node,
            segment,
            holder,
        } = self.transfers.remove(&id).unwrap();
        let durable = self.now + self.world.commit;
        self.at(durable, Event::Durable(node, segment));
        let Some(holder) = holder else {
            self.outcome.fetched += 1;
            self.outcome.fetched_by[node] += 1;
            if self.outcome.fetched * 2 >= self.world.segments {
                for late in 0..self.agents.len() {
                    if self.world.nodes[late] == Joins::HalfWay && !self.agents[late].joined {
                        self.counts_from = self.now;
                        self.join(late);
                    }
                }
            }
            return;
        };
        self.outcome.given[holder] += 1;
    }

    fn durable(&mut self, node: usize, segment: u32) {
        let agent = &mut self.agents[node];
        agent.held.insert(segment);
        self.outcome.ahead += u64::from(segment - agent.prefix);
        self.outcome.arrived += 1;
        while agent.held.contains(&agent.prefix) {
            agent.prefix += 1;
        }
        if agent.prefix == self.world.segments {
            self.outcome.finished.push(self.now - self.counts_from);
        }
        let snapshot = NAME.to_owned();
        let held = held(segment);
        self.say(node, AgentMessage::Have { snapshot, held });
    }
}

fn held(segment: u32) -> Held {
    Held {
        segment,
        pieces: PieceHashes::new(vec![[0; 20]]),
        verified: true,
    }
}
