//! What agents report, and what it changes.

use std::collections::BTreeMap;

use modelcache_swarm::coordination::{AgentMessage, Held};

use super::Schedule;
use super::backoff::Backoff;
use super::bits::Bits;
use super::ledger::Ledger;
use super::pace::Fetched;
use super::snap::{Lease, NodeId, SnapId};

/// Snapshots that one agent may track; more is a mistake and would only fill our memory.
const TRACKED: usize = 4096;

/// Longest wait that a hub can ask for, in milliseconds.
const LONGEST_RETRY_AFTER: u64 = 3_600_000;

/// What agents said of one snapshot before the coordinator was told that the cluster wants it.
pub(super) type Early = BTreeMap<NodeId, EarlyTrack>;

/// A `Track` kept up to date until it can be entered.
#[derive(Debug)]
pub(super) struct EarlyTrack {
    pub(super) segments: u32,
    pub(super) held: BTreeMap<u32, Held>,
}

impl Schedule {
    pub(super) fn report(&mut self, node: NodeId, message: AgentMessage, now: u64) {
        let Some(name) = snapshot_of(&message) else {
            return;
        };
        let Some(id) = self.ledger.snap(name) else {
            self.report_early(node, message);
            return;
        };
        match message {
            AgentMessage::Hello { .. } => {}
            AgentMessage::Track { segments, held, .. } => {
                self.track(node, id, segments, held.into_iter(), now);
            }
            AgentMessage::Untrack { .. } => {
                self.ledger.leave(node, id);
            }
            AgentMessage::Have { held, .. } => self.ledger.have(node, id, held, now),
            AgentMessage::Verified { segments, .. } => {
                self.ledger.verified(node, id, &segments, now);
            }
            AgentMessage::FetchFailed {
                segment,
                rate_limited,
                retry_after_seconds,
                ..
            } => {
                let retry_after = u64::from(retry_after_seconds.unwrap_or(0)) * 1000;
                let retry_after = retry_after.min(LONGEST_RETRY_AFTER);
                self.ledger
                    .fetch_failed(node, id, segment, rate_limited, retry_after, now);
            }
            AgentMessage::TakeFailed {
                segment, holder, ..
            } => self.ledger.take_failed(node, id, segment, &holder, now),
            AgentMessage::Corrupt { segments, .. } => self.ledger.corrupt(node, id, &segments, now),
        }
    }

    fn report_early(&mut self, node: NodeId, message: AgentMessage) {
        match message {
            AgentMessage::Track {
                snapshot,
                segments,
                held,
            } => {
                if self.early.len() >= TRACKED && !self.early.contains_key(&snapshot) {
                    tracing::warn!(
                        snapshot,
                        "too many unknown snapshots are tracked: one is ignored"
                    );
                    return;
                }
                let held = held.into_iter().map(|held| (held.segment, held)).collect();
                let early = self.early.entry(snapshot).or_default();
                early.insert(node, EarlyTrack { segments, held });
            }
            AgentMessage::Untrack { snapshot } => {
                if let Some(early) = self.early.get_mut(&snapshot) {
                    early.remove(&node);
                    if early.is_empty() {
                        self.early.remove(&snapshot);
                    }
                }
            }
            AgentMessage::Have { snapshot, held } => {
                if let Some(track) = self.early_track(node, &snapshot)
                    && held.segment < track.segments
                {
                    track.held.insert(held.segment, held);
                }
            }
            AgentMessage::Verified { snapshot, segments } => {
                if let Some(track) = self.early_track(node, &snapshot) {
                    for index in segments {
                        if let Some(held) = track.held.get_mut(&index) {
                            held.verified = true;
                        }
                    }
                }
            }
            AgentMessage::Corrupt {
                snapshot, segments, ..
            } => {
                if let Some(track) = self.early_track(node, &snapshot) {
                    for index in segments {
                        track.held.remove(&index);
                    }
                }
            }
            // No order was given, so none can have failed.
            AgentMessage::Hello { .. }
            | AgentMessage::FetchFailed { .. }
            | AgentMessage::TakeFailed { .. } => {}
        }
    }

    fn early_track(&mut self, node: NodeId, snapshot: &str) -> Option<&mut EarlyTrack> {
        self.early.get_mut(snapshot)?.get_mut(&node)
    }

