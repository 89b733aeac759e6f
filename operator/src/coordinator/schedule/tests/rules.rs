//! The rules of the schedule, one by one.

use modelcache_swarm::coordination::AgentMessage;

use super::super::simulation::{NAME, node_name};
use super::super::{Outgoing, Schedule, Settings, SourcePolicy};
use super::bench::{Bench, access, brief, held, snapshot};

#[test]
fn the_way_to_the_hub_is_told_before_the_first_fetch_and_when_it_changes() {
    let mut bench = Bench::new(4);
    assert_eq!(
        brief(&bench.join(0, 4, vec![])),
        ["0 origin one", "0 fetch 0"]
    );
    assert_eq!(
        brief(&bench.have(0, held(0, 1, false))),
        ["0 fetch 1", "0 fetch 2"]
    );
    let mut changed = snapshot(NAME, 4);
    changed.access = access("two");
    let outgoing = bench
        .schedule
        .set_snapshots(vec![changed.clone()], bench.now);
    assert_eq!(brief(&outgoing), ["0 origin two"]);
    assert!(
        bench
            .schedule
            .set_snapshots(vec![changed], bench.now)
            .is_empty()
    );
}

#[test]
fn segments_are_fetched_in_the_order_of_the_plan_by_one_node_each() {
    let mut bench = Bench::new(100);
    bench.schedule.set_snapshots(vec![], 0);
    for node in 0..4 {
        assert!(bench.join(node, 100, vec![]).is_empty());
    }
    let mut orders = brief(&bench.schedule.set_snapshots(vec![snapshot(NAME, 100)], 0));
    orders.retain(|order| order.contains("fetch"));
    assert_eq!(orders, ["0 fetch 0", "1 fetch 1"]);
}

#[test]
fn a_node_that_fetches_well_fetches_more() {
    let mut bench = Bench::new(100);
    assert_eq!(
        brief(&bench.join(0, 100, vec![])),
        ["0 origin one", "0 fetch 0"]
    );
    assert_eq!(
        brief(&bench.have(0, held(0, 1, false))),
        ["0 fetch 1", "0 fetch 2"]
    );
}

#[test]
fn a_node_that_fetches_one_snapshot_begins_with_another() {
    let mut bench = Bench::new(8);
    let other = snapshot("other", 8);
    bench
        .schedule
        .set_snapshots(vec![snapshot(NAME, 8), other], 0);
    assert_eq!(
        brief(&bench.join(0, 8, vec![])),
        ["0 origin one", "0 fetch 0"]
    );
    let track = AgentMessage::Track {
        snapshot: "other".to_owned(),
        segments: 8,
        held: vec![],
    };
    assert_eq!(brief(&bench.say(0, track)), ["0 origin one", "0 fetch 0"]);
}

#[test]
fn nodes_that_hang_do_not_keep_the_others_from_the_hub() {
    let mut bench = Bench::new(100);
    for node in 0..5 {
        bench.join(node, 100, vec![]);
    }
    // Two of them were told to fetch, and never answer.
    assert!(bench.wait(19_900).is_empty());
    assert_eq!(
        brief(&bench.wait(100)),
        ["2 origin one", "2 fetch 2", "3 origin one", "3 fetch 3"]
    );
}

#[test]
fn takes_follow_the_order_of_the_plan() {
    let mut bench = Bench::new(100);
    bench.join(0, 100, (0..100).map(|n| held(n, 1, true)).collect());
    let orders = brief(&bench.join(1, 100, vec![]));
    let expected: Vec<String> = (0..4).map(|n| format!("1 take {n} from 0")).collect();
    assert_eq!(orders, expected);
    // With others beside it a node brings less.
    let orders = brief(&bench.join(2, 100, vec![]));
    let expected: Vec<String> = (4..6).map(|n| format!("2 take {n} from 0")).collect();
    assert_eq!(orders, expected);
}

