//! Stopping and starting one agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::float;
use crate::network::Network;
use crate::process::machine_cpu_seconds;
use crate::swarm::Sample;
use crate::team::{Field, Players, Team, start_agent};

/// Fills a node, stops its agent in good order, turns the hub off and starts the agent again.
pub fn restart(team: Team, field: &Field<'_>) -> Result<Sample> {
    let _network = Network::create(field.case.topology())?;
    let mut players = Players::start(team, field)?;
    players.go(field, 0)?;
    let node = players.node(0)?;
    node.until_says("Ready", Duration::from_mins(3))?;
    let before = players.nodes.first_mut().and_then(Option::take);
    before.context("no agent")?.stop()?;
    players.hub.clear();
    let began = Instant::now();
    let before = machine_cpu_seconds()?;
    let mut agent = start_agent(team, field, 0)?;
    agent.tell(&field.directory.join("objects.json").display().to_string())?;
    agent.until_says("Ready", Duration::from_mins(2))?;
    let seconds = began.elapsed().as_secs_f64();
    let others = machine_cpu_seconds()? - before - agent.cpu_seconds()?;
    let bytes = float(field.model.bytes());
    let sample = Sample {
        seconds,
        cpu_seconds_per_gb: agent.cpu_seconds()? / (bytes / 1e9),
        peak_resident: agent.peak_resident()?,
        bytes_read: Some(agent.bytes_read()?),
        other_load: others.max(0.0) / seconds,
        finishes: vec![seconds],
        copies: 0.0,
    };
    let data = players.data.first().context("no node")?;
    field.model.check(data)?;
    Ok(sample)
}
