//! From whom a segment is taken.

use std::sync::Arc;

use modelcache_swarm::segment::PieceHashes;

use super::backoff::Backoff;
use super::ledger::Ledger;
use super::snap::{Holder, Lease, Member, NodeId, Segment, Snap, SnapId};

/// A holder from which so many nodes failed to take a segment is asked for it last.
const SUSPICIOUS: usize = 3;

/// Segments that one node takes at once from a full node that is one of few, while nobody else holds them: what it brings it gives
/// to all others, so nobody is to bring much more than the rest…
const FIRST_COPIES_PER_TAKER: usize = 2;
/// …but a node with nobody beside it keeps the link full by itself.
const FIRST_COPIES_OF_THE_ONLY: usize = 4;

/// Who alone holds more segments than this gives these, and leaves the rest to others.
const LADEN: u32 = 8;

impl Snap {
    /// Whether a node gives what others can give too only when they cannot: it holds everything and is one of few, so that its
    /// link is the narrowest place. Where more than half are like that, all of them give.
    pub(super) fn spares(&self, node: NodeId) -> bool {
        let member = self.members.get(&node);
        member.is_some_and(|member| member.seeder) && self.seeders * 2 <= self.members.len()
    }

    /// Whether a node has much that nobody else holds. It gives that first, and leaves the rest to those who have not.
    fn is_laden(&self, node: NodeId) -> bool {
        let member = self.members.get(&node);
        member.is_some_and(|member| member.alone > LADEN)
    }

    /// Whether a node may take another segment that only this full holder has; what it takes from it otherwise counts too.
    pub(super) fn may_take_first_copy(&self, taker: NodeId, holder: NodeId) -> bool {
        let from =
            |lease: &&Lease| matches!(lease, Lease::Take { holder: from, .. } if *from == holder);
        let member = self.members.get(&taker);
        let under_way = member.map_or(0, |member| member.open.values().filter(from).count());
        let most = if self.members.len() > 2 {
            FIRST_COPIES_PER_TAKER
        } else {
            FIRST_COPIES_OF_THE_ONLY
        };
        under_way < most
    }
}

impl Member {
    /// From whom to take a segment that was wrong here: all of a wrong blob comes from one holder, so that one that lies
    /// cannot spoil what the others give, and the next time from another. Who gives nothing is passed over. A distrusted one
    /// comes after those that are as little to blame, but comes: were many to lie together, they could have an honest node distrusted.
    fn giver(&self, snap: &Snap, taker: NodeId, index: u32) -> Option<NodeId> {
        let segment = &snap.segments[index as usize];
        let others = segment.holders.iter().filter(|one| one.node != taker);
        let giver = others.min_by_key(|holder| {
            let key = (index, holder.node);
            let silent = self.avoid.get(&key).is_some_and(Backoff::hopeless);
            let blamed = self.blamed.get(&key).copied().unwrap_or(0);
            (
                silent,
                blamed,
                !snap.trusts(holder.node),
                !holder.verified,
                scatter(holder.node, taker, 0),
            )
        });
        giver.map(|holder| holder.node)
    }
}

impl Ledger {
    pub(super) fn may_give(&self, id: NodeId) -> bool {
        let node = &self.nodes[id];
        let most = self.settings.uploads_per_node as usize;
        node.address.is_some() && node.uploading.len() < most
    }

    /// Whether somebody has been taking a segment from it for too long.
    fn gives_slowly(&self, holder: NodeId) -> bool {
        let mut given = self.nodes[holder].uploading.iter();
        given.any(|(id, index)| {
            let takings = &self.snaps[*id].segments[*index as usize].takings;
            takings.iter().any(|one| one.holder == holder && one.slow)
        })
    }

    /// Whether one of few full nodes may give another segment that nobody else holds.
    pub(super) fn may_give_first_copy(&self, node: NodeId) -> bool {
        let first = self.nodes[node].uploading.iter().filter(|(id, index)| {
            let snap = &self.snaps[*id];
            let takings = &snap.segments[*index as usize].takings;
            snap.sole.has(*index)
                && takings
                    .iter()
                    .any(|taking| taking.holder == node && !taking.slow)
        });
        first.count() < self.settings.first_copies_per_node
    }

