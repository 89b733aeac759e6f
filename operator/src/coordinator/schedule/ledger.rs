//! The books: who holds, wants and was given which segment, and the sets that make decisions cheap.
//!
//! Invariants, checked by the simulation after every call:
//! * Holders of segments are connected nodes, and `Member::held` says the same as `Segment::holders`.
//! * `Member::wants` are the segments neither held nor given to it nor being discarded by it.
//! * The counts of orders under way of nodes, segments, snapshots and hubs are those of the open leases.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use modelcache_swarm::coordination::{CoordinatorMessage, OriginAccess};
use modelcache_swarm::segment::PieceHashes;

use super::backoff::Backoff;
use super::bits::Bits;
use super::{Outgoing, Settings, SourcePolicy};

/// Position in [`Ledger::nodes`].
pub(super) type NodeId = usize;
/// Position in [`Ledger::snaps`].
pub(super) type SnapId = usize;
/// Position in [`Ledger::endpoints`].
pub(super) type EndpointId = usize;

/// Levels of rarity: a segment with `2^k` or more copies, those under way included, is at level `k`.
pub(super) const LEVELS: usize = 12;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Where its uploader listens; absent while it is not connected.
    pub(super) address: Option<SocketAddr>,
    /// Fetches under way.
    pub(super) fetches: u32,
    /// Takes under way.
    pub(super) takes: u32,
    /// What others are taking from it.
    pub(super) uploading: Vec<(SnapId, u32)>,
    /// What it tracks, the most urgent first.
    pub(super) snaps: Vec<SnapId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) policy: SourcePolicy,
    pub(super) access: OriginAccess,
    pub(super) endpoint: EndpointId,
}

#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) backoff: Backoff,
    /// Fetches under way.
    pub(super) fetches: u32,
}

/// An order that a node has not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lease {
    Fetch { given: u64, endpoint: EndpointId },
    Take { given: u64, holder: NodeId },
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
    /// Fetches under way; more than one only where every node fetches for itself.
    pub(super) fetches: u32,
    level: usize,
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
    /// Segments fetched from the hub or being fetched.
    pub(super) fetched: u32,
    /// Where in the plan its next fetch is looked for.
    pub(super) cursor: u32,
    pub(super) origin_sent: bool,
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
    rank: usize,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) segments: Vec<Segment>,
    /// Segments that nobody holds.
    pub(super) unheld: Bits,
    /// Segments that exactly one node holds.
    pub(super) sole: Bits,
    /// Segments that some node is fetching.
    pub(super) fetching: Bits,
    /// Segments of which a holder may give another copy now, as far as the segment itself is concerned.
    pub(super) offered: Bits,
    /// Segments by number of copies.
    pub(super) rarity: Vec<Bits>,
    pub(super) holds: Vec<Hold>,
    /// All segments in `holds`.
    pub(super) held_back: Bits,
    /// Fetches under way.
    pub(super) fetches: u32,
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
    joined: u32,
}

/// Whom and what to look at in the next decision.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Nodes that may take more.
    pub(super) takers: BTreeSet<NodeId>,
    /// Nodes that may give more.
    pub(super) holders: BTreeSet<NodeId>,
    /// Segments of which more may be given.
    pub(super) segments: BTreeSet<(SnapId, u32)>,
    /// Whether more may be fetched.
    pub(super) fetches: bool,
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) settings: Settings,
    pub(super) nodes: Vec<Node>,
    names: BTreeMap<String, NodeId>,
    pub(super) snaps: Vec<Snap>,
    ids: BTreeMap<String, SnapId>,
    vacant: Vec<SnapId>,
    /// Wanted snapshots, the most urgent first.
    pub(super) wanted: Vec<SnapId>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Fetches under way in the cluster.
    pub(super) fetches: u32,
    /// When the coordinator began; set by the first decision.
    pub(super) started: Option<u64>,
    pub(super) dirty: Dirty,
    pub(super) outgoing: Outgoing,
}

