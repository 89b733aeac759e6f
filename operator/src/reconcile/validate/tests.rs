use super::*;
use crate::reconcile::fixtures::{cache_yaml, picture};

#[test]
fn a_spec_without_pools_means_every_node() {
    let mut picture = picture();
    picture.caches.insert(
        "one".to_owned(),
        cache_yaml(
            "one",
            "models: [{name: m, source: {huggingFace: {repository: a/b}}}]",
        ),
    );
    let world = validate(&picture, "https://hub.example/");
    let cache = &world.caches[0];
    assert!(cache.pools[0].selects(&NodeSeen::default()));
    assert!(cache.pools[0].holds("m"));
    assert_eq!(cache.models[0].source.endpoint, "https://hub.example");
    assert_eq!(cache.models[0].source.revision, "main");
    assert_eq!(cache.models[0].field, "spec.models[0]");
}

#[test]
fn a_token_is_for_the_hub_of_its_model() {
    let spec = "models: [{name: a, source: {huggingFace: {repository: a/b, tokenSecret: {name: s}}}}, {name: b, source: {huggingFace: {repository: a/b, tokenSecret: {name: s}, endpoint: 'https://other.example'}}}, {name: c, source: {huggingFace: {repository: a/b}}}]";
    let mut picture = picture();
    picture
        .caches
        .insert("one".to_owned(), cache_yaml("one", spec));
    let world = validate(&picture, "https://hub.example");
    let models = world.caches[0].models.iter();
    let endpoints: Vec<_> = models
        .map(|model| model.token().map(|token| token.endpoint))
        .collect();
    let hub = |text: &str| Some(text.to_owned());
    assert_eq!(
        endpoints,
        [
            hub("https://hub.example"),
            hub("https://other.example"),
            None
        ]
    );
}

#[test]
fn selectors_are_full_label_selectors() {
    let node = |labels: &[(&str, &str)]| NodeSeen {
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..NodeSeen::default()
    };
    let selects = |selector: &str, labels: &[(&str, &str)]| {
        let mut picture = picture();
        picture.caches.insert(
            "one".to_owned(),
            cache_yaml(
                "one",
                &format!(
                    "{{models: [{{name: m, source: {{huggingFace: {{repository: a/b}}}}}}], nodePools: [{{name: p, nodeSelector: {selector}}}]}}"
                ),
            ),
        );
        let world = validate(&picture, "h");
        world.caches[0].pools[0].selects(&node(labels))
    };
    let gpu = "{matchLabels: {gpu: a100}}";
    assert!(selects(gpu, &[("gpu", "a100"), ("x", "y")]));
    assert!(!selects(gpu, &[("gpu", "t4")]));
    assert!(!selects(gpu, &[]));
    let one_of = "{matchExpressions: [{key: gpu, operator: In, values: [a100, h100]}]}";
    assert!(selects(one_of, &[("gpu", "h100")]));
    assert!(!selects(one_of, &[("gpu", "t4")]));
    // As Kubernetes has it, a node without the label is not in.
    let none_of = "{matchExpressions: [{key: gpu, operator: NotIn, values: [t4]}]}";
    assert!(selects(none_of, &[]));
    assert!(selects(none_of, &[("gpu", "a100")]));
    assert!(!selects(none_of, &[("gpu", "t4")]));
    assert!(selects(
        "{matchExpressions: [{key: gpu, operator: Exists}]}",
        &[("gpu", "")]
    ));
    assert!(!selects(
        "{matchExpressions: [{key: gpu, operator: Exists}]}",
        &[]
    ));
    let absent = "{matchExpressions: [{key: gpu, operator: DoesNotExist}]}";
    assert!(selects(absent, &[]));
    assert!(!selects(absent, &[("gpu", "t4")]));
    let both = "{matchLabels: {a: b}, matchExpressions: [{key: gpu, operator: Exists}]}";
    assert!(!selects(both, &[("a", "b")]));
    assert!(selects(both, &[("a", "b"), ("gpu", "t4")]));
    assert!(selects("{}", &[]));
}

#[test]
fn one_bad_object_does_not_stop_the_others() {
    let mut picture = picture();
    let good = "models: [{name: m, source: {huggingFace: {repository: a/b}}}]";
    picture
        .caches
        .insert("good".to_owned(), cache_yaml("good", good));
    picture.caches.insert(
        "no-source".to_owned(),
        cache_yaml("no-source", "models: [{name: m, source: {}}]"),
    );
    picture.caches.insert(
        "odd".to_owned(),
        Arc::new(CacheSeen {
            uid: "u".to_owned(),
            deleting: false,
            object: Err("invalid type".to_owned()),
        }),
    );
    let world = validate(&picture, "h");
    assert_eq!(world.caches.len(), 1);
    assert_eq!(
        world.frozen.keys().collect::<Vec<_>>(),
        ["no-source", "odd"]
    );
    assert!(world.frozen["no-source"].contains("spec.models[0].source"));
}

#[test]
fn a_claim_belongs_to_one_cache_only() {
    let mut picture = picture();
    let spec = "{models: [{name: m, source: {huggingFace: {repository: a/b}}}], volumeClaims: [{namespace: team, name: c, model: m}]}";
    for name in ["a", "b"] {
        picture
            .caches
            .insert(name.to_owned(), cache_yaml(name, spec));
    }
    let world = validate(&picture, "h");
    assert_eq!(world.caches[0].claims.len(), 1);
    assert!(world.caches[1].claims.is_empty());
    let problem = &world.caches[1].problems[0];
    assert_eq!(problem.reason, reasons::VOLUME_CLAIM_FAILED);
    assert!(problem.message.contains("team/c") && problem.message.contains("\"a\""));
    // What is there stays where it is.
    picture.claims.insert(
        "team/c".to_owned(),
        Arc::new(crate::picture::ClaimSeen {
            model: "b/m".to_owned(),
            ..Default::default()
        }),
    );
    let world = validate(&picture, "h");
    assert!(world.caches[0].claims.is_empty());
    assert_eq!(world.caches[1].claims.len(), 1);
}

#[test]
fn a_commit_is_pinned_only_while_the_status_speaks_of_this_spec() {
    let pinned = |generation: i64, observed: i64, revision: &str| {
        let mut seen = (*cache_yaml(
            "one",
            &format!(
                "models: [{{name: m, source: {{huggingFace: {{repository: a/b, revision: {revision}}}}}}}]"
            ),
        ))
        .clone();
        let mut object = (*seen.object.unwrap()).clone();
        object.metadata.generation = Some(generation);
        object.status = serde_json::from_value(serde_json::json!({
            "observedGeneration": observed,
            "models": [{"name": "m", "repository": "a/b", "revision": "main", "commit": "c0ffee"}],
        }))
        .unwrap();
        seen.object = Ok(Arc::new(object));
        let mut picture = picture();
        picture.caches.insert("one".to_owned(), Arc::new(seen));
        validate(&picture, "h").caches[0].models[0].pinned.clone()
    };
    assert_eq!(pinned(2, 2, "main").as_deref(), Some("c0ffee"));
    assert_eq!(pinned(3, 2, "main"), None);
    assert_eq!(pinned(2, 2, "v2"), None);
}
