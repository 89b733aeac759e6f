mod random;

use std::sync::Arc;

use modelcache_crds::model_cache::SourcePolicy as Policy;
use modelcache_crds::names::ready_label;

use super::*;
use crate::picture::{CacheSeen, NodeSeen};
use crate::reconcile::fixtures::{HUB, SIZE, Scene, model};
use crate::secrets::{SecretRef, Token};

const POOLS: &str = "
models:
- {name: big, source: {huggingFace: {repository: acme/big}}}
- {name: small, source: {huggingFace: {repository: acme/small}}}
nodePools:
- {name: large, nodeSelector: {matchLabels: {gpu: a100}}}
- {name: tiny, nodeSelector: {matchExpressions: [{key: gpu, operator: In, values: [t4]}]}, models: [small]}
";

/// Names of the snapshots that each node should hold.
fn held(plan: &Plan) -> BTreeMap<&str, Vec<&str>> {
    plan.nodes
        .iter()
        .map(|(node, plan)| {
            let names = plan.snapshots.iter().map(|one| one.name.as_str());
            (node.as_str(), names.collect())
        })
        .collect()
}

fn both_known() -> Scene {
    Scene::new()
        .known("acme/big", "big-1")
        .known("acme/small", "small-1")
}

#[test]
fn each_pool_gets_its_models() {
    let (_, plan) = both_known().cache("one", POOLS).plan();
    assert_eq!(
        held(&plan),
        BTreeMap::from([
            ("n1", vec!["big-1", "small-1"]),
            ("n2", vec!["big-1", "small-1"]),
            ("n3", vec!["small-1"]),
        ])
    );
    assert_eq!(plan.nodes["n1"].owner, "uid-of-n1");
    assert_eq!(plan.nodes["n1"].snapshots[0].models, [model("one", "big")]);
    assert!(plan.requests.is_empty());
}

#[test]
fn a_node_in_two_pools_counts_to_the_first_and_is_named() {
    let spec = POOLS.replace(
        "matchLabels: {gpu: a100}",
        "matchExpressions: [{key: gpu, operator: Exists}]",
    );
    let (_, plan) = both_known().cache("one", &spec).plan();
    assert_eq!(held(&plan)["n3"], ["big-1", "small-1"]);
    let overlaps = &plan.outlooks[0].selection.overlaps;
    assert_eq!(*overlaps, BTreeMap::from([("n3".to_owned(), vec![0, 1])]));
}

#[test]
fn nodes_that_cannot_run_the_agent_are_left_out() {
    let mut scene = both_known()
        .node("n2", &["kubernetes.io/os=windows", "gpu=a100"])
        .cache("one", POOLS);
    let mut leaving: NodeSeen = (*scene.picture.nodes["n3"]).clone();
    leaving.deleting = true;
    scene
        .picture
        .nodes
        .insert("n3".to_owned(), Arc::new(leaving));
    let (_, plan) = scene.plan();
    assert_eq!(held(&plan).keys().collect::<Vec<_>>(), [&"n1"]);
    // What somebody is deleting is not written any more.
    assert!(!plan.managed.contains("n3"));
}

#[test]
fn only_nodes_with_an_agent_hold_models() {
    let scene = both_known().agents_on("gpu=a100");
    // Without pools.
    let (_, plan) = scene.clone().simple_cache("one", "acme/big").plan();
    assert_eq!(held(&plan).keys().collect::<Vec<_>>(), [&"n1", &"n2"]);
    assert_eq!(plan.outlooks[0].models[0].nodes.len(), 2);
    assert!(plan.outlooks[0].selection.without_agent.is_empty());
    // Pools select among them.
    let (_, plan) = scene.clone().cache("one", POOLS).plan();
    assert_eq!(held(&plan).keys().collect::<Vec<_>>(), [&"n1", &"n2"]);
    let selection = &plan.outlooks[0].selection;
    assert_eq!(selection.without_agent, BTreeSet::from(["n3".to_owned()]));
    assert_eq!(selection.agents, "nodes with gpu=a100");
    // A node that loses its agent no longer counts as ready, whatever was said there last.
    let label = ready_label("one", "m");
    let (_, plan) = scene
        .simple_cache("one", "acme/big")
        .holds("n3", "big-1", &[model("one", "m")], Phase::Ready, SIZE)
        .labelled("n3", &label)
        .plan();
    assert!(!held(&plan).contains_key("n3"));
    assert!(plan.labels["n3"].is_empty());
}

