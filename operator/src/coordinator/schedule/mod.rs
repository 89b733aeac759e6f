//! The decision who fetches and who takes what: a state machine without clocks and sockets.
//!
//! Everything that happens is a call with the time in milliseconds; every call gives the orders to send. What the rules
//! are for:
//! * The hub sends each byte once: a segment that nobody holds is given to exactly one node to fetch ([`fetch`]), as
//!   many at once as the way to the hub carries ([`pace`]).
//! * Nodes fetch in turn, so that each has as much to give as the others. What somebody holds is taken from the least
//!   loaded holder by several at once: in a small cluster each segment needs one step. Who brought everything to nodes that
//!   have nothing gives each segment once, to them in turn ([`give`], [`choose`]).
//! * All of it in the order of the plan, because nodes hash each file from its beginning while its bytes are in memory.
//! * Nothing waits for one node: every order that failed is given anew, elsewhere if possible ([`reports`]).
//! * Who serves wrong bytes spoils nobody's copy for ever ([`corrupt`]), and who made them makes no others ([`distrust`]).
//!
//! [`ledger`] keeps the books: who holds, wants and was given what, with the sets of segments that make each decision
//! cheap. No order depends on an earlier call having been remembered by an agent: after `Hello` and `Track` it starts
//! from nothing.

mod backoff;
mod bits;
mod choose;
mod corrupt;
mod distrust;
mod expire;
mod fetch;
mod give;
mod ledger;
mod pace;
mod reports;
mod roster;
mod snap;

#[cfg(test)]
mod flow;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, OriginAccess};

use self::ledger::Ledger;
use self::reports::Early;
use self::snap::Config;

/// Orders to send: node name and message, in order.
pub type Outgoing = Vec<(String, CoordinatorMessage)>;

/// Where the nodes get a snapshot from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcePolicy {
    /// From other nodes what any of them holds, the rest from the hub.
    #[default]
    PeersFirst,
    /// From other nodes only; what none of them holds is waited for.
    PeersOnly,
    /// Every node from the hub by itself.
    OriginOnly,
}

/// A snapshot that the cluster wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatedSnapshot {
    /// Name of the `ModelSnapshot`.
    pub name: String,
    /// Number of segments of its plan.
    pub segments: u32,
    /// Where nodes get it from.
    pub policy: SourcePolicy,
    /// How to reach its hub.
    pub access: OriginAccess,
}

/// Limits and times of the schedule; times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Fetches from the hub that one node has under way at most. More than one fill the link of a lone node whose
    /// connections to the hub are slow; an agent does no more than four.
    pub fetches_per_node: u32,
    /// Fetches from the hub under way in the whole cluster at most, which bounds what a hub has to bear of us. Mostly the
    /// pace says that fewer are of use.
    pub fetches: u32,
    /// Segments that one node takes from others at once. Each arrives the later the more there are, and can be passed on
    /// only then; but a few are to be on their way while others begin, and holders are not equally fast.
    pub takes_per_node: u32,
    /// A holder gives a segment to so many others at once where these are all there are: each step from node to node costs the
    /// time that a segment needs on a link shared by all that a node takes.
    pub one_step: usize,
    /// Where there are more others than that, so many take one segment from one holder at once. Several steps are needed anyway,
    /// and with fewer nodes at once each is shorter, and the segment sooner has holders on whose links there is room.
    pub uploads_per_segment: usize,
    /// Copies that one holder gives to others at once: enough that its link is full between the end of one and the beginning
    /// of the next.
    pub uploads_per_node: u32,
    /// Segments that one of few full nodes gives away at once while nobody else holds them: too many together, and none of
    /// them gets a second holder soon.
    pub first_copies_per_node: usize,
    /// A take that runs longer than this no longer keeps others from the only holder of its segment.
    pub slow_take: u64,
    /// How long what a node held is not fetched anew after its connection broke, or after the start of the
    /// coordinator, because the agents that hold it are about to come back. Longer than an agent's longest wait
    /// between two tries to connect.
    pub grace: u64,
    /// An order without any answer for so long is given anew.
    pub lease: u64,
    /// How long an agent may take to answer `Discard`.
    pub discard: u64,
    /// First and longest wait after failures of the hub.
    pub origin_backoff: (u64, u64),
    /// First and longest time during which a node is not sent to a holder again after a failed take of a segment.
    pub avoid: (u64, u64),
    /// First and longest wait before segments of a blob with a wrong hash are fetched anew.
    pub corrupt_backoff: (u64, u64),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fetches_per_node: 4,
            fetches: 64,
            takes_per_node: 12,
            one_step: 8,
            uploads_per_segment: 4,
            uploads_per_node: 12,
            first_copies_per_node: 8,
            slow_take: 10_000,
            grace: 6_000,
            lease: 600_000,
            discard: 30_000,
            origin_backoff: (1_000, 300_000),
            avoid: (10_000, 300_000),
            corrupt_backoff: (5_000, 300_000),
        }
    }
}