#[test]
fn a_lone_seeder_gives_what_only_it_can_give() {
    let mut bench = Bench::new(2);
    bench.join(0, 2, vec![held(0, 1, true), held(1, 1, true)]);
    bench.join(1, 2, vec![]);
    bench.have(1, held(0, 1, true));
    let says = |orders: Vec<String>, order: &str| orders.iter().any(|one| one == order);
    // Node 1 has seven others to give it to; when there are more than eight, four at once are the most.
    for node in 2..9 {
        let orders = brief(&bench.join(node, 2, vec![]));
        assert!(says(orders, &format!("{node} take 0 from 1")));
    }
    // No more at once from there, unless it turns out to be slow, or unable.
    for node in 10..12 {
        assert!(bench.join(node, 2, vec![]).is_empty());
    }
    let orders = brief(&bench.take_failed(10, 0, 1));
    assert!(says(orders, "10 take 0 from 0"));
    assert!(bench.wait(9_900).is_empty());
    assert!(says(brief(&bench.wait(100)), "11 take 0 from 0"));
}

/// A cluster of so many in which one node was the first to bring one of two segments, and who is told to take it.
fn brought_by_one(members: usize) -> (Bench, Vec<String>) {
    let mut bench = Bench::new(2);
    for node in 0..members {
        bench.join(node, 2, vec![]);
    }
    let orders = takes(&bench.have(0, held(0, 1, false)));
    (bench, orders)
}

fn takes(outgoing: &Outgoing) -> Vec<String> {
    let mut orders = brief(outgoing);
    orders.retain(|order| order.ends_with("take 0 from 0"));
    orders.sort();
    orders
}

#[test]
fn one_step_serves_a_small_cluster_and_several_short_ones_a_larger() {
    for (members, at_once) in [(5, 4), (9, 8), (10, 4), (64, 4)] {
        assert_eq!(brought_by_one(members).1.len(), at_once, "of {members}");
    }
}

#[test]
fn a_cluster_that_becomes_small_is_served_in_one_step_from_then_on() {
    let (mut bench, first) = brought_by_one(10);
    let others = |node: &usize| !first.contains(&format!("{node} take 0 from 0"));
    let waiting: Vec<usize> = (1..10).filter(others).collect();
    let gone = bench.schedule.agent_gone(&node_name(waiting[0]), bench.now);
    let told = waiting[1..].iter().take(4);
    let told: Vec<String> = told.map(|node| format!("{node} take 0 from 0")).collect();
    // Eight less the four that it gives to already.
    assert_eq!(takes(&gone), told);
}

#[test]
fn a_lone_seeder_is_not_spared_for_somebody_whose_bytes_are_others() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![held(0, 1, true)]);
    bench.join(1, 1, vec![]);
    bench.have(1, held(0, 2, false));
    assert_eq!(brief(&bench.join(2, 1, vec![])), ["2 take 0 from 0"]);
}

#[test]
fn an_agent_that_comes_back_without_the_segment_is_given_it_anew() {
    let mut bench = Bench::new(1);
    assert_eq!(
        brief(&bench.join(0, 1, vec![])),
        ["0 origin one", "0 fetch 0"]
    );
    // Its connection was replaced before the old one was seen to break.
    assert_eq!(
        brief(&bench.join(0, 1, vec![])),
        ["0 origin one", "0 fetch 0"]
    );
    assert!(
        bench
            .schedule
            .agent_gone(&node_name(0), bench.now)
            .is_empty()
    );
    assert_eq!(
        brief(&bench.join(1, 1, vec![])),
        ["1 origin one", "1 fetch 0"]
    );
}

#[test]
fn saying_track_again_repeats_the_open_orders() {
    let mut bench = Bench::new(3);
    bench.join(0, 3, vec![held(0, 1, true)]);
    bench.join(1, 3, vec![]);
    let outgoing = bench.track(1, 3, vec![]);
    assert_eq!(
        brief(&outgoing),
        ["1 take 0 from 0", "1 origin one", "1 fetch 2"]
    );
    let outgoing = bench.track(0, 3, vec![held(0, 1, true)]);
    assert_eq!(brief(&outgoing), ["0 origin one", "0 fetch 1"]);
}

