//! Giving out fetches: what the hub is asked for, and by whom.

use modelcache_swarm::coordination::CoordinatorMessage;

use super::SourcePolicy;
use super::bits::first;
use super::ledger::Ledger;
use super::snap::{Lease, Member, NodeId, Snap, SnapId};

impl Member {
    /// Whether it wants a segment and may get it from the hub. Who never reaches the hub does not keep others from their turn.
    pub(super) fn would_fetch(&self, index: u32, now: u64) -> bool {
        self.wants.has(index) && !self.backoff.hopeless() && !self.backoff.waits(now)
    }
}

impl Ledger {
    /// Gives out all fetches that may be given now.
    pub(super) fn give_fetches(&mut self, now: u64) {
        for id in self.wanted.clone() {
            while self.fetches < self.settings.fetches {
                let Some((node, index)) = self.find_fetch(id, now) else {
                    break;
                };
                self.order_fetch(node, id, index, now);
            }
        }
    }

    /// What to fetch next of a snapshot, and who: the first segment of the plan that is to be fetched, and of the nodes that
    /// failed least the one whose turn was longest ago: who fetches more than others has to give more than others.
    fn find_fetch(&self, id: SnapId, now: u64) -> Option<(NodeId, u32)> {
        let snap = &self.snaps[id];
        let config = snap.config.as_ref()?;
        let endpoint = &self.endpoints[config.endpoint];
        // After a failure one fetch finds out whether the hub is back.
        let probing = |failing: bool, fetches: u32| failing && fetches > 0;
        if config.policy == SourcePolicy::PeersOnly
            || snap.backoff.waits(now)
            || endpoint.backoff.waits(now)
            || probing(snap.backoff.failing(), snap.fetches)
            || probing(endpoint.backoff.failing(), endpoint.fetches)
            || endpoint.fetches - endpoint.slow >= snap.pace.limit()
        {
            return None;
        }
        // Any node may do that, even one that rests: a node that never reaches the hub must not be the only one to try.
        let probe = snap.backoff.failing() || endpoint.backoff.failing();
        let mut best: Option<((u32, u32, u64), NodeId, u32)> = None;
        for (node, member) in &snap.members {
            let fetches = self.nodes[*node].fetches;
            let key = (member.backoff.failures(), fetches, self.nodes[*node].turn);
            // At most half of what it was given is under way, so the first alone: nodes whose agents say a moment later what they
            // want are to get the others. Who is to fetch all of a wrong blob does not leave others a part of it.
            let keeper = snap.reserved.values().any(|keeper| keeper == node);
            let enough = fetches * 2 > member.fetched && !keeper;
            if member.wanting == 0
                || enough
                || fetches >= self.settings.fetches_per_node
                || member.backoff.waits(now)
                || best.is_some_and(|(least, ..)| least <= key)
            {
                continue;
            }
            if let Some(index) = find_fetch_of(snap, *node, member, config.policy, probe, now) {
                best = Some((key, *node, index));
            }
        }
        best.map(|(_, node, index)| (node, index))
    }

    fn order_fetch(&mut self, node: NodeId, id: SnapId, index: u32, now: u64) {
        let Some(config) = &self.snaps[id].config else {
            return;
        };
        let endpoint = config.endpoint;
        self.send_fetch(node, id, index);
        let lease = Lease::Fetch {
            given: now,
            endpoint,
            fetches: self.endpoints[endpoint].fetches + 1,
            slow: false,
        };
        self.open(node, id, index, lease);
    }

    /// Sends the order to fetch a segment, and before the first one how to reach the hub.
    pub(super) fn send_fetch(&mut self, node: NodeId, id: SnapId, index: u32) {
        let snap = &mut self.snaps[id];
        let name = &self.nodes[node].name;
        if let (Some(config), Some(member)) = (&snap.config, snap.members.get_mut(&node))
            && !std::mem::replace(&mut member.origin_sent, true)
        {
            self.outgoing
                .push((name.clone(), config.origin(&snap.name)));
        }
        let message = CoordinatorMessage::Fetch {
            snapshot: snap.name.clone(),
            segment: index,
        };
        self.outgoing.push((name.clone(), message));
    }
}

fn find_fetch_of(
    snap: &Snap,
    node: NodeId,
    member: &Member,
    policy: SourcePolicy,
    probe: bool,
    now: u64,
) -> Option<u32> {
    let everything = policy == SourcePolicy::OriginOnly;
    let word = |at: usize| {
        let wants = member.wants.words()[at];
        let in_time = !snap.held_back.words()[at];
        if everything {
            return wants & in_time;
        }
        let missing = (snap.unheld.words()[at] | member.stranded.words()[at]) & in_time;
        // What others find wrong again and again does not keep this node from the hub.
        wants & (missing | member.hub_only.words()[at]) & !snap.fetching.words()[at]
    };
    let reserved = |index: u32| {
        let keeper = snap.reserved.get(&index);
        keeper.is_some_and(|keeper| {
            let member = snap.members.get(keeper);
            *keeper != node && member.is_some_and(|keeper| keeper.would_fetch(index, now))
        })
    };
    let unreachable = |index: u32| {
        let mut holders = snap.segments[index as usize].holders.iter();
        holders.all(|holder| !snap.trusts(holder.node) || member.avoids(index, holder.node, now))
    };
    let fetchable = |index: u32| {
        everything
            || (probe || !member.rests(index, now))
                && !reserved(index)
                && !snap.leaves_to_others(node, index, now)
                && (member.hub_only.has(index) || unreachable(index))
    };
    first(snap.unheld.words().len(), word, fetchable)
}
