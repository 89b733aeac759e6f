use std::sync::Arc;

use modelcache_crds::model_cache_node::Phase;
use modelcache_crds::names::ready_label;

use serde_json::json;

use super::diff::{has_our_form, is_as_planned};
use super::*;
use crate::reconcile::build;
use crate::reconcile::fixtures::{SIZE, Scene, model};

const WITH_CLAIM: &str = "
models: [{name: m, source: {huggingFace: {repository: acme/big}}}]
volumeClaims: [{namespace: team, name: c, model: m}]
";

fn actions_of(scene: &Scene) -> Vec<Action> {
    let (_, plan) = scene.plan();
    actions(&scene.picture, &plan)
        .into_iter()
        .flatten()
        .collect()
}

fn keys(scene: &Scene) -> Vec<String> {
    actions_of(scene).iter().map(Action::key).collect()
}

fn volume_name() -> String {
    modelcache_crds::names::volume_name("team", "c")
}

/// Everything that `WITH_CLAIM` asks for is there.
fn settled() -> Scene {
    let mut scene = Scene::new()
        .known("acme/big", "big-1")
        .cache("one", WITH_CLAIM)
        .volume("team", "c", &model("one", "m"));
    for node in ["n1", "n2", "n3"] {
        scene = scene
            .holds(node, "big-1", &[model("one", "m")], Phase::Ready, SIZE)
            .labelled(node, &ready_label("one", "m"));
    }
    scene
}

#[test]
fn a_cluster_as_it_should_be_costs_no_write() {
    assert_eq!(keys(&settled()), Vec::<String>::new());
}

#[test]
fn the_order_of_lists_on_the_server_means_nothing() {
    let mut scene = Scene::new()
        .known("acme/big", "big-1")
        .known("acme/small", "small-1")
        .simple_cache("a", "acme/big")
        .simple_cache("b", "acme/big")
        .simple_cache("c", "acme/small");
    for node in ["n1", "n2", "n3"] {
        scene = scene
            .holds(node, "small-1", &[model("c", "m")], Phase::Pending, 0)
            .holds(
                node,
                "big-1",
                &[model("b", "m"), model("a", "m")],
                Phase::Pending,
                0,
            );
    }
    assert_eq!(keys(&scene), Vec::<String>::new());
}

#[test]
fn a_new_cluster_gets_everything_in_order() {
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .cache("one", WITH_CLAIM);
    assert_eq!(
        keys(&scene),
        [
            "apply ModelCacheNode n1".to_owned(),
            "apply ModelCacheNode n2".to_owned(),
            "apply ModelCacheNode n3".to_owned(),
            format!("apply PersistentVolume {}", volume_name()),
            "apply PersistentVolumeClaim team/c".to_owned(),
        ]
    );
}

#[test]
fn a_node_that_moves_out_loses_its_label_before_its_model() {
    let scene = settled().cache(
        "one",
        &format!(
            "{WITH_CLAIM}nodePools: [{{name: p, nodeSelector: {{matchLabels: {{gpu: a100}}}}}}]"
        ),
    );
    assert_eq!(keys(&scene), ["label Node n3", "delete ModelCacheNode n3"]);
    let labels = &actions_of(&scene)[0];
    assert_eq!(
        *labels,
        Action::Label {
            node: "n3".to_owned(),
            labels: BTreeMap::from([(ready_label("one", "m"), false)]),
        }
    );
}

#[test]
fn a_node_that_was_registered_anew_gets_its_label_and_its_owner_back() {
    let mut scene = settled().node("n1", &["gpu=a100"]);
    let mut node = (*scene.picture.nodes["n1"]).clone();
    node.uid = "another".to_owned();
    scene.picture.nodes.insert("n1".to_owned(), Arc::new(node));
    assert_eq!(keys(&scene), ["apply ModelCacheNode n1", "label Node n1"]);
    let Action::ApplyIntent { object, .. } = &actions_of(&scene)[0] else {
        panic!("the object of the node is written first");
    };
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "another");
}

#[test]
fn other_labels_are_none_of_our_business() {
    let scene = settled().labelled("n1", "modelcache.io/other");
    assert_eq!(keys(&scene), Vec::<String>::new());
}

