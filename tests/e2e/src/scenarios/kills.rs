//! kill -9 and power cuts at random moments of a download.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use modelcache_test_cluster::ClusterError;
use rand::RngExt;

use super::{Outcome, cold};
use crate::files::NodeFiles;
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
            let (seen, recovery) = one(world, &hub, &name, seed, blow)
                .await
                .with_context(|| format!("{name}, seed {seed}"))?;
            looks += seen;
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
    // The stand-in hub keeps its repositories in memory: its node is left alone.
    let hubs = world.pods(APPS, "app=hub").await?;
    let hub_node = hubs
        .first()
        .and_then(|pod| pod.spec.as_ref()?.node_name.clone())
        .context("no hub")?;
    let others: Vec<&String> = nodes
        .iter()
        .filter(|node| !matches!(blow, Blow::Power) || **node != hub_node)
        .collect();
    let node = others[rand::rng().random_range(0..others.len())].clone();
    let reader = Reader::start(world, name, &repo, &nodes);
    world.apply(&cold::cache(name, &repository)).await?;
    // A random moment is what is asked for, so this is a sleep on purpose.
    tokio::time::sleep(Duration::from_millis(rand::rng().random_range(300..8_000))).await;
    let struck = Instant::now();
    match blow {
        Blow::Agent => world.kill(&node, "modelcache-agent").await?,
        Blow::Operator => {
            let pod = world
                .pods(SYSTEM, "app.kubernetes.io/component=operator")
                .await?;
            let node = pod
                .first()
                .and_then(|pod| pod.spec.as_ref()?.node_name.clone())
                .context("no operator")?;
            world.kill(&node, "modelcache-operator").await?;
        }
        Blow::Power => {
            world.cluster.power_cut(&node)?;
            world.cluster.boot(&node)?;
            world.node_ready(&node, Duration::from_mins(1)).await?;
        }
    }
    world.agents_ready(Duration::from_secs(90)).await?;
    world.ready(name, Duration::from_mins(2)).await?;
    let recovery = struck.elapsed();
    world.check_files(name, &repo).await?;
    let looks = reader.finish()?;
    world.delete_cache(name).await?;
    Ok((looks, recovery))
}

impl World {
    /// SIGKILL to a program on a node; where the machine room cannot, its pod is deleted without grace.
    pub async fn kill(&self, node: &str, program: &str) -> Result<()> {
        match self
            .cluster
            .node_exec(node, &["pkill", "-KILL", "-f", &format!("{program} run")])
        {
            Ok(_) => Ok(()),
            Err(ClusterError::NeedsRig { .. }) => {
                let component = program.trim_start_matches("modelcache-");
                for pod in self
                    .pods(SYSTEM, &format!("app.kubernetes.io/component={component}"))
                    .await?
                {
                    if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node) {
                        let name = pod.metadata.name.unwrap_or_default();
                        self.kubectl(&[
                            "-n",
                            SYSTEM,
                            "delete",
                            "pod",
                            &name,
                            "--force",
                            "--grace-period=0",
                        ])?;
                        return Ok(());
                    }
                }
                bail!("no {program} on {node}")
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Looks at what is published on every node again and again: whatever can be seen must be whole and right.
struct Reader {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Reader {
    fn start(world: &World, cache: &str, repo: &Repo, nodes: &[String]) -> Self {
        let (stop, looks) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let views: Vec<NodeFiles> = nodes
            .iter()
            .filter_map(|node| NodeFiles::local(world, node).ok())
            .collect();
        let (cache, repo) = (cache.to_owned(), repo.clone());
        let thread = (!views.is_empty()).then(|| {
            let (stop, looks) = (stop.clone(), looks.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for view in &views {
                        if view.published(&cache, "model")? {
                            view.check(&cache, "model", &repo)
                                .with_context(|| format!("a reader on {}", view.node()))?;
                            looks.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Ok(())
            })
        });
        Self {
            stop,
            looks,
            thread,
        }
    }

    fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
            ensure!(
                self.looks.load(Ordering::Relaxed) > 0,
                "the reader never saw the model"
            );
        }
        Ok(self.looks.load(Ordering::Relaxed))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