#[test]
fn a_node_that_joins_or_moves_changes_the_plan() {
    let scene = both_known().cache("one", POOLS);
    let joined = scene.clone().node("n4", &["gpu=a100"]);
    assert_eq!(held(&joined.plan().1)["n4"], ["big-1", "small-1"]);
    let moved = scene.clone().node("n1", &["gpu=none"]);
    assert!(!held(&moved.plan().1).contains_key("n1"));
}

#[test]
fn the_same_snapshot_for_two_caches_is_held_once() {
    let (_, plan) = Scene::new()
        .known("acme/big", "big-1")
        .simple_cache("one", "acme/big")
        .cache(
            "two",
            "{source: PeersOnly, models: [{name: same, source: {huggingFace: {repository: acme/big}}}]}",
        )
        .plan();
    let snapshots = &plan.nodes["n1"].snapshots;
    assert_eq!(snapshots.len(), 1);
    assert_eq!(
        snapshots[0].models,
        [model("one", "m"), model("two", "same")]
    );
    assert_eq!(snapshots[0].source, Policy::PeersFirst);
    assert_eq!(plan.coordinated.len(), 1);
    assert_eq!(plan.coordinated[0].segments, 7);
}

#[test]
fn what_is_not_known_is_asked_for_once_and_nothing_is_planned() {
    let scene = Scene::new().simple_cache("one", "acme/big");
    let (_, plan) = scene.plan();
    assert_eq!(plan.requests.len(), 1);
    assert_eq!(plan.requests[0].source.endpoint, HUB);
    assert!(plan.nodes.is_empty());
    let outlook = &plan.outlooks[0].models[0];
    assert!(matches!(
        outlook.state,
        ModelState::Resolving { commit: None }
    ));
    // People see how many nodes will get it.
    assert_eq!(outlook.nodes.len(), 3);
    // The answer becomes an object and is planned at once.
    let request = plan.requests[0].clone();
    let file = modelcache_swarm::snapshot::SnapshotFile {
        path: "a".to_owned(),
        size: 5,
        blob: modelcache_swarm::segment::BlobId::Git([1; 20]),
        git_oid: "01".repeat(20),
    };
    let (object, facts) =
        crate::source::snapshot(&request.source, &"d".repeat(40), &[file], true).unwrap();
    let name = facts.name.clone();
    let mut scene = scene;
    scene.picture.resolutions.insert(
        request.key(),
        Resolution::Resolved(Arc::new(Resolved { object, facts })),
    );
    let (_, plan) = scene.plan();
    assert!(plan.snapshots.contains_key(&name));
    assert_eq!(held(&plan)["n1"], [name.as_str()]);
    // It is asked for until the object is there, so that the answer is not forgotten before.
    assert_eq!(plan.requests.len(), 1);
}

#[test]
fn an_unresolved_revision_leaves_the_one_before_in_place() {
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .cache(
            "one",
            "models: [{name: m, source: {huggingFace: {repository: acme/big, revision: v2}}}]",
        )
        .holds("n1", "big-1", &[model("one", "m")], Phase::Ready, SIZE)
        .labelled("n1", &ready_label("one", "m"));
    let (_, plan) = scene.plan();
    assert_eq!(held(&plan), BTreeMap::from([("n1", vec!["big-1"])]));
    assert!(plan.labels["n1"].contains(&ready_label("one", "m")));
    assert!(plan.stale_snapshots.is_empty());
    // It does not count as ready: it is not what the spec asks for.
    assert_ne!(plan.outlooks[0].models[0].nodes["n1"], Standing::Ready);
    // Nodes may still give it to each other.
    assert_eq!(plan.coordinated[0].name, "big-1");
}

