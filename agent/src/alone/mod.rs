//! What to do about one snapshot while there is no coordinator: decisions without effects.
//!
//! The members that the coordinator named are asked what they hold, and so are nodes that were found without it ([`found`]);
//! what one of them has is taken from there. What none of them has is fetched from the hub by one member: each segment puts
//! the members into an order of its own (rendezvous hashing), the first one fetches it at once, and the others one after
//! the other, should nothing new be heard of for long. Whoever does not answer, or does not reach the hub, is left out of
//! the order. So nodes that see the same share the work without talking about it, and no segment depends on any of them.

mod fetch;
mod found;
mod hub;
mod order;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use modelcache_swarm::coordination::{MAX_MEMBERS, Member};
use modelcache_swarm::inventory::{Answer, MAX_WANTS};
use modelcache_swarm::segment::PieceHashes;

use self::hub::Hub;
use self::order::{score, seed};
use self::peer::Peer;

/// Segments of one snapshot that come from the hub at once.
pub const FETCHES: usize = 2;
/// Segments of one snapshot that come from other nodes at once.
pub const TAKES: usize = 4;
/// Questions under way.
const ASKS: usize = 16;
/// A member is asked again after this…
const ASK_EVERY: Duration = Duration::from_secs(5);
/// …or after this, when it has what is wanted now.
const ASK_SOON: Duration = Duration::from_secs(1);
/// When nothing new was heard of for so long, the next in the order fetches a segment too.
const TURN: Duration = Duration::from_secs(30);
/// Nobody waits for more turns than this.
const MOST_TURNS: u32 = 10;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask a node what it has. To be answered by [`Alone::answered`].
    Ask {
        /// Its name, or its address where nobody says the name.
        node: String,
        /// Where it serves.
        address: SocketAddr,
        /// Segments whose piece hashes are wanted.
        wants: Vec<u32>,
    },
    /// Take a segment from a node.
    Take {
        /// Segment index.
        segment: u32,
        /// Its piece hashes.
        pieces: PieceHashes,
        /// Name of the node, or its address where nobody says the name.
        node: String,
        /// Where it serves.
        address: SocketAddr,
    },
    /// Fetch a segment from the hub.
    Fetch(u32),
}

/// How this node stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Segments neither here nor on their way.
    pub missing: &'a BTreeSet<u32>,
    /// How many are on their way from the hub.
    pub fetching: usize,
    /// How many are on their way from other nodes.
    pub taking: usize,
    /// Whether it may go to the hub and knows how.
    pub may_fetch: bool,
    /// Whether it may take from other nodes.
    pub may_take: bool,
}

/// What is known of one snapshot for the time without a coordinator.
#[derive(Debug)]
pub struct Alone {
    /// This node and its seed.
    me: (String, u64),
    /// Seed of the snapshot.
    snapshot: u64,
    /// Members by their names; those that were found by name, or by address where nobody says the name.
    peers: BTreeMap<String, Peer>,
    /// Nodes that were found and let go because they do not answer, and when they were last asked.
    let_go: BTreeMap<String, Instant>,
    /// Whether this node is among the members, or would be if it was connected.
    listed: bool,
    /// When this node began to act by itself, or last heard of a segment that was new somewhere.
    progress: Option<Instant>,
    /// Segments that came from other nodes and were wrong: only the hub's are of use.
    wrong: BTreeSet<u32>,
    hub: Hub,
}

/// A place in the order in which nodes come for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precedence {
    /// How many members come before.
    pub before: u32,
    /// Of several things, the one with the highest comes first.
    pub score: u64,
}

impl Alone {
    /// Nothing known yet.
    #[must_use]
    pub fn new(node: &str, snapshot: &str) -> Self {
        Self {
            me: (node.to_owned(), seed(node)),
            snapshot: seed(snapshot),
            peers: BTreeMap::new(),
            let_go: BTreeMap::new(),
            listed: true,
            progress: None,
            wrong: BTreeSet::new(),
            hub: Hub::default(),
        }
    }

    /// The coordinator named the members.
    pub fn set_members(&mut self, members: Vec<Member>) {
        let full = members.len() >= MAX_MEMBERS;
        self.listed = !full || members.iter().any(|member| member.node == self.me.0);
        let mut known = std::mem::take(&mut self.peers);
        for Member { node, address } in members.into_iter().take(MAX_MEMBERS) {
            if node != self.me.0 {
                let old = known.remove(&node).filter(|peer| peer.address == address);
                let mut peer = old.unwrap_or_else(|| Peer::new(seed(&node), address));
                peer.member = true;
                self.peers.insert(node, peer);
            }
        }
    }

    /// Where the members are that the coordinator named last, without this node.
    pub fn members(&self) -> impl Iterator<Item = IpAddr> {
        let members = self.peers.values().filter(|peer| peer.member);
        members.map(|peer| peer.address.ip())
    }

    /// This node's place in the order of something of the snapshot.
    #[must_use]
    pub fn precedence(&self, item: u32) -> Precedence {
        let score = self.score(self.me.1, item);
        let members = self.peers.values().filter(|peer| peer.member);
        let before = members.filter(|peer| self.score(peer.seed, item) > score);
        Precedence {
            before: u32::try_from(before.count()).unwrap_or(u32::MAX),
            score,
        }
    }

