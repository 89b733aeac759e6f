//! One run of a case of many nodes by one team.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cable::Far;
use crate::case::{Case, Work};
use crate::network::{Host, Network};
use crate::process::{Process, wait_for_quiet};
use crate::reserve::Reserve;
use crate::sample::{Arrival, Meter, Sample, percentile};
use crate::team::{Field, Players, Team};

/// How often it is looked whether a node has everything.
const LOOK: Duration = Duration::from_millis(10);

/// Runs it. Every byte on every node is checked afterwards.
pub fn run(team: Team, field: &Field<'_>) -> Result<Sample> {
    let case = field.case;
    let far = case.way.map(|way| Far {
        way,
        programs: field.programs,
        logs: field.logs,
    });
    let network = Network::create_far(case.topology(), far.as_ref())?;
    let mut players = Players::start(team, field)?;
    network.shape(case.slower)?;
    wait_for_quiet(field.patience)?;
    let (mut waiting, second) = groups(case);
    let reserve = Reserve::of(case.reserved_bytes());
    let meter = Meter::read(&network, &players)?;
    reserve.free();
    let mut began = Instant::now();
    for number in &waiting {
        players.go(field, *number)?;
    }
    match case.work {
        Work::JoinLate => {
            wait_for_half(&network, field, &mut players, case.origin())?;
            began = Instant::now();
            for number in &second {
                players.go(field, *number)?;
            }
            waiting.extend(second);
        }
        Work::Churn => replace(field, &mut players, &mut waiting, &second, began)?,
        _ => {}
    }
    let mut extra = 0.0;
    let finished = if team == Team::Nginx {
        let curl = players.nodes.get_mut(1).and_then(Option::take);
        extra += curl.context("no curl")?.cost_at_end(patience(case))?;
        Finished {
            seconds: vec![began.elapsed().as_secs_f64()],
            ready: 0.0,
        }
    } else {
        wait(case, &mut players, &waiting, began)?
    };
    let mut seconds = finished.seconds.iter().copied().fold(0.0, f64::max);
    if case.hashed {
        if !team.hashes() {
            for number in &waiting {
                extra += hash(field, &players, *number)?;
            }
        }
        seconds = began.elapsed().as_secs_f64();
    }
    let mut sample = meter.sample(&network, &players, field, extra)?;
    for number in &waiting {
        let data = players.data.get(usize::from(*number));
        field.model.check(data.context("no such node")?)?;
    }
    if team.hashes() && case.work == Work::Cold {
        sample.figures.push(("readySeconds", finished.ready));
        sample
            .figures
            .push(("readyLimitSeconds", 2.0 + 0.03 * seconds));
    }
    let middle = percentile(&finished.seconds, 50).context("no node")?;
    let last = percentile(&finished.seconds, 99).context("no node")?;
    sample.figures.push(("p99OverP50", last / middle));
    sample.seconds = seconds;
    sample.finishes = finished.seconds;
    Ok(sample)
}

/// Who starts at once, and who joins.
fn groups(case: &Case) -> (Vec<u8>, Vec<u8>) {
    let (first, all) = match case.work {
        Work::JoinLate => (0..case.nodes / 2, case.nodes),
        Work::Grow | Work::Memory => (1..case.nodes + 1, case.nodes + 1),
        _ => (0..case.nodes, case.hosts()),
    };
    let second = first.end..all;
    (first.collect(), second.collect())
}

/// How long a run may take.
fn patience(case: &Case) -> Duration {
    Duration::from_secs_f64(case.bound_seconds().unwrap_or(10.0) * 10.0 + 60.0)
}

/// Waits until the origin has sent, or a node has received, half of the model.
pub(crate) fn wait_for_half(
    network: &Network,
    field: &Field<'_>,
    players: &mut Players,
    host: Host,
) -> Result<()> {
    let began = Instant::now();
    let half = field.model.bytes() / 2;
    loop {
        let traffic = network.traffic()?.get(&host).copied().unwrap_or_default();
        if traffic.payload().max(traffic.received_payload()) >= half {
            return Ok(());
        }
        players.node(0)?.check()?;
        if began.elapsed() > patience(field.case) {
            bail!("half of the model has not gone over the cable of {host:?}");
        }
        // Looking costs two programs.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the node that is there longest, for good, and lets another join, again and again.
fn replace(
    field: &Field<'_>,
    players: &mut Players,
    there: &mut Vec<u8>,
    joining: &[u8],
    began: Instant,
) -> Result<()> {
    let step = field.case.churn_seconds().context("nothing is shaped")?;
    for (turn, new) in (1_u32..).zip(joining) {
        let at = began + Duration::from_secs_f64(step * f64::from(turn));
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let old = there.remove(0);
        players.kill(usize::from(old))?;
        // Its disk goes with it; memory is short.
        std::fs::remove_dir_all(field.home(old))?;
        players.go(field, *new)?;
        there.push(*new);
    }
    Ok(())
}

struct Finished {
    /// When each node had everything.
    seconds: Vec<f64>,
    /// The longest that any took from its last data to its word that it has everything.
    ready: f64,
}

fn wait(case: &Case, players: &mut Players, nodes: &[u8], began: Instant) -> Result<Finished> {
    let patience = patience(case);
    let link = case.node_rate().map(f64::from);
    let link = link.map(|link| link / f64::from(case.slower));
    let mut finishes: Vec<Option<f64>> = vec![None; nodes.len()];
    let mut arrivals: Vec<Option<Arrival>> = vec![None; nodes.len()];
    let mut ready = 0.0_f64;
    while finishes.iter().any(Option::is_none) {
        for ((finish, arrival), number) in finishes.iter_mut().zip(&mut arrivals).zip(nodes) {
            if finish.is_some() {
                continue;
            }
            let at = usize::from(*number);
            let done = players.has_all(at)?;
            let now = Instant::now();
            let arrival = if let Some(arrival) = arrival {
                arrival
            } else {
                let received = players.node(at)?.host_received()?;
                arrival.insert(Arrival::new(link, nodes.len(), received, now))
            };
            if done || arrival.due(now) {
                arrival.look(players.node(at)?.host_received()?, now);
            }
            if done {
                *finish = Some((now - began).as_secs_f64());
                ready = ready.max(arrival.ago(now));
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
    Ok(Finished {
        seconds: finishes.into_iter().flatten().collect(),
        ready,
    })
}

/// What the distribution's sha256sum costs on a node's files.
fn hash(field: &Field<'_>, players: &Players, number: u8) -> Result<f64> {
    let data = players.data.get(usize::from(number));
    let data = data.context("no such node")?;
    let mut words = vec!["sha256sum".to_owned()];
    for file in &field.model.files {
        words.push(data.join(&file.path).display().to_string());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut process = Process::start(Host::Node(number), "sha256sum", field.logs, &words)?;
    process.cost_at_end(Duration::from_mins(5))
}
