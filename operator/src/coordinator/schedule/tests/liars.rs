//! The rules about wrong bytes, one by one.

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage};

use super::super::simulation::{Fault, NAME, Simulation, World};
use super::super::{Outgoing, SourcePolicy};
use super::bench::{Bench, brief, held, snapshot};

#[test]
fn a_wrong_blob_is_thrown_away_by_all_who_did_not_verify_it_and_fetched_later() {
    let mut bench = Bench::new(2);
    let both = |verified| vec![held(0, 1, verified), held(1, 1, verified)];
    bench.join(0, 2, both(false));
    bench.join(1, 2, both(false));
    assert_eq!(brief(&bench.corrupt(0, vec![0, 1])), ["1 discard [0, 1]"]);
    // The other one found it too; that changes nothing, and neither does what it said before it was told.
    assert!(bench.have(1, held(1, 1, false)).is_empty());
    assert!(bench.corrupt(1, vec![0, 1]).is_empty());
    assert!(bench.track(1, 2, vec![]).is_empty());
    assert!(bench.wait(4_900).is_empty());
    // One node fetches all of it, so that it is known who spoilt it if it is wrong again.
    assert_eq!(
        brief(&bench.wait(200)),
        ["0 origin one", "0 fetch 0", "0 fetch 1"]
    );
    bench.have(0, held(0, 2, false));
    bench.have(0, held(1, 2, false));
    bench.corrupt(0, vec![0, 1]);
    bench.track(1, 2, vec![]);
    assert!(bench.wait(9_900).is_empty());
    let mut orders = brief(&bench.wait(200));
    orders.sort();
    assert_eq!(orders, ["1 fetch 0", "1 fetch 1", "1 origin one"]);
}

#[test]
fn a_verified_holder_stays_one() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![held(0, 1, true)]);
    bench.join(1, 1, vec![held(0, 2, false)]);
    assert_eq!(brief(&bench.corrupt(1, vec![0])), ["1 take 0 from 0"]);
}

/// Node 0 found its only segment wrong twice, which node 1 gave it and says to have verified. From then on it gets it
/// from the hub.
fn found_wrong_twice(bench: &mut Bench) {
    bench.have(0, held(0, 9, false));
    assert_eq!(brief(&bench.corrupt(0, vec![0])), ["0 take 0 from 1"]);
    assert!(bench.wait(10).is_empty());
    bench.have(0, held(0, 9, false));
    assert!(bench.corrupt(0, vec![0]).is_empty());
}

#[test]
fn a_hub_that_was_down_is_asked_again_before_liars_are() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![]);
    for wait in [1_000, 2_000, 4_000] {
        bench.wait(10);
        assert!(bench.fetch_failed(0, 0, true, None).is_empty());
        assert_eq!(brief(&bench.wait(wait)), ["0 fetch 0"]);
    }
    bench.wait(10);
    bench.fetch_failed(0, 0, true, Some(10));
    assert_eq!(
        brief(&bench.join(1, 1, vec![held(0, 9, true)])),
        ["0 take 0 from 1"]
    );
    found_wrong_twice(&mut bench);
    assert!(bench.wait(9_900).is_empty());
    assert_eq!(brief(&bench.wait(200)), ["0 fetch 0"]);
}

#[test]
fn a_node_that_rests_may_find_out_that_the_hub_is_back() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![]);
    bench.wait(10);
    bench.fetch_failed(0, 0, true, Some(5));
    bench.join(1, 1, vec![held(0, 9, true)]);
    found_wrong_twice(&mut bench);
    assert!(bench.wait(4_900).is_empty());
    assert_eq!(brief(&bench.wait(101)), ["0 fetch 0"]);
}

#[test]
fn one_failed_fetch_sends_nobody_back_to_a_liar() {
    let mut bench = Bench::new(1);
    bench.join(1, 1, vec![held(0, 9, true)]);
    bench.join(0, 1, vec![]);
    found_wrong_twice(&mut bench);
    assert_eq!(brief(&bench.wait(10_000)), ["0 origin one", "0 fetch 0"]);
    bench.wait(10);
    assert!(bench.fetch_failed(0, 0, false, None).is_empty());
    assert_eq!(brief(&bench.wait(1_000)), ["0 fetch 0"]);
}

#[test]
fn what_others_find_wrong_keeps_nobody_from_the_hub_for_long() {
    let mut bench = Bench::new(1);
    bench.join(1, 1, vec![held(0, 9, true)]);
    bench.join(0, 1, vec![]);
    found_wrong_twice(&mut bench);
    bench.wait(9_000);
    // These hold back what nobody has yet, and the finder would be the one to fetch it.
    for finder in 2..4 {
        bench.join(finder, 1, vec![held(0, 9, false)]);
        bench.corrupt(finder, vec![0]);
    }
    assert_eq!(brief(&bench.wait(1_000)), ["0 origin one", "0 fetch 0"]);
}

