//! The rules about who made wrong bytes, one by one.

use super::super::simulation::node_name;
use super::bench::{Bench, brief, held};

/// Piece hashes of the right bytes, and of wrong ones.
const RIGHT: u8 = 1;
const WRONG: u8 = 9;

fn distrusted(bench: &Bench) -> Vec<String> {
    let ledger = &bench.schedule.ledger;
    let nodes = ledger.snaps[0].distrusted.iter();
    nodes.map(|node| ledger.nodes[*node].name.clone()).collect()
}

fn open(bench: &Bench, node: usize) -> Vec<u32> {
    let ledger = &bench.schedule.ledger;
    let id = ledger.connected(&node_name(node)).unwrap();
    ledger.snaps[0].members[&id].open.keys().copied().collect()
}

/// Node 0 fetched segment 0 of four and spoilt it; nobody else is there yet.
fn spoilt() -> Bench {
    let mut bench = Bench::new(4);
    bench.join(0, 4, vec![]);
    bench.have(0, held(0, WRONG, false));
    bench
}

/// So many others who proved something else of segment 0.
fn prove(bench: &mut Bench, nodes: std::ops::Range<usize>, flavour: u8) {
    for node in nodes {
        bench.join(node, 4, vec![held(0, flavour, true)]);
    }
}

#[test]
fn who_made_what_two_others_proved_to_be_something_else_is_distrusted() {
    let mut bench = spoilt();
    prove(&mut bench, 1..2, RIGHT);
    assert!(
        distrusted(&bench).is_empty(),
        "the word of one is not enough"
    );
    bench.join(3, 4, vec![]);
    prove(&mut bench, 2..3, RIGHT);
    assert_eq!(distrusted(&bench), ["node-000"]);
    assert_eq!(bench.schedule.distrusted(), 1);
}

#[test]
fn it_makes_no_difference_who_says_it_first() {
    let mut bench = Bench::new(4);
    bench.join(0, 4, vec![]);
    assert_eq!(open(&bench, 0), [0]);
    for node in 1..3 {
        bench.join(node, 4, vec![held(0, RIGHT, true)]);
    }
    bench.join(3, 4, vec![]);
    bench.have(0, held(0, WRONG, false));
    assert_eq!(distrusted(&bench), ["node-000"]);
}

#[test]
fn who_passes_on_in_good_faith_is_not_distrusted() {
    let mut bench = spoilt();
    for node in 1..3 {
        bench.join(node, 4, vec![]);
        bench.have(node, held(0, WRONG, false));
    }
    // What one says of itself without having been told to fetch it is no proof either.
    bench.join(3, 4, vec![held(0, 8, false)]);
    prove(&mut bench, 4..7, RIGHT);
    assert_eq!(distrusted(&bench), ["node-000"]);
}

#[test]
fn who_holds_already_what_it_is_to_fetch_did_not_make_it() {
    let mut bench = Bench::new(4);
    bench.join(1, 4, vec![held(0, WRONG, false)]);
    bench.schedule.agent_gone(&node_name(1), bench.now);
    bench.wait(1);
    bench.join(0, 4, vec![]);
    assert!(open(&bench, 0).contains(&0));
    // It took this before the connection of the other one broke.
    bench.have(0, held(0, WRONG, false));
    bench.join(4, 4, vec![]);
    prove(&mut bench, 2..4, RIGHT);
    assert!(distrusted(&bench).is_empty());
}

#[test]
fn liars_need_more_than_those_who_proved_the_opposite() {
    let mut bench = Bench::new(4);
    bench.join(0, 4, vec![]);
    bench.have(0, held(0, RIGHT, false));
    prove(&mut bench, 1..3, RIGHT);
    prove(&mut bench, 3..5, WRONG);
    bench.join(6, 4, vec![]);
    assert!(distrusted(&bench).is_empty());
    // Each of these says something else.
    prove(&mut bench, 7..8, 7);
    prove(&mut bench, 8..9, 8);
    assert!(distrusted(&bench).is_empty());
}

