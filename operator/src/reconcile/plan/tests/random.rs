//! Random pools and nodes.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(crate::properties::cases(256))]

    /// Whatever the labels and pools are: a node holds the models of the first pool that selects it and no others, and
    /// a pass over what the plan made changes nothing any more.
    #[test]
    fn every_node_holds_what_its_first_pool_says(
        labels in prop::collection::vec(0_u8..4, 1..8),
        pools in prop::collection::vec((0_u8..4, prop::bool::ANY, prop::bool::ANY), 0..4),
    ) {
        let mut scene = Scene::default().known("acme/big", "big-1").known("acme/small", "small-1");
        for (number, label) in labels.iter().enumerate() {
            scene = scene.node(&format!("n{number}"), &[&format!("kind=k{label}")]);
        }
        let mut spec = "models:\n- {name: big, source: {huggingFace: {repository: acme/big}}}\n- {name: small, source: {huggingFace: {repository: acme/small}}}\nnodePools:\n".to_owned();
        for (number, (label, not, both)) in pools.iter().enumerate() {
            let operator = if *not { "NotIn" } else { "In" };
            let models = if *both { "[]" } else { "[small]" };
            writeln!(
                spec,
                "- {{name: p{number}, models: {models}, nodeSelector: {{matchExpressions: [{{key: kind, operator: {operator}, values: [k{label}]}}]}}}}"
            )
            .unwrap();
        }
        if pools.is_empty() {
            spec.push_str("  []\n");
        }
        let scene = scene.cache("one", &spec);
        let (_, plan) = scene.plan();
        for (number, label) in labels.iter().enumerate() {
            let first = pools.iter().find(|(wanted, not, _)| (label == wanted) != *not);
            let expected: &[&str] = match first {
                None if pools.is_empty() => &["big-1", "small-1"],
                None => &[],
                Some((_, _, true)) => &["big-1", "small-1"],
                Some((_, _, false)) => &["small-1"],
            };
            let have = held(&plan).remove(format!("n{number}").as_str()).unwrap_or_default();
            prop_assert_eq!(have, expected);
        }
        // Carried out, the plan is stable.
        let mut after = scene.clone();
        for (node, node_plan) in &plan.nodes {
            for snapshot in &node_plan.snapshots {
                after = after.holds(node, &snapshot.name, &snapshot.models, Phase::Ready, SIZE);
            }
        }
        for node in plan.nodes.keys() {
            let labels = after.plan().1.labels[node].clone();
            for label in labels {
                after = after.labelled(node, &label);
            }
        }
        let (_, again) = after.plan();
        let actions = crate::reconcile::apply::actions(&after.picture, &again);
        prop_assert!(actions.iter().all(Vec::is_empty), "{:?}", actions);
    }
}
