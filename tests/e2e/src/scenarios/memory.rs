//! The memory of operator and agents while a file of 1 GB moves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use modelcache_test_hub::admin::FileSpec;

use super::{Outcome, cold};
use crate::hub::{self, Hub};
use crate::world::{SYSTEM, World};

const AGENT_MEGABYTES: u64 = 200;
const OPERATOR_MEGABYTES: u64 = 64;

pub(super) async fn run(world: &World) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    // Fresh processes, so that the peak is that of this download.
    for workload in [
        "daemonset/modelcache-agent",
        "deployment/modelcache-operator",
    ] {
        world.kubectl(&["-n", SYSTEM, "rollout", "restart", workload])?;
        world.kubectl(&["-n", SYSTEM, "rollout", "status", workload, "--timeout=90s"])?;
    }
    let repo = hub
        .add(
            "org/large",
            &[FileSpec::synthetic(
                "model.safetensors",
                cold::fresh(8_000),
                1_000_000_000,
            )],
        )
        .await?;
    world.apply(&cold::cache("large", "org/large")).await?;
    world.ready("large", Duration::from_mins(5)).await?;
    world.check_files("large", &repo).await?;
    let mut agents = 0;
    for node in world.ready_nodes().await? {
        let agent = world.peak_memory(&node, "modelcache-agent").await?;
        agents = agents.max(agent.with_context(|| format!("no agent on {node}"))?);
    }
    let mut operator = None;
    for node in world.ready_nodes().await? {
        operator = operator.or(world.peak_memory(&node, "modelcache-operator").await?);
    }
    let operator = operator.context("no operator")?;
    ensure!(
        agents <= AGENT_MEGABYTES,
        "an agent used {agents} MB, allowed are {AGENT_MEGABYTES}"
    );
    ensure!(
        operator <= OPERATOR_MEGABYTES,
        "the operator used {operator} MB, allowed are {OPERATOR_MEGABYTES}"
    );
    Ok(Outcome::Done(vec![format!(
        "agents ≤ {agents} MB, operator {operator} MB"
    )]))
}
