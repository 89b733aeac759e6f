//! A small world around the schedule: agents, links, a hub, faults, all by one seed and a clock of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::Write;
use std::net::SocketAddr;

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, Held, OriginAccess};
use modelcache_swarm::segment::PieceHashes;

use super::*;

pub(super) const NAME: &str = "model";

/// Numbers by a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The connection breaks; the agent and its transfers go on.
    Cut(usize),
    /// The agent dies and comes back with what it holds.
    Kill(usize),
    /// The agent dies and comes back with an empty disk.
    Wipe(usize),
    /// The agent never comes back.
    Die(usize),
    /// The hub answers nothing for so many milliseconds.
    HubDown(u64),
    /// The hub answers 429 for so many milliseconds.
    HubLimits(u64),
    /// The hub sends wrong bytes for so many milliseconds.
    HubLies(u64),
    /// The coordinator restarts with an empty memory.
    Restart,
    /// A held and verified segment is found wrong (a disk error).
    Rot(usize),
}

/// How a node misbehaves all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Character {
    #[default]
    Honest,
    /// Cannot reach the hub.
    Cutoff,
    /// Whatever it gives breaks.
    Mute,
    /// What it fetches becomes wrong, and it serves that.
    Poisoner,
    /// Like the poisoner, and says that all of it is verified, and never discards.
    Forger,
}

impl Character {
    pub(super) fn may_want_forever(self) -> bool {
        matches!(self, Self::Poisoner | Self::Forger)
    }
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) segments: u32,
    /// Segments of one blob.
    pub(super) blob: u32,
    pub(super) policy: SourcePolicy,
    /// When each node starts, whether it is full, and what it is like.
    pub(super) nodes: Vec<(u64, bool, Character)>,
    pub(super) faults: Vec<(u64, Fault)>,
    /// Percent of transfers that fail for no reason.
    pub(super) failing: u64,
    /// Longest delay of a message.
    pub(super) latency: u64,
    /// When the cluster begins to want the snapshot.
    pub(super) wanted_at: u64,
    pub(super) settings: Settings,
    pub(super) ticking: bool,
    pub(super) check: bool,
    /// Simulated milliseconds after which the run counts as stuck.
    pub(super) limit: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            seed: 1,
            segments: 40,
            blob: 3,
            policy: SourcePolicy::PeersFirst,
            nodes: vec![(0, false, Character::Honest); 4],
            faults: Vec::new(),
            failing: 0,
            latency: 20,
            wanted_at: 0,
            settings: Settings {
                grace: 0,
                ..Settings::default()
            },
            ticking: true,
            check: true,
            limit: 4 * 3_600_000,
        }
    }
}

