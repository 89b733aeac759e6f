//! Who made wrong bytes, and what follows for that node.
//!
//! A node that answers a `Fetch` with piece hashes that nobody else spoke of before made them; who takes the segment
//! later passes them on in good faith. Made wrong are hashes other than those with which several nodes proved the blob: the
//! word of one is not enough, because one that lies could say anything. Until it leaves the coordinator's memory with
//! the snapshot, a node that made wrong ones gives nothing to others and fetches nothing for them, as long as others can.

use std::collections::BTreeMap;
use std::sync::Arc;

use modelcache_swarm::segment::PieceHashes;

use super::bits::Bits;
use super::ledger::Ledger;
use super::snap::{Lease, NodeId, Segment, Snap, SnapId};

/// Nodes that must have proved a blob, none of them distrusted, before somebody is found to have spoilt it.
const WITNESSES: usize = 2;

/// Piece hashes of a segment and who spoke of them first.
#[derive(Debug)]
pub(super) struct Claim {
    node: NodeId,
    pieces: Arc<PieceHashes>,
    /// Whether they answered a `Fetch` and no other node came to the same by itself.
    made: bool,
}

impl Snap {
    /// Whether a node may give to others and fetch for them.
    pub(super) fn trusts(&self, node: NodeId) -> bool {
        !self.distrusted.contains(&node)
    }

    /// Whether a node leaves a segment that nobody gives to others, because it is distrusted and one that is not wants it.
    pub(super) fn leaves_to_others(&self, node: NodeId, index: u32, now: u64) -> bool {
        let mut members = self.members.iter();
        !self.trusts(node)
            && self.unheld.has(index)
            && members.any(|(one, member)| self.trusts(*one) && member.would_fetch(index, now))
    }

    /// Who made piece hashes of this segment that are not those that were proved.
    fn maker(&self, index: u32) -> Option<NodeId> {
        let segment = &self.segments[index as usize];
        let provers = |pieces: &PieceHashes, but: NodeId| {
            let holders = segment.holders.iter();
            let proved = holders.filter(|one| one.verified && *one.pieces == *pieces);
            proved
                .filter(|one| one.node != but && self.trusts(one.node))
                .count()
        };
        let verified = segment.holders.iter().filter(|one| one.verified);
        let mut makers = segment.claims.iter().filter(|claim| {
            let supporters = provers(&claim.pieces, claim.node);
            claim.made
                && self.trusts(claim.node)
                && verified.clone().any(|one| {
                    one.pieces != claim.pieces
                        && provers(&one.pieces, claim.node) >= WITNESSES.max(supporters + 1)
                })
        });
        makers.next().map(|claim| claim.node)
    }

    /// What a distrusted node made and nobody else proved.
    fn made_by(&self, node: NodeId) -> BTreeMap<u32, Arc<PieceHashes>> {
        let mut made = BTreeMap::new();
        for (index, segment) in (0..).zip(&self.segments) {
            let mut claims = segment.claims.iter();
            let Some(claim) = claims.find(|claim| claim.node == node && claim.made) else {
                continue;
            };
            let mut holders = segment.holders.iter();
            if !holders
                .any(|one| one.verified && one.pieces == claim.pieces && self.trusts(one.node))
            {
                made.insert(index, Arc::clone(&claim.pieces));
            }
        }
        made
    }

    /// Which of these segments a node has, or is taking, with these very piece hashes.
    fn spoilt(&self, node: NodeId, made: &BTreeMap<u32, Arc<PieceHashes>>) -> Bits {
        let mut spoilt = Bits::empty(self.size);
        let Some(member) = self.members.get(&node) else {
            return spoilt;
        };
        for (index, pieces) in made {
            let source = match member.open.get(index) {
                Some(Lease::Take { holder, .. }) => *holder,
                _ => node,
            };
            let mut holders = self.segments[*index as usize].holders.iter();
            spoilt.set(
                *index,
                holders.any(|one| one.node == source && one.pieces == *pieces),
            );
        }
        spoilt
    }
}

impl Segment {
    /// Notes what a node says of it; `fetched`: as the answer to a `Fetch`. Before that node is entered as a holder.
    pub(super) fn note(&mut self, node: NodeId, pieces: &Arc<PieceHashes>, fetched: bool) {
        let mut holders = self.holders.iter();
        let mut known = holders.any(|one| one.node != node && one.pieces == *pieces);
        for claim in &mut self.claims {
            if claim.node != node && claim.pieces == *pieces {
                known = true;
                // Two got the same from the hub: then it is not one of them that spoilt it.
                claim.made &= !fetched;
            }
        }
        let mut own = self.claims.iter_mut();
        match own.find(|claim| claim.node == node && claim.made == fetched) {
            _ if known => {}
            // What it made first stays, so that it cannot take it back.
            Some(claim) if !fetched => claim.pieces = Arc::clone(pieces),
            Some(_) => {}
            None => self.claims.push(Claim {
                node,
                pieces: Arc::clone(pieces),
                made: fetched,
            }),
        }
    }
}

impl Ledger {
    /// Looks whether somebody made piece hashes of a segment that are not the right ones.
    pub(super) fn judge(&mut self, id: SnapId, index: u32, now: u64) {
        let snap = &self.snaps[id];
        let segment = &snap.segments[index as usize];
        let mut claims = segment.claims.iter();
        let first = segment.holders.first();
        let agreed = !segment.mixed
            && claims.all(|claim| first.is_none_or(|first| first.pieces == claim.pieces));
        if agreed {
            return;
        }
        while let Some(maker) = self.snaps[id].maker(index) {
            if !self.distrust(maker, id, index, now) {
                return;
            }
        }
    }

    /// Lets a node give nothing to others any more, and others throw away what it made, unless they proved it.
    fn distrust(&mut self, node: NodeId, id: SnapId, index: u32, now: u64) -> bool {
        let snap = &mut self.snaps[id];
        // Where most are at odds with what is proved it is the hub that lies; and those who are left have the whole work.
        if (snap.distrusted.len() + 1) * 2 >= snap.members.len() {
            return false;
        }
        tracing::warn!(
            node = self.nodes[node].name,
            snapshot = snap.name,
            segment = index,
            "a node made wrong bytes of a segment: it gives nothing of this snapshot to others any more"
        );
        self.distrusted += 1;
        snap.distrusted.insert(node);
        let made = snap.made_by(node);
        snap.reserved.retain(|_, keeper| *keeper != node);
        let member = snap.members.get(&node);
        let open = member.map(|member| member.open.clone());
        for (index, lease) in open.unwrap_or_default() {
            if matches!(lease, Lease::Fetch { .. }) {
                self.close(node, id, index);
            }
        }
        let snap = &mut self.snaps[id];
        snap.refresh_all(&self.settings);
        let others: Vec<NodeId> = snap.members.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != node) {
            let spoilt = self.snaps[id].spoilt(other, &made);
            self.discard(other, id, &spoilt, &BTreeMap::new(), now);
        }
        self.everything_changed();
        true
    }
}
