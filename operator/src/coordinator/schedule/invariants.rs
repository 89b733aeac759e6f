//! What must hold in the books after every call, counted from the ground up.

use std::collections::{BTreeMap, BTreeSet};

use super::bits::Bits;
use super::snap::Lease;
use super::{Schedule, Settings, SourcePolicy};

/// Checks every invariant of the books from the ground up.
#[expect(
    clippy::too_many_lines,
    reason = "one list of what must hold after every step"
)]
pub(super) fn check(schedule: &Schedule, settings: &Settings) {
    let ledger = &schedule.ledger;
    let mut fetches = vec![0; ledger.nodes.len()];
    let mut takes = vec![0; ledger.nodes.len()];
    let mut uploads = vec![0; ledger.nodes.len()];
    let mut endpoints = vec![0; ledger.endpoints.len()];
    let mut slow_fetches = vec![0; ledger.endpoints.len()];
    for snap in &ledger.snaps {
        let mut holders = vec![BTreeSet::new(); snap.size as usize];
        let mut fetching = vec![0; snap.size as usize];
        let mut pairs = BTreeMap::new();
        for (node, member) in &snap.members {
            assert!(
                ledger.nodes[*node].address.is_some(),
                "members are connected"
            );
            for index in member.held.iter() {
                holders[index as usize].insert(*node);
                assert!(
                    !member.open.contains_key(&index),
                    "what is held is not on order"
                );
            }
            for (index, lease) in &member.open {
                match lease {
                    Lease::Fetch { endpoint, slow, .. } => {
                        slow_fetches[*endpoint] += u32::from(*slow);
                        fetching[*index as usize] += 1;
                        fetches[*node] += 1;
                        endpoints[*endpoint] += 1;
                    }
                    Lease::Take { holder, .. } => {
                        takes[*node] += 1;
                        uploads[*holder] += 1;
                        *pairs.entry((*index, *holder)).or_insert(0) += 1;
                        let takings = &snap.segments[*index as usize].takings;
                        assert!(
                            takings
                                .iter()
                                .any(|t| t.taker == *node && t.holder == *holder)
                        );
                    }
                }
            }
            let discarding = |index| {
                member
                    .discarding
                    .as_ref()
                    .is_some_and(|d| d.segments.has(index))
            };
            let wants: Vec<u32> = (0..snap.size)
                .filter(|index| {
                    !member.held.has(*index)
                        && !member.open.contains_key(index)
                        && !discarding(*index)
                })
                .collect();
            assert_eq!(member.wants.iter().collect::<Vec<_>>(), wants);
            assert_eq!(member.wanting as usize, wants.len());
            let alone = |index: &u32| snap.segments[*index as usize].holders.len() == 1;
            assert_eq!(
                member.alone as usize,
                member.held.iter().filter(alone).count()
            );
        }
        for (pair, count) in pairs {
            assert!(
                count <= settings.uploads_per_segment.max(settings.one_step),
                "uploads of {pair:?}: {count}"
            );
        }
        let shared = snap
            .config
            .as_ref()
            .is_some_and(|c| c.policy != SourcePolicy::OriginOnly);
        for (index, segment) in snap.segments.iter().enumerate() {
            let number = u32::try_from(index).unwrap();
            let named: BTreeSet<_> = segment.holders.iter().map(|holder| holder.node).collect();
            assert_eq!(named.len(), segment.holders.len());
            assert_eq!(named, holders[index], "holders of {index}");
            assert_eq!(segment.fetches, fetching[index]);
            assert!(
                !shared || fetching[index] <= 1,
                "two fetches of {index} at once"
            );
            let trusted = |node: &usize| snap.trusts(*node);
            assert_eq!(snap.unheld.has(number), !named.iter().any(trusted));
            assert_eq!(snap.sole.has(number), named.len() == 1);
            assert_eq!(snap.fetching.has(number), fetching[index] > 0);
            let at_once = settings.fan_out(snap.members.len());
            let free = |node: &usize| segment.uploads(*node) < at_once;
            assert_eq!(snap.offered.has(number), named.iter().any(free));
        }
        assert_eq!(snap.fetches, fetching.iter().sum::<u32>());
        let mut held_back = Bits::empty(snap.size);
        for hold in &snap.holds {
            held_back.add(&hold.segments);
        }
        assert_eq!(snap.held_back, held_back);
        for (node, member) in &snap.members {
            assert_eq!(member.seeder, member.is_full(), "whether {node} is full");
        }
        let seeders = snap.members.values().filter(|member| member.seeder);
        assert_eq!(snap.seeders, seeders.count());
    }
    for (node, known) in ledger.nodes.iter().enumerate() {
        assert_eq!(known.fetches, fetches[node]);
        assert_eq!(known.takes, takes[node]);
        assert_eq!(known.uploading.len(), uploads[node]);
        assert!(known.fetches <= settings.fetches_per_node);
        assert!(known.takes <= settings.takes_per_node);
        assert!(known.uploading.len() <= settings.uploads_per_node as usize);
    }
    for (id, endpoint) in ledger.endpoints.iter().enumerate() {
        assert_eq!(endpoint.fetches, endpoints[id]);
        assert_eq!(endpoint.slow, slow_fetches[id]);
    }
    assert_eq!(ledger.fetches, fetches.iter().sum::<u32>());
    assert!(ledger.fetches <= settings.fetches);
}
