//! Giving out takes: what to take, and from whom.

use std::sync::Arc;

use modelcache_swarm::coordination::CoordinatorMessage;
use modelcache_swarm::segment::PieceHashes;

use super::SourcePolicy;
use super::backoff::Backoff;
use super::bits::first_from;
use super::ledger::Ledger;
use super::snap::{LEVELS, Lease, Member, NodeId, Segment, Snap, SnapId};

/// A holder from which so many nodes failed to take a segment is asked for it last.
const SUSPICIOUS: usize = 3;

impl Snap {
    /// Whether segments of it travel between nodes.
    fn is_shared(&self) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| config.policy != SourcePolicy::OriginOnly)
    }
}

impl Member {
    pub(super) fn avoids(&self, index: u32, holder: NodeId, now: u64) -> bool {
        !self.avoid.is_empty()
            && self
                .avoid
                .get(&(index, holder))
                .is_some_and(|avoid| avoid.waits(now))
    }

    /// Whether it waits before it gets a segment once more that was wrong again and again.
    pub(super) fn rests(&self, index: u32, now: u64) -> bool {
        let wrong = self.corrupt.get(&index);
        wrong.is_some_and(|wrong| wrong.again() && wrong.waits(now))
    }

    /// From whom to take a segment that was wrong here: all of a wrong blob comes from one holder, so that one that lies
    /// cannot spoil what the others give, and the next time from another. Who gives nothing is passed over.
    fn giver(&self, taker: NodeId, index: u32, segment: &Segment) -> Option<NodeId> {
        let others = segment.holders.iter().filter(|one| one.node != taker);
        let giver = others.min_by_key(|holder| {
            let key = (index, holder.node);
            let silent = self.avoid.get(&key).is_some_and(Backoff::hopeless);
            let blamed = self.blamed.get(&key).copied().unwrap_or(0);
            (
                silent,
                blamed,
                !holder.verified,
                scatter(holder.node, taker, 0),
            )
        });
        giver.map(|holder| holder.node)
    }
}

impl Ledger {
    /// Gives out all that may be given now.
    pub(super) fn give(&mut self, now: u64) {
        let settled = *self.started.get_or_insert(now) + self.settings.grace;
        for (id, index) in std::mem::take(&mut self.dirty.segments) {
            self.give_segment(id, index, now);
        }
        for holder in std::mem::take(&mut self.dirty.holders) {
            let idle = (0..self.nodes.len()).collect();
            self.fill(idle, Some(holder), now);
        }
        let takers = std::mem::take(&mut self.dirty.takers);
        self.fill(takers.into_iter().collect(), None, now);
        if std::mem::take(&mut self.dirty.fetches) && settled <= now {
            self.give_fetches(now);
        }
    }

    /// Gives a segment to those who want it, the idlest first.
    fn give_segment(&mut self, id: SnapId, index: u32, now: u64) {
        let snap = &self.snaps[id];
        if index >= snap.size || !snap.is_shared() || !snap.offered.has(index) {
            return;
        }
        let members = snap.members.iter();
        let mut takers: Vec<NodeId> = members
            .filter(|(node, member)| {
                let barred = member.hub_only.has(index) && self.reaches_hub(snap, member, now);
                member.wants.has(index) && !barred && self.may_take(**node)
            })
            .map(|(node, _)| *node)
            .collect();
        takers.sort_by_key(|node| self.nodes[*node].takes);
        for taker in takers {
            if !self.snaps[id].offered.has(index) {
                return;
            }
            if let Some(holder) = self.choose(taker, id, index, None, now) {
                self.order_take(taker, id, index, holder, now);
            }
        }
    }

    /// Lets nodes take one segment each in turn, from one holder or any, until nothing more can be given.
    fn fill(&mut self, mut takers: Vec<NodeId>, from: Option<NodeId>, now: u64) {
        while !takers.is_empty() {
            if from.is_some_and(|from| !self.may_give(from)) {
                return;
            }
            takers.retain(|taker| self.may_take(*taker));
            takers.sort_by_key(|taker| self.nodes[*taker].takes);
            takers.retain(|taker| self.take_one(*taker, from, now));
        }
    }

    /// Whether a node could get a segment from the hub, as far as is known. What failed is tried again when its wait is
    /// over: were nodes to take from each other from then on, then nothing would ever find out that the hub is back.
    fn reaches_hub(&self, snap: &Snap, member: &Member, now: u64) -> bool {
        let gone = |backoff: &Backoff| backoff.hopeless() && backoff.waits(now);
        snap.config.as_ref().is_some_and(|config| {
            config.policy != SourcePolicy::PeersOnly
                && !gone(&self.endpoints[config.endpoint].backoff)
                && !gone(&snap.backoff)
                && !gone(&member.backoff)
        })
    }

    fn may_take(&self, node: NodeId) -> bool {
        let node = &self.nodes[node];
        node.address.is_some() && node.takes < self.settings.takes_per_node
    }

    fn may_give(&self, node: NodeId) -> bool {
        let node = &self.nodes[node];
        node.address.is_some() && node.uploading.len() < self.settings.uploads_per_node as usize
    }

