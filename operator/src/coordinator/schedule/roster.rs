//! What agents are told for the time when there is no coordinator: who else has a part in a snapshot, and the way to a
//! public hub.

use std::mem;

use modelcache_swarm::coordination::{CoordinatorMessage, MAX_MEMBERS, Member};

use super::SourcePolicy;
use super::ledger::Ledger;
use super::snap::SnapId;

/// A change is told when the list has stayed as it is for so long, in milliseconds: while many nodes come, and while the
/// connections of a coordinator that stops break one by one, it is not worth telling.
pub(super) const SETTLE: u64 = 5_000;

/// The list of members as agents know it.
#[derive(Debug, Default)]
pub(super) struct Roster {
    told: Vec<Member>,
    /// Counts the changes of `told`; 0: nothing was told yet.
    pub(super) version: u64,
    next: Vec<Member>,
    /// Since when `next` is what it is.
    since: u64,
}

impl Roster {
    /// Takes note of how the list is now.
    fn see(&mut self, members: Vec<Member>, now: u64) {
        if members != self.next {
            self.next = members;
            self.since = now;
        }
        if self.next != self.told && self.since + SETTLE <= now {
            self.told.clone_from(&self.next);
            self.version += 1;
        }
    }
}

impl Ledger {
    /// Tells every agent what it does not know yet.
    pub(super) fn tell_rosters(&mut self, now: u64) {
        for id in self.wanted.clone() {
            self.tell_roster(id, now);
        }
    }

    fn tell_roster(&mut self, id: SnapId, now: u64) {
        let snap = &mut self.snaps[id];
        let nodes = &self.nodes;
        let first = snap.members.keys().take(MAX_MEMBERS);
        let listed = first.filter_map(|node| {
            Some(Member {
                node: nodes[*node].name.clone(),
                address: nodes[*node].address?,
            })
        });
        snap.roster.see(listed.collect(), now);
        let (Some(config), version) = (&snap.config, snap.roster.version) else {
            return;
        };
        let public = config.access.token.is_none() && config.policy != SourcePolicy::PeersOnly;
        for (node, member) in &mut snap.members {
            // Who holds everything needs neither; it is told when that changes.
            if member.seeder || member.roster == version {
                continue;
            }
            member.roster = version;
            let name = &nodes[*node].name;
            if public && !mem::replace(&mut member.origin_sent, true) {
                self.outgoing
                    .push((name.clone(), config.origin(&snap.name)));
            }
            let message = CoordinatorMessage::Members {
                snapshot: snap.name.clone(),
                members: snap.roster.told.clone(),
            };
            self.outgoing.push((name.clone(), message));
        }
    }
}
