//! What time alone changes.

use super::ledger::Ledger;
use super::snap::{Lease, NodeId, SnapId};

/// Failures of a holder longer ago than this after their wait are forgotten, in milliseconds.
const FORGET: u64 = 600_000;

impl Ledger {
    /// Ends what is over at `now`; afterwards every decision is made anew.
    pub(super) fn expire(&mut self, now: u64) {
        for id in 0..self.snaps.len() {
            let snap = &mut self.snaps[id];
            snap.release(|hold| hold.until <= now);
            for member in snap.members.values_mut() {
                member.avoid.retain(|_, avoid| now < avoid.until() + FORGET);
            }
            let members: Vec<NodeId> = snap.members.keys().copied().collect();
            for node in members {
                self.expire_orders(node, id, now);
            }
        }
        self.everything_changed();
    }

    fn expire_orders(&mut self, node: NodeId, id: SnapId, now: u64) {
        let Some(member) = self.snaps[id].members.get(&node) else {
            return;
        };
        if member
            .discarding
            .as_ref()
            .is_some_and(|discarding| discarding.until <= now)
        {
            self.end_discard(node, id);
        }
        let Some(member) = self.snaps[id].members.get(&node) else {
            return;
        };
        let open: Vec<(u32, Lease)> = member.open.iter().map(|(i, lease)| (*i, *lease)).collect();
        for (index, lease) in open {
            let (Lease::Fetch { given, .. } | Lease::Take { given, .. }) = lease;
            if given + self.settings.lease <= now {
                tracing::warn!(
                    node = self.nodes[node].name,
                    snapshot = self.snaps[id].name,
                    segment = index,
                    "an agent does not answer an order, which is given anew"
                );
                self.close(node, id, index);
                match lease {
                    Lease::Take { holder, .. } => self.strike(node, id, index, holder, now),
                    Lease::Fetch { .. } => {
                        let waits = self.settings.origin_backoff;
                        if let Some(member) = self.snaps[id].members.get_mut(&node) {
                            member.backoff.fail(now, given, waits, 0);
                        }
                    }
                }
            } else {
                match lease {
                    Lease::Take { .. } if given + self.settings.slow_take <= now => {
                        self.mark_slow_take(node, id, index);
                    }
                    Lease::Fetch { .. } if given + self.snaps[id].pace.patience() <= now => {
                        self.mark_slow_fetch(node, id, index);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Lets another fetch go on in the place of one whose node hangs.
    fn mark_slow_fetch(&mut self, node: NodeId, id: SnapId, index: u32) {
        let member = self.snaps[id].members.get_mut(&node);
        let lease = member.and_then(|member| member.open.get_mut(&index));
        if let Some(Lease::Fetch { endpoint, slow, .. }) = lease
            && !std::mem::replace(slow, true)
        {
            self.endpoints[*endpoint].slow += 1;
        }
    }

    fn mark_slow_take(&mut self, node: NodeId, id: SnapId, index: u32) {
        let snap = &mut self.snaps[id];
        let mut takings = snap.segments[index as usize].takings.iter_mut();
        if let Some(taking) = takings.find(|taking| taking.taker == node && !taking.slow) {
            taking.slow = true;
            snap.refresh(index, &self.settings);
        }
    }
}
