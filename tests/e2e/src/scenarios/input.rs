//! Wrong input: a clear condition and Event, no effect on other models, and no token anywhere.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use modelcache_crds::model_cache_node::Phase;

use modelcache_test_hub::admin::FileSpec;

use super::{Outcome, cold};
use crate::hub::{self, Hub};
use crate::wait::{stays, until};
use crate::world::{SYSTEM, World};

/// Tokens that must never show.
const GOOD_TOKEN: &str = "hf_rightRIGHTrightRIGHT0001";
const WRONG_TOKEN: &str = "hf_wrongWRONGwrongWRONG0002";

/// One wrong model beside a good one: how it is written, which reason it must get, what its message must name.
struct Case {
    name: &'static str,
    source: &'static str,
    reason: &'static str,
    names: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "no-repository",
        source: "repository: org/does-not-exist",
        reason: "RepositoryNotFound",
        names: &["spec.models[1]", "org/does-not-exist", "repository"],
    },
    Case {
        name: "no-revision",
        source: "repository: org/good, revision: v9",
        reason: "RevisionNotFound",
        names: &["spec.models[1]", "v9", "revision"],
    },
    Case {
        name: "gated",
        source: "repository: org/gated",
        reason: "Gated",
        names: &["spec.models[1]", "org/gated", "tokenSecret"],
    },
    Case {
        name: "wrong-token",
        source: "repository: org/gated, tokenSecret: {name: wrong-token}",
        reason: "Unauthorized",
        names: &["spec.models[1]", "wrong-token"],
    },
    Case {
        name: "no-secret",
        source: "repository: org/gated, tokenSecret: {name: not-there}",
        reason: "TokenSecretMissing",
        names: &["spec.models[1]", "not-there", "tokenSecret"],
    },
    // The second one leads to the same hub, which would take the token.
    Case {
        name: "other-endpoint",
        source: "repository: org/gated, endpoint: 'http://hub.modelcache-test:8080', tokenSecret: {name: right-token}",
        reason: "TokenNotForEndpoint",
        names: &["spec.models[1]", "right-token", "modelcache.io/endpoint"],
    },
    Case {
        name: "no-match",
        source: "repository: org/good, include: ['*.gguf']",
        reason: "NoFilesMatch",
        names: &["spec.models[1]", "*.gguf", "include"],
    },
    Case {
        name: "unsafe-path",
        source: "repository: org/evil",
        reason: "UnsafePath",
        names: &["spec.models[1]", "../"],
    },
    // The API server's certificate is signed by an authority that only the cluster knows: a hub with a bad one.
    Case {
        name: "certificate",
        source: "repository: org/good, endpoint: 'https://kubernetes.default.svc.cluster.local'",
        reason: "OriginCertificate",
        names: &["spec.models[1]", "caBundle"],
    },
];

pub(super) async fn run(world: &World) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    for (name, token) in [("wrong-token", WRONG_TOKEN), ("right-token", GOOD_TOKEN)] {
        world.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {SYSTEM}}}\nstringData: {{token: {token}}}\n")).await?;
    }
    hub.token(GOOD_TOKEN, &["org/gated"]).await?;
    let good = hub.add("org/good", &cold::model(3_000_000, 7_000)).await?;
    hub.add("org/gated", &cold::model(2_000_000, 7_010)).await?;
    hub.gate("org/gated").await?;
    hub.add(
        "org/evil",
        &[
            FileSpec::text("../../evil.txt", "x"),
            FileSpec::text("config.json", "{}"),
        ],
    )
    .await?;

    for case in CASES {
        world.apply(&beside_good(case.name, case.source)).await?;
    }
    for case in CASES {
        let message = world
            .reason(
                case.name,
                "Resolved",
                "False",
                case.reason,
                Duration::from_mins(1),
            )
            .await
            .with_context(|| format!("case {}", case.name))?;
        for name in case.names {
            ensure!(
                message.contains(name),
                "{}: the message does not name '{name}': {message}",
                case.name
            );
        }
        event(world, case.name, case.reason).await?;
        unharmed(world, case.name).await?;
        world.check_files(case.name, &good).await?;
    }
    pools_that_overlap(world).await?;
    rate_limited(world, &hub).await?;
    wrong_bytes(world, &hub).await?;
    right_token(world).await?;
    too_large(world, &hub).await?;
    no_token_shows(world).await?;
    Ok(Outcome::Done(vec![format!("{} cases", CASES.len() + 5)]))
}

