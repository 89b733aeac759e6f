//! A small world around the schedule: agents, links, a hub, faults, all by one seed and a clock of its own.

mod agents;
mod faults;
mod world;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::Write;
use std::net::SocketAddr;

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, Held, OriginAccess};
use modelcache_swarm::segment::PieceHashes;

pub(super) use self::world::Dice;
pub(super) use self::world::{Character, Fault, Outcome, World};
use super::invariants::check;
use super::*;

pub(super) const NAME: &str = "model";

#[derive(Clone, Debug)]
struct Content {
    /// 0 is right.
    flavour: u64,
    verified: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Order {
    Fetch,
    Take(usize, PieceHashes),
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one independent thing of a simulated agent"
)]
#[derive(Debug, Default)]
struct Agent {
    character: Character,
    alive: bool,
    dead: bool,
    connected: bool,
    /// Number of its connection; messages of earlier ones are lost.
    connection: u64,
    /// Number of its process; transfers of earlier ones are lost.
    process: u64,
    held: BTreeMap<u32, Content>,
    open: BTreeMap<u32, (Order, u64)>,
    /// What lies on its disk of blobs that were wrong once.
    left: BTreeMap<u32, u64>,
    /// Blobs that it found wrong.
    wrong: BTreeSet<u32>,
    /// The one segment that it spoils.
    spoils: Option<u32>,
    seeder: bool,
    /// When the last message in each direction arrives, so that none overtakes another.
    last: (u64, u64),
}

#[derive(Debug)]
enum Event {
    Start(usize),
    Connect(usize, u64),
    ToCoordinator(usize, u64, AgentMessage),
    ToAgent(usize, u64, CoordinatorMessage),
    Done(usize, u64, u32, u64),
    Verify(usize, u64, u32),
    Fault(Fault),
    Want,
    Tick,
}

pub(super) struct Simulation {
    world: World,
    dice: Dice,
    schedule: Schedule,
    agents: Vec<Agent>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    now: u64,
    hub_down: u64,
    hub_limits: u64,
    hub_lies: u64,
    outcome: Outcome,
}

fn pieces(flavour: u64, segment: u32) -> PieceHashes {
    let mut hash = [0; 20];
    hash[..8].copy_from_slice(&flavour.to_be_bytes());
    hash[8..12].copy_from_slice(&segment.to_be_bytes());
    PieceHashes::new(vec![hash])
}

fn flavour_of(pieces: &PieceHashes) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&pieces.as_slice()[0][..8]);
    u64::from_be_bytes(bytes)
}

pub(super) fn node_name(node: usize) -> String {
    format!("node-{node:03}")
}

pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 9492))
}

impl Simulation {
    pub(super) fn run(world: World) -> Outcome {
        let mut simulation = Self {
            dice: Dice::new(world.seed),
            schedule: Schedule::new(world.settings.clone()),
            agents: Vec::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            now: 0,
            hub_down: 0,
            hub_limits: 0,
            hub_lies: 0,
            outcome: Outcome::default(),
            world,
        };
        simulation.play();
        simulation.outcome
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn play(&mut self) {
        for (node, (start, full, character)) in self.world.nodes.clone().into_iter().enumerate() {
            let mut agent = Agent {
                character,
                seeder: full,
                ..Agent::default()
            };
            if full {
                for segment in 0..self.world.segments {
                    let verified = true;
                    agent.held.insert(
                        segment,
                        Content {
                            flavour: 0,
                            verified,
                        },
                    );
                }
            }
            self.agents.push(agent);
            self.at(start, Event::Start(node));
        }
        for (time, fault) in self.world.faults.clone() {
            self.at(time, Event::Fault(fault));
        }
        self.at(self.world.wanted_at, Event::Want);
        if self.world.ticking {
            self.at(250, Event::Tick);
        }
        let quiet_after = self
            .world
            .faults
            .iter()
            .map(|(time, _)| *time)
            .max()
            .unwrap_or(0)
            + self
                .world
                .nodes
                .iter()
                .map(|(start, ..)| *start)
                .max()
                .unwrap_or(0)
            + self.world.wanted_at;
        while let Some(Reverse((time, sequence))) = self.queue.pop() {
            self.now = time;
            if time > self.world.limit {
                break;
            }
            let event = self.events.remove(&sequence).unwrap();
            self.happen(event);
            if time > quiet_after && self.everybody_whole() {
                self.outcome.finished = true;
                break;
            }
        }
        self.outcome.ended = self.now;
        if !self.outcome.finished && self.everybody_whole() {
            self.outcome.finished = true;
        }
        if !self.outcome.finished {
            self.outcome.stuck = self.describe();
        }
    }

    fn describe(&self) -> String {
        let mut text = format!("at {} ms\n", self.now);
        for (node, agent) in self.agents.iter().enumerate() {
            let missing: Vec<u32> = (0..self.world.segments)
                .filter(|segment| !agent.held.get(segment).is_some_and(|c| c.verified))
                .collect();
            _ = writeln!(
                text,
                "{node} {:?} connected {} missing {missing:?} open {:?}",
                agent.character, agent.connected, agent.open
            );
        }
        for snap in &self.schedule.ledger.snaps {
            for (node, member) in &snap.members {
                let wants: Vec<u32> = member.wants.iter().collect();
                _ = writeln!(
                    text,
                    "{node} wants {wants:?} open {:?} backoff {:?} avoid {:?} stranded {:?} hub only {:?} corrupt {:?} discarding {:?}",
                    member.open,
                    member.backoff,
                    member.avoid,
                    member.stranded.iter().collect::<Vec<_>>(),
                    member.hub_only.iter().collect::<Vec<_>>(),
                    member.corrupt,
                    member.discarding
                );
            }
            _ = writeln!(
                text,
                "backoff {:?} held back {:?} reserved {:?} troubles {:?}",
                snap.backoff,
                snap.held_back.iter().collect::<Vec<_>>(),
                snap.reserved,
                snap.troubles
            );
        }
        text
    }

    fn everybody_whole(&self) -> bool {
        self.agents.iter().all(|agent| {
            let whole = agent.held.len() == self.world.segments as usize
                && agent
                    .held
                    .values()
                    .all(|content| content.verified && content.flavour == 0);
            agent.dead || agent.character.may_want_forever() || agent.connected && whole
        })
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(node) => {
                let agent = &mut self.agents[node];
                // A node has one agent: whoever was killed twice, or before it began, is started once.
                if agent.alive || agent.dead {
                    return;
                }
                agent.alive = true;
                agent.process += 1;
                self.connect_soon(node, 10);
                for blob in 0..self.world.segments.div_ceil(self.world.blob) {
                    self.verify_soon(node, blob * self.world.blob);
                }
            }
            Event::Connect(node, process) => self.connect(node, process),
            Event::ToCoordinator(node, connection, message) => {
                let agent = &self.agents[node];
                if agent.connected && agent.connection == connection {
                    let outgoing = self.schedule.message(&node_name(node), message, self.now);
                    self.deliver(outgoing);
                }
            }
            Event::ToAgent(node, connection, message) => {
                let agent = &self.agents[node];
                if agent.connected && agent.connection == connection {
                    self.obey(node, message);
                }
            }
            Event::Done(node, process, segment, ticket) => {
                self.done(node, process, segment, ticket);
            }
            Event::Verify(node, process, blob) => self.verify(node, process, blob),
            Event::Fault(fault) => self.fail(fault),
            Event::Want => self.want(),
            Event::Tick => {
                let outgoing = self.schedule.tick(self.now);
                self.deliver(outgoing);
                self.at(self.now + 250, Event::Tick);
            }
        }
    }