#[test]
fn what_two_got_from_the_hub_is_nobodys_making() {
    let mut bench = spoilt();
    bench.corrupt(0, vec![0, 1, 2, 3]);
    bench.join(1, 4, vec![]);
    bench.schedule.agent_gone(&node_name(0), bench.now);
    bench.wait(20_000);
    assert!(open(&bench, 1).contains(&0));
    bench.have(1, held(0, WRONG, false));
    prove(&mut bench, 2..5, RIGHT);
    assert!(distrusted(&bench).is_empty());
}

#[test]
fn a_distrusted_node_fetches_nothing_for_others_and_they_take_nothing_from_it() {
    let mut bench = spoilt();
    bench.have(0, held(1, RIGHT, false));
    bench.join(3, 4, vec![held(0, WRONG, false)]);
    bench.join(4, 4, vec![held(1, RIGHT, false)]);
    prove(&mut bench, 1..2, RIGHT);
    let orders = brief(&bench.join(2, 4, vec![held(0, RIGHT, true)]));
    assert_eq!(distrusted(&bench), ["node-000"]);
    // What it made and nobody proved is thrown away by those who hold it or are taking it, and fetched by somebody else.
    for discard in ["3 discard [0, 1]", "4 discard [1]"] {
        assert!(orders.iter().any(|order| order == discard), "{orders:?}");
    }
    assert!(
        orders.iter().any(|order| order.ends_with("fetch 1")),
        "{orders:?}"
    );
    let gives_nothing = |orders: Vec<String>| {
        let bad = |order: &String| order.starts_with("0 fetch") || order.ends_with("from 0");
        assert!(!orders.iter().any(bad), "{orders:?}");
    };
    gives_nothing(orders);
    for _ in 0..100 {
        gives_nothing(brief(&bench.wait(1_000)));
    }
    // It stays so when it comes anew, whatever it says.
    bench.schedule.agent_gone(&node_name(0), bench.now);
    let all = (0..4).map(|index| held(index, WRONG, true)).collect();
    gives_nothing(brief(&bench.join(0, 4, all)));
    // It gets what others have.
    bench.schedule.agent_gone(&node_name(0), bench.now);
    let orders = brief(&bench.join(0, 4, vec![]));
    let takes = |order: &String| order.starts_with("0 take 0 from");
    assert!(orders.iter().any(takes), "{orders:?}");
}

#[test]
fn what_a_distrusted_node_finds_wrong_is_its_own_affair() {
    let mut bench = spoilt();
    prove(&mut bench, 1..3, RIGHT);
    bench.join(3, 4, vec![held(2, RIGHT, false)]);
    assert_eq!(distrusted(&bench), ["node-000"]);
    bench.have(0, held(2, RIGHT, false));
    let orders = brief(&bench.corrupt(0, vec![0, 1, 2, 3]));
    assert!(
        !orders.iter().any(|order| order.contains("discard")),
        "{orders:?}"
    );
    assert!(bench.schedule.ledger.snaps[0].reserved.is_empty());
}

#[test]
fn where_most_are_at_odds_with_what_is_proved_nobody_is_distrusted() {
    let mut bench = spoilt();
    prove(&mut bench, 1..3, RIGHT);
    assert_eq!(distrusted(&bench), ["node-000"]);
    bench.have(1, held(1, WRONG, false));
    bench.have(2, held(1, RIGHT, true));
    bench.join(3, 4, vec![held(1, RIGHT, true)]);
    // Node 1 would be the second of four.
    assert_eq!(distrusted(&bench), ["node-000"]);
}

#[test]
fn a_distrusted_node_is_the_last_resort() {
    let mut bench = spoilt();
    prove(&mut bench, 1..3, RIGHT);
    assert_eq!(distrusted(&bench), ["node-000"]);
    bench.wait(10);
    // Nobody else reaches the hub.
    let mut orders = Vec::new();
    for _ in 0..600 {
        for node in 1..3 {
            for index in open(&bench, node) {
                orders.extend(brief(&bench.fetch_failed(node, index, false, None)));
            }
        }
        for index in open(&bench, 0) {
            orders.extend(brief(&bench.have(0, held(index, RIGHT, false))));
        }
        orders.extend(brief(&bench.wait(1_000)));
    }
    assert!(orders.iter().any(|order| order.ends_with("from 0")));
}
