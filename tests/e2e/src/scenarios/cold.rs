//! From cold to whole on every node.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use modelcache_test_hub::admin::FileSpec;

use super::{Outcome, doctor};
use crate::hub::{self, Hub};
use crate::metrics::sum;
use crate::world::World;
use crate::writes::StatusWrites;

const MEGABYTE: u64 = 1_000_000;

/// A model of `bytes` in a few files, as hubs have them: some large LFS files and small regular ones.
///
/// No other model has any of its contents: nodes keep what they once had, and would not fetch it again.
pub(super) fn model(bytes: u64, seed: u64) -> Vec<FileSpec> {
    let shard = bytes / 2;
    let seed = fresh(seed);
    vec![
        FileSpec::text(
            "config.json",
            &format!("{{\"model_type\": \"test {seed}\"}}\n"),
        ),
        FileSpec::text("README.md", &format!("# Model {seed}\n")),
        FileSpec::text(
            "tokenizer/vocab.txt",
            &format!("word {seed}\n").repeat(10_000),
        ),
        FileSpec::synthetic("model-00001-of-00002.safetensors", seed, shard),
        FileSpec::synthetic("model-00002-of-00002.safetensors", seed + 1, bytes - shard),
    ]
}

/// A seed that no earlier run of the program used.
pub(super) fn fresh(seed: u64) -> u64 {
    static RUN: OnceLock<u64> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    });
    run * 1_000_000 + seed
}

/// The ModelCache of the scenarios: one model of one repository on every node.
pub(super) fn cache(name: &str, repository: &str) -> String {
    format!(
        "apiVersion: modelcache.io/v1alpha1\nkind: ModelCache\nmetadata: {{name: {name}}}\nspec:\n  models:\n  - name: model\n    source: {{huggingFace: {{repository: {repository}}}}}\n"
    )
}

pub(super) async fn run(world: &World) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let measured = measure(world, &hub, "cold", 1).await?;
    Ok(Outcome::Done(vec![
        measured,
        doctor::finds_nothing_wrong(world)?,
    ]))
}

async fn measure(world: &World, hub: &Hub<'_>, name: &str, seed: u64) -> Result<String> {
    // The agents' counters go on from one run to the next.
    let repository = &format!("org/{name}-{}", fresh(0));
    let nodes = world.ready_nodes().await?.len();
    let repo = hub.add(repository, &model(200 * MEGABYTE, seed)).await?;
    let writes = StatusWrites::watch(world);
    let began = Instant::now();
    world.apply(&cache(name, repository)).await?;
    let status = world.ready(name, Duration::from_mins(3)).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(
        status.ready == format!("{nodes}/{nodes}"),
        "the column READY says {}",
        status.ready
    );
    let model = status.models.first().context("no model in the status")?;
    let hub_bytes = hub.content_bytes(repository).await?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "byte counts stay far below 2^53"
    )]
    let copies = hub_bytes as f64 / model.size_bytes as f64;
    ensure!(
        (1.0..=1.10).contains(&copies),
        "{copies:.3} copies left the hub"
    );
    let metrics: f64 = world
        .agent_metrics()
        .await?
        .values()
        .map(|samples| {
            sum(
                samples,
                "modelcache_agent_origin_received_bytes_total",
                &[("model", repository)],
            )
        })
        .sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "byte counts stay far below 2^53"
    )]
    let (hub_bytes, status_bytes) = (hub_bytes as f64, model.origin_bytes as f64);
    ensure!(
        (metrics / hub_bytes - 1.0).abs() <= 0.01,
        "the agents count {metrics} bytes from the hub, the hub {hub_bytes}"
    );
    ensure!(
        (status_bytes / hub_bytes - 1.0).abs() <= 0.01,
        "the status says {status_bytes} bytes from the hub, the hub {hub_bytes}"
    );
    world.check_files(name, &repo).await?;
    let writes = writes.most();
    ensure!(
        (1..=10).contains(&writes),
        "{writes} status writes of one node for one model, at most ten are allowed"
    );
    Ok(format!(
        "{nodes} nodes, {seconds:.1} s, {copies:.3} copies, ≤ {writes} status writes a node"
    ))
}

/// The hub goes away when the nodes together hold every byte; then one more node joins.
pub(super) async fn hub_off(world: &World) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let repository = "org/hub-off";
    let repo = hub.add(repository, &model(200 * MEGABYTE, 10)).await?;
    world.apply(&cache("hub-off", repository)).await?;
    let total = repo.content_bytes();
    crate::wait::until(
        "one copy to have left the hub",
        Duration::from_mins(2),
        || async {
            let sent = hub.content_bytes(repository).await?;
            ensure!(sent >= total, "{sent} of {total}");
            Ok(())
        },
    )
    .await?;
    hub.off().await?;
    world.ready("hub-off", Duration::from_mins(2)).await?;
    if !world.cluster.is_rig() {
        world.check_files("hub-off", &repo).await?;
        return Ok(Outcome::Done(vec![
            "SKIPPED the node that joins: this cluster cannot add one".to_owned(),
        ]));
    }
    let node = world.add_node().await?;
    world.agents_ready(Duration::from_secs(90)).await?;
    world
        .ready_on("hub-off", &node, Duration::from_secs(90))
        .await?;
    world.check_files("hub-off", &repo).await?;
    world.remove_node(&node).await?;
    Ok(Outcome::Done(vec![format!(
        "{node} joined and filled from peers"
    )]))
}

/// Five nodes from cold.
pub(super) async fn five(world: &World) -> Result<Outcome> {
    let mut added = Vec::new();
    while world.ready_nodes().await?.len() < 5 {
        if !world.cluster.is_rig() {
            return Ok(Outcome::Skipped(
                "this cluster has fewer than five nodes".to_owned(),
            ));
        }
        added.push(world.add_node().await?);
    }
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let measured = measure(world, &hub, "five", 20).await;
    for node in added {
        world.remove_node(&node).await?;
    }
    Ok(Outcome::Done(vec![measured?]))
}