/// A ModelCache whose first model is good and whose second is the case's.
fn beside_good(name: &str, source: &str) -> String {
    format!(
        "apiVersion: modelcache.io/v1alpha1\nkind: ModelCache\nmetadata: {{name: {name}}}\nspec:\n  models:\n  - {{name: model, source: {{huggingFace: {{repository: org/good}}}}}}\n  - {{name: other, source: {{huggingFace: {{{source}}}}}}}\n"
    )
}

/// Waits for an Event about a ModelCache.
async fn event(world: &World, cache: &str, reason: &str) -> Result<()> {
    let events: Api<Event> = Api::all(world.client.clone());
    until(
        format!("an Event {reason} about {cache}"),
        Duration::from_secs(20),
        || async {
            let found = events.list(&ListParams::default()).await?;
            let there = found.iter().any(|event| {
                event
                    .regarding
                    .as_ref()
                    .and_then(|about| about.name.as_deref())
                    == Some(cache)
                    && event.reason.as_deref() == Some(reason)
                    && event.type_.as_deref() == Some("Warning")
            });
            ensure!(there, "none");
            Ok(())
        },
    )
    .await
}

/// The good model of a ModelCache with a bad one is whole on every node.
async fn unharmed(world: &World, cache: &str) -> Result<()> {
    until(
        format!("the good model of {cache}"),
        Duration::from_mins(1),
        || async {
            let status = world.status(cache).await?;
            let good = status
                .models
                .iter()
                .find(|model| model.name == "model")
                .context("not in the status")?;
            ensure!(
                good.nodes_ready > 0 && good.nodes_ready == good.nodes_desired,
                "{}/{}",
                good.nodes_ready,
                good.nodes_desired
            );
            Ok(())
        },
    )
    .await
}

async fn pools_that_overlap(world: &World) -> Result<()> {
    let pools = "  nodePools:\n  - {name: a, nodeSelector: {matchExpressions: [{key: kubernetes.io/hostname, operator: Exists}]}}\n  - {name: b, nodeSelector: {matchLabels: {kubernetes.io/os: linux}}}\n";
    world
        .apply(&(cold::cache("overlap", "org/good") + pools))
        .await?;
    let message = world
        .reason(
            "overlap",
            "Degraded",
            "True",
            "PoolOverlap",
            Duration::from_secs(30),
        )
        .await?;
    for name in ["spec.nodePools", "\"a\"", "\"b\"", "nodeSelector"] {
        ensure!(
            message.contains(name),
            "the message does not name {name}: {message}"
        );
    }
    event(world, "overlap", "PoolOverlap").await?;
    unharmed(world, "overlap").await
}

/// The hub answers 429 for a while: said, and got over without anybody doing anything.
async fn rate_limited(world: &World, hub: &Hub<'_>) -> Result<()> {
    hub.add("org/limited", &cold::model(2_000_000, 7_020))
        .await?;
    hub.too_many_requests("org/limited").await?;
    world
        .apply(&beside_good("limited", "repository: org/limited"))
        .await?;
    world
        .reason(
            "limited",
            "Resolved",
            "False",
            "RateLimited",
            Duration::from_secs(30),
        )
        .await?;
    unharmed(world, "limited").await?;
    hub.heal().await?;
    world.ready("limited", Duration::from_secs(90)).await?;
    Ok(())
}

/// The hub serves bytes with a wrong hash: never published, said, tried again with back-off, well once it is well.
async fn wrong_bytes(world: &World, hub: &Hub<'_>) -> Result<()> {
    hub.add(
        "org/wrong",
        &[FileSpec::synthetic(
            "model.safetensors",
            cold::fresh(7_030),
            3_000_000,
        )],
    )
    .await?;
    hub.wrong_bytes("org/wrong").await?;
    world
        .apply(&beside_good("wrong", "repository: org/wrong"))
        .await?;
    until(
        "a node to report HashMismatch",
        Duration::from_mins(1),
        || async {
            let statuses = world.node_statuses("wrong").await?;
            let found = statuses
                .iter()
                .find(|(_, status)| status.reason.as_deref() == Some("HashMismatch"));
            let (_, status) = found.context("none")?;
            let message = status.message.clone().unwrap_or_default();
            ensure!(
                message.contains("model.safetensors"),
                "the message names no file: {message}"
            );
            Ok(())
        },
    )
    .await?;
    stays(
        "nothing wrong is published",
        Duration::from_secs(8),
        || async {
            for (node, status) in world.node_statuses("wrong").await? {
                let other = status.models.iter().any(|model| model.model == "other");
                ensure!(
                    !(other && status.phase == Phase::Ready),
                    "{node} says Ready"
                );
                ensure!(
                    !world.published(&node, "wrong", "other").await?,
                    "{node} shows the wrong bytes"
                );
            }
            Ok(())
        },
    )
    .await?;
    let requests = hub.requests("org/wrong").await?;
    ensure!(requests < 300, "{requests} requests: that is no back-off");
    unharmed(world, "wrong").await?;
    hub.heal().await?;
    world.ready("wrong", Duration::from_mins(2)).await?;
    Ok(())
}

