//! The books of one snapshot: who holds, wants and was given which of its segments, and sets of these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use modelcache_swarm::coordination::{CoordinatorMessage, OriginAccess};
use modelcache_swarm::segment::PieceHashes;

use super::backoff::Backoff;
use super::bits::Bits;
use super::distrust::Claim;
use super::pace::Pace;
use super::roster::Roster;
use super::{Settings, SourcePolicy};

/// Position in [`super::ledger::Ledger::nodes`].
pub(super) type NodeId = usize;
/// Position in [`super::ledger::Ledger::snaps`].
pub(super) type SnapId = usize;
/// Position in [`super::ledger::Ledger::endpoints`].
pub(super) type EndpointId = usize;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) policy: SourcePolicy,
    pub(super) access: OriginAccess,
    pub(super) endpoint: EndpointId,
}

impl Config {
    /// What a node is told of how to reach the hub.
    pub(super) fn origin(&self, snapshot: &str) -> CoordinatorMessage {
        CoordinatorMessage::Origin {
            snapshot: snapshot.to_owned(),
            access: self.access.clone(),
        }
    }
}

/// An order that a node has not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lease {
    Fetch {
        given: u64,
        endpoint: EndpointId,
        /// Fetches from that hub that were under way then, itself included.
        fetches: u32,
        /// Whether it takes so long that another one goes on in its place.
        slow: bool,
    },
    Take {
        given: u64,
        holder: NodeId,
    },
}

#[derive(Debug)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) pieces: Arc<PieceHashes>,
    pub(super) verified: bool,
}

/// A take under way.
#[derive(Debug)]
pub(super) struct Taking {
    pub(super) taker: NodeId,
    pub(super) holder: NodeId,
    pub(super) slow: bool,
}

#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) holders: Vec<Holder>,
    /// Whether holders differ in its piece hashes.
    pub(super) mixed: bool,
    pub(super) takings: Vec<Taking>,
    /// Piece hashes that nodes spoke of, also those that nobody holds any more.
    pub(super) claims: Vec<Claim>,
    /// Fetches under way; more than one only where every node fetches for itself.
    pub(super) fetches: u32,
}

/// Segments that are not fetched before a time.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) until: u64,
    pub(super) segments: Bits,
    /// The node that may come back with them.
    pub(super) node: Option<NodeId>,
}

#[derive(Debug)]
pub(super) struct Discarding {
    pub(super) segments: Bits,
    pub(super) until: u64,
}

/// One node's part in one snapshot.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) held: Bits,
    pub(super) wants: Bits,
    /// Number of segments in `wants`.
    pub(super) wanting: u32,
    /// Number of segments that only it holds.
    pub(super) alone: u32,
    pub(super) open: BTreeMap<u32, Lease>,
    /// Fetches that it was given, also those that failed.
    pub(super) fetched: u32,
    /// Whether it holds everything: [`Member::is_full`], remembered so that seeders need not be counted each time.
    pub(super) seeder: bool,
    pub(super) origin_sent: bool,
    /// The version of the roster that it was told.
    pub(super) roster: u64,
    pub(super) backoff: Backoff,
    /// Holders not to be asked for a segment for a while.
    pub(super) avoid: BTreeMap<(u32, NodeId), Backoff>,
    /// Segments that it may fetch although others hold them, if it has to avoid all of those.
    pub(super) stranded: Bits,
    /// Segments that came from others and were found wrong again and again: it gets them from the hub itself.
    pub(super) hub_only: Bits,
    /// From whom it took what is not verified yet.
    pub(super) taken_from: BTreeMap<u32, NodeId>,
    /// How often it found a segment in a blob with a wrong hash, and how long it waits before it gets it once more.
    pub(super) corrupt: BTreeMap<u32, Backoff>,
    /// How often a holder gave a part of a blob that was wrong then, by segment of that blob.
    pub(super) blamed: BTreeMap<(u32, NodeId), u32>,
    pub(super) discarding: Option<Discarding>,
}

#[derive(Debug)]
pub(super) struct Snap {
    pub(super) name: String,
    pub(super) size: u32,
    /// Absent while the cluster does not want it.
    pub(super) config: Option<Config>,
    /// Position in the order of urgency.
    pub(super) rank: usize,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) segments: Vec<Segment>,
    /// Segments that nobody holds, but for distrusted nodes.
    pub(super) unheld: Bits,
    /// Segments that exactly one node holds.
    pub(super) sole: Bits,
    /// Segments that some node is fetching.
    pub(super) fetching: Bits,
    /// Segments of which a holder may give another copy now, as far as the segment itself is concerned.
    pub(super) offered: Bits,
    pub(super) holds: Vec<Hold>,
    /// All segments in `holds`.
    pub(super) held_back: Bits,
    /// Fetches under way.
    pub(super) fetches: u32,
    pub(super) pace: Pace,
    pub(super) backoff: Backoff,
    /// Nodes and segments whose fetches failed since the last one that did not.
    pub(super) failed: (BTreeSet<NodeId>, BTreeSet<u32>),
    /// Back-off of single segments.
    pub(super) troubles: BTreeMap<u32, Backoff>,
    pub(super) corrupt_backoff: Backoff,
    pub(super) corrupt: Bits,
    /// Segments of a wrong blob: one node fetches all of them, so that no other can have spoilt them.
    pub(super) reserved: BTreeMap<u32, NodeId>,
    /// Nodes that failed to take a segment from a holder.
    pub(super) strikes: BTreeMap<(u32, NodeId), BTreeSet<NodeId>>,
    /// What agents know of the members.
    pub(super) roster: Roster,
    /// Members that hold everything.
    pub(super) seeders: usize,
    /// Nodes that made wrong bytes; also those that are not members now.
    pub(super) distrusted: BTreeSet<NodeId>,
}