/// What a run did.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) finished: bool,
    pub(super) ended: u64,
    pub(super) fetches: u64,
    pub(super) takes: u64,
    pub(super) calls: u64,
    /// Segments that full nodes gave away.
    pub(super) seeded: u64,
    pub(super) stuck: String,
}

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

    fn obey(&mut self, node: usize, message: CoordinatorMessage) {
        let (segment, order) = match message {
            CoordinatorMessage::Fetch { segment, .. } => (segment, Order::Fetch),
            CoordinatorMessage::Take {
                segment,
                holder,
                pieces,
                ..
            } => {
                let holder = holder["node-".len()..].parse().unwrap();
                (segment, Order::Take(holder, pieces))
            }
            CoordinatorMessage::Discard { segments, .. } => {
                let agent = &mut self.agents[node];
                for segment in segments {
                    agent.open.remove(&segment);
                    let unverified = agent.held.get(&segment).is_some_and(|c| !c.verified);
                    if unverified && agent.character != Character::Forger {
                        agent.held.remove(&segment);
                    }
                }
                self.track(node);
                return;
            }
            CoordinatorMessage::Origin { .. } | CoordinatorMessage::Refused { .. } => return,
        };
        if self.agents[node].held.contains_key(&segment) {
            self.have(node, segment);
            return;
        }
        if let Some((open, _)) = self.agents[node].open.get(&segment)
            && *open == order
        {
            return;
        }
        let ticket = self.dice.roll(u64::MAX);
        self.agents[node].open.insert(segment, (order, ticket));
        let time = self.now + 5 + self.dice.roll(150);
        let process = self.agents[node].process;
        self.at(time, Event::Done(node, process, segment, ticket));
    }

    fn have(&mut self, node: usize, segment: u32) {
        let agent = &self.agents[node];
        let content = &agent.held[&segment];
        let held = Held {
            segment,
            pieces: pieces(content.flavour, segment),
            verified: content.verified,
        };
        self.say(
            node,
            AgentMessage::Have {
                snapshot: NAME.to_owned(),
                held,
            },
        );
    }

    fn done(&mut self, node: usize, process: u64, segment: u32, ticket: u64) {
        let agent = &mut self.agents[node];
        if agent.process != process
            || agent
                .open
                .get(&segment)
                .is_none_or(|(_, one)| *one != ticket)
        {
            return;
        }
        let (order, _) = agent.open.remove(&segment).unwrap();
        let broken = self.dice.chance(self.world.failing);
        let got = match order {
            Order::Fetch => self.fetched(node, broken),
            Order::Take(holder, pieces) => {
                self.taken(holder, segment, &pieces, broken)
                    .ok_or(AgentMessage::TakeFailed {
                        snapshot: NAME.to_owned(),
                        segment,
                        holder: node_name(holder),
                        message: "broken".to_owned(),
                    })
            }
        };
        match got {
            Ok(flavour) => {
                let forged = self.agents[node].character == Character::Forger;
                let content = Content {
                    flavour,
                    verified: forged,
                };
                self.agents[node].held.insert(segment, content);
                self.have(node, segment);
                self.verify_soon(node, segment);
            }
            Err(AgentMessage::FetchFailed {
                message,
                rate_limited,
                retry_after_seconds,
                snapshot,
                ..
            }) => self.say(
                node,
                AgentMessage::FetchFailed {
                    snapshot,
                    segment,
                    message,
                    rate_limited,
                    retry_after_seconds,
                },
            ),
            Err(failure) => self.say(node, failure),
        }
    }

    fn fetched(&mut self, node: usize, broken: bool) -> Result<u64, AgentMessage> {
        let rate_limited = self.now < self.hub_limits;
        let character = self.agents[node].character;
        if broken || rate_limited || self.now < self.hub_down || character == Character::Cutoff {
            return Err(AgentMessage::FetchFailed {
                snapshot: NAME.to_owned(),
                segment: 0,
                message: "no answer".to_owned(),
                rate_limited,
                retry_after_seconds: (rate_limited && self.dice.chance(50)).then_some(2),
            });
        }
        let wrong = self.now < self.hub_lies || character.may_want_forever();
        Ok(if wrong { 1 + self.dice.roll(1000) } else { 0 })
    }

    fn taken(
        &mut self,
        holder: usize,
        segment: u32,
        pieces: &PieceHashes,
        broken: bool,
    ) -> Option<u64> {
        let from = &mut self.agents[holder];
        let flavour = flavour_of(pieces);
        let serves = from
            .held
            .get(&segment)
            .is_some_and(|content| content.flavour == flavour);
        if broken || !from.alive || from.character == Character::Mute || !serves {
            return None;
        }
        self.outcome.seeded += u64::from(from.seeder);
        Some(flavour)
    }

    fn verify_soon(&mut self, node: usize, segment: u32) {
        let blob = segment / self.world.blob;
        let process = self.agents[node].process;
        let whole = self
            .blob(blob)
            .all(|one| self.agents[node].held.contains_key(&one));
        if whole {
            let time = self.now + self.dice.roll(60);
            self.at(time, Event::Verify(node, process, blob));
        }
    }

    fn blob(&self, blob: u32) -> impl Iterator<Item = u32> + use<> {
        let end = ((blob + 1) * self.world.blob).min(self.world.segments);
        blob * self.world.blob..end
    }

    fn verify(&mut self, node: usize, process: u64, blob: u32) {
        let segments: Vec<u32> = self.blob(blob).collect();
        let agent = &mut self.agents[node];
        let has = |segment: &u32| {
            agent
                .held
                .get(segment)
                .is_some_and(|content| !content.verified)
        };
        if agent.process != process
            || !segments.iter().all(has)
            || agent.character.may_want_forever()
        {
            return;
        }
        let right = segments
            .iter()
            .all(|segment| agent.held[segment].flavour == 0);
        let snapshot = NAME.to_owned();
        if right {
            for segment in &segments {
                agent.held.get_mut(segment).unwrap().verified = true;
            }
            self.say(node, AgentMessage::Verified { snapshot, segments });
        } else {
            for segment in &segments {
                agent.held.remove(segment);
            }
            let message = "wrong hash".to_owned();
            self.say(
                node,
                AgentMessage::Corrupt {
                    snapshot,
                    segments,
                    message,
                },
            );
        }
    }

    fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(node) => {
                self.cut(node);
                self.connect_soon(node, 5_000);
            }
            Fault::Kill(node) | Fault::Wipe(node) | Fault::Die(node) => {
                self.cut(node);
                let agent = &mut self.agents[node];
                agent.alive = false;
                agent.process += 1;
                agent.open.clear();
                if matches!(fault, Fault::Wipe(_)) {
                    agent.held.clear();
                }
                if matches!(fault, Fault::Die(_)) {
                    agent.dead = true;
                } else if !agent.dead {
                    let time = self.now + 100 + self.dice.roll(10_000);
                    self.at(time, Event::Start(node));
                }
            }
            Fault::HubDown(time) => self.hub_down = self.now + time,
            Fault::HubLimits(time) => self.hub_limits = self.now + time,
            Fault::HubLies(time) => self.hub_lies = self.now + time,
            Fault::Restart => {
                self.schedule = Schedule::new(self.world.settings.clone());
                for node in 0..self.agents.len() {
                    self.agents[node].connected = false;
                    self.connect_soon(node, 5_000);
                }
                let time = self.now + self.dice.roll(2_000);
                self.at(time, Event::Want);
            }
            Fault::Rot(node) => {
                let segment = u32::try_from(self.dice.roll(self.world.segments.into())).unwrap();
                let segments: Vec<u32> = self.blob(segment / self.world.blob).collect();
                let agent = &mut self.agents[node];
                if agent.alive && segments.iter().all(|one| agent.held.contains_key(one)) {
                    for segment in &segments {
                        agent.held.remove(segment);
                    }
                    self.say(
                        node,
                        AgentMessage::Corrupt {
                            snapshot: NAME.to_owned(),
                            segments,
                            message: "disk error".to_owned(),
                        },
                    );
                }
            }
        }
    }

    fn cut(&mut self, node: usize) {
        if std::mem::take(&mut self.agents[node].connected) {
            let outgoing = self.schedule.agent_gone(&node_name(node), self.now);
            self.deliver(outgoing);
        }
    }
}