    /// Enters what a node holds of a snapshot; it wants the rest.
    pub(super) fn track(
        &mut self,
        node: NodeId,
        id: SnapId,
        segments: u32,
        held: impl Iterator<Item = Held>,
        now: u64,
    ) {
        let ledger = &mut self.ledger;
        let snap = &mut ledger.snaps[id];
        if segments != snap.size {
            tracing::warn!(
                node = ledger.nodes[node].name,
                snapshot = snap.name,
                theirs = segments,
                ours = snap.size,
                "an agent cuts a snapshot into another number of segments and is left out: install the same version everywhere"
            );
            ledger.leave(node, id);
            return;
        }
        let held: BTreeMap<u32, Held> = held
            .filter(|held| held.segment < segments)
            .map(|held| (held.segment, held))
            .collect();
        snap.release(|hold| hold.node == Some(node));
        if snap.members.contains_key(&node) {
            ledger.drop_all_but(node, id, &held);
        } else {
            if ledger.nodes[node].snaps.len() >= TRACKED {
                return;
            }
            ledger.join(node, id);
        }
        for held in held.into_values() {
            ledger.have(node, id, held, now);
        }
        ledger.repeat_orders(node, id);
        ledger.dirty.takers.insert(node);
        ledger.dirty.fetches = true;
    }
}

fn snapshot_of(message: &AgentMessage) -> Option<&str> {
    match message {
        AgentMessage::Hello { .. } => None,
        AgentMessage::Track { snapshot, .. }
        | AgentMessage::Untrack { snapshot }
        | AgentMessage::Have { snapshot, .. }
        | AgentMessage::Verified { snapshot, .. }
        | AgentMessage::FetchFailed { snapshot, .. }
        | AgentMessage::TakeFailed { snapshot, .. }
        | AgentMessage::Corrupt { snapshot, .. } => Some(snapshot),
    }
}

impl Ledger {
    /// Enters that a node holds nothing but `held` and has answered what it was to discard.
    fn drop_all_but(&mut self, node: NodeId, id: SnapId, held: &BTreeMap<u32, Held>) {
        self.end_discard(node, id);
        let Some(member) = self.snaps[id].members.get(&node) else {
            return;
        };
        let gone: Vec<u32> = member
            .held
            .iter()
            .filter(|index| !held.contains_key(index))
            .collect();
        for index in gone {
            self.remove_holder(node, id, index);
        }
    }

    /// Gives a node again the orders that are still open, and what else it was told: it may have dropped them, or they went to
    /// a connection that it has replaced.
    fn repeat_orders(&mut self, node: NodeId, id: SnapId) {
        let Some(member) = self.snaps[id].members.get_mut(&node) else {
            return;
        };
        member.origin_sent = false;
        member.roster = 0;
        let open: Vec<(u32, Lease)> = member.open.iter().map(|(i, lease)| (*i, *lease)).collect();
        for (index, lease) in open {
            let repeated = match lease {
                Lease::Fetch { .. } => {
                    self.send_fetch(node, id, index);
                    true
                }
                Lease::Take { holder, .. } => self.send_take(node, id, index, holder),
            };
            if !repeated {
                self.close(node, id, index);
            }
        }
    }

    fn have(&mut self, node: NodeId, id: SnapId, held: Held, now: u64) {
        let index = held.segment;
        let snap = &mut self.snaps[id];
        let Some(member) = snap.members.get(&node) else {
            return;
        };
        let discarding = member.discarding.as_ref();
        if index >= snap.size || discarding.is_some_and(|one| one.segments.has(index)) {
            // The agent said this before it read that it is to throw the segment away.
            return;
        }
        let lease = self.close(node, id, index);
        let snap = &mut self.snaps[id];
        if let Some(member) = snap.members.get_mut(&node) {
            match lease {
                Some(Lease::Fetch {
                    given,
                    endpoint,
                    fetches,
                    ..
                }) => {
                    let fetched = Fetched {
                        took: now.saturating_sub(given),
                        fetches: (fetches, self.endpoints[endpoint].fetches + 1),
                    };
                    snap.pace.note(fetched, self.settings.fetches);
                    member.backoff.succeed(given);
                    snap.backoff.succeed(given);
                    snap.failed = Default::default();
                    snap.troubles.remove(&index);
                    self.endpoints[endpoint].backoff.succeed(given);
                }
                Some(Lease::Take { holder, .. }) => {
                    member.avoid.remove(&(index, holder));
                    member.taken_from.insert(index, holder);
                    snap.strikes.remove(&(index, holder));
                }
                None => {}
            }
        }
        let verified = held.verified;
        let fetched = matches!(lease, Some(Lease::Fetch { .. }));
        self.add_holder(node, id, held, fetched);
        if verified {
            self.verified(node, id, &[index], now);
        } else if fetched {
            self.judge(id, index, now);
        }
    }

