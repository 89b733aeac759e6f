//! kill -9 and power cuts at random moments of a download.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use rand::RngExt;

use super::{Outcome, cold};
use crate::hub::{self, Hub, Repo};
use crate::world::{APPS, SYSTEM, World};

/// Size of the model and rate of the hub: a download of about eight seconds.
const BYTES: u64 = 80_000_000;
const RATE: u64 = 10_000_000;

#[derive(Clone, Copy, Debug)]
enum Blow {
    Agent,
    Operator,
    Power,
}

pub(super) async fn run(world: &World, thorough: bool) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    hub.rate(Some(RATE)).await?;
    let rounds = if thorough { 10 } else { 3 };
    let mut notes = Vec::new();
    let mut looks = 0;
    for (kind, blow) in [Blow::Agent, Blow::Operator, Blow::Power]
        .into_iter()
        .enumerate()
    {
        if matches!(blow, Blow::Power) && !world.cluster.is_rig() {
            notes.push("SKIPPED power cuts: this cluster has no power switch".to_owned());
            continue;
        }
        let mut slowest = Duration::ZERO;
        for round in 0..rounds {
            let seed = 5_000 + (kind * 100 + round) as u64 * 10;
            let name = format!("kill-{}-{round}", format!("{blow:?}").to_lowercase());
            let (found, recovery) = one(world, &hub, &name, seed, blow)
                .await
                .with_context(|| format!("{name}, seed {seed}"))?;
            looks += found;
            slowest = slowest.max(recovery);
        }
        notes.push(format!(
            "{rounds} × {blow:?}, whole at most {:.0} s later",
            slowest.as_secs_f64()
        ));
    }
    notes.push(format!("{looks} looks of a reader"));
    hub.rate(None).await?;
    Ok(Outcome::Done(notes))
}

/// One blow; how often the reader looked, and how long after the blow all nodes were whole.
async fn one(
    world: &World,
    hub: &Hub<'_>,
    name: &str,
    seed: u64,
    blow: Blow,
) -> Result<(u64, Duration)> {
    let repository = format!("org/{name}");
    let repo = hub.add(&repository, &cold::model(BYTES, seed)).await?;
    let nodes = world.ready_nodes().await?;
    renew(world).await?;
    let done = Cell::new(false);
    let (looks, recovery) = tokio::join!(read(world, name, &repo, &nodes, &done), async {
        let recovery = strike(world, name, &repo, &nodes, blow).await;
        done.set(true);
        recovery
    });
    let (looks, recovery) = (looks?, recovery?);
    ensure!(looks > 0, "the reader never saw the model");
    world.delete_cache(name).await?;
    Ok((looks, recovery))
}

/// Starts a download, strikes at a random moment of it, and waits until all nodes are whole; how long that took.
async fn strike(
    world: &World,
    name: &str,
    repo: &Repo,
    nodes: &[String],
    blow: Blow,
) -> Result<Duration> {
    let node = match blow {
        Blow::Agent => any(nodes)?,
        Blow::Operator => node_of(world, SYSTEM, "app.kubernetes.io/component=operator").await?,
        Blow::Power => {
            // The stand-in hub keeps its repositories in memory: its node is left alone.
            let hub = node_of(world, APPS, "app=hub").await?;
            let others: Vec<String> = nodes.iter().filter(|node| **node != hub).cloned().collect();
            any(&others)?
        }
    };
    // The pod that kills shall be there when the moment comes.
    if !matches!(blow, Blow::Power) {
        world.on_node(&node, "true").await?;
    }
    world.apply(&cold::cache(name, &repo.name)).await?;
    // A random moment is what is asked for, so this is a sleep on purpose.
    tokio::time::sleep(Duration::from_millis(rand::rng().random_range(300..8_000))).await;
    let struck = Instant::now();
    match blow {
        Blow::Agent => world.kill(&node, "modelcache-agent").await?,
        Blow::Operator => world.kill(&node, "modelcache-operator").await?,
        Blow::Power => {
            world.cluster.power_cut(&node)?;
            world.cluster.boot(&node)?;
            world.node_ready(&node, Duration::from_mins(1)).await?;
        }
    }
    world.agents_ready(Duration::from_secs(90)).await?;
    world.ready(name, Duration::from_mins(2)).await?;
    let recovery = struck.elapsed();
    world.check_files(name, repo).await?;
    Ok(recovery)
}

/// Gives pods that were killed twice successors: the kubelet waits longer after each end of a container, up to five
/// minutes, and the tenth kill is to show what the first does.
async fn renew(world: &World) -> Result<()> {
    for pod in world.pods(SYSTEM, "").await? {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|s| s.container_statuses.as_ref());
        let restarts = statuses
            .into_iter()
            .flatten()
            .map(|s| s.restart_count)
            .sum::<i32>();
        if restarts >= 2 {
            world.kubectl(&["-n", SYSTEM, "delete", "pod", &pod.name_any()])?;
        }
    }
    let operator = "deployment/modelcache-operator";
    world.kubectl(&["-n", SYSTEM, "rollout", "status", operator, "--timeout=90s"])?;
    world.agents_ready(Duration::from_secs(90)).await
}

fn any(nodes: &[String]) -> Result<String> {
    ensure!(!nodes.is_empty(), "no node to strike");
    Ok(nodes[rand::rng().random_range(0..nodes.len())].clone())
}

/// The node that a pod runs on.
pub(super) async fn node_of(world: &World, namespace: &str, selector: &str) -> Result<String> {
    let pods = world.pods(namespace, selector).await?;
    pods.first()
        .and_then(|pod| pod.spec.as_ref()?.node_name.clone())
        .with_context(|| format!("no pod {selector}"))
}

/// Looks at what is published on every node again and again: whatever can be seen must be whole and right.
async fn read(
    world: &World,
    cache: &str,
    repo: &Repo,
    nodes: &[String],
    done: &Cell<bool>,
) -> Result<u64> {
    let mut looks = 0;
    while !done.get() {
        for node in nodes {
            if world.published(node, cache, "model").await? {
                world
                    .check_node(cache, node, repo)
                    .await
                    .with_context(|| format!("a reader on {node}"))?;
                looks += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(looks)
}
