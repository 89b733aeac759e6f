//! Ours: the coordinator on the control host, the stand-in hub, and an agent on each node.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Field, Players, START_PATIENCE, Team};
use crate::command::{inside, run};
use crate::key;
use crate::model::{self, Listed, Model, REPOSITORY, SNAPSHOT};
use crate::network::{Host, Net};
use crate::process::Process;

/// How long a coordinator waits after its start for agents that come back.
const COORDINATOR_GRACE: Duration = Duration::from_millis(6500);

/// With the model of the field.
pub(super) fn start(team: Team, field: &Field<'_>) -> Result<Players> {
    let models = [(SNAPSHOT.to_owned(), field.model.clone())];
    start_with(team, field, &models)
}

/// With these models, each with its name, on as many nodes as the case has; who is full at the beginning of the case gets
/// them before this returns.
pub(super) fn start_with(
    team: Team,
    field: &Field<'_>,
    models: &[(String, Model)],
) -> Result<Players> {
    let began = Instant::now();
    let mut players = Players::new(team);
    players.control.push(start_coordinator(field)?);
    let (hub, commits) = start_hub(field, models)?;
    players.hub.push(hub);
    let listed: Vec<Listed<'_>> = models
        .iter()
        .zip(&commits)
        .map(|((name, model), commit)| Listed {
            name,
            repository: repository(name),
            commit,
            model,
        })
        .collect();
    let objects = field.directory.join("objects.json");
    fs::write(
        &objects,
        model::objects(&field.endpoint(), &listed).to_string(),
    )?;
    players.word = objects.display().to_string();
    for number in 0..field.case.hosts() {
        players.nodes.push(Some(start_agent(team, field, number)?));
        let published = field.home(number).join("models/bench").join(SNAPSHOT);
        players.data.push(published.join("files"));
        players.marks.push(published);
    }
    for node in players.nodes.iter_mut().flatten() {
        node.until_says("connected", START_PATIENCE)?;
    }
    std::thread::sleep(COORDINATOR_GRACE.saturating_sub(began.elapsed()));
    if field.case.origin() == Host::Node(0) {
        players.go(field, 0)?;
        for (name, _) in models {
            let said = format!("Ready {name}");
            players.node(0)?.until_says(&said, Duration::from_mins(2))?;
        }
        players.hub.clear();
    }
    Ok(players)
}

/// A model's repository at the hub.
fn repository(name: &str) -> String {
    if name == SNAPSHOT {
        REPOSITORY.to_owned()
    } else {
        format!("bench/{name}")
    }
}

/// Tells a node what it is to hold, and first the coordinator.
pub(super) fn go(players: &mut Players, at: usize) -> Result<()> {
    let word = players.word.clone();
    if !std::mem::replace(&mut players.coordinator_told, true) {
        let coordinator = players.control.first_mut();
        coordinator.context("no coordinator")?.tell(&word)?;
    }
    players.node(at)?.tell(&word)
}

fn start_coordinator(field: &Field<'_>) -> Result<Process> {
    let program = field.program("modelcache-bench-coordinator");
    let mut words = vec![program, "--listen".to_owned(), "0.0.0.0:9489".to_owned()];
    words.extend([
        "--key".to_owned(),
        key::file(field.directory)?.display().to_string(),
    ]);
    if let Some(fetches) = field.fetches {
        words.extend(["--fetches".to_owned(), fetches.to_string()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Process::start(Host::Control, "coordinator", field.logs, &words)
}

/// Starts a node's agent.
pub fn start_agent(team: Team, field: &Field<'_>, number: u8) -> Result<Process> {
    let host = Host::Node(number);
    let root = field.home(number);
    let token = field.directory.join(format!("{}.token", host.name()));
    fs::write(&token, host.name())?;
    Process::start(
        host,
        &host.name(),
        field.logs,
        &[
            &field.program("modelcache-bench-agent"),
            "--node",
            &host.name(),
            "--node-ip",
            &host.address(Net::Lan).to_string(),
            "--cache-dir",
            &root.display().to_string(),
            "--coordinator",
            "ws://10.91.0.3:9489/v1/coordinate",
            "--token-file",
            &token.display().to_string(),
            "--key",
            &key::file(field.directory)?.display().to_string(),
            "--peer-links",
            if team == Team::InClear {
                "authenticated"
            } else {
                "encrypted"
            },
        ],
    )
}

/// The stand-in hub with these models; gives their commits too.
fn start_hub(field: &Field<'_>, models: &[(String, Model)]) -> Result<(Process, Vec<String>)> {
    let address = Host::Hub.address(field.case.hub_net());
    let mut words = vec![
        field.program("modelcache-hub"),
        "--listen-address".to_owned(),
        "0.0.0.0".to_owned(),
        "--cdn-url".to_owned(),
        format!("http://{address}:8081"),
    ];
    for (name, model) in models {
        let load = format!("{}={}", model.directory.display(), repository(name));
        words.extend(["--load".to_owned(), load]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut hub = Process::start(Host::Hub, "hub", field.logs, &words)?;
    let mut commits = Vec::new();
    for (name, _) in models {
        commits.push(commit(&mut hub, &repository(name))?);
    }
    allow_many_requests()?;
    Ok((hub, commits))
}

/// Waits until the hub has the repository, and gives its commit.
fn commit(hub: &mut Process, repository: &str) -> Result<String> {
    let began = Instant::now();
    let info = format!("http://127.0.0.1:8080/api/models/{repository}/revision/main");
    let text = loop {
        hub.check()?;
        match ask(&[&info]) {
            Ok(text) => break text,
            Err(error) if began.elapsed() > START_PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let info: serde_json::Value = serde_json::from_str(&text)?;
    let commit = info["sha"].as_str().context("the hub names no commit")?;
    Ok(commit.to_owned())
}

/// The rate limit is another test's subject.
fn allow_many_requests() -> Result<()> {
    let admin = "http://127.0.0.1:8082/settings";
    let mut settings: serde_json::Value = serde_json::from_str(&ask(&[admin])?)?;
    let plenty = 1_000_000_000;
    settings["anonymous"] =
        serde_json::json!({"api": plenty, "resolvers": plenty, "pages": plenty});
    let json = "content-type: application/json";
    let settings = settings.to_string();
    ask(&["-X", "PUT", "-H", json, "--data", &settings, admin]).map(drop)
}

/// On the hub's host.
fn ask(words: &[&str]) -> Result<String> {
    let mut command = inside(
        &Host::Hub.namespace(),
        &["curl", "-sSf", "--max-time", "20"],
    );
    run(command.args(words))
}
