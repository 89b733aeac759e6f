//! What the operator survives.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::{Resource, ResourceExt};
use modelcache_crds::ModelCacheNode;
use modelcache_crds::names::ready_label;

use super::{Outcome, cold};
use crate::hub::{self, Hub};
use crate::wait::until;
use crate::world::{APPS, World};

pub(super) async fn run(world: &World) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let mut notes = Vec::new();
    malformed(world, &hub).await?;
    labels(world, &hub).await?;
    notes.push("malformed object, label changes".to_owned());
    if world.cluster.is_rig() {
        api_server(world, &hub).await?;
        deleted_node(world, &hub).await?;
        notes.push("API server killed, Node deleted and back".to_owned());
    } else {
        notes.push(
            "SKIPPED API server restart and Node deletion: not ours to do on this cluster"
                .to_owned(),
        );
    }
    Ok(Outcome::Done(notes))
}

/// An object that no rule of today's schema would let in stands beside good ones.
async fn malformed(world: &World, hub: &Hub<'_>) -> Result<()> {
    let name = "modelcaches.modelcache.io";
    let before = world.kubectl(&["get", "crd", name, "-o", "json"])?;
    let mut loose: serde_json::Value = serde_json::from_str(&before)?;
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let patch = serde_json::json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    }]);
    world.kubectl(&[
        "patch",
        "crd",
        name,
        "--type=json",
        "-p",
        &patch.to_string(),
    ])?;
    let bad = "apiVersion: modelcache.io/v1alpha1\nkind: ModelCache\nmetadata: {name: malformed}\nspec: {models: {not: [a, list]}}\n";
    until(
        "the loose schema to let it in",
        Duration::from_secs(20),
        || async { world.apply(bad).await },
    )
    .await?;
    let good = hub
        .add("org/beside", &cold::model(3_000_000, 9_200))
        .await?;
    world.apply(&cold::cache("beside", "org/beside")).await?;
    let ready = world.ready("beside", Duration::from_mins(1)).await;
    world.kubectl(&["delete", "mc", "malformed"])?;
    let original: serde_json::Value = serde_json::from_str(&before)?;
    let back = serde_json::json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": original["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    }]);
    world.kubectl(&["patch", "crd", name, "--type=json", "-p", &back.to_string()])?;
    ready?;
    world.check_files("beside", &good).await
}

/// A label brings a node into a pool and takes it out again.
async fn labels(world: &World, hub: &Hub<'_>) -> Result<()> {
    let nodes = world.ready_nodes().await?;
    ensure!(nodes.len() >= 2, "two nodes are needed");
    hub.add("org/labels", &cold::model(3_000_000, 9_210))
        .await?;
    let pool = "  nodePools:\n  - {name: chosen, nodeSelector: {matchLabels: {e2e: chosen}}}\n";
    world.kubectl(&["label", "node", &nodes[0], "e2e=chosen", "--overwrite"])?;
    world
        .apply(&(cold::cache("labels", "org/labels") + pool))
        .await?;
    world.ready("labels", Duration::from_mins(1)).await?;
    ensure!(
        world.node_statuses("labels").await?.len() == 1,
        "a node that was not chosen holds it"
    );

    world.kubectl(&["label", "node", &nodes[1], "e2e=chosen", "--overwrite"])?;
    world
        .ready_on("labels", &nodes[1], Duration::from_mins(1))
        .await?;
    let label = ready_label("labels", "model");
    let api: Api<Node> = Api::all(world.client.clone());
    until(
        "the ready label on both",
        Duration::from_secs(20),
        || async {
            for node in &nodes[..2] {
                ensure!(
                    api.get(node).await?.labels().contains_key(&label),
                    "not on {node}"
                );
            }
            Ok(())
        },
    )
    .await?;

    world.kubectl(&["label", "node", &nodes[0], "e2e-"])?;
    until(
        "the first node to be let go",
        Duration::from_secs(30),
        || async {
            ensure!(
                !api.get(&nodes[0]).await?.labels().contains_key(&label),
                "it has the ready label"
            );
            let held = world.node_statuses("labels").await?;
            ensure!(
                held.iter().all(|(node, _)| *node != nodes[0]),
                "its ModelCacheNode still names the snapshot"
            );
            let status = world.status("labels").await?;
            ensure!(status.ready == "1/1", "READY says {}", status.ready);
            Ok(())
        },
    )
    .await?;
    world.kubectl(&["label", "node", &nodes[1], "e2e-"])?;
    Ok(())
}

/// The API server dies in the middle of a download.
async fn api_server(world: &World, hub: &Hub<'_>) -> Result<()> {
    let repo = hub.add("org/api", &cold::model(40_000_000, 9_220)).await?;
    hub.rate(Some(8_000_000)).await?;
    world.apply(&cold::cache("api", "org/api")).await?;
    until(
        "the download to have begun",
        Duration::from_secs(30),
        || async {
            ensure!(hub.content_bytes("org/api").await? > 0, "nothing yet");
            Ok(())
        },
    )
    .await?;
    world.cluster.stop_api_server()?;
    world.cluster.start_api_server()?;
    until("the API server", Duration::from_mins(1), || async {
        world.ready_nodes().await.map(|_| ())
    })
    .await?;
    world.ready("api", Duration::from_mins(2)).await?;
    hub.rate(None).await?;
    world.check_files("api", &repo).await
}

/// A Node that is deleted takes its ModelCacheNode with it; when it comes back it is filled without anybody's help.
async fn deleted_node(world: &World, hub: &Hub<'_>) -> Result<()> {
    hub.add("org/deleted", &cold::model(3_000_000, 9_230))
        .await?;
    world.apply(&cold::cache("deleted", "org/deleted")).await?;
    world.ready("deleted", Duration::from_mins(1)).await?;
    let hubs = world.pods(APPS, "app=hub").await?;
    let hub_node = hubs
        .first()
        .and_then(|pod| pod.spec.as_ref()?.node_name.clone())
        .context("no hub")?;
    let node = world
        .ready_nodes()
        .await?
        .into_iter()
        .find(|node| *node != hub_node)
        .context("no other node")?;
    world.cluster.power_cut(&node)?;
    world.kubectl(&["delete", "node", &node])?;
    let api: Api<ModelCacheNode> = Api::all(world.client.clone());
    until(
        "its ModelCacheNode to go",
        Duration::from_mins(1),
        || async {
            match api.get_opt(&node).await? {
                None => Ok(()),
                Some(object) => bail!(
                    "{} is still there",
                    object.meta().name.clone().unwrap_or_default()
                ),
            }
        },
    )
    .await?;
    world.ready("deleted", Duration::from_mins(1)).await?;
    world.cluster.boot(&node)?;
    world.node_ready(&node, Duration::from_mins(1)).await?;
    world
        .ready_on("deleted", &node, Duration::from_secs(90))
        .await
}
