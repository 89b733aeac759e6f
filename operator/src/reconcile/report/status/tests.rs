use std::collections::BTreeSet;

use modelcache_crds::conditions::types;
use modelcache_crds::model_cache_node::Phase;

use super::*;
use crate::fault::Fault;
use crate::reconcile::apply::Applied;
use crate::reconcile::fixtures::{SIZE, Scene, model};
use crate::resolve::Resolution;

/// Status and Events of the only ModelCache, after `before`.
fn tell(scene: &Scene, before: &ModelCacheStatus) -> (ModelCacheStatus, Vec<Note>) {
    let (world, plan) = scene.plan();
    let (cache, outlook) = (&world.caches[0], &plan.outlooks[0]);
    let found = problems(cache, outlook, &Applied::default());
    let now = status(
        cache,
        outlook,
        &found,
        before,
        Timestamp::from_second(9).unwrap(),
    );
    let told = told_before(cache, &found, before);
    let notes = notes(&found, &told, before, &now);
    (now, notes)
}

fn condition(status: &ModelCacheStatus, type_: &str) -> (String, String, String) {
    let condition = conditions::get(&status.conditions, type_).unwrap();
    (
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    )
}

fn short(status: &ModelCacheStatus) -> Vec<String> {
    status
        .conditions
        .iter()
        .map(|one| format!("{}={} {}", one.type_, one.status, one.reason))
        .collect()
}

fn known() -> Scene {
    Scene::new()
        .known("acme/big", "big-1")
        .simple_cache("one", "acme/big")
}

fn holding(mut scene: Scene, phases: &[(Phase, i64)]) -> Scene {
    for (number, (phase, held)) in phases.iter().enumerate() {
        let node = format!("n{}", number + 1);
        scene = scene.holds(&node, "big-1", &[model("one", "m")], *phase, *held);
    }
    scene
}

#[test]
fn from_resolving_to_ready_each_turn_is_told_once() {
    let mut status = ModelCacheStatus::default();
    let mut reasons_told = Vec::new();
    for scene in [
        Scene::new().simple_cache("one", "acme/big"),
        known(),
        holding(known(), &[(Phase::Downloading, 10), (Phase::Ready, SIZE)]),
        holding(known(), &[(Phase::Ready, SIZE), (Phase::Ready, SIZE)]),
        holding(known(), &[(Phase::Ready, SIZE); 3]),
    ] {
        for _ in 0..2 {
            let (now, notes) = tell(&scene, &status);
            reasons_told.extend(notes.iter().map(|note| note.reason));
            status = now;
        }
    }
    assert_eq!(reasons_told, ["Resolved", "Downloading", "AllNodesReady"]);
    assert_eq!(
        short(&status),
        [
            "Resolved=True Resolved",
            "Progressing=False AllNodesReady",
            "Ready=True AllNodesReady",
            "Degraded=False AllNodesReady",
        ]
    );
    assert_eq!(status.ready, "3/3");
    assert_eq!(status.size, "1.0 kB");
    assert_eq!(status.revision, "main (cccccccc)");
    assert_eq!(status.origin_copies, "1.50");
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.models[0].snapshot.as_deref(), Some("big-1"));
}

#[test]
fn the_same_picture_gives_the_same_status() {
    let scene = holding(known(), &[(Phase::Downloading, 10)]);
    let (first, _) = tell(&scene, &ModelCacheStatus::default());
    let (world, plan) = scene.plan();
    let found = problems(&world.caches[0], &plan.outlooks[0], &Applied::default());
    let later = Timestamp::from_second(1_000_000).unwrap();
    let again = status(&world.caches[0], &plan.outlooks[0], &found, &first, later);
    assert_eq!(again, first);
    assert_eq!(first.ready, "0/3");
    assert_eq!(condition(&first, types::PROGRESSING).1, "Downloading");
}

fn failing(fault: Fault) -> Scene {
    let mut scene = Scene::new().simple_cache("one", "org/typo");
    let key = scene.plan().1.requests[0].key();
    scene
        .picture
        .resolutions
        .insert(key, Resolution::Failed(fault));
    scene
}

#[test]
fn a_model_that_cannot_be_resolved_says_what_to_do() {
    let scene = failing(Fault::RepositoryNotFound);
    let (status, notes) = tell(&scene, &ModelCacheStatus::default());
    assert_eq!(
        short(&status),
        [
            "Resolved=False RepositoryNotFound",
            "Progressing=False RepositoryNotFound",
            "Ready=False RepositoryNotFound",
            "Degraded=True RepositoryNotFound",
        ]
    );
    assert_eq!(notes.len(), 1);
    assert!(notes[0].warning && notes[0].reason == "RepositoryNotFound");
    assert_eq!(notes[0].model.as_deref(), Some("m"));
    for type_ in [types::RESOLVED, types::READY, types::DEGRADED] {
        let message = condition(&status, type_).2;
        assert!(message.contains("spec.models[0]"), "{message}");
        assert!(message.contains("org/typo"), "{message}");
        assert!(message.contains("check"), "{message}");
    }
    assert_eq!(
        status.models[0].reason.as_deref(),
        Some("RepositoryNotFound")
    );
    // Said once, also by an operator that was started anew, ...
    assert!(tell(&scene, &status).1.is_empty());
    // ... which asks the hub again first.
    let asking = Scene::new().simple_cache("one", "org/typo");
    let (world, plan) = asking.plan();
    let (cache, outlook) = (&world.caches[0], &plan.outlooks[0]);
    let told = told_now(cache, outlook, &[], &told_before(cache, &[], &status));
    let (world, plan) = scene.plan();
    let found = problems(&world.caches[0], &plan.outlooks[0], &Applied::default());
    assert!(super::notes(&found, &told, &status, &status).is_empty());
    let untold = super::notes(&found, &BTreeSet::new(), &status, &status);
    assert_eq!(untold.len(), 1);
}