impl Snap {
    fn new(name: String, size: u32) -> Self {
        let mut rarity = vec![Bits::empty(size); LEVELS];
        rarity[0] = Bits::full(size);
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
            rarity,
            holds: Vec::new(),
            held_back: Bits::empty(size),
            fetches: 0,
            backoff: Backoff::default(),
            failed: Default::default(),
            troubles: BTreeMap::new(),
            corrupt_backoff: Backoff::default(),
            corrupt: Bits::empty(size),
            reserved: BTreeMap::new(),
            strikes: BTreeMap::new(),
            joined: 0,
        }
    }

    /// A member that holds nothing. Fetches of successive members begin far from each other in the plan.
    fn join(&mut self, node: NodeId) {
        // The golden ratio's multiples fall into the largest gaps.
        let part = (u64::from(self.joined) * 0x9E37_79B9) & 0xFFFF_FFFF;
        self.joined += 1;
        let cursor = u32::try_from((part * u64::from(self.size)) >> 32).unwrap_or(0);
        self.members.insert(
            node,
            Member {
                held: Bits::empty(self.size),
                wants: Bits::full(self.size),
                wanting: self.size,
                alone: 0,
                open: BTreeMap::new(),
                fetched: 0,
                cursor,
                origin_sent: false,
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
    pub(super) fn refresh(&mut self, index: u32, per_holder: usize) {
        let segment = &mut self.segments[index as usize];
        let from = |node: NodeId| {
            let takings = segment.takings.iter();
            takings.filter(move |taking| taking.holder == node)
        };
        let offered = match segment.holders.as_slice() {
            [] => false,
            // The first copy goes to one node, so that the second copy can come from there.
            [only] => {
                from(only.node).all(|taking| taking.slow) && from(only.node).count() < per_holder
            }
            several => several
                .iter()
                .any(|holder| from(holder.node).count() < per_holder),
        };
        let copies = (segment.holders.len() + segment.takings.len()).max(1);
        let level = (copies.ilog2() as usize).min(LEVELS - 1);
        self.rarity[segment.level].set(index, false);
        self.rarity[level].set(index, true);
        segment.level = level;
        self.unheld.set(index, segment.holders.is_empty());
        self.sole.set(index, segment.holders.len() == 1);
        self.fetching.set(index, segment.fetches > 0);
        self.offered.set(index, offered);
    }

    /// Changes the holders of a segment.
    fn change_holders(&mut self, index: u32, change: impl FnOnce(&mut Vec<Holder>)) {
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

impl Ledger {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            nodes: Vec::new(),
            names: BTreeMap::new(),
            snaps: Vec::new(),
            ids: BTreeMap::new(),
            vacant: Vec::new(),
            wanted: Vec::new(),
            endpoints: Vec::new(),
            fetches: 0,
            started: None,
            dirty: Dirty::default(),
            outgoing: Outgoing::new(),
        }
    }

    /// The node of this name, if it is connected.
    pub(super) fn connected(&self, name: &str) -> Option<NodeId> {
        let id = *self.names.get(name)?;
        self.nodes[id].address.map(|_| id)
    }

    pub(super) fn connect(&mut self, name: &str, address: SocketAddr) {
        if let Some(id) = self.names.get(name) {
            self.nodes[*id].address = Some(address);
            return;
        }
        self.names.insert(name.to_owned(), self.nodes.len());
        self.nodes.push(Node {
            name: name.to_owned(),
            address: Some(address),
            fetches: 0,
            takes: 0,
            uploading: Vec::new(),
            snaps: Vec::new(),
        });
    }

    pub(super) fn disconnect(&mut self, node: NodeId, now: u64) {
        for snap in self.nodes[node].snaps.clone() {
            let kept = self.leave(node, snap);
            let until = now + self.settings.grace;
            let snap = &mut self.snaps[snap];
            let mut alone = kept;
            alone.keep(&snap.unheld);
            snap.hold_back(alone, until, Some(node));
        }
        self.nodes[node].address = None;
    }

    /// Ends a node's part in a snapshot; gives what it held.
    pub(super) fn leave(&mut self, node: NodeId, id: SnapId) -> Bits {
        let snap = &mut self.snaps[id];
        let Some(member) = snap.members.get(&node) else {
            return Bits::empty(snap.size);
        };
        let held = member.held.clone();
        let open: Vec<u32> = member.open.keys().copied().collect();
        for index in open {
            self.close(node, id, index);
        }
        for index in held.iter() {
            self.remove_holder(node, id, index);
        }
        let snap = &mut self.snaps[id];
        snap.members.remove(&node);
        snap.strikes.retain(|(_, holder), _| *holder != node);
        snap.reserved.retain(|_, keeper| *keeper != node);
        self.nodes[node].snaps.retain(|one| *one != id);
        self.vacate(id);
        self.dirty.fetches = true;
        held
    }

    /// Forgets a snapshot that nobody wants and nobody has a part in.
    fn vacate(&mut self, id: SnapId) {
        let snap = &mut self.snaps[id];
        if snap.config.is_none() && snap.members.is_empty() && self.ids.get(&snap.name) == Some(&id)
        {
            self.ids.remove(&snap.name);
            // The size stays for calls that are still about to look at it.
            *snap = Snap::new(String::new(), snap.size);
            self.vacant.push(id);
        }
    }

    /// The snapshot of this name, if it is known.
    pub(super) fn snap(&self, name: &str) -> Option<SnapId> {
        self.ids.get(name).copied()
    }

    /// Makes a node a member of a snapshot.
    pub(super) fn join(&mut self, node: NodeId, id: SnapId) {
        self.snaps[id].join(node);
        self.nodes[node].snaps.push(id);
        let snaps = &self.snaps;
        self.nodes[node].snaps.sort_by_key(|id| snaps[*id].rank);
    }

    pub(super) fn endpoint(&mut self, url: &str) -> EndpointId {
        if let Some(id) = self.endpoints.iter().position(|one| one.url == url) {
            return id;
        }
        self.endpoints.push(Endpoint {
            url: url.to_owned(),
            ..Endpoint::default()
        });
        self.endpoints.len() - 1
    }

    /// Says how a snapshot is wanted.
    pub(super) fn configure(&mut self, name: &str, size: u32, config: &Config) -> SnapId {
        let id = match self.snap(name) {
            Some(id) if self.snaps[id].size == size => id,
            // A snapshot never changes; should its number of segments do so, then nothing said of it is of use.
            Some(id) => {
                let members: Vec<NodeId> = self.snaps[id].members.keys().copied().collect();
                self.snaps[id].config = None;
                for node in members {
                    self.leave(node, id);
                }
                self.vacate(id);
                self.create(name, size)
            }
            None => self.create(name, size),
        };
        let snap = &mut self.snaps[id];
        let old = snap.config.replace(config.clone());
        if old.is_some_and(|old| old.access != config.access) {
            // Somebody changed the token or the address: whatever failed may work now.
            snap.backoff = Backoff::default();
            snap.troubles.clear();
            for (node, member) in &mut snap.members {
                member.backoff = Backoff::default();
                if member.origin_sent {
                    let message = CoordinatorMessage::Origin {
                        snapshot: name.to_owned(),
                        access: config.access.clone(),
                    };
                    self.outgoing
                        .push((self.nodes[*node].name.clone(), message));
                }
            }
        }
        id
    }

    fn create(&mut self, name: &str, size: u32) -> SnapId {
        let snap = Snap::new(name.to_owned(), size);
        let id = if let Some(id) = self.vacant.pop() {
            self.snaps[id] = snap;
            id
        } else {
            self.snaps.push(snap);
            self.snaps.len() - 1
        };
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// Makes these the wanted snapshots, in this order.
    pub(super) fn order(&mut self, names: &[String]) {
        self.wanted = names.iter().filter_map(|name| self.snap(name)).collect();
        for (id, snap) in self.snaps.iter_mut().enumerate() {
            let rank = self.wanted.iter().position(|wanted| *wanted == id);
            snap.rank = rank.unwrap_or(usize::MAX);
            if rank.is_none() {
                snap.config = None;
            }
        }
        for id in 0..self.snaps.len() {
            self.vacate(id);
        }
        let snaps = &self.snaps;
        for node in &mut self.nodes {
            node.snaps.sort_by_key(|id| snaps[*id].rank);
        }
        self.everything_changed();
    }

    /// Every decision is to be made anew.
    pub(super) fn everything_changed(&mut self) {
        self.dirty.takers = (0..self.nodes.len()).collect();
        self.dirty.fetches = true;
    }

    /// Enters that a node holds a segment; ends the order for it.
    pub(super) fn add_holder(
        &mut self,
        node: NodeId,
        id: SnapId,
        index: u32,
        pieces: PieceHashes,
        verified: bool,
    ) {
        self.close(node, id, index);
        let snap = &mut self.snaps[id];
        let Some(member) = snap.members.get_mut(&node) else {
            return;
        };
        member.held.set(index, true);
        member.stranded.set(index, false);
        snap.want(node, index);
        let mut holders = snap.segments[index as usize].holders.iter();
        let known = holders.find(|holder| *holder.pieces == pieces);
        let pieces = known.map_or_else(|| Arc::new(pieces), |holder| Arc::clone(&holder.pieces));
        snap.change_holders(index, |holders| {
            holders.retain(|holder| holder.node != node);
            holders.push(Holder {
                node,
                pieces,
                verified,
            });
        });
        snap.refresh(index, self.settings.uploads_per_segment);
        self.dirty.segments.insert((id, index));
    }

    /// Enters that a node does not hold a segment.
    pub(super) fn remove_holder(&mut self, node: NodeId, id: SnapId, index: u32) {
        let snap = &mut self.snaps[id];
        if let Some(member) = snap.members.get_mut(&node) {
            member.held.set(index, false);
        }
        snap.want(node, index);
        snap.change_holders(index, |holders| {
            holders.retain(|holder| holder.node != node);
        });
        snap.refresh(index, self.settings.uploads_per_segment);
        self.dirty.segments.insert((id, index));
        self.dirty.takers.insert(node);
        self.dirty.fetches = true;
    }

    /// Enters an order.
    pub(super) fn open(&mut self, node: NodeId, id: SnapId, index: u32, lease: Lease) {
        let snap = &mut self.snaps[id];
        let Some(member) = snap.members.get_mut(&node) else {
            return;
        };
        member.open.insert(index, lease);
        let segment = &mut snap.segments[index as usize];
        match lease {
            Lease::Fetch { endpoint, .. } => {
                member.fetched += 1;
                member.cursor = (index + 1) % snap.size;
                segment.fetches += 1;
                snap.fetches += 1;
                self.endpoints[endpoint].fetches += 1;
                self.nodes[node].fetches += 1;
                self.fetches += 1;
            }
            Lease::Take { holder, .. } => {
                segment.takings.push(Taking {
                    taker: node,
                    holder,
                    slow: false,
                });
                self.nodes[node].takes += 1;
                self.nodes[holder].uploading.push((id, index));
            }
        }
        snap.want(node, index);
        snap.refresh(index, self.settings.uploads_per_segment);
    }

    /// Ends an order, if there is one, and makes what it used available.
    pub(super) fn close(&mut self, node: NodeId, id: SnapId, index: u32) -> Option<Lease> {
        let snap = &mut self.snaps[id];
        let lease = snap.members.get_mut(&node)?.open.remove(&index)?;
        let segment = &mut snap.segments[index as usize];
        match lease {
            Lease::Fetch { endpoint, .. } => {
                segment.fetches -= 1;
                snap.fetches -= 1;
                self.endpoints[endpoint].fetches -= 1;
                self.nodes[node].fetches -= 1;
                self.fetches -= 1;
                self.dirty.fetches = true;
            }
            Lease::Take { holder, .. } => {
                segment.takings.retain(|taking| taking.taker != node);
                self.nodes[node].takes -= 1;
                let uploading = &mut self.nodes[holder].uploading;
                if let Some(at) = uploading.iter().position(|one| *one == (id, index)) {
                    uploading.swap_remove(at);
                }
                self.dirty.holders.insert(holder);
            }
        }
        snap.want(node, index);
        snap.refresh(index, self.settings.uploads_per_segment);
        self.dirty.takers.insert(node);
        self.dirty.segments.insert((id, index));
        Some(lease)
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