#[test]
fn a_claim_goes_first_then_its_volume_then_label_and_model() {
    let mut scene = settled();
    scene.picture.caches.clear();
    assert_eq!(keys(&scene), ["delete PersistentVolumeClaim team/c"]);
    // A pod uses it: Kubernetes holds it.
    let mut claim = (*scene.picture.claims["team/c"]).clone();
    claim.deleting = true;
    scene
        .picture
        .claims
        .insert("team/c".to_owned(), Arc::new(claim));
    assert_eq!(keys(&scene), Vec::<String>::new());
    scene.picture.claims.clear();
    assert_eq!(
        keys(&scene),
        [format!("delete PersistentVolume {}", volume_name())]
    );
    scene.picture.volumes.clear();
    let keys = keys(&scene);
    assert_eq!(
        keys[..3],
        ["label Node n1", "label Node n2", "label Node n3"]
    );
    assert_eq!(keys[3], "delete ModelCacheNode n1");
}

#[test]
fn a_volume_whose_claim_was_deleted_by_hand_can_be_claimed_again() {
    let mut scene = settled();
    scene.picture.claims.clear();
    let mut volume = (*scene.picture.volumes[&volume_name()]).clone();
    volume.phase = "Released".to_owned();
    scene
        .picture
        .volumes
        .insert(volume_name(), Arc::new(volume));
    assert_eq!(
        keys(&scene),
        [
            format!("reclaim PersistentVolume {}", volume_name()),
            "apply PersistentVolumeClaim team/c".to_owned(),
        ]
    );
}

#[test]
fn a_claim_that_was_looked_at_before_its_volume_was_known_is_woken_once() {
    let mut scene = settled();
    let see = |scene: &mut Scene, phase: &str, bound: bool, woken_for: Option<&str>| {
        let mut volume = (*scene.picture.volumes[&volume_name()]).clone();
        phase.clone_into(&mut volume.phase);
        let uid = volume.uid.clone();
        let volumes = &mut scene.picture.volumes;
        volumes.insert(volume_name(), Arc::new(volume));
        let mut claim = (*scene.picture.claims["team/c"]).clone();
        claim.bound = bound;
        claim.woken_for = woken_for.map(str::to_owned);
        let claims = &mut scene.picture.claims;
        claims.insert("team/c".to_owned(), Arc::new(claim));
        uid
    };
    // Kubernetes has not seen the volume yet: waking now would be in vain.
    see(&mut scene, "Pending", false, None);
    assert_eq!(keys(&scene), Vec::<String>::new());
    let uid = see(&mut scene, "Available", false, None);
    assert_eq!(keys(&scene), ["wake PersistentVolumeClaim team/c"]);
    see(&mut scene, "Available", false, Some(&uid));
    assert_eq!(keys(&scene), Vec::<String>::new());
    // The annotation is that of a volume that was there before.
    see(&mut scene, "Available", false, Some("another"));
    assert_eq!(keys(&scene), ["wake PersistentVolumeClaim team/c"]);
    see(&mut scene, "Bound", true, None);
    assert_eq!(keys(&scene), Vec::<String>::new());
}

#[test]
fn a_volume_that_was_changed_by_hand_is_put_right() {
    let mut scene = settled();
    let mut volume = (*scene.picture.volumes[&volume_name()]).clone();
    volume.mount_options.clear();
    scene
        .picture
        .volumes
        .insert(volume_name(), Arc::new(volume));
    assert_eq!(
        keys(&scene),
        [format!("apply PersistentVolume {}", volume_name())]
    );
}

#[test]
fn objects_have_the_documented_form() {
    let scene = Scene::new()
        .known("acme/big", "big-1")
        .cache("one", WITH_CLAIM);
    let (_, plan) = scene.plan();
    let planned = plan.volumes.values().next().unwrap();
    let volume = build::volume(planned, None);
    assert_eq!(volume["spec"]["mountOptions"], json!(["ro"]));
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(volume["spec"]["storageClassName"], "");
    assert_eq!(volume["spec"]["local"]["path"], "/cache/models/one/m");
    assert_eq!(volume["spec"]["claimRef"]["name"], "c");
    assert!(volume["spec"]["claimRef"].get("uid").is_none());
    let expression =
        &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(
        *expression,
        json!({"key": ready_label("one", "m"), "operator": "Exists"})
    );
    // What is read back is what was planned.
    let read = crate::picture::volume(serde_json::from_value(volume).unwrap());
    assert!(has_our_form(&read, planned));
    assert_eq!((read.model.as_str(), &read.path), ("one/m", &planned.path));
    let claim = build::claim(planned);
    assert_eq!(claim["spec"]["volumeName"], json!(volume_name()));
    let read = crate::picture::claim(serde_json::from_value(claim).unwrap());
    assert_eq!((read.model.as_str(), read.volume), ("one/m", volume_name()));
    let intent = build::intent("n1", &plan.nodes["n1"]);
    let read = crate::picture::intent(serde_json::from_value(intent).unwrap());
    assert!(is_as_planned(&read, &plan.nodes["n1"]));
}