#[test]
fn a_hub_that_is_away_is_still_being_asked() {
    let scene = failing(Fault::RateLimited { retry_after: None });
    let (status, _) = tell(&scene, &ModelCacheStatus::default());
    assert_eq!(
        short(&status)[1..3],
        ["Progressing=True RateLimited", "Ready=False RateLimited"]
    );
}

#[test]
fn overlapping_pools_are_named_with_node_and_remedy_and_do_not_stop_the_rest() {
    let spec = "
models: [{name: m, source: {huggingFace: {repository: acme/big}}}]
nodePools:
- {name: all}
- {name: tiny, nodeSelector: {matchLabels: {gpu: t4}}}
";
    let scene = holding(
        Scene::new().known("acme/big", "big-1").cache("one", spec),
        &[(Phase::Ready, SIZE); 3],
    );
    let (status, notes) = tell(&scene, &ModelCacheStatus::default());
    let (degraded, reason, message) = condition(&status, types::DEGRADED);
    assert_eq!(
        (degraded.as_str(), reason.as_str()),
        ("True", "PoolOverlap")
    );
    for part in [
        "\"all\"",
        "\"tiny\"",
        "\"n3\"",
        "spec.nodePools",
        "nodeSelector",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(condition(&status, types::READY).0, "True");
    assert!(notes.iter().any(|note| note.reason == "PoolOverlap"));
}

#[test]
fn nodes_that_fail_are_named_with_their_own_words() {
    let scene = holding(
        known(),
        &[
            (Phase::Ready, SIZE),
            (Phase::Ready, SIZE),
            (Phase::Failed, 0),
        ],
    )
    .because("n3", "NoSpace", "12 GB are missing on /var/lib/modelcache");
    let (status, notes) = tell(&scene, &ModelCacheStatus::default());
    assert_eq!(short(&status)[2], "Ready=False NodesFailed");
    assert_eq!(status.ready, "2/3");
    assert_eq!(status.models[0].nodes_failed, 1);
    let message = condition(&status, types::DEGRADED).2;
    for part in ["\"n3\"", "NoSpace", "12 GB are missing", "1 of 3"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(
        notes
            .iter()
            .any(|note| note.warning && note.reason == "NodesFailed")
    );
    // Another number of missing bytes is no new Event.
    let worse = scene.because("n3", "NoSpace", "13 GB are missing");
    assert!(tell(&worse, &status).1.is_empty());
}

#[test]
fn a_pool_may_lack_as_many_nodes_as_it_says() {
    let spec = |tolerable: u32| {
        format!(
            "{{models: [{{name: m, source: {{huggingFace: {{repository: acme/big}}}}}}], nodePools: [{{name: p, tolerableFailures: {tolerable}}}]}}"
        )
    };
    let ready = |tolerable: u32| {
        let scene = Scene::new()
            .known("acme/big", "big-1")
            .cache("one", &spec(tolerable));
        let scene = holding(scene, &[(Phase::Ready, SIZE), (Phase::Ready, SIZE)]);
        short(&tell(&scene, &ModelCacheStatus::default()).0)[2].clone()
    };
    assert_eq!(ready(0), "Ready=False Downloading");
    assert_eq!(ready(1), "Ready=True AllNodesReady");
}

#[test]
fn no_node_is_said_with_the_selector() {
    let spec = "{models: [{name: m, source: {huggingFace: {repository: acme/big}}}], nodePools: [{name: p, nodeSelector: {matchLabels: {gpu: h100}}}]}";
    let scene = Scene::new().known("acme/big", "big-1").cache("one", spec);
    let (status, notes) = tell(&scene, &ModelCacheStatus::default());
    let (_, reason, message) = condition(&status, types::READY);
    assert_eq!(reason, "NoNodes");
    assert!(
        message.contains("gpu=h100") && message.contains("\"p\""),
        "{message}"
    );
    assert!(
        notes
            .iter()
            .any(|note| note.warning && note.reason == "NoNodes")
    );
    assert_eq!(status.ready, "0/0");
}

#[test]
fn nodes_without_an_agent_are_said_and_not_waited_for() {
    let told = |agents: &str, pools: &str| {
        let spec = format!(
            "{{models: [{{name: m, source: {{huggingFace: {{repository: acme/big}}}}}}], nodePools: {pools}}}"
        );
        let scene = Scene::new()
            .agents_on(agents)
            .known("acme/big", "big-1")
            .cache("one", &spec);
        let scene = holding(scene, &[(Phase::Ready, SIZE), (Phase::Ready, SIZE)]);
        let (status, _) = tell(&scene, &ModelCacheStatus::default());
        let (ready, reason, message) = condition(&status, types::READY);
        (format!("{} {ready} {reason}", status.ready), message)
    };
    // Without pools, those with an agent are meant.
    let (short, message) = told("gpu=a100", "[]");
    assert_eq!(short, "2/2 True AllNodesReady");
    assert_eq!(message, "all 2 nodes hold all models, verified");
    // A pool says which nodes it wants: one that cannot be is named.
    let (short, message) = told("gpu=a100", "[{name: p}]");
    assert_eq!(short, "2/2 True AllNodesReady");
    assert_eq!(
        message,
        "all 2 nodes hold all models, verified; not counted: node \"n3\", selected by spec.nodePools but without an \
         agent (agents run on nodes with gpu=a100)"
    );
    let (short, message) = told("gpu=t4", "[{name: p}]");
    assert_eq!(short, "0/1 False Downloading");
    assert!(
        message.contains("not counted: nodes \"n1\", \"n2\""),
        "{message}"
    );
    // Nothing but such nodes.
    let (short, message) = told(
        "gpu=a100",
        "[{name: p, nodeSelector: {matchLabels: {gpu: t4}}}]",
    );
    assert_eq!(short, "0/0 False NoNodes");
    for part in ["\"p\" (gpu=t4)", "\"n3\"", "gpu=a100", "agent.nodeSelector"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let (short, message) = told("gpu=none", "[]");
    assert_eq!(short, "0/0 False NoNodes");
    assert!(message.contains("gpu=none"), "{message}");
}

#[test]
fn a_suspended_cache_says_so() {
    let spec =
        "{suspend: true, models: [{name: m, source: {huggingFace: {repository: acme/big}}}]}";
    let scene = Scene::new().known("acme/big", "big-1").cache("one", spec);
    let (status, _) = tell(&scene, &ModelCacheStatus::default());
    assert_eq!(
        short(&status)[1..3],
        ["Progressing=False Suspended", "Ready=False Suspended"]
    );
    let ready = holding(scene, &[(Phase::Ready, SIZE)]);
    let (status, _) = tell(&ready, &status);
    assert_eq!(condition(&status, types::PROGRESSING).1, "Suspended");
}

#[test]
fn a_claim_that_cannot_be_made_is_told_with_its_field() {
    let spec = "{models: [{name: m, source: {huggingFace: {repository: acme/big}}}], volumeClaims: [{namespace: gone, name: c, model: m}]}";
    let scene = Scene::new().known("acme/big", "big-1").cache("one", spec);
    let (world, plan) = scene.plan();
    let mut applied = Applied::default();
    applied.failures.insert(
        "apply PersistentVolumeClaim gone/c".to_owned(),
        crate::reconcile::apply::ApplyError::Refused("namespaces \"gone\" not found".to_owned()),
    );
    let found = problems(&world.caches[0], &plan.outlooks[0], &applied);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].reason, reasons::VOLUME_CLAIM_FAILED);
    for part in ["spec.volumeClaims[0]", "gone/c", "not found"] {
        assert!(found[0].message.contains(part), "{}", found[0].message);
    }
}

#[test]
fn a_model_that_is_not_for_everybody_is_told_with_the_remedy() {
    let spec = |name: &str, more: &str| {
        format!(
            "models: [{{name: {name}, source: {{huggingFace: {{repository: acme/big{more}}}}}, peers: {{plainBitTorrent: true}}}}]"
        )
    };
    let token = ", tokenSecret: {name: t}";
    let alone = Scene::new().known("acme/big", "big-1");
    let scene = alone.cache("one", &spec("m", token));
    let (status, _) = tell(&scene, &ModelCacheStatus::default());
    let (holds, _, message) = condition(&status, types::DEGRADED);
    assert_eq!(holds, "True");
    let field =
        "spec.models[0].peers.plainBitTorrent: \"m\" is not given to other BitTorrent clients";
    assert!(
        message.contains(&format!(
            "{field}, because it needs a token: remove one of the two"
        )),
        "{message}"
    );
    let shared = Scene::new()
        .known("acme/big", "big-1")
        .cache("one", &spec("m", ""))
        .cache("other", &spec("o", token));
    let (status, notes) = tell(&shared, &ModelCacheStatus::default());
    let (_, reason, message) = condition(&status, types::DEGRADED);
    assert_eq!(reason, "NotPublic");
    assert!(
        message.contains("model \"o\" of ModelCache \"other\" is the same snapshot"),
        "{message}"
    );
    assert!(notes.iter().any(|note| note.reason == "NotPublic"));
}