    /// The holder that a node takes a segment from: with the right piece hashes as far as known, trusted, little loaded.
    pub(super) fn choose(
        &self,
        taker: NodeId,
        id: SnapId,
        index: u32,
        from: Option<NodeId>,
        now: u64,
    ) -> Option<NodeId> {
        let snap = &self.snaps[id];
        let member = snap.members.get(&taker)?;
        let segment = &snap.segments[index as usize];
        // From a distrusted one only what nobody else can give, not even the hub.
        let last = || snap.unheld.has(index) && !self.reaches_hub(snap, member, now);
        let reachable = |node: NodeId| node != taker && !member.avoids(index, node, now);
        let usable = |node: NodeId| reachable(node) && (snap.trusts(node) || last());
        if member.corrupt.contains_key(&index) {
            let giver = member.giver(snap, taker, index)?;
            let now = from.is_none_or(|from| from == giver)
                && !member.rests(index, now)
                && reachable(giver)
                && self.has_room(snap, taker, giver, index);
            return now.then_some(giver);
        }
        let pieces = segment.mixed.then(|| segment.best_pieces(usable)).flatten();
        let laden = |node: NodeId| snap.is_laden(node) || snap.spares(node);
        let right = |holder: &&Holder| {
            usable(holder.node) && pieces.is_none_or(|best| Arc::ptr_eq(best, &holder.pieces))
        };
        let relieved = segment
            .holders
            .iter()
            .filter(right)
            .any(|holder| !laden(holder.node) && !self.gives_slowly(holder.node));
        let holders = segment.holders.iter().filter(right).filter(|holder| {
            from.is_none_or(|from| from == holder.node)
                && !(relieved && laden(holder.node))
                && self.has_room(snap, taker, holder.node, index)
        });
        let best = holders.min_by_key(|holder| {
            let node = holder.node;
            let strikes = snap.strikes.get(&(index, node));
            let suspicious = strikes.is_some_and(|strikes| strikes.len() >= SUSPICIOUS);
            let load = self.nodes[node].uploading.len();
            (suspicious, load, scatter(node, taker, index))
        });
        best.map(|holder| holder.node)
    }

    /// Whether a holder may give a segment once more now, and to this node.
    fn has_room(&self, snap: &Snap, taker: NodeId, holder: NodeId, index: u32) -> bool {
        let segment = &snap.segments[index as usize];
        let first = || {
            // The first copy goes to one node, so that the others can come from there.
            segment.takings.iter().all(|taking| taking.slow)
                && self.may_give_first_copy(holder)
                && snap.may_take_first_copy(taker, holder)
        };
        self.may_give(holder)
            && segment.uploads(holder) < self.settings.fan_out(snap.members.len())
            && (!snap.sole.has(index) || !snap.spares(holder) || first())
    }
}

impl Segment {
    /// The piece hashes to believe where holders differ: those of most verified holders, then those of most.
    fn best_pieces(&self, usable: impl Fn(NodeId) -> bool) -> Option<&Arc<PieceHashes>> {
        let holders = || self.holders.iter().filter(|holder| usable(holder.node));
        let standing = |pieces: &Arc<PieceHashes>| {
            let same = || holders().filter(|holder| Arc::ptr_eq(&holder.pieces, pieces));
            (
                same().filter(|holder| holder.verified).count(),
                same().count(),
            )
        };
        holders()
            .map(|holder| &holder.pieces)
            .max_by_key(|pieces| standing(pieces))
    }
}

/// A number without pattern, the same each time.
pub(super) fn scatter(a: usize, b: usize, c: u32) -> u32 {
    let mut x = (a as u64) << 40 ^ (b as u64) << 20 ^ u64::from(c) ^ 0x9E37_79B9_7F4A_7C15;
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 32) as u32
}
