//! The one table of peers. All sources feed it, and whatever is shown or dialled comes from it.
//!
//! An entry is a hint: somebody said that a peer listens there. What the peer sends is checked against the snapshot, so a
//! wrong entry costs a connection and nothing else. Its age says how much it is worth: [`FRESH`] and [`USABLE`].

mod candidates;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::announcement::{
    Announcement, Body, CONTENTS_PER_PAGE, ContentId, MAX_PAGES, NodeName, Page,
};
use super::clock::UnixMillis;

pub use candidates::Candidate;

/// Up to this age a peer is most likely there.
pub const FRESH: Duration = Duration::from_mins(2);
/// Up to this age a peer may be tried; older ones are gone.
pub const USABLE: Duration = Duration::from_mins(15);

/// Most addresses in the table.
pub const MAX_PEERS: usize = 4096;
/// Most addresses that nobody has vouched for, in the table.
pub const MAX_UNSIGNED: usize = 1024;
/// Most contents of an address that nobody has vouched for.
const MAX_UNSIGNED_CONTENTS: usize = 64;
/// Most contents of an address that somebody has vouched for; as many as a node can announce.
const MAX_NAMED_CONTENTS: usize = MAX_PAGES * CONTENTS_PER_PAGE;

/// How an address became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The settings name it.
    Static,
    /// A member of the cluster announced it.
    Announcement,
    /// The tracker named it; its answer was signed with the cluster's secret, as was what that address's member told it.
    Tracker,
    /// A BitTorrent client said so by local service discovery (BEP 14), unsigned.
    LocalService,
    /// A machine with hali said so. Its packet is signed, but not its address, and what it seeds is its word only.
    Hali,
}

impl Origin {
    /// Its name where it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Announcement => "announcement",
            Self::Tracker => "tracker",
            Self::LocalService => "lsd",
            Self::Hali => "hali",
        }
    }

    /// Whether somebody with the shared secret, or the administrator, stands for it.
    fn vouched(self) -> bool {
        !matches!(self, Self::LocalService | Self::Hali)
    }
}

/// How much an address is worth by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// Heard of within [`FRESH`].
    Fresh,
    /// Heard of within [`USABLE`].
    Usable,
}

/// What is known of one address.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whose it is, where the source says so.
    pub node: Option<NodeName>,
    /// From where it is known, each with the time when it last said so.
    pub origins: BTreeMap<Origin, Instant>,
    /// When it was first heard of.
    pub first_seen: Instant,
    /// When it was last heard of.
    pub last_seen: Instant,
    /// When a connection to it last succeeded, if none failed since.
    pub verified: Option<Instant>,
    /// When a connection to it last failed, if none succeeded since.
    failed: Option<Instant>,
    /// What it holds or wants, by sources that name no node.
    contents: BTreeSet<ContentId>,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            node: None,
            origins: BTreeMap::new(),
            first_seen: now,
            last_seen: now,
            verified: None,
            failed: None,
            contents: BTreeSet::new(),
        }
    }

    /// How many torrents it has, where a source that names no node says so.
    #[must_use]
    pub fn torrents(&self) -> usize {
        self.contents.len()
    }

    /// Its worth; `None` when it is gone.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Age> {
        let age = now.saturating_duration_since(self.last_seen);
        if age <= FRESH {
            Some(Age::Fresh)
        } else if age <= USABLE {
            Some(Age::Usable)
        } else {
            None
        }
    }

    fn vouched(&self) -> bool {
        self.origins.keys().any(|origin| origin.vouched())
    }
}

/// What one node says about itself.
#[derive(Debug)]
struct Node {
    /// Its life and the generation within it.
    version: (UnixMillis, u32),
    /// What it holds, by page, of which there are no more than [`MAX_PAGES`](super::announcement::MAX_PAGES).
    pages: BTreeMap<u8, Vec<ContentId>>,
    /// Where it listens.
    listening: Vec<SocketAddr>,
}

impl Node {
    fn new(version: (UnixMillis, u32)) -> Self {
        Self {
            version,
            pages: BTreeMap::new(),
            listening: Vec::new(),
        }
    }

    fn take(&mut self, version: (UnixMillis, u32), page: &Page) {
        if version > self.version {
            self.version = version;
            self.pages.clear();
        }
        // Pages may arrive out of order: an older one says nothing any more.
        if version == self.version {
            self.pages.insert(page.number(), page.contents().to_vec());
        }
    }

    fn holds(&self, content: &ContentId) -> bool {
        self.pages.values().any(|page| page.contains(content))
    }
}

/// Where this node itself listens.
#[derive(Debug, Default)]
struct Here {
    hosts: BTreeSet<IpAddr>,
    port: u16,
}

impl Here {
    fn is(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let local = ip.is_loopback() || ip.is_unspecified() || self.hosts.contains(&ip);
        local && address.port() == self.port
    }
}

/// All peers that are known, by address.
#[derive(Debug, Default)]
pub struct PeerTable {
    peers: HashMap<SocketAddr, Peer>,
    nodes: HashMap<NodeName, Node>,
    here: Here,
}

impl PeerTable {
    /// This node itself listens on that port of these hosts: whoever names such an address names no peer.
    pub fn set_here(&mut self, hosts: BTreeSet<IpAddr>, port: u16) {
        self.here = Here { hosts, port };
        let here = &self.here;
        self.peers.retain(|address, _| !here.is(*address));
    }