impl Snap {
    pub(super) fn new(name: String, size: u32) -> Self {
        Self {
            name,
            size,
            config: None,
            rank: usize::MAX,
            members: BTreeMap::new(),
            segments: (0..size).map(|_| Segment::default()).collect(),
            unheld: Bits::full(size),
            sole: Bits::empty(size),
            fetching: Bits::empty(size),
            offered: Bits::empty(size),
            holds: Vec::new(),
            held_back: Bits::empty(size),
            fetches: 0,
            pace: Pace::default(),
            backoff: Backoff::default(),
            failed: Default::default(),
            troubles: BTreeMap::new(),
            corrupt_backoff: Backoff::default(),
            corrupt: Bits::empty(size),
            reserved: BTreeMap::new(),
            strikes: BTreeMap::new(),
            roster: Roster::default(),
            seeders: 0,
            distrusted: BTreeSet::new(),
        }
    }

    /// A member of which nothing is entered yet.
    pub(super) fn join(&mut self, node: NodeId) {
        // Nothing is missing from a model without a byte.
        let seeder = self.size == 0;
        self.seeders += usize::from(seeder);
        self.members.insert(
            node,
            Member {
                held: Bits::empty(self.size),
                wants: Bits::full(self.size),
                wanting: self.size,
                alone: 0,
                open: BTreeMap::new(),
                fetched: 0,
                seeder,
                origin_sent: false,
                roster: 0,
                backoff: Backoff::default(),
                avoid: BTreeMap::new(),
                stranded: Bits::empty(self.size),
                hub_only: Bits::empty(self.size),
                taken_from: BTreeMap::new(),
                corrupt: BTreeMap::new(),
                blamed: BTreeMap::new(),
                discarding: None,
            },
        );
    }

    /// Brings the sets in line with the books of one segment.
    pub(super) fn refresh(&mut self, index: u32, settings: &Settings) {
        let per_holder = settings.fan_out(self.members.len());
        let segment = &self.segments[index as usize];
        let mut holders = segment.holders.iter();
        let offered = holders.any(|holder| segment.uploads(holder.node) < per_holder);
        let unheld = segment.holders.iter().all(|one| !self.trusts(one.node));
        self.unheld.set(index, unheld);
        self.sole.set(index, segment.holders.len() == 1);
        self.fetching.set(index, segment.fetches > 0);
        self.offered.set(index, offered);
    }

    /// The same for all segments.
    pub(super) fn refresh_all(&mut self, settings: &Settings) {
        for index in 0..self.size {
            self.refresh(index, settings);
        }
    }

    /// Changes the holders of a segment.
    pub(super) fn change_holders(&mut self, index: u32, change: impl FnOnce(&mut Vec<Holder>)) {
        let segment = &mut self.segments[index as usize];
        let before = segment.only_holder();
        change(&mut segment.holders);
        segment.mixed = segment
            .holders
            .windows(2)
            .any(|pair| !Arc::ptr_eq(&pair[0].pieces, &pair[1].pieces));
        let after = segment.only_holder();
        if let Some(member) = before.and_then(|node| self.members.get_mut(&node)) {
            member.alone -= 1;
        }
        if let Some(member) = after.and_then(|node| self.members.get_mut(&node)) {
            member.alone += 1;
        }
    }

    /// Brings `wants` of a member in line with the rest of its books.
    pub(super) fn want(&mut self, node: NodeId, index: u32) {
        if let Some(member) = self.members.get_mut(&node) {
            let discarding = member.discarding.as_ref();
            let wants = !member.held.has(index)
                && !member.open.contains_key(&index)
                && !discarding.is_some_and(|discarding| discarding.segments.has(index));
            match (member.wants.has(index), wants) {
                (false, true) => member.wanting += 1,
                (true, false) => member.wanting -= 1,
                _ => {}
            }
            member.wants.set(index, wants);
            let full = member.is_full();
            match (std::mem::replace(&mut member.seeder, full), full) {
                (false, true) => self.seeders += 1,
                (true, false) => self.seeders -= 1,
                _ => {}
            }
        }
    }

    /// Keeps segments from being fetched until a time.
    pub(super) fn hold_back(&mut self, segments: Bits, until: u64, node: Option<NodeId>) {
        if !segments.is_empty() {
            self.held_back.add(&segments);
            self.holds.push(Hold {
                until,
                segments,
                node,
            });
        }
    }

    /// Ends those holds for which `over` says so.
    pub(super) fn release(&mut self, over: impl Fn(&Hold) -> bool) {
        let before = self.holds.len();
        self.holds.retain(|hold| !over(hold));
        if self.holds.len() != before {
            self.held_back = Bits::empty(self.size);
            for hold in &self.holds {
                self.held_back.add(&hold.segments);
            }
        }
    }
}

impl Member {
    pub(super) fn is_full(&self) -> bool {
        self.wanting == 0 && self.open.is_empty() && self.discarding.is_none()
    }
}

impl Segment {
    fn only_holder(&self) -> Option<NodeId> {
        match self.holders.as_slice() {
            [only] => Some(only.node),
            _ => None,
        }
    }

    /// Takes of it from one holder that are under way.
    pub(super) fn uploads(&self, holder: NodeId) -> usize {
        let takings = self.takings.iter();
        takings.filter(|taking| taking.holder == holder).count()
    }
}