    /// There is a coordinator again, whose orders count.
    pub fn connected(&mut self) {
        self.progress = None;
        self.peers.retain(|_, peer| peer.member);
        self.let_go.clear();
        self.wrong.clear();
        self.hub = Hub::default();
    }

    /// Whether any other node is known.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Whether the hub is left alone for a while.
    #[must_use]
    pub fn hub_rests(&self, now: Instant) -> bool {
        self.hub.rests(now)
    }

    /// A segment is durable here.
    pub fn progressed(&mut self, now: Instant, fetched: Option<u32>) {
        if let Some(progress) = &mut self.progress {
            *progress = now;
        }
        if let Some(segment) = fetched {
            self.wrong.remove(&segment);
            self.hub.gave(segment);
        }
    }

    /// A node answered, or did not.
    pub fn answered(&mut self, now: Instant, node: &str, answer: Option<Answer>) {
        if let Some(peer) = self.peers.get_mut(node)
            && peer.answered(now, answer)
            && let Some(progress) = &mut self.progress
        {
            *progress = now;
        }
    }

    /// A node did not give a segment.
    pub fn take_failed(&mut self, now: Instant, node: &str) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.rest(now);
        }
    }

    /// The hub did not give a segment.
    pub fn fetch_failed(&mut self, now: Instant, segment: u32, retry_after: Option<Duration>) {
        self.hub.refused(now, self.me.1, segment, retry_after);
    }

    /// These segments were of a blob with a wrong hash and were thrown away here.
    pub fn found_wrong(&mut self, now: Instant, segments: &[u32]) {
        if self.progress.is_some() {
            self.wrong.extend(segments);
            // Should it be the hub that gives wrong bytes.
            self.hub.leave_alone(now, self.me.1, None);
        }
    }

    /// What to do now. To be called a few times a second while there is no coordinator.
    pub fn next(&mut self, now: Instant, node: Standing<'_>) -> Vec<Step> {
        if self.progress.is_none() {
            self.progress = Some(now);
            self.peers.values_mut().for_each(Peer::await_anew);
        }
        for peer in self.peers.values_mut() {
            // What came from elsewhere must not keep it from being asked for more.
            peer.pieces
                .retain(|segment, _| node.missing.contains(segment));
        }
        let mut steps = Vec::new();
        if node.missing.is_empty() {
            return steps;
        }
        // In an order of its own, so that nodes come to hold different parts.
        let mut missing: Vec<u32> = node.missing.iter().copied().collect();
        missing.sort_by_key(|segment| std::cmp::Reverse(self.score(self.me.1, *segment)));
        if node.may_take {
            self.take(now, &missing, TAKES.saturating_sub(node.taking), &mut steps);
            self.ask(now, &missing, &mut steps);
        }
        if node.may_fetch && !self.hub.rests(now) {
            let free = self.hub.at_once().saturating_sub(node.fetching);
            self.fetch(now, &missing, free, node.may_take, &mut steps);
        }
        steps
    }

    fn take(&mut self, now: Instant, missing: &[u32], free: usize, steps: &mut Vec<Step>) {
        let before = steps.len();
        for segment in missing {
            if steps.len() - before >= free {
                return;
            }
            let snapshot = self.snapshot;
            let givers = self
                .peers
                .iter_mut()
                .filter(|(_, peer)| peer.gives(now) && peer.pieces.contains_key(segment));
            let chosen = givers.max_by_key(|(_, peer)| score(snapshot, peer.seed, *segment));
            if let Some((node, peer)) = chosen
                && let Some(pieces) = peer.pieces.remove(segment)
            {
                steps.push(Step::Take {
                    segment: *segment,
                    pieces,
                    node: node.clone(),
                    address: peer.address,
                });
            }
        }
    }

    fn ask(&mut self, now: Instant, missing: &[u32], steps: &mut Vec<Step>) {
        let mut promised: BTreeSet<u32> = self
            .peers
            .values()
            .filter(|peer| peer.gives(now))
            .flat_map(Peer::promises)
            .chain(self.wrong.iter().copied())
            .chain(steps.iter().filter_map(|step| match step {
                Step::Take { segment, .. } => Some(*segment),
                _ => None,
            }))
            .collect();
        let under_way = self.peers.values().filter(|peer| peer.asking()).count();
        let mut free = ASKS.saturating_sub(under_way);
        let mut waiting: Vec<_> = self
            .peers
            .iter_mut()
            .filter(|(_, peer)| !peer.asking())
            .collect();
        waiting.sort_by_key(|(_, peer)| peer.asked);
        for (node, peer) in waiting {
            let has = |segment: &&u32| peer.holds(now, **segment) && !promised.contains(segment);
            let wants: Vec<u32> = if peer.pieces.is_empty() {
                missing
                    .iter()
                    .filter(has)
                    .take(MAX_WANTS)
                    .copied()
                    .collect()
            } else {
                Vec::new()
            };
            let pause = if wants.is_empty() {
                ASK_EVERY
            } else {
                ASK_SOON
            };
            if free == 0 || peer.asked.is_some_and(|asked| now < asked + pause) {
                continue;
            }
            free -= 1;
            promised.extend(&wants);
            peer.ask(now, &wants);
            steps.push(Step::Ask {
                node: node.clone(),
                address: peer.address,
                wants,
            });
        }
    }

    fn score(&self, node: u64, segment: u32) -> u64 {
        score(self.snapshot, node, segment)
    }
}