impl Settings {
    /// Nodes that take one segment of a snapshot of so many members from one holder at once.
    fn fan_out(&self, members: usize) -> usize {
        if members <= self.one_step + 1 {
            self.one_step
        } else {
            self.uploads_per_segment
        }
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Schedule {
    ledger: Ledger,
    /// What agents said of snapshots that are not known yet.
    early: BTreeMap<String, Early>,
}

impl Schedule {
    /// Nothing known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            ledger: Ledger::new(settings),
            early: BTreeMap::new(),
        }
    }

    /// An agent said `Hello`. If it was connected, that connection counts as gone.
    pub fn agent_connected(&mut self, node: &str, peer_address: SocketAddr, now: u64) -> Outgoing {
        self.forget(node, now);
        self.ledger.connect(node, peer_address);
        self.decide(now)
    }

    /// An agent's connection ended.
    pub fn agent_gone(&mut self, node: &str, now: u64) -> Outgoing {
        self.forget(node, now);
        self.decide(now)
    }

    fn forget(&mut self, node: &str, now: u64) {
        if let Some(id) = self.ledger.connected(node) {
            self.ledger.disconnect(id, now);
            self.early.retain(|_, early| {
                early.remove(&id);
                !early.is_empty()
            });
        }
    }

    /// An agent reports something.
    pub fn message(&mut self, node: &str, message: AgentMessage, now: u64) -> Outgoing {
        if let Some(id) = self.ledger.connected(node) {
            self.report(id, message, now);
        }
        self.decide(now)
    }

    /// The snapshots that the cluster wants, the most urgent first; replaces the list given before.
    pub fn set_snapshots(&mut self, snapshots: Vec<CoordinatedSnapshot>, now: u64) -> Outgoing {
        let names: Vec<String> = snapshots.iter().map(|one| one.name.clone()).collect();
        for snapshot in snapshots {
            let CoordinatedSnapshot {
                name,
                segments,
                policy,
                access,
            } = snapshot;
            let endpoint = self.ledger.endpoint(&access.endpoint);
            let config = Config {
                policy,
                access,
                endpoint,
            };
            let snap = self.ledger.configure(&name, segments, &config);
            for (node, track) in self.early.remove(&name).unwrap_or_default() {
                self.track(node, snap, track.segments, track.held.into_values(), now);
            }
        }
        self.ledger.order(&names);
        self.decide(now)
    }

    /// Time passed. To be called a few times a second.
    pub fn tick(&mut self, now: u64) -> Outgoing {
        self.ledger.expire(now);
        self.ledger.tell_rosters(now);
        self.decide(now)
    }

    /// How often a node was found to have made wrong bytes of a snapshot.
    #[must_use]
    pub fn distrusted(&self) -> u64 {
        self.ledger.distrusted
    }

    fn decide(&mut self, now: u64) -> Outgoing {
        self.ledger.give(now);
        std::mem::take(&mut self.ledger.outgoing)
    }
}
