//! Whom to ask for something.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use super::{Age, NodeName, Origin, Peer, PeerTable, USABLE};
use crate::discovery::announcement::ContentId;

/// A peer that is worth asking for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whose it is, where the source says so.
    pub node: Option<NodeName>,
    /// Where it is asked.
    pub address: SocketAddr,
}

impl PeerTable {
    /// Those that may hold this and can be asked, the best ones first: those that were reached, then those that nobody
    /// tried, then those that were not reached, for the longest time first. Each node once, by the best of its addresses.
    ///
    /// Asked are only peers that somebody vouched for within [`USABLE`]: a stranger's word leads nobody anywhere.
    #[must_use]
    pub fn candidates(&self, content: ContentId, now: Instant) -> Vec<Candidate> {
        let mut chosen: Vec<(SocketAddr, &Peer)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.vouched_lately(now) && self.may_hold(peer, &content))
            .map(|(address, peer)| (*address, peer))
            .collect();
        chosen.sort_by_cached_key(|(address, peer)| {
            let tried = match (peer.verified, peer.failed) {
                (Some(_), _) => (0, None),
                (None, None) => (1, None),
                (None, failed) => (2, failed),
            };
            let stale = peer.age(now) != Some(Age::Fresh);
            (
                tried,
                stale,
                self.place(*address, peer),
                Reverse(peer.last_seen),
                *address,
            )
        });
        let mut named = BTreeSet::new();
        chosen.retain(|(_, peer)| peer.node.as_ref().is_none_or(|node| named.insert(node)));
        let candidate = |(address, peer): (SocketAddr, &Peer)| Candidate {
            node: peer.node.clone(),
            address,
        };
        chosen.into_iter().map(candidate).collect()
    }

    /// Whether it says that it holds this, or may, or nobody says what it holds.
    fn may_hold(&self, peer: &Peer, content: &ContentId) -> bool {
        let node = peer.node.as_ref().and_then(|name| self.nodes.get(name));
        node.is_some_and(|node| node.holds(content))
            || peer.contents.contains(content)
            || peer.origins.contains_key(&Origin::Static)
    }

    /// Where the node that listens there named this address: those to try first come first.
    fn place(&self, address: SocketAddr, peer: &Peer) -> usize {
        let node = peer.node.as_ref().and_then(|name| self.nodes.get(name));
        let listening = node.map(|node| node.listening.as_slice());
        let place = listening.and_then(|all| all.iter().position(|one| *one == address));
        place.unwrap_or(0)
    }
}

impl Peer {
    /// Whether somebody who can vouch for it did so while it is usable.
    fn vouched_lately(&self, now: Instant) -> bool {
        let vouched = self.origins.iter().filter(|(origin, _)| origin.vouched());
        vouched
            .map(|(_, seen)| now.saturating_duration_since(*seen))
            .any(|age| age <= USABLE)
    }
}
