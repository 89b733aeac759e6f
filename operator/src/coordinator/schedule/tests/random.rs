//! Everybody becomes whole in every world.

use proptest::prelude::*;

use super::super::simulation::{Character, Fault, Outcome, Simulation, World};
use super::super::{Settings, SourcePolicy};
use crate::properties::cases;

fn fault(nodes: usize) -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..nodes).prop_map(Fault::Cut),
        (0..nodes).prop_map(Fault::Kill),
        (0..nodes).prop_map(Fault::Wipe),
        (0..nodes).prop_map(Fault::Die),
        (1_u64..60_000).prop_map(Fault::HubDown),
        (1_u64..60_000).prop_map(Fault::HubLimits),
        (1_u64..20_000).prop_map(Fault::HubLies),
        Just(Fault::Restart),
        (0..nodes).prop_map(Fault::Rot),
    ]
}

fn character() -> impl Strategy<Value = Character> {
    prop_oneof![
        6 => Just(Character::Honest),
        1 => Just(Character::Cutoff),
        1 => Just(Character::Mute),
        1 => Just(Character::Poisoner),
        1 => Just(Character::Sly),
        1 => Just(Character::Forger),
    ]
}

prop_compose! {
    /// Worlds in which the first node is honest, reaches the hub and always comes back, so that everybody can become whole.
    fn worlds()(nodes in 1_usize..9)(
        seed in any::<u64>(),
        segments in 0_u32..70,
        blob in 1_u32..8,
        others in prop::collection::vec((0_u64..20_000, prop::bool::weighted(0.1), character()), nodes - 1),
        first in 0_u64..3_000,
        faults in prop::collection::vec((0_u64..40_000, fault(nodes)), 0..12),
        failing in prop_oneof![Just(0_u64), 1_u64..40],
        latency in prop_oneof![Just(0_u64), 1_u64..200],
        wanted_at in prop_oneof![Just(0_u64), 0_u64..10_000],
        grace in prop_oneof![Just(0_u64), Just(6_000)],
        (fetches_per_node, fetches) in (1_u32..4, 1_u32..20),
        (takes_per_node, uploads_per_node) in (1_u32..10, 1_u32..18),
        (one_step, uploads_per_segment, first_copies_per_node) in (1_usize..8, 1_usize..4, 1_usize..5),
    ) -> World {
        let mut nodes = vec![(first, false, Character::Honest)];
        // Who spoils data has none that is right, and is not full.
        nodes.extend(others.into_iter().map(|(start, full, character)| {
            (start, full && !character.may_want_forever(), character)
        }));
        World {
            seed, segments, blob, nodes, failing, latency, wanted_at,
            faults: faults.into_iter().filter(|(_, fault)| !matches!(fault, Fault::Die(0))).collect(),
            settings: Settings {
                fetches_per_node, fetches, takes_per_node, one_step, uploads_per_segment, uploads_per_node,
                first_copies_per_node, grace,
                ..Settings::default()
            },
            ..World::default()
        }
    }
}

/// Runs a world that must end, and says which one it was if it does not.
fn ends(world: &World) -> Result<Outcome, TestCaseError> {
    let outcome = Simulation::run(world.clone());
    prop_assert!(
        outcome.finished,
        "with {:?} the world {world:?} does not end: {}",
        cases(1).rng_seed,
        outcome.stuck
    );
    Ok(outcome)
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn everybody_becomes_whole_whatever_happens(world in worlds()) {
        ends(&world)?;
    }

    #[test]
    fn one_liar_brings_nobody_else_into_discredit(mut world in worlds()) {
        world.faults.retain(|(_, fault)| !matches!(fault, Fault::HubLies(_)));
        let liars = world.nodes.iter_mut().filter(|node| node.2.may_want_forever());
        liars.skip(1).for_each(|node| node.2 = Character::Honest);
        let distrusted = ends(&world)?.distrusted;
        let honest = distrusted.iter().filter(|node| !world.nodes[**node].2.may_want_forever());
        prop_assert_eq!(honest.count(), 0, "{:?} in {:?}", distrusted, world);
    }

    #[test]
    fn everybody_becomes_whole_from_a_holder_that_stays(mut world in worlds()) {
        world.policy = SourcePolicy::PeersOnly;
        world.nodes[0].1 = true;
        world.faults.retain(|(_, fault)| !matches!(fault, Fault::Wipe(0) | Fault::Rot(0)));
        prop_assert_eq!(ends(&world)?.fetches, 0);
    }

    #[test]
    fn everybody_becomes_whole_from_the_hub_alone(mut world in worlds()) {
        world.policy = SourcePolicy::OriginOnly;
        world.nodes.iter_mut().filter(|node| node.2 == Character::Cutoff).for_each(|node| node.2 = Character::Honest);
        prop_assert_eq!(ends(&world)?.takes, 0);
    }
}