    fn verified(&mut self, node: NodeId, id: SnapId, segments: &[u32], now: u64) {
        let snap = &mut self.snaps[id];
        let trusted = snap.trusts(node);
        let Some(member) = snap.members.get_mut(&node) else {
            return;
        };
        for index in segments.iter().copied().filter(|index| *index < snap.size) {
            let mut holders = snap.segments[index as usize].holders.iter_mut();
            if let Some(holder) = holders.find(|holder| holder.node == node) {
                holder.verified = true;
                member.taken_from.remove(&index);
                member.corrupt.remove(&index);
                member.blamed.retain(|(one, _), _| *one != index);
                member.hub_only.set(index, false);
                if trusted {
                    snap.corrupt.set(index, false);
                    snap.reserved.remove(&index);
                }
            }
        }
        if snap.corrupt_backoff.failing() && snap.corrupt.is_empty() {
            snap.corrupt_backoff = Backoff::default();
        }
        let size = snap.size;
        for index in segments.iter().filter(|index| **index < size) {
            self.judge(id, *index, now);
        }
    }

    fn fetch_failed(
        &mut self,
        node: NodeId,
        id: SnapId,
        index: u32,
        rate_limited: bool,
        retry_after: u64,
        now: u64,
    ) {
        let waits = self.settings.origin_backoff;
        let fetching = self.snaps[id]
            .members
            .get(&node)
            .and_then(|member| member.open.get(&index));
        let Some(&Lease::Fetch {
            given, endpoint, ..
        }) = fetching
        else {
            return;
        };
        self.close(node, id, index);
        if rate_limited {
            let backoff = &mut self.endpoints[endpoint].backoff;
            return backoff.fail(now, given, waits, retry_after);
        }
        let snap = &mut self.snaps[id];
        if let Some(member) = snap.members.get_mut(&node) {
            member.backoff.fail(now, given, waits, retry_after);
        }
        snap.reserved.retain(|_, keeper| *keeper != node);
        // Another node may have more luck at once; but what several failed at, waits.
        let trouble = snap.troubles.entry(index).or_default();
        let again = trouble.failing();
        trouble.fail(now, given, waits, 0);
        if again {
            let until = trouble.until();
            let mut segment = Bits::empty(snap.size);
            segment.set(index, true);
            snap.hold_back(segment, until, None);
        }
        snap.failed.0.insert(node);
        snap.failed.1.insert(index);
        let everywhere = snap.failed.0.len() > 1 && snap.failed.1.len() > 1;
        if everywhere || retry_after > 0 || snap.backoff.failing() {
            snap.backoff.fail(now, given, waits, retry_after);
        }
    }

    fn take_failed(&mut self, node: NodeId, id: SnapId, index: u32, holder: &str, now: u64) {
        let Some(holder) = self.nodes.iter().position(|one| one.name == holder) else {
            return;
        };
        let snap = &self.snaps[id];
        let Some(member) = snap.members.get(&node).filter(|_| index < snap.size) else {
            return;
        };
        if matches!(member.open.get(&index), Some(Lease::Take { holder: from, .. }) if *from == holder)
        {
            self.close(node, id, index);
        }
        self.strike(node, id, index, holder, now);
    }

    /// Keeps a node away from a holder of a segment for a while; without another holder it may go to the hub.
    pub(super) fn strike(
        &mut self,
        node: NodeId,
        id: SnapId,
        index: u32,
        holder: NodeId,
        now: u64,
    ) {
        let snap = &mut self.snaps[id];
        if let Some(member) = snap.members.get_mut(&node) {
            let avoid = member.avoid.entry((index, holder)).or_default();
            avoid.fail(now, now, self.settings.avoid, 0);
            member.stranded.set(index, true);
            if snap.members.contains_key(&holder) {
                snap.strikes
                    .entry((index, holder))
                    .or_default()
                    .insert(node);
            }
        }
        self.dirty.takers.insert(node);
        self.dirty.segments.insert((id, index));
        self.dirty.fetches = true;
    }
}