/// A model that cannot fit is refused before a byte is written, with how much is missing.
async fn too_large(world: &World, hub: &Hub<'_>) -> Result<()> {
    hub.add(
        "org/huge",
        &[
            FileSpec::declared("model.safetensors", 100_000_000_000_000),
            FileSpec::text("config.json", "{}"),
        ],
    )
    .await?;
    world
        .apply(&beside_good("huge", "repository: org/huge"))
        .await?;
    until(
        "every node to refuse the model",
        Duration::from_mins(1),
        || async {
            let statuses = world.node_statuses("huge").await?;
            let refused: Vec<_> = statuses
                .iter()
                .filter(|(_, status)| status.reason.as_deref() == Some("NoSpace"))
                .collect();
            ensure!(
                refused.len() == world.ready_nodes().await?.len(),
                "{} nodes did",
                refused.len()
            );
            for (node, status) in refused {
                ensure!(status.phase == Phase::Failed, "{node}: {:?}", status.phase);
                ensure!(
                    status
                        .message
                        .as_ref()
                        .is_some_and(|message| message.contains("10000000000000")
                            && message.contains("too few")),
                    "{node}: {:?}",
                    status.message
                );
            }
            Ok(())
        },
    )
    .await?;
    // One byte is the operator's, which looks whether it may read.
    ensure!(
        hub.content_bytes("org/huge").await? <= 1,
        "bytes of it left the hub"
    );
    unharmed(world, "huge").await
}

/// With the right token the gated model comes.
async fn right_token(world: &World) -> Result<()> {
    world
        .apply(&beside_good(
            "right-token",
            "repository: org/gated, tokenSecret: {name: right-token}",
        ))
        .await?;
    world.ready("right-token", Duration::from_mins(1)).await?;
    Ok(())
}

/// No log, status, Event or error has a token in it.
async fn no_token_shows(world: &World) -> Result<()> {
    let mut texts = vec![
        (
            "ModelCaches".to_owned(),
            world.kubectl(&["get", "mc", "-o", "yaml"])?,
        ),
        (
            "ModelSnapshots".to_owned(),
            world.kubectl(&["get", "msnap", "-o", "yaml"])?,
        ),
        (
            "ModelCacheNodes".to_owned(),
            world.kubectl(&["get", "mcn", "-o", "yaml"])?,
        ),
        (
            "Events".to_owned(),
            world.kubectl(&["get", "events", "-A", "-o", "yaml"])?,
        ),
        (
            "ConfigMaps".to_owned(),
            world.kubectl(&["get", "configmaps", "-A", "-o", "yaml"])?,
        ),
    ];
    for pod in world.pods(SYSTEM, "").await? {
        let name = pod.metadata.name.unwrap_or_default();
        texts.push((
            format!("log of {name}"),
            world.kubectl(&["-n", SYSTEM, "logs", &name, "--all-containers"])?,
        ));
    }
    for (what, text) in &texts {
        ensure!(!text.is_empty(), "{what} is empty: nothing was searched");
        for token in [GOOD_TOKEN, WRONG_TOKEN] {
            ensure!(!text.contains(token), "a token stands in {what}");
        }
    }
    for node in world.ready_nodes().await? {
        // All but the models themselves.
        let script = format!(
            "cd {} || exit 1; find . \\( -path ./blobs -o -path ./volumes -o -path ./hub \\) -prune -o -type f -exec grep -lF {GOOD_TOKEN} {{}} +; true",
            world.cache_dir()
        );
        let found = world.on_node(&node, &script).await?;
        ensure!(
            found.trim().is_empty(),
            "a token stands in {found} on {node}"
        );
    }
    Ok(())
}