    fn want(&mut self) {
        let snapshot = CoordinatedSnapshot {
            name: NAME.to_owned(),
            segments: self.world.segments,
            policy: self.world.policy,
            access: OriginAccess {
                endpoint: "https://hub".to_owned(),
                token: None,
                ca_bundle: None,
            },
        };
        let outgoing = self.schedule.set_snapshots(vec![snapshot], self.now);
        self.deliver(outgoing);
    }

    fn connect_soon(&mut self, node: usize, within: u64) {
        let process = self.agents[node].process;
        let time = self.now + 1 + self.dice.roll(within);
        self.at(time, Event::Connect(node, process));
    }

    fn connect(&mut self, node: usize, process: u64) {
        let agent = &mut self.agents[node];
        if !agent.alive || agent.process != process || agent.connected {
            return;
        }
        agent.connected = true;
        agent.connection += 1;
        agent.last = (self.now, self.now);
        let outgoing = self
            .schedule
            .agent_connected(&node_name(node), address(), self.now);
        self.deliver(outgoing);
        self.track(node);
    }

    fn track(&mut self, node: usize) {
        let held = self.agents[node]
            .held
            .iter()
            .map(|(segment, content)| Held {
                segment: *segment,
                pieces: pieces(content.flavour, *segment),
                verified: content.verified,
            });
        let held = held.collect();
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
        let delay = self.dice.roll(self.world.latency + 1);
        let agent = &mut self.agents[node];
        if agent.connected {
            let time = agent.last.0.max(self.now + delay);
            agent.last.0 = time;
            let connection = agent.connection;
            self.at(time, Event::ToCoordinator(node, connection, message));
        }
    }

    fn deliver(&mut self, outgoing: Outgoing) {
        self.outcome.calls += 1;
        let snaps = self.schedule.ledger.snaps.iter();
        self.outcome
            .distrusted
            .extend(snaps.flat_map(|snap| &snap.distrusted).map(|node| {
                let name = &self.schedule.ledger.nodes[*node].name;
                name["node-".len()..].parse::<usize>().unwrap()
            }));
        if self.world.check {
            check(&self.schedule, &self.world.settings);
        }
        for (name, message) in outgoing {
            let node: usize = name["node-".len()..].parse().unwrap();
            match &message {
                CoordinatorMessage::Fetch { .. } => self.outcome.fetches += 1,
                CoordinatorMessage::Take { .. } => self.outcome.takes += 1,
                _ => {}
            }
            let delay = self.dice.roll(self.world.latency + 1);
            let agent = &mut self.agents[node];
            assert!(
                agent.connected,
                "a message to {name}, which is not connected"
            );
            let time = agent.last.1.max(self.now + delay);
            agent.last.1 = time;
            let connection = agent.connection;
            self.at(time, Event::ToAgent(node, connection, message));
        }
    }
}
