//! One run of a case by one team.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::case::{Case, Work};
use crate::float;
use crate::network::{Host, Network};
use crate::process::{Process, machine_cpu_seconds, wait_for_quiet};
use crate::team::{Field, Players, Team};

/// How often it is looked whether a node has everything.
const LOOK: Duration = Duration::from_millis(10);

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// From the word to start (in `join-late`: to join) to the last node's having everything.
    pub seconds: f64,
    /// Payload that left the origin, in sizes of the model.
    pub copies: f64,
    /// Processor seconds of the nodes' programs for each 10^9 bytes that arrived.
    pub cpu_seconds_per_gb: f64,
    /// The most memory that any node's program had, in bytes.
    pub peak_resident: u64,
    /// Bytes read by system calls; `restart` only.
    pub bytes_read: Option<u64>,
    /// Processors that programs outside the laboratory kept busy meanwhile, on average.
    pub other_load: f64,
    /// When each node had everything.
    pub finishes: Vec<f64>,
}

/// Runs it. Every byte on every node is checked afterwards.
pub fn run(team: Team, field: &Field<'_>) -> Result<Sample> {
    let case = field.case;
    let network = Network::create(case.topology())?;
    let mut players = Players::start(team, field)?;
    network.shape(case.slower)?;
    wait_for_quiet(field.patience)?;
    let (first, second) = groups(case);
    let traffic = network.traffic()?;
    let cpu = players.cpu_seconds()?;
    let clock = Instant::now();
    let before = (machine_cpu_seconds()?, players.all_cpu_seconds()?);
    let mut began = Instant::now();
    for number in &first {
        players.go(field, *number)?;
    }
    if !second.is_empty() {
        wait_for_half(&network, field, &mut players)?;
        began = Instant::now();
        for number in &second {
            players.go(field, *number)?;
        }
    }
    let patience = Duration::from_secs_f64(case.bound_seconds().unwrap_or(10.0) * 10.0 + 60.0);
    let waiting: Vec<u8> = first.iter().chain(&second).copied().collect();
    let mut extra = 0.0;
    let finishes = if team == Team::Nginx {
        let curl = players.nodes.get_mut(1).and_then(Option::take);
        extra += curl.context("no curl")?.cost_at_end(patience)?;
        vec![began.elapsed().as_secs_f64()]
    } else {
        wait(&mut players, &waiting, began, patience)?
    };
    if case.hashed && !team.hashes() {
        for number in &waiting {
            extra += hash(field, &players, *number)?;
        }
    }
    let seconds = if case.hashed {
        began.elapsed().as_secs_f64()
    } else {
        finishes.iter().copied().fold(0.0, f64::max)
    };
    let cost = players.cpu_seconds()? - cpu + extra;
    let own = players.all_cpu_seconds()? - before.1 + extra;
    let others = machine_cpu_seconds()? - before.0 - own;
    let other_load = others.max(0.0) / clock.elapsed().as_secs_f64();
    let after = network.traffic()?;
    let mut peak_resident = 0;
    for node in players.nodes.iter().flatten() {
        peak_resident = peak_resident.max(node.peak_resident()?);
    }
    for number in &waiting {
        let data = players.data.get(usize::from(*number));
        field.model.check(data.context("no such node")?)?;
    }
    let of = |traffic: &std::collections::BTreeMap<Host, _>| {
        traffic.get(&case.origin()).copied().context("no origin")
    };
    let sent = of(&after)?.since(of(&traffic)?).payload();
    let bytes = float(field.model.bytes());
    Ok(Sample {
        seconds,
        copies: float(sent) / bytes,
        cpu_seconds_per_gb: cost / (bytes * f64::from(case.nodes) / 1e9),
        peak_resident,
        bytes_read: None,
        other_load,
        finishes,
    })
}

/// Who starts at once, and who joins.
fn groups(case: &Case) -> (Vec<u8>, Vec<u8>) {
    match case.work {
        Work::Cold | Work::Restart => ((0..case.nodes).collect(), Vec::new()),
        Work::JoinLate => (
            (0..case.nodes / 2).collect(),
            (case.nodes / 2..case.nodes).collect(),
        ),
        Work::Grow => ((1..=case.nodes).collect(), Vec::new()),
    }
}

/// Waits until the origin has sent half of the model.
fn wait_for_half(network: &Network, field: &Field<'_>, players: &mut Players) -> Result<()> {
    let origin = field.case.origin();
    let began = Instant::now();
    loop {
        let sent = network.traffic()?.get(&origin).copied().unwrap_or_default();
        if sent.payload() >= field.model.bytes() / 2 {
            return Ok(());
        }
        players.node(0)?.check()?;
        if began.elapsed() > Duration::from_mins(5) {
            bail!("the origin has not sent half of the model within 5 minutes");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wait(
    players: &mut Players,
    nodes: &[u8],
    began: Instant,
    patience: Duration,
) -> Result<Vec<f64>> {
    let mut finishes: Vec<Option<f64>> = vec![None; nodes.len()];
    while finishes.iter().any(Option::is_none) {
        for (finish, number) in finishes.iter_mut().zip(nodes) {
            if finish.is_none() && players.has_all(usize::from(*number))? {
                *finish = Some(began.elapsed().as_secs_f64());
            }
        }
        if began.elapsed() > patience {
            let missing = finishes.iter().filter(|finish| finish.is_none()).count();
            bail!(
                "{missing} nodes have not everything after {} s",
                patience.as_secs()
            );
        }
        std::thread::sleep(LOOK);
    }
    Ok(finishes.into_iter().flatten().collect())
}

/// What the distribution's sha256sum costs on a node's files.
fn hash(field: &Field<'_>, players: &Players, number: u8) -> Result<f64> {
    let data = players
        .data
        .get(usize::from(number))
        .context("no such node")?;
    let mut words = vec!["sha256sum".to_owned()];
    for file in &field.model.files {
        words.push(data.join(&file.path).display().to_string());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut process = Process::start(Host::Node(number), "sha256sum", field.logs, &words)?;
    process.cost_at_end(Duration::from_mins(5))
}