#[test]
fn all_of_a_wrong_blob_is_taken_from_one_node_and_then_from_another() {
    let mut bench = Bench::new(4);
    let mut peers = snapshot(NAME, 4);
    peers.policy = SourcePolicy::PeersOnly;
    bench.schedule.set_snapshots(vec![peers], 0);
    let all = |flavour, verified| (0..4).map(|n| held(n, flavour, verified)).collect();
    for node in 1..4 {
        bench.join(node, 4, all(u8::try_from(node).unwrap(), true));
    }
    bench.join(0, 4, all(9, false));
    let givers = |orders: &[String]| -> Vec<String> {
        let giver = |order: &String| order.split(" from ").nth(1).unwrap().to_owned();
        orders.iter().map(giver).collect()
    };
    let mut tried = Vec::new();
    let mut orders = brief(&bench.corrupt(0, vec![0, 1, 2, 3]));
    for rest in [10_000, 20_000, 40_000] {
        let giver = givers(&orders)[0].clone();
        assert_eq!(givers(&orders), vec![giver.clone(); 4], "{orders:?}");
        tried.push(giver.clone());
        // A transfer that fails does not make another node spoil the blob.
        assert!(bench.take_failed(0, 2, giver.parse().unwrap()).is_empty());
        assert_eq!(
            brief(&bench.wait(10_000)),
            [format!("0 take 2 from {giver}")]
        );
        for index in 0..4 {
            bench.have(0, held(index, 9, false));
        }
        assert!(bench.corrupt(0, vec![0, 1, 2, 3]).is_empty());
        assert!(bench.wait(rest - 100).is_empty());
        orders = brief(&bench.wait(100));
    }
    tried.sort();
    assert_eq!(tried, ["1", "2", "3"]);
}

#[test]
fn who_finds_a_blob_wrong_again_and_again_spoils_it_for_nobody_else() {
    let mut bench = Bench::new(2);
    let both = |flavour, verified| vec![held(0, flavour, verified), held(1, flavour, verified)];
    bench.join(1, 2, both(9, true));
    bench.join(0, 2, both(9, false));
    bench.corrupt(0, vec![0, 1]);
    for index in 0..2 {
        bench.have(0, held(index, 9, false));
    }
    // This one had not the time to verify what it has from the hub.
    bench.join(2, 2, vec![held(0, 9, false)]);
    bench.wait(10);
    let orders = brief(&bench.corrupt(0, vec![0, 1]));
    assert!(
        !orders.iter().any(|order| order.contains("discard")),
        "{orders:?}"
    );
}

#[test]
fn a_node_without_a_way_to_the_hub_is_not_the_only_one_to_try_it() {
    let mut bench = Bench::new(20);
    bench.join(0, 20, vec![]);
    bench.join(1, 20, vec![]);
    let fetching = |bench: &Bench, node: usize| -> Vec<u32> {
        let snap = &bench.schedule.ledger.snaps[0];
        snap.members[&node].open.keys().copied().collect()
    };
    // Node 1 fetches, node 0 does not get anything.
    for _ in 0..5 {
        let index = fetching(&bench, 1)[0];
        bench.have(1, held(index, 1, true));
        let takes = fetching(&bench, 0);
        for index in takes.into_iter().filter(|n| *n == index) {
            bench.take_failed(0, index, 1);
        }
    }
    bench.wait(10);
    for node in [0, 1] {
        for index in fetching(&bench, node) {
            bench.fetch_failed(node, index, false, None);
        }
    }
    let mut probes = Vec::new();
    for _ in 0..2 {
        let orders = brief(&bench.wait(5_000));
        let probe = orders.iter().find(|order| order.contains("fetch")).unwrap();
        let words: Vec<usize> = probe.split(' ').filter_map(|w| w.parse().ok()).collect();
        probes.push(words[0]);
        bench.wait(10);
        let index = u32::try_from(words[1]).unwrap();
        bench.fetch_failed(words[0], index, false, None);
    }
    probes.sort_unstable();
    assert_eq!(probes, [0, 1]);
}

#[test]
fn a_hub_that_serves_wrong_bytes_is_asked_less_and_less() {
    for policy in [SourcePolicy::PeersFirst, SourcePolicy::OriginOnly] {
        let outcome = Simulation::run(World {
            policy,
            segments: 10,
            blob: 5,
            faults: vec![(0, Fault::HubLies(3_600_000))],
            ..World::default()
        });
        assert!(outcome.finished, "{}", outcome.stuck);
        // Four nodes, each at most what doubling waits of up to five minutes leave in an hour.
        assert!(outcome.fetches < 4 * 10 * 25, "{}", outcome.fetches);
    }
}

#[test]
fn an_agent_that_does_not_answer_a_discard_is_asked_again_after_a_while() {
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![held(0, 1, true)]);
    bench.join(1, 1, vec![held(0, 2, false)]);
    bench.join(2, 1, vec![held(0, 2, false)]);
    assert_eq!(
        brief(&bench.corrupt(1, vec![0])),
        ["2 discard [0]", "1 take 0 from 0"]
    );
    assert!(bench.wait(29_000).is_empty());
    assert_eq!(brief(&bench.wait(1_001)), ["2 take 0 from 0"]);
}

#[test]
fn where_holders_differ_a_verified_one_is_believed_then_the_majority() {
    let hashes = |outgoing: &Outgoing| match &outgoing[0].1 {
        CoordinatorMessage::Take { pieces, .. } => pieces.as_slice()[0][0],
        other => panic!("{other:?}"),
    };
    let mut bench = Bench::new(1);
    bench.join(0, 1, vec![held(0, 1, false)]);
    bench.join(1, 1, vec![held(0, 2, false)]);
    bench.join(2, 1, vec![held(0, 2, false)]);
    assert_eq!(hashes(&bench.join(3, 1, vec![])), 2);
    let (snapshot, segments) = (NAME.to_owned(), vec![0]);
    bench.say(0, AgentMessage::Verified { snapshot, segments });
    assert_eq!(hashes(&bench.join(4, 1, vec![])), 1);
}