/// Checks every invariant of the books from the ground up.
#[expect(
    clippy::too_many_lines,
    reason = "one list of what must hold after every step"
)]
pub(super) fn check(schedule: &Schedule, settings: &Settings) {
    use super::ledger::Lease;
    let ledger = &schedule.ledger;
    let mut fetches = vec![0; ledger.nodes.len()];
    let mut takes = vec![0; ledger.nodes.len()];
    let mut uploads = vec![0; ledger.nodes.len()];
    let mut endpoints = vec![0; ledger.endpoints.len()];
    for snap in &ledger.snaps {
        let mut holders = vec![BTreeSet::new(); snap.size as usize];
        let mut fetching = vec![0; snap.size as usize];
        let mut pairs = BTreeMap::new();
        for (node, member) in &snap.members {
            assert!(
                ledger.nodes[*node].address.is_some(),
                "members are connected"
            );
            for index in member.held.iter() {
                holders[index as usize].insert(*node);
                assert!(
                    !member.open.contains_key(&index),
                    "what is held is not on order"
                );
            }
            for (index, lease) in &member.open {
                match lease {
                    Lease::Fetch { endpoint, .. } => {
                        fetching[*index as usize] += 1;
                        fetches[*node] += 1;
                        endpoints[*endpoint] += 1;
                    }
                    Lease::Take { holder, .. } => {
                        takes[*node] += 1;
                        uploads[*holder] += 1;
                        *pairs.entry((*index, *holder)).or_insert(0) += 1;
                        let takings = &snap.segments[*index as usize].takings;
                        assert!(
                            takings
                                .iter()
                                .any(|t| t.taker == *node && t.holder == *holder)
                        );
                    }
                }
            }
            let discarding = |index| {
                member
                    .discarding
                    .as_ref()
                    .is_some_and(|d| d.segments.has(index))
            };
            let wants: Vec<u32> = (0..snap.size)
                .filter(|index| {
                    !member.held.has(*index)
                        && !member.open.contains_key(index)
                        && !discarding(*index)
                })
                .collect();
            assert_eq!(member.wants.iter().collect::<Vec<_>>(), wants);
            assert_eq!(member.wanting as usize, wants.len());
            let alone = |index: &u32| snap.segments[*index as usize].holders.len() == 1;
            assert_eq!(
                member.alone as usize,
                member.held.iter().filter(alone).count()
            );
        }
        for (pair, count) in pairs {
            assert!(
                count <= settings.uploads_per_segment,
                "uploads of {pair:?}: {count}"
            );
        }
        let shared = snap
            .config
            .as_ref()
            .is_some_and(|c| c.policy != SourcePolicy::OriginOnly);
        for (index, segment) in snap.segments.iter().enumerate() {
            let number = u32::try_from(index).unwrap();
            let named: BTreeSet<_> = segment.holders.iter().map(|holder| holder.node).collect();
            assert_eq!(named.len(), segment.holders.len());
            assert_eq!(named, holders[index], "holders of {index}");
            assert_eq!(segment.fetches, fetching[index]);
            assert!(
                !shared || fetching[index] <= 1,
                "two fetches of {index} at once"
            );
            assert_eq!(snap.unheld.has(number), named.is_empty());
            assert_eq!(snap.sole.has(number), named.len() == 1);
            assert_eq!(snap.fetching.has(number), fetching[index] > 0);
            let levels = snap.rarity.iter().filter(|level| level.has(number)).count();
            assert_eq!(levels, 1);
        }
        assert_eq!(snap.fetches, fetching.iter().sum::<u32>());
    }
    for (node, known) in ledger.nodes.iter().enumerate() {
        assert_eq!(known.fetches, fetches[node]);
        assert_eq!(known.takes, takes[node]);
        assert_eq!(known.uploading.len(), uploads[node]);
        assert!(known.fetches <= settings.fetches_per_node);
        assert!(known.takes <= settings.takes_per_node);
        assert!(known.uploading.len() <= settings.uploads_per_node as usize);
    }
    for (id, endpoint) in ledger.endpoints.iter().enumerate() {
        assert_eq!(endpoint.fetches, endpoints[id]);
    }
    assert_eq!(ledger.fetches, fetches.iter().sum::<u32>());
    assert!(ledger.fetches <= settings.fetches);
}