#[test]
fn only_the_node_that_failed_waits_but_a_second_failure_elsewhere_makes_the_segment_wait() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![]);
    bench.join(1, 1, vec![]);
    bench.wait(10);
    assert_eq!(
        brief(&bench.fetch_failed(0, 0, false, None)),
        ["1 origin one", "1 fetch 0"]
    );
    bench.wait(10);
    assert!(bench.fetch_failed(1, 0, false, None).is_empty());
    assert!(bench.wait(900).is_empty());
    assert!(brief(&bench.wait(1_200))[0].contains("fetch 0"));
}

#[test]
fn a_rate_limit_stops_every_fetch_at_that_hub_and_then_one_probes() {
    let mut bench = Bench::new(8);
    let other = snapshot("other", 8);
    bench
        .schedule
        .set_snapshots(vec![snapshot(NAME, 8), other], 0);
    bench.join(0, 8, vec![]);
    bench.join(1, 8, vec![]);
    bench.say(
        0,
        AgentMessage::Track {
            snapshot: "other".to_owned(),
            segments: 8,
            held: vec![],
        },
    );
    bench.wait(10);
    assert!(bench.fetch_failed(0, 0, true, Some(20)).is_empty());
    // Takes go on.
    assert_eq!(
        brief(&bench.have(0, held(7, 1, false))),
        ["1 take 7 from 0"]
    );
    let first: Vec<u32> = (0..8)
        .filter(|n| bench.schedule.ledger.snaps[0].fetching.has(*n))
        .collect();
    assert_eq!(first.len(), 1);
    for index in first {
        let node = usize::from(
            !bench.schedule.ledger.snaps[0].members[&0]
                .open
                .contains_key(&index),
        );
        assert!(bench.fetch_failed(node, index, true, None).is_empty());
    }
    assert!(bench.wait(19_000).is_empty());
    let probe = brief(&bench.wait(1_100));
    assert_eq!(
        probe.iter().filter(|order| order.contains("fetch")).count(),
        1,
        "{probe:?}"
    );
    let words: Vec<usize> = probe
        .last()
        .unwrap()
        .split(' ')
        .filter_map(|w| w.parse().ok())
        .collect();
    let more = brief(&bench.have(words[0], held(u32::try_from(words[1]).unwrap(), 1, false)));
    assert!(
        more.iter().filter(|order| order.contains("fetch")).count() > 1,
        "{more:?}"
    );
}

#[test]
fn a_failed_take_is_tried_elsewhere_and_then_at_the_hub() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![held(0, 1, true)]);
    bench.join(1, 1, vec![held(0, 1, true)]);
    let outgoing = brief(&bench.join(2, 1, vec![]));
    let first = usize::from(outgoing == ["2 take 0 from 1"]);
    let second = 1 - first;
    let again = brief(&bench.take_failed(2, 0, first));
    assert_eq!(again, [format!("2 take 0 from {second}")]);
    assert_eq!(
        brief(&bench.take_failed(2, 0, second)),
        ["2 origin one", "2 fetch 0"]
    );
}

#[test]
fn peers_only_waits_and_asks_the_same_holder_again() {
    let mut bench = Bench::new(1);
    let mut peers = snapshot(NAME, 1);
    peers.policy = SourcePolicy::PeersOnly;
    bench.schedule.set_snapshots(vec![peers], 0);
    assert!(bench.join(1, 1, vec![]).is_empty());
    assert_eq!(
        brief(&bench.join(0, 1, vec![held(0, 1, true)])),
        ["1 take 0 from 0"]
    );
    assert!(bench.take_failed(1, 0, 0).is_empty());
    assert!(bench.wait(9_000).is_empty());
    assert_eq!(brief(&bench.wait(1_001)), ["1 take 0 from 0"]);
    bench.take_failed(1, 0, 0);
    assert!(bench.wait(19_000).is_empty());
    assert_eq!(brief(&bench.wait(1_001)), ["1 take 0 from 0"]);
}

