//! The books of all nodes, snapshots and hubs; those of a single snapshot are in [`super::snap`].
//!
//! Invariants, checked by the simulation after every call:
//! * Holders of segments are connected nodes, and `Member::held` says the same as `Segment::holders`.
//! * `Member::wants` are the segments neither held nor given to it nor being discarded by it.
//! * The counts of orders under way of nodes, segments, snapshots and hubs are those of the open leases.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use modelcache_swarm::coordination::Held;

use super::backoff::Backoff;
use super::bits::Bits;
use super::snap::{Config, EndpointId, Holder, Lease, NodeId, Snap, SnapId, Taking};
use super::{Outgoing, Settings};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Where its uploader listens; absent while it is not connected.
    pub(super) address: Option<SocketAddr>,
    /// Fetches under way.
    pub(super) fetches: u32,
    /// Takes under way.
    pub(super) takes: u32,
    /// When it was last to bring what no other node had, as a number that only grows.
    pub(super) turn: u64,
    /// What others are taking from it.
    pub(super) uploading: Vec<(SnapId, u32)>,
    /// What it tracks, the most urgent first.
    pub(super) snaps: Vec<SnapId>,
}

#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) backoff: Backoff,
    /// Fetches under way.
    pub(super) fetches: u32,
    /// Those of them that take far longer than others.
    pub(super) slow: u32,
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
    /// The last turn of a node.
    turns: u64,
    /// When the coordinator began; set by the first decision.
    pub(super) started: Option<u64>,
    pub(super) dirty: Dirty,
    pub(super) outgoing: Outgoing,
    /// How often a node was distrusted since the start.
    pub(super) distrusted: u64,
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
            turns: 0,
            started: None,
            dirty: Dirty::default(),
            outgoing: Outgoing::new(),
            distrusted: 0,
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
            turn: 0,
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
            if snap.trusts(node) {
                snap.hold_back(alone, until, Some(node));
            }
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
        let before = snap.members.len();
        let member = snap.members.remove(&node);
        snap.seeders -= usize::from(member.is_some_and(|member| member.seeder));
        snap.strikes.retain(|(_, holder), _| *holder != node);
        snap.reserved.retain(|_, keeper| *keeper != node);
        self.nodes[node].snaps.retain(|one| *one != id);
        self.resized(id, before);
        self.vacate(id);
        self.dirty.fetches = true;
        held
    }

    /// Looks anew at what is offered, because the number of members decides to how many at once.
    fn resized(&mut self, id: SnapId, before: usize) {
        let snap = &mut self.snaps[id];
        if self.settings.fan_out(before) != self.settings.fan_out(snap.members.len()) {
            snap.refresh_all(&self.settings);
            self.everything_changed();
        }
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
        let before = self.snaps[id].members.len();
        self.snaps[id].join(node);
        self.resized(id, before);
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
                    self.outgoing
                        .push((self.nodes[*node].name.clone(), config.origin(name)));
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

    /// Enters that a node holds a segment; `fetched`: as the answer to a `Fetch`.
    pub(super) fn add_holder(&mut self, node: NodeId, id: SnapId, held: Held, fetched: bool) {
        let Held {
            segment: index,
            pieces,
            verified,
        } = held;
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
        snap.segments[index as usize].note(node, &pieces, fetched);
        snap.change_holders(index, |holders| {
            holders.retain(|holder| holder.node != node);
            holders.push(Holder {
                node,
                pieces,
                verified,
            });
        });
        snap.refresh(index, &self.settings);
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
        snap.refresh(index, &self.settings);
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
        let brings = match lease {
            Lease::Fetch { .. } => true,
            Lease::Take { holder, .. } => snap.sole.has(index) && snap.spares(holder),
        };
        if brings {
            self.turns += 1;
            self.nodes[node].turn = self.turns;
        }
        let member = snap.members.get_mut(&node);
        let segment = &mut snap.segments[index as usize];
        match lease {
            Lease::Fetch { endpoint, .. } => {
                if let Some(member) = member {
                    member.fetched += 1;
                }
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
        snap.refresh(index, &self.settings);
    }

    /// Ends an order, if there is one, and makes what it used available.
    pub(super) fn close(&mut self, node: NodeId, id: SnapId, index: u32) -> Option<Lease> {
        let snap = &mut self.snaps[id];
        let lease = snap.members.get_mut(&node)?.open.remove(&index)?;
        let segment = &mut snap.segments[index as usize];
        match lease {
            Lease::Fetch { endpoint, slow, .. } => {
                segment.fetches -= 1;
                snap.fetches -= 1;
                self.endpoints[endpoint].fetches -= 1;
                self.endpoints[endpoint].slow -= u32::from(slow);
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
        snap.refresh(index, &self.settings);
        self.dirty.takers.insert(node);
        self.dirty.segments.insert((id, index));
        Some(lease)
    }
}