#[test]
fn a_suspended_cache_keeps_what_is_there_and_plans_nothing() {
    let spec =
        "{suspend: true, models: [{name: m, source: {huggingFace: {repository: acme/big}}}]}";
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .cache("one", spec)
        .holds("n1", "big-1", &[model("one", "m")], Phase::Ready, SIZE)
        .labelled("n1", &ready_label("one", "m"));
    let (_, plan) = scene.plan();
    assert_eq!(held(&plan), BTreeMap::from([("n1", vec!["big-1"])]));
    assert!(plan.coordinated.is_empty());
    assert!(plan.labels["n1"].contains(&ready_label("one", "m")));
    assert_eq!(
        plan.outlooks[0].models[0].nodes,
        BTreeMap::from([("n1".to_owned(), Standing::Ready)])
    );
    // And the hub is not asked for what is not known.
    let (_, plan) = Scene::new().cache("one", spec).plan();
    assert!(plan.requests.is_empty());
    assert!(matches!(
        plan.outlooks[0].models[0].state,
        ModelState::Suspended
    ));
}

#[test]
fn a_cache_that_cannot_be_understood_loses_nothing() {
    let mut scene = Scene::new()
        .known("acme/big", "big-1")
        .simple_cache("good", "acme/small")
        .holds("n1", "big-1", &[model("odd", "m")], Phase::Ready, SIZE)
        .labelled("n1", &ready_label("odd", "m"))
        .volume("team", "c", &model("odd", "m"));
    scene.picture.caches.insert(
        "odd".to_owned(),
        Arc::new(CacheSeen {
            uid: "u".to_owned(),
            deleting: false,
            object: Err("invalid type".to_owned()),
        }),
    );
    let (_, plan) = scene.plan();
    assert_eq!(held(&plan)["n1"], ["big-1"]);
    assert!(plan.labels["n1"].contains(&ready_label("odd", "m")));
    assert!(plan.stale_volumes.is_empty() && plan.stale_claims.is_empty());
    assert!(plan.stale_snapshots.is_empty());
    assert_eq!(plan.requests.len(), 1);
}

#[test]
fn a_label_follows_the_agents_word() {
    let label = ready_label("one", "m");
    let scene = || {
        Scene::new()
            .known("acme/big", "big-1")
            .simple_cache("one", "acme/big")
    };
    let holds =
        |scene: Scene, phase, held| scene.holds("n1", "big-1", &[model("one", "m")], phase, held);
    let has = |scene: Scene| scene.plan().1.labels["n1"].contains(&label);
    // Set only when whole.
    assert!(!has(scene()));
    assert!(!has(holds(scene(), Phase::Downloading, SIZE / 2)));
    assert!(!has(holds(scene(), Phase::Verifying, SIZE)));
    assert!(has(holds(scene(), Phase::Ready, SIZE)));
    // Kept over a restart of the agent, or while it says nothing.
    let labelled = || scene().labelled("n1", &label);
    assert!(has(labelled()));
    assert!(has(holds(labelled(), Phase::Pending, 0)));
    assert!(has(holds(labelled(), Phase::Verifying, SIZE)));
    // Taken away for a loss, and for nothing else.
    assert!(!has(holds(labelled(), Phase::Downloading, SIZE / 2)));
    assert!(!has(holds(labelled(), Phase::Failed, SIZE / 2)));
    assert!(has(holds(labelled(), Phase::Failed, SIZE)));
    // And when the node leaves the pool.
    let spec = "{models: [{name: m, source: {huggingFace: {repository: acme/big}}}], nodePools: [{name: p, nodeSelector: {matchLabels: {gpu: t4}}}]}";
    assert!(!has(
        holds(labelled(), Phase::Ready, SIZE).cache("one", spec)
    ));
    // A label that nobody knows goes.
    let stray = scene().labelled("n1", &ready_label("gone", "x"));
    assert!(stray.plan().1.labels["n1"].is_empty());
}