    /// Whether a holder may give another segment that nobody else holds.
    fn may_give_first_copy(&self, node: NodeId) -> bool {
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

    fn take_one(&mut self, taker: NodeId, from: Option<NodeId>, now: u64) -> bool {
        let found = self.nodes[taker].snaps.iter().find_map(|id| {
            let (index, holder) = self.find_take(taker, *id, from, now)?;
            Some((*id, index, holder))
        });
        if let Some((id, index, holder)) = found {
            self.order_take(taker, id, index, holder, now);
        }
        found.is_some()
    }

    /// The rarest segment that a node can take now, and from whom.
    fn find_take(
        &self,
        taker: NodeId,
        id: SnapId,
        from: Option<NodeId>,
        now: u64,
    ) -> Option<(u32, NodeId)> {
        let snap = &self.snaps[id];
        let member = snap.members.get(&taker)?;
        if member.wanting == 0 || !snap.is_shared() {
            return None;
        }
        let barred = if self.reaches_hub(snap, member, now) {
            u64::MAX
        } else {
            0
        };
        let mut possible = member.wants.words().to_vec();
        for (at, word) in possible.iter_mut().enumerate() {
            *word &= snap.offered.words()[at] & !(member.hub_only.words()[at] & barred);
        }
        if possible.iter().all(|word| *word == 0) {
            return None;
        }
        let mut given = vec![0; possible.len()];
        let givers = snap.members.iter().filter(|(node, giver)| {
            **node != taker && from.is_none_or(|from| from == **node) && !giver.held.is_empty()
        });
        for (node, giver) in givers {
            if !self.may_give(*node) {
                continue;
            }
            let first = self.may_give_first_copy(*node);
            for (at, word) in given.iter_mut().enumerate() {
                let allowed = if first {
                    u64::MAX
                } else {
                    !snap.sole.words()[at]
                };
                *word |= giver.held.words()[at] & allowed & possible[at];
            }
        }
        // Each node begins elsewhere, so that nodes come to hold different parts.
        let start = scatter(taker, 0, 0) % snap.size.max(1);
        (0..LEVELS).find_map(|level| {
            let rare = snap.rarity[level].words();
            let mut holder = None;
            let index = first_from(
                start,
                given.len(),
                |at| given[at] & rare[at],
                |index| {
                    holder = self.choose(taker, id, index, from, now);
                    holder.is_some()
                },
            )?;
            Some((index, holder?))
        })
    }

    /// The holder that a node takes a segment from: with the right piece hashes as far as known, trusted, little loaded.
    fn choose(
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
        let usable = |node: NodeId| node != taker && !member.avoids(index, node, now);
        if member.corrupt.contains_key(&index) {
            let giver = member.giver(taker, index, segment)?;
            let now = from.is_none_or(|from| from == giver)
                && !member.rests(index, now)
                && usable(giver)
                && self.has_room(snap, giver, index);
            return now.then_some(giver);
        }
        let pieces = segment.mixed.then(|| segment.best_pieces(usable)).flatten();
        // Who has much that nobody else holds gives that first, and leaves the rest to those who have not.
        let laden = |node: NodeId| {
            let alone = snap
                .members
                .get(&node)
                .map_or(0, |holder| holder.alone as usize);
            alone > self.settings.first_copies_per_node
        };
        let relieved = segment
            .holders
            .iter()
            .any(|holder| usable(holder.node) && !laden(holder.node));
        let holders = segment.holders.iter().filter(|holder| {
            from.is_none_or(|from| from == holder.node)
                && usable(holder.node)
                && pieces.is_none_or(|best| Arc::ptr_eq(best, &holder.pieces))
                && !(relieved && laden(holder.node))
                && self.has_room(snap, holder.node, index)
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

    /// Whether a holder may give a segment once more now.
    fn has_room(&self, snap: &Snap, holder: NodeId, index: u32) -> bool {
        self.may_give(holder)
            && if snap.sole.has(index) {
                snap.offered.has(index) && self.may_give_first_copy(holder)
            } else {
                let uploads = snap.segments[index as usize].uploads(holder);
                uploads < self.settings.uploads_per_segment
            }
    }

    fn order_take(&mut self, taker: NodeId, id: SnapId, index: u32, holder: NodeId, now: u64) {
        if self.send_take(taker, id, index, holder) {
            self.open(taker, id, index, Lease::Take { given: now, holder });
        }
    }

    /// Sends the order to take a segment, if that holder still has it.
    pub(super) fn send_take(
        &mut self,
        taker: NodeId,
        id: SnapId,
        index: u32,
        holder: NodeId,
    ) -> bool {
        let snap = &self.snaps[id];
        let mut holders = snap.segments[index as usize].holders.iter();
        let (Some(entry), Some(address)) = (
            holders.find(|one| one.node == holder),
            self.nodes[holder].address,
        ) else {
            return false;
        };
        let message = CoordinatorMessage::Take {
            snapshot: snap.name.clone(),
            segment: index,
            pieces: PieceHashes::clone(&entry.pieces),
            holder: self.nodes[holder].name.clone(),
            address,
        };
        self.outgoing
            .push((self.nodes[taker].name.clone(), message));
        true
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
fn scatter(a: usize, b: usize, c: u32) -> u32 {
    let mut x = (a as u64) << 40 ^ (b as u64) << 20 ^ u64::from(c) ^ 0x9E37_79B9_7F4A_7C15;
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 32) as u32
}
