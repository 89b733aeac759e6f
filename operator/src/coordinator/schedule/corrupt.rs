//! What is done about a blob with a wrong hash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use modelcache_swarm::coordination::CoordinatorMessage;
use modelcache_swarm::segment::PieceHashes;

use super::SourcePolicy;
use super::backoff::Backoff;
use super::bits::Bits;
use super::ledger::Ledger;
use super::snap::{Discarding, Lease, NodeId, Snap, SnapId};

impl Snap {
    /// The piece hashes of a segment as a node holds it.
    fn pieces_of(&self, node: NodeId, index: u32) -> Option<Arc<PieceHashes>> {
        let mut holders = self.segments[index as usize].holders.iter();
        let holder = holders.find(|holder| holder.node == node)?;
        Some(Arc::clone(&holder.pieces))
    }

    /// Lets one node fetch all of a wrong blob: the one that found it wrong, or, if it had just fetched all of it, the
    /// next one.
    fn reserve(&mut self, bad: &Bits, finder: NodeId) {
        let tried = bad
            .iter()
            .all(|index| self.reserved.get(&index) == Some(&finder));
        let others = self
            .members
            .range(finder + 1..)
            .chain(self.members.range(..finder));
        let next = others.map(|(node, _)| *node).find(|one| self.trusts(*one));
        let keeper = next.filter(|_| tried).unwrap_or(finder);
        for index in bad.iter() {
            self.reserved.insert(index, keeper);
        }
    }
}

impl Ledger {
    /// A blob was wrong on one node: everybody who has it unverified throws it away, and it is fetched anew, later.
    pub(super) fn corrupt(&mut self, node: NodeId, id: SnapId, segments: &[u32], now: u64) {
        let snap = &mut self.snaps[id];
        let mut bad = Bits::empty(snap.size);
        for index in segments.iter().filter(|index| **index < snap.size) {
            bad.set(*index, true);
        }
        let Some(member) = snap.members.get_mut(&node) else {
            return;
        };
        let mut mine = member.held.clone();
        mine.keep(&bad);
        if mine.is_empty() {
            // It was told to discard them before we read that it did.
            return;
        }
        let wrong: BTreeMap<u32, Arc<PieceHashes>> = mine
            .iter()
            .filter_map(|index| Some((index, snap.pieces_of(node, index)?)))
            .collect();
        // A distrusted node says so for itself only.
        let trusted = snap.trusts(node);
        if trusted {
            snap.corrupt.add(&bad);
            if !snap.corrupt_backoff.waits(now) {
                snap.corrupt_backoff
                    .fail(now, now, self.settings.corrupt_backoff, 0);
            }
            let until = snap.corrupt_backoff.until();
            snap.hold_back(bad.clone(), until, None);
            snap.reserve(&bad, node);
        }
        let Some(member) = snap.members.get_mut(&node) else {
            return;
        };
        let before = mine.iter().filter_map(|index| member.corrupt.get(&index));
        let worst = before.max_by_key(|wrong| wrong.failures()).cloned();
        let mut found = worst.unwrap_or_default();
        found.fail(now, now, self.settings.corrupt_backoff, 0);
        let givers = mine
            .iter()
            .filter_map(|index| member.taken_from.get(&index));
        for giver in givers.copied().collect::<BTreeSet<_>>() {
            for index in mine.iter() {
                *member.blamed.entry((index, giver)).or_default() += 1;
            }
        }
        for index in mine.iter() {
            self.throw_away(node, id, index, &found, now);
        }
        let snap = &self.snaps[id];
        let config = snap.config.as_ref();
        // The first time only: a node that gets it from a liar again and again would have the others throw away for ever
        // what they did not have the time to verify.
        if !found.again()
            && trusted
            && config.is_none_or(|config| config.policy != SourcePolicy::OriginOnly)
        {
            let others: Vec<NodeId> = snap
                .members
                .keys()
                .copied()
                .filter(|one| *one != node)
                .collect();
            for other in others {
                self.discard(other, id, &bad, &wrong, now);
            }
        }
    }