    /// Takes in an announcement that the guard let pass.
    pub fn announced(&mut self, announcement: &Announcement, now: Instant) {
        let name = &announcement.node;
        let page = match &announcement.body {
            Body::Page(page) => page,
            Body::Goodbye => {
                self.leave(name);
                return;
            }
        };
        let version = (announcement.boot, page.generation());
        let node = self.nodes.entry(name.clone());
        let node = node.or_insert_with(|| Node::new(version));
        node.take(version, page);
        // The latest announcement says where a node is; the addresses that it has given up are gone at once.
        let listening = announcement.listening.as_slice();
        let before = std::mem::replace(&mut node.listening, listening.to_vec());
        for address in before {
            if !listening.contains(&address) {
                self.give_up(address, name);
            }
        }
        for address in listening {
            if let Some(peer) = self.sighted(*address, Origin::Announcement, now) {
                peer.node = Some(name.clone());
            }
        }
        // Each node has an address, or had one until it was displaced.
        if self.nodes.len() > self.peers.len() {
            self.forget_nodes();
        }
    }

    /// Takes in an address from a source that names no node.
    pub fn heard(
        &mut self,
        address: SocketAddr,
        origin: Origin,
        contents: &[ContentId],
        now: Instant,
    ) {
        let Some(peer) = self.sighted(address, origin, now) else {
            return;
        };
        let most = if origin.vouched() {
            MAX_NAMED_CONTENTS
        } else {
            MAX_UNSIGNED_CONTENTS
        };
        for content in contents {
            if peer.contents.len() < most {
                peer.contents.insert(*content);
            }
        }
    }

    /// A connection to this address succeeded.
    pub fn verified(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&address) {
            (peer.verified, peer.failed) = (Some(now), None);
        }
    }

    /// A connection to this address failed; what was said about it stays.
    pub fn failed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&address) {
            (peer.verified, peer.failed) = (None, Some(now));
        }
    }

    /// Forgets what is gone.
    pub fn expire(&mut self, now: Instant) {
        self.peers.retain(|_, peer| peer.age(now).is_some());
        self.forget_nodes();
    }

    /// Every address that is not gone, sorted by node and address.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<(SocketAddr, &Peer)> {
        let alive = self.peers.iter();
        let mut alive: Vec<_> = alive
            .filter(|(_, peer)| peer.age(now).is_some())
            .map(|(address, peer)| (*address, peer))
            .collect();
        alive.sort_by_key(|(address, peer)| (peer.node.clone(), *address));
        alive
    }

    /// What a node says it holds.
    #[must_use]
    pub fn holds(&self, node: &NodeName) -> Vec<ContentId> {
        let node = self.nodes.get(node);
        node.into_iter()
            .flat_map(|node| node.pages.values().flatten().copied())
            .collect()
    }

    /// How many addresses are kept, those that are gone and not forgotten yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether no address is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A node said goodbye: its addresses are gone, unless another source names them too.
    fn leave(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.remove(name) {
            for address in node.listening {
                self.give_up(address, name);
            }
        }
    }

    /// An address is no longer this node's.
    fn give_up(&mut self, address: SocketAddr, name: &NodeName) {
        if let Some(peer) = self.peers.get_mut(&address)
            && peer.node.as_ref() == Some(name)
        {
            peer.node = None;
            peer.origins.remove(&Origin::Announcement);
            if peer.origins.is_empty() {
                self.peers.remove(&address);
            }
        }
    }

    /// The entry of an address that was just heard of; `None` when it is this node's own, or there is no room for it.
    fn sighted(&mut self, address: SocketAddr, origin: Origin, now: Instant) -> Option<&mut Peer> {
        if self.here.is(address) {
            return None;
        }
        if !self.peers.contains_key(&address) && !self.make_room(origin) {
            return None;
        }
        let peer = self.peers.entry(address).or_insert_with(|| Peer::new(now));
        peer.origins.insert(origin, now);
        peer.last_seen = now;
        Some(peer)
    }

    /// Makes room for one more address, if there is any to be made: sources that nobody vouches for displace only each
    /// other, so that a flood of them costs no address that somebody vouches for.
    fn make_room(&mut self, origin: Origin) -> bool {
        let full = self.peers.len() >= MAX_PEERS;
        if !full && (origin.vouched() || self.peers.len() < MAX_UNSIGNED) {
            return true;
        }
        let unsigned = self.peers.values().filter(|peer| !peer.vouched()).count();
        if !full && unsigned < MAX_UNSIGNED {
            return true;
        }
        let displace_vouched = origin.vouched() && unsigned == 0;
        let candidates = self.peers.iter();
        let oldest = candidates
            .filter(|(_, peer)| displace_vouched || !peer.vouched())
            .min_by_key(|(_, peer)| (peer.verified.is_some(), peer.last_seen))
            .map(|(address, _)| *address);
        oldest.is_some_and(|oldest| self.peers.remove(&oldest).is_some())
    }

    /// Forgets what was said by nodes that have no address any more.
    fn forget_nodes(&mut self) {
        let names: BTreeSet<&NodeName> = self
            .peers
            .values()
            .filter_map(|peer| peer.node.as_ref())
            .collect();
        self.nodes.retain(|name, _| names.contains(name));
    }
}

#[cfg(test)]
mod tests;
