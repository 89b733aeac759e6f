//! What an agent costs that has everything: memory and processor with many models and nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::float;
use crate::model::{Model, SNAPSHOT};
use crate::network::Network;
use crate::sample::Sample;
use crate::swarm;
use crate::team::{Field, Players, Team};

/// How many models lie idle.
const MODELS: u32 = 50;

/// The size of each before it is divided, in bytes: 16 segments.
const BYTES: u64 = 16 << 20;

/// How long it has to settle.
const SETTLE: Duration = Duration::from_secs(5);

/// How long it is watched then.
const WATCH: Duration = Duration::from_secs(10);

/// Moves the model of the field from one node to another, and then, with new agents, fills one with many models and watches
/// it doing nothing. The memory at most is that of moving.
pub fn memory(team: Team, field: &Field<'_>) -> Result<Sample> {
    let mut sample = swarm::run(team, field)?;
    std::fs::remove_dir_all(field.directory)?;

    let _network = Network::create(field.case.topology())?;
    let mut models = Vec::new();
    for number in 0..MODELS {
        let name = format!("{SNAPSHOT}-{number:02}");
        let sizes = [BYTES / field.case.smaller.max(1)];
        let directory = field.directory.join("idle").join(&name);
        models.push((name, Model::create_other(&directory, &sizes, number + 1)?));
    }
    let mut players = Players::start_with(team, field, &models)?;
    std::thread::sleep(SETTLE);
    let agent = players.node(0)?;
    let (before, clock) = (agent.cpu_seconds()?, Instant::now());
    std::thread::sleep(WATCH);
    agent.check()?;
    let busy = (agent.cpu_seconds()? - before) / clock.elapsed().as_secs_f64();
    sample.figures.extend([
        ("idleModels", f64::from(MODELS)),
        ("idleResidentBytes", float(agent.resident()?)),
        ("idleCpuPercent", busy * 100.0),
    ]);
    let (_, last) = models.last().context("no models")?;
    let shown = field.home(0).join("models/bench");
    last.check(&shown.join(format!("{SNAPSHOT}-{:02}/files", MODELS - 1)))?;
    Ok(sample)
}
