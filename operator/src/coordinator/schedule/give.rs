//! Giving out takes: what to take, and by whom.

use modelcache_swarm::coordination::CoordinatorMessage;
use modelcache_swarm::segment::PieceHashes;

use super::SourcePolicy;
use super::backoff::Backoff;
use super::bits::first;
use super::choose::scatter;
use super::ledger::Ledger;
use super::snap::{Lease, Member, NodeId, Snap, SnapId};

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
        takers.sort_by_key(|node| (self.nodes[*node].takes, scatter(*node, 0, index)));
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
        // What one of few full nodes gives away is for the others to come from there: they are to be even.
        let seeder = from.is_some_and(|from| {
            let mut snaps = self.nodes[from].snaps.iter();
            snaps.any(|id| self.snaps[*id].spares(from))
        });
        while !takers.is_empty() {
            if from.is_some_and(|from| !self.may_give(from)) {
                return;
            }
            takers.retain(|taker| self.may_take(*taker));
            takers.sort_by_key(|taker| {
                let node = &self.nodes[*taker];
                (if seeder { node.turn } else { 0 }, node.takes)
            });
            takers.retain(|taker| self.take_one(*taker, from, now));
        }
    }

    /// Whether a node could get a segment from the hub, as far as is known. What failed is tried again when its wait is
    /// over: were nodes to take from each other from then on, then nothing would ever find out that the hub is back.
    pub(super) fn reaches_hub(&self, snap: &Snap, member: &Member, now: u64) -> bool {
        let gone = |backoff: &Backoff| backoff.hopeless() && backoff.waits(now);
        snap.config.as_ref().is_some_and(|config| {
            config.policy != SourcePolicy::PeersOnly
                && !gone(&self.endpoints[config.endpoint].backoff)
                && !gone(&snap.backoff)
                && !gone(&member.backoff)
        })
    }

    /// A node that fetches takes half as many at once: all the others wait for what it fetches, and the hub's link is not full
    /// while the node's own is shared among many.
    fn may_take(&self, node: NodeId) -> bool {
        let node = &self.nodes[node];
        let most = self.settings.takes_per_node;
        let most = if node.fetches > 0 {
            most.div_ceil(2)
        } else {
            most
        };
        node.address.is_some() && node.takes < most
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

    /// The first segment of the plan that a node can take now, and from whom. Nodes hash files from their beginning while
    /// the bytes are in memory, so the order of the plan is the best; they get different segments nevertheless, because
    /// each of those is given to few at a time.
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
            let first = !snap.spares(*node)
                || self.may_give_first_copy(*node) && snap.may_take_first_copy(taker, *node);
            for (at, word) in given.iter_mut().enumerate() {
                let allowed = if first {
                    u64::MAX
                } else {
                    !snap.sole.words()[at]
                };
                *word |= giver.held.words()[at] & allowed & possible[at];
            }
        }
        let mut holder = None;
        let index = first(
            given.len(),
            |at| given[at],
            |index| {
                holder = self.choose(taker, id, index, from, now);
                holder.is_some()
            },
        )?;
        Some((index, holder?))
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