#[test]
fn a_label_stays_while_the_next_revision_is_on_its_way() {
    let label = ready_label("one", "m");
    let published = |snapshot: &str| {
        let mut scene = Scene::new()
            .known("acme/big", "big-2")
            .simple_cache("one", "acme/big")
            .holds("n1", "big-2", &[model("one", "m")], Phase::Downloading, 10)
            .labelled("n1", &label);
        let mut seen = (*scene.picture.intents["n1"]).clone();
        seen.published = BTreeMap::from([(model("one", "m"), snapshot.to_owned())]);
        scene
            .picture
            .intents
            .insert("n1".to_owned(), Arc::new(seen));
        scene.plan().1
    };
    let plan = published("big-1");
    assert!(plan.labels["n1"].contains(&label));
    assert_eq!(plan.nodes["n1"].published[&model("one", "m")], "big-1");
    // The same words about the snapshot that was shown mean that it is broken.
    let plan = published("big-2");
    assert!(plan.labels["n1"].is_empty());
    assert!(plan.nodes["n1"].published.is_empty());
}

#[test]
fn the_agent_must_show_it_under_this_name() {
    // Ready for another cache only; this one was added a moment ago.
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .simple_cache("one", "acme/big")
        .simple_cache("two", "acme/big")
        .holds("n1", "big-1", &[model("one", "m")], Phase::Ready, SIZE);
    let (_, plan) = scene.plan();
    assert!(plan.labels["n1"].contains(&ready_label("one", "m")));
    assert!(!plan.labels["n1"].contains(&ready_label("two", "m")));
    assert_eq!(
        plan.outlooks[1].models[0].nodes["n1"],
        Standing::Busy(Phase::Verifying)
    );
}

const WITH_CLAIM: &str = "
models: [{name: m, source: {huggingFace: {repository: acme/big}}}]
volumeClaims: [{namespace: team, name: c, model: m}]
";

#[test]
fn a_claim_becomes_a_volume_that_shows_the_model() {
    let (_, plan) = Scene::new().cache("one", WITH_CLAIM).plan();
    let volume = plan.volumes.values().next().unwrap();
    assert_eq!(volume.path, "/cache/models/one/m");
    assert_eq!(volume.gate, ready_label("one", "m"));
    assert_eq!(volume.claim_key(), "team/c");
    assert_eq!(volume.field, "spec.volumeClaims[0]");
}

#[test]
fn while_a_volume_is_there_its_model_and_label_stay() {
    let label = ready_label("one", "m");
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .holds("n1", "big-1", &[model("one", "m")], Phase::Ready, SIZE)
        .labelled("n1", &label)
        // No pod can use it where it never was whole.
        .holds("n2", "big-1", &[model("one", "m")], Phase::Downloading, 10)
        .volume("team", "c", &model("one", "m"));
    // The ModelCache is gone, a pod still runs.
    let (_, plan) = scene.plan();
    assert_eq!(plan.stale_claims, BTreeSet::from(["team/c".to_owned()]));
    assert_eq!(plan.stale_volumes.len(), 1);
    assert_eq!(held(&plan), BTreeMap::from([("n1", vec!["big-1"])]));
    assert!(plan.labels["n1"].contains(&label));
    assert!(plan.stale_snapshots.is_empty());
    // The claim is gone, the volume is not yet.
    let mut scene = scene;
    scene.picture.claims.clear();
    let (_, plan) = scene.plan();
    assert!(plan.labels["n1"].contains(&label));
    // All gone.
    scene.picture.volumes.clear();
    let (_, plan) = scene.plan();
    assert!(plan.labels["n1"].is_empty());
    assert!(plan.nodes.is_empty());
    // The snapshot goes after the last node let go of it.
    assert!(plan.stale_snapshots.is_empty());
    scene.picture.intents.clear();
    let (_, plan) = scene.plan();
    assert_eq!(plan.stale_snapshots, BTreeSet::from(["big-1".to_owned()]));
}

