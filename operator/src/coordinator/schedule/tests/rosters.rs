//! What agents are told for the time when there is no coordinator.

use modelcache_swarm::coordination::{CoordinatorMessage, MAX_MEMBERS};

use super::super::Outgoing;
use super::super::roster::SETTLE;
use super::super::simulation::{NAME, node_name};
use super::bench::{Bench, access, held, snapshot};

/// Who was told how many members, and who was told the way to the hub.
fn told(outgoing: &Outgoing) -> Vec<(String, Option<usize>)> {
    let one = |(node, message): &(String, CoordinatorMessage)| match message {
        CoordinatorMessage::Members { members, .. } => Some((node.clone(), Some(members.len()))),
        CoordinatorMessage::Origin { .. } => Some((node.clone(), None)),
        _ => None,
    };
    outgoing.iter().filter_map(one).collect()
}

fn after(bench: &mut Bench, time: u64) -> Vec<(String, Option<usize>)> {
    bench.now += time;
    told(&bench.schedule.tick(bench.now))
}

/// Two nodes, the first of which holds everything.
fn two() -> Bench {
    let mut bench = Bench::new(2);
    bench.join(0, 2, vec![held(0, 1, true), held(1, 1, true)]);
    bench.join(1, 2, vec![]);
    bench
}

#[test]
fn a_list_that_has_settled_is_told_once_to_those_who_miss_something() {
    let mut bench = two();
    assert!(after(&mut bench, 10).is_empty());
    assert_eq!(after(&mut bench, SETTLE), [(node_name(1), Some(2))]);
    assert!(after(&mut bench, SETTLE).is_empty());
    // Who comes later is told what the others know, and then the new list with them.
    bench.join(2, 2, vec![]);
    assert_eq!(after(&mut bench, 10), [(node_name(2), Some(2))]);
    assert_eq!(
        after(&mut bench, SETTLE),
        [(node_name(1), Some(3)), (node_name(2), Some(3))]
    );
}

#[test]
fn the_way_to_a_public_hub_is_told_to_all_and_a_token_only_to_those_that_fetch() {
    for (token, expected) in [(None, 1), (Some("secret"), 0)] {
        let mut bench = Bench::new(2);
        let mut one = snapshot(NAME, 2);
        one.access = access("one");
        one.access.token = token.map(str::to_owned);
        bench.schedule.set_snapshots(vec![one], 0);
        bench.join(0, 2, vec![held(0, 1, true), held(1, 1, true)]);
        bench.join(1, 2, vec![]);
        after(&mut bench, 10);
        let told = after(&mut bench, SETTLE);
        let origins = told.iter().filter(|(_, members)| members.is_none());
        assert_eq!(origins.count(), expected);
    }
}

#[test]
fn a_list_that_shrinks_while_all_connections_break_is_not_told() {
    let mut bench = two();
    for node in 2..6 {
        bench.join(node, 2, vec![]);
    }
    after(&mut bench, 10);
    assert_eq!(after(&mut bench, SETTLE).len(), 5);
    for node in 2..6 {
        bench.schedule.agent_gone(&node_name(node), bench.now);
        assert!(after(&mut bench, 250).is_empty());
    }
}

#[test]
fn a_large_cluster_is_told_of_the_first() {
    let mut bench = Bench::new(1);
    for node in 0..MAX_MEMBERS + 10 {
        bench.join(node, 1, vec![]);
    }
    after(&mut bench, 10);
    let told = after(&mut bench, SETTLE);
    assert_eq!(told.len(), MAX_MEMBERS + 10);
    assert!(
        told.iter()
            .all(|(_, members)| *members == Some(MAX_MEMBERS))
    );
}