    /// Enters that a node threw a segment away because its blob was wrong.
    fn throw_away(&mut self, node: NodeId, id: SnapId, index: u32, found: &Backoff, now: u64) {
        self.remove_holder(node, id, index);
        let snap = &mut self.snaps[id];
        let Some(member) = snap.members.get_mut(&node) else {
            return;
        };
        member.corrupt.insert(index, found.clone());
        member.hub_only.set(index, found.again());
        let Some(holder) = member.taken_from.remove(&index) else {
            return;
        };
        // One bad segment spoils all of its blob: who verified what it gave is most likely innocent, the first time.
        let mut holders = snap.segments[index as usize].holders.iter();
        let proven = holders.any(|one| one.node == holder && one.verified) && snap.trusts(holder);
        if found.again() || !proven {
            self.strike(node, id, index, holder, now);
        }
    }

    /// Tells a node to throw segments of a wrong blob away, unless they are verified there or its blob is another one.
    pub(super) fn discard(
        &mut self,
        node: NodeId,
        id: SnapId,
        bad: &Bits,
        wrong: &BTreeMap<u32, Arc<PieceHashes>>,
        now: u64,
    ) {
        let snap = &self.snaps[id];
        let Some(member) = snap.members.get(&node) else {
            return;
        };
        let differs = wrong.iter().any(|(index, wrong)| {
            let theirs = snap.pieces_of(node, *index);
            theirs.is_some_and(|theirs| theirs != *wrong)
        });
        if differs {
            return;
        }
        let unverified: Vec<u32> = bad
            .iter()
            .filter(|index| {
                let mut holders = snap.segments[*index as usize].holders.iter();
                // What it got from the hub itself because of such a blob is not touched by others' findings.
                !member.hub_only.has(*index)
                    && holders.any(|holder| holder.node == node && !holder.verified)
            })
            .collect();
        let is_take = |index: &u32| matches!(member.open.get(index), Some(Lease::Take { .. }));
        let takes: Vec<u32> = bad
            .iter()
            .filter(|index| !member.hub_only.has(*index) && is_take(index))
            .collect();
        if unverified.is_empty() && takes.is_empty() {
            return;
        }
        // What it is getting from the hub right now is as good as anything.
        let from_hub = |index: &u32| {
            member.hub_only.has(*index)
                || matches!(member.open.get(index), Some(Lease::Fetch { .. }))
        };
        let segments: Vec<u32> = bad.iter().filter(|index| !from_hub(index)).collect();
        for index in unverified {
            self.remove_holder(node, id, index);
        }
        for index in takes {
            self.close(node, id, index);
        }
        let snap = &mut self.snaps[id];
        if let Some(member) = snap.members.get_mut(&node) {
            let earlier = member
                .discarding
                .take()
                .map(|discarding| discarding.segments);
            let mut pending = earlier.unwrap_or_else(|| Bits::empty(snap.size));
            for index in segments.iter().filter(|index| !member.held.has(**index)) {
                pending.set(*index, true);
            }
            member.discarding = Some(Discarding {
                segments: pending,
                until: now + self.settings.discard,
            });
        }
        for index in &segments {
            snap.want(node, *index);
        }
        let message = CoordinatorMessage::Discard {
            snapshot: snap.name.clone(),
            segments,
        };
        self.outgoing.push((self.nodes[node].name.clone(), message));
    }

    /// Makes a node want again what it was to discard.
    pub(super) fn end_discard(&mut self, node: NodeId, id: SnapId) {
        let snap = &mut self.snaps[id];
        let Some(member) = snap.members.get_mut(&node) else {
            return;
        };
        if let Some(discarding) = member.discarding.take() {
            for index in discarding.segments.iter() {
                snap.want(node, index);
            }
            self.dirty.takers.insert(node);
            self.dirty.fetches = true;
        }
    }
}