#[test]
fn a_holder_that_several_nodes_failed_at_is_asked_last() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![held(0, 1, true)]);
    for node in 1..4 {
        bench.join(node, 1, vec![]);
        bench.take_failed(node, 0, 0);
        bench.schedule.agent_gone(&node_name(node), bench.now);
    }
    bench.join(9, 1, vec![held(0, 1, true)]);
    for node in 10..17 {
        assert_eq!(
            brief(&bench.join(node, 1, vec![])),
            [format!("{node} take 0 from 9")]
        );
    }
    assert_eq!(brief(&bench.join(18, 1, vec![])), ["18 take 0 from 0"]);
}

#[test]
fn the_first_copy_goes_to_one_node_unless_that_is_slow() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![held(0, 1, true)]);
    assert_eq!(brief(&bench.join(1, 1, vec![])), ["1 take 0 from 0"]);
    assert!(bench.join(2, 1, vec![]).is_empty());
    assert!(bench.wait(9_000).is_empty());
    assert_eq!(brief(&bench.wait(1_001)), ["2 take 0 from 0"]);
}

#[test]
fn an_order_without_an_answer_is_given_anew() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![]);
    bench.join(1, 1, vec![]);
    assert!(bench.wait(599_000).is_empty());
    assert_eq!(brief(&bench.wait(1_001)), ["1 origin one", "1 fetch 0"]);
}

#[test]
fn what_a_lost_node_held_is_fetched_anew_after_a_grace_time() {
    let mut bench = Bench::new(1);
    bench.schedule = Schedule::new(Settings::default());
    bench.schedule.set_snapshots(vec![snapshot(NAME, 1)], 0);
    bench.join(0, 1, vec![held(0, 1, true)]);
    bench.wait(7_000);
    assert_eq!(brief(&bench.join(1, 1, vec![])), ["1 take 0 from 0"]);
    assert!(
        bench
            .schedule
            .agent_gone(&node_name(0), bench.now)
            .is_empty()
    );
    assert!(bench.take_failed(1, 0, 0).is_empty());
    assert!(bench.wait(5_900).is_empty());
    assert_eq!(brief(&bench.wait(101)), ["1 origin one", "1 fetch 0"]);
}

#[test]
fn an_agent_that_cuts_otherwise_is_left_out() {
    let mut bench = Bench::new(5);
    assert!(bench.join(0, 4, vec![held(0, 1, true)]).is_empty());
    assert_eq!(
        brief(&bench.join(1, 5, vec![])),
        ["1 origin one", "1 fetch 0"]
    );
    assert!(bench.have(0, held(9, 1, true)).is_empty());
    assert!(bench.have(1, held(9, 1, true)).is_empty());
}

#[test]
fn a_snapshot_that_is_not_wanted_rests_and_goes_on_when_it_is_wanted_again() {
    let mut bench = Bench::new(3);
    bench.join(0, 3, vec![held(0, 1, true)]);
    assert!(bench.schedule.set_snapshots(vec![], 0).is_empty());
    assert!(bench.join(1, 3, vec![]).is_empty());
    let outgoing = bench.schedule.set_snapshots(vec![snapshot(NAME, 3)], 0);
    let mut orders = brief(&outgoing);
    orders.retain(|order| order.contains("take"));
    assert_eq!(orders, ["1 take 0 from 0"]);
    for node in 0..2 {
        let snapshot = NAME.to_owned();
        bench.say(node, AgentMessage::Untrack { snapshot });
    }
    bench.schedule.set_snapshots(vec![], 0);
    assert!(
        bench.schedule.ledger.snap(NAME).is_none(),
        "forgotten when nobody is left"
    );
}