#[test]
fn a_claim_that_shows_another_model_is_made_anew() {
    let spec = "
models:
- {name: m, source: {huggingFace: {repository: acme/big}}}
- {name: other, source: {huggingFace: {repository: acme/small}}}
volumeClaims: [{namespace: team, name: c, model: other}]
";
    let scene = Scene::new()
        .cache("one", spec)
        .volume("team", "c", &model("one", "m"));
    let (_, plan) = scene.plan();
    assert!(plan.volumes.is_empty());
    assert_eq!(plan.stale_claims, BTreeSet::from(["team/c".to_owned()]));
    let mut scene = scene;
    scene.picture.claims.clear();
    scene.picture.volumes.clear();
    assert_eq!(scene.plan().1.volumes.len(), 1);
}

#[test]
fn the_hub_is_reached_with_the_first_token_that_is_there() {
    let spec = |secret: &str| {
        format!(
            "models: [{{name: m, source: {{huggingFace: {{repository: acme/big, tokenSecret: {{name: {secret}}}}}}}}}]"
        )
    };
    let token = |name: &str, endpoint: &str| TokenUse {
        secret: SecretRef {
            name: name.to_owned(),
            key: "token".to_owned(),
        },
        endpoint: endpoint.to_owned(),
    };
    let mut scene = Scene::new()
        .known("acme/big", "big-1")
        .cache("one", &spec("absent"))
        .cache("two", &spec("there"));
    let missing = crate::secrets::SecretError::NoSecret {
        namespace: "ns".to_owned(),
        name: "absent".to_owned(),
        key: "token".to_owned(),
    };
    scene
        .picture
        .tokens
        .insert(token("absent", HUB), Err(missing));
    scene
        .picture
        .tokens
        .insert(token("there", HUB), Ok(Token::new("hf_x")));
    let (_, plan) = scene.plan();
    assert_eq!(plan.coordinated[0].access.token.as_deref(), Some("hf_x"));
    assert!(plan.outlooks[0].models[0].token.is_some());
    assert!(plan.outlooks[1].models[0].token.is_none());
    // The same Secret for another hub is not for this one.
    let elsewhere = token("there", "https://other.example");
    scene.picture.tokens = [(elsewhere, Ok(Token::new("hf_y")))].into();
    let (_, plan) = scene.plan();
    assert_eq!(plan.coordinated[0].access.token, None);
}

#[test]
fn among_two_snapshots_of_a_source_the_named_one_stays() {
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .known("acme/big", "big-2")
        .simple_cache("one", "acme/big");
    let named = |name: Option<&str>| {
        let mut scene = scene.clone();
        if let Some(name) = name {
            let mut seen = (*scene.picture.caches["one"]).clone();
            let mut object = (*seen.object.unwrap()).clone();
            object.status = serde_json::from_value(serde_json::json!({
                "models": [{"name": "m", "repository": "acme/big", "revision": "main", "snapshot": name}],
            }))
            .unwrap();
            seen.object = Ok(Arc::new(object));
            scene
                .picture
                .caches
                .insert("one".to_owned(), Arc::new(seen));
        }
        let plan = scene.plan().1;
        (
            held(&plan)["n1"][0].to_owned(),
            plan.stale_snapshots.into_iter().next(),
        )
    };
    assert_eq!(named(None), ("big-1".to_owned(), Some("big-2".to_owned())));
    assert_eq!(
        named(Some("big-2")),
        ("big-2".to_owned(), Some("big-1".to_owned()))
    );
}

#[test]
fn bytes_are_summed_over_all_nodes() {
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .simple_cache("one", "acme/big")
        .holds("n1", "big-1", &[model("one", "m")], Phase::Ready, SIZE)
        .holds("n2", "big-1", &[model("one", "m")], Phase::Downloading, 500);
    let outlook = &scene.plan().1.outlooks[0].models[0];
    assert_eq!(outlook.origin_bytes, 750);
    assert_eq!(outlook.peer_bytes, 750);
}
