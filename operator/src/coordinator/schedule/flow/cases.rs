//! The laboratory's cases: how near the plan comes to the bound, which is the time that one copy takes on the narrowest
//! link, counted without headers. With them nothing is below 1.046.

use super::{Joins, Outcome, Run, World, megabits};

/// Plays a case whose narrowest link has so many megabits a second. It may take and send so much, in thousandths of the
/// bound and of one copy.
fn within(world: &World, narrowest: u64, most_time: u64, most_copies: u32) -> Outcome {
    let outcome = Run::play(world.clone());
    let bytes = u64::from(world.segments) * world.segment_bytes;
    let time = outcome.last() * narrowest * 125_000 / bytes;
    let sent = if world.hub.is_some() {
        outcome.fetched
    } else {
        outcome.given[0]
    };
    let copies = sent * 1000 / world.segments;
    println!(
        "{time} ‰ of the bound, {copies} ‰ of a copy; the median node ends at {} ms, the last at {} ms; {} segments ahead of the order on average",
        outcome.median(),
        outcome.last(),
        outcome.mean_ahead()
    );
    assert!(time <= most_time, "{time} ‰ of the bound");
    assert!(copies <= most_copies, "{copies} ‰ of a copy");
    outcome
}

/// Those of its nodes that hold nothing at first are the later ones.
fn nodes(full: usize, empty: usize) -> Vec<Joins> {
    let mut nodes = vec![Joins::Full; full];
    nodes.resize(full + empty, Joins::Empty);
    nodes
}

#[test]
fn cold() {
    let outcome = within(&World::default(), 160, 1120, 1000);
    // Nodes hash files from their beginning.
    assert!(outcome.mean_ahead() <= 8, "{}", outcome.mean_ahead());
    let (least, most) = (
        outcome.fetched_by.iter().min(),
        outcome.fetched_by.iter().max(),
    );
    assert!(
        least.unwrap() + 24 >= *most.unwrap(),
        "{:?}",
        outcome.fetched_by
    );
}

#[test]
fn cold_with_slow_starts_of_transfers() {
    let world = World {
        start: 20,
        ..World::default()
    };
    within(&world, 160, 1140, 1000);
}

#[test]
fn cold_own_egress() {
    let world = World {
        hub: Some(megabits(100_000)),
        egress: Some(megabits(20)),
        link: megabits(400),
        ..World::default()
    };
    within(&world, 160, 1150, 1000);
}

#[test]
fn cold_fast_hub() {
    let hub = Some(megabits(640));
    within(
        &World {
            hub,
            ..World::default()
        },
        160,
        1100,
        1000,
    );
}

#[test]
fn cold_fast_hub_with_slow_connections() {
    let world = World {
        hub: Some(megabits(640)),
        connection: megabits(20),
        ..World::default()
    };
    within(&world, 160, 1160, 1000);
}

#[test]
fn cold_slow_hub() {
    let world = World {
        hub: Some(megabits(40)),
        segment_bytes: 256 << 10,
        ..World::default()
    };
    within(&world, 40, 1080, 1000);
}

#[test]
fn a_hub_that_becomes_slow() {
    let world = World {
        change: Some((5_000, megabits(40))),
        ..World::default()
    };
    // Half of the model at each rate.
    within(&world, 64, 1130, 1000);
}

#[test]
fn grow() {
    let world = World {
        hub: None,
        nodes: nodes(1, 8),
        ..World::default()
    };
    within(&world, 160, 1130, 1000);
}

#[test]
fn grow_by_a_small_model() {
    let world = World {
        hub: None,
        segments: 96,
        segment_bytes: 256 << 10,
        nodes: nodes(1, 8),
        ..World::default()
    };
    let outcome = within(&world, 160, 1350, 1050);
    let most = outcome.given[1..].iter().max();
    assert!(most.is_some_and(|most| *most <= 150), "{:?}", outcome.given);
}

#[test]
fn where_most_are_full_all_of_them_give() {
    let world = World {
        hub: None,
        nodes: nodes(7, 1),
        ..World::default()
    };
    within(&world, 160, 1110, 200);
    let nodes = nodes(4, 4);
    within(&World { nodes, ..world }, 160, 1110, 1000);
}

#[test]
fn join_late() {
    let mut world = World::default();
    world.nodes[4..].fill(Joins::HalfWay);
    within(&world, 160, 1180, 1000);
}

/// The laboratory's `many`.
fn sixty_four() -> World {
    World {
        nodes: nodes(0, 64),
        segments: 256,
        segment_bytes: 256 << 10,
        hub: Some(megabits(12)),
        link: megabits(12),
        ..World::default()
    }
}

#[test]
fn many() {
    let outcome = within(&sixty_four(), 12, 1220, 1000);
    assert!(outcome.last() * 10 <= outcome.median() * 12);
}

/// What traces of the laboratory show where links are slow and their queues full: a round trip before a transfer, and a message
/// that waits in such a queue too.
#[test]
fn many_through_full_queues() {
    let world = World {
        start: 125,
        latency: 80,
        commit: 20,
        ..sixty_four()
    };
    within(&world, 12, 1265, 1000);
}

#[test]
fn fetches_that_get_little_of_their_nodes_links() {
    let fast = World {
        hub: Some(megabits(640)),
        fetch_share: 2,
        ..World::default()
    };
    within(&fast, 160, 1110, 1000);
    let many = World {
        fetch_share: 2,
        ..sixty_four()
    };
    within(&many, 12, 1270, 1000);
}

#[test]
fn large_segments_on_fast_links() {
    let world = World {
        hub: Some(megabits(10_000)),
        link: megabits(10_000),
        connection: megabits(3_000),
        segments: 512,
        segment_bytes: 64 << 20,
        ..World::default()
    };
    within(&world, 10_000, 1100, 1000);
}
