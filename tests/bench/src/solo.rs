//! Stopping, killing and starting one agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::float;
use crate::network::{Host, Network};
use crate::process::{Process, machine_cpu_seconds, stolen_cpu_seconds};
use crate::sample::{Meter, Sample};
use crate::swarm::wait_for_half;
use crate::team::{Field, Players, Team, start_agent};

/// How long one agent may take for a model.
const PATIENCE: Duration = Duration::from_mins(3);

/// Fills a node, stops its agent in good order, turns the hub off and starts the agent again.
pub fn restart(team: Team, field: &Field<'_>) -> Result<Sample> {
    let _network = Network::create(field.case.topology())?;
    let mut players = Players::start(team, field)?;
    players.go(field, 0)?;
    players.node(0)?.until_says("Ready", PATIENCE)?;
    let before = players.nodes.first_mut().and_then(Option::take);
    before.context("no agent")?.stop()?;
    players.hub.clear();
    let (machine, stolen) = (machine_cpu_seconds()?, stolen_cpu_seconds()?);
    let (agent, seconds) = start_again(team, field)?;
    let own = agent.cpu_seconds()?;
    let others = machine_cpu_seconds()? - machine - own;
    let sample = Sample {
        seconds,
        cpu_seconds_per_gb: own / (float(field.model.bytes()) / 1e9),
        peak_resident: agent.peak_resident()?,
        own_load: own / seconds,
        other_load: others.max(0.0) / seconds,
        stolen_load: (stolen_cpu_seconds()? - stolen) / seconds,
        finishes: vec![seconds],
        figures: vec![("bytesRead", float(agent.bytes_read()?))],
        copies: 0.0,
    };
    field
        .model
        .check(players.data.first().context("no node")?)?;
    Ok(sample)
}

/// Kills an agent when half of the model has arrived and starts it again; kills it once more when it has everything, turns the
/// hub off and starts it again. The time is that of the first start, to its word that it is Ready.
pub fn restart_killed(team: Team, field: &Field<'_>) -> Result<Sample> {
    let network = Network::create(field.case.topology())?;
    let mut players = Players::start(team, field)?;
    let start = Meter::read(&network, &players)?;
    players.go(field, 0)?;
    wait_for_half(&network, field, &mut players, Host::Node(0))?;
    let read_before = players.node(0)?.bytes_read()?;
    players.kill(0)?;
    let killed = Meter::read(&network, &players)?;
    let (agent, seconds) = start_again(team, field)?;
    let bytes_read = agent.bytes_read()?;
    players.nodes = vec![Some(agent)];
    let mut sample = start.sample(&network, &players, field, 0.0)?;
    let now = Meter::read(&network, &players)?;
    let received = |from: &Meter, to: &Meter| -> Result<u64> {
        Ok(from.moved(to, Host::Node(0))?.received_payload())
    };
    let (first, second) = (received(&start, &killed)?, received(&killed, &now)?);
    let again = (first + second).saturating_sub(field.model.bytes());

    players.kill(0)?;
    players.hub.clear();
    let (agent, complete_seconds) = start_again(team, field)?;
    sample.seconds = seconds;
    sample.finishes = vec![seconds];
    sample.figures = vec![
        ("bytesReadBeforeKill", float(read_before)),
        ("bytesReceivedBeforeKill", float(first)),
        ("bytesRead", float(bytes_read)),
        ("bytesReceived", float(second)),
        ("bytesReceivedAgain", float(again)),
        ("completeSeconds", complete_seconds),
        ("completeBytesRead", float(agent.bytes_read()?)),
    ];
    field
        .model
        .check(players.data.first().context("no node")?)?;
    Ok(sample)
}

/// Starts the agent of node 0 and tells it what to hold; with the seconds until it is Ready.
fn start_again(team: Team, field: &Field<'_>) -> Result<(Process, f64)> {
    let began = Instant::now();
    let mut agent = start_agent(team, field, 0)?;
    agent.tell(&field.directory.join("objects.json").display().to_string())?;
    agent.until_says("Ready", PATIENCE)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok((agent, seconds))
}
