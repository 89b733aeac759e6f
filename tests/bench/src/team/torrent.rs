//! Programs that take a torrent and the addresses of all others: libtorrent, and librqbit alone.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{Field, PYTHON, Players, START_PATIENCE, Team};
use crate::command::run;
use crate::network::{Host, Net};
use crate::process::Process;

/// The torrent of the model; the programs put it below a directory of that name.
pub(super) fn torrent(field: &Field<'_>, tracker: Option<&str>) -> Result<(PathBuf, String)> {
    let torrent = field.directory.join("model.torrent");
    let mut command = std::process::Command::new(PYTHON);
    command.arg(field.script("node.py")).arg("make");
    command.arg("--directory").arg(&field.model.directory);
    command.arg("--torrent").arg(&torrent);
    if let Some(tracker) = tracker {
        command.args(["--tracker", tracker]);
    }
    run(&mut command)?;
    let name = field.model.directory.file_name().context("no name")?;
    Ok((torrent, name.to_string_lossy().into_owned()))
}

pub(super) fn start(team: Team, field: &Field<'_>) -> Result<Players> {
    let (torrent, name) = torrent(field, None)?;
    let above = field.model.directory.parent().context("no directory")?;
    let mut players = Players::new(team);
    let origin = field.case.origin();
    let mut hosts: Vec<Host> = (0..field.case.hosts()).map(Host::Node).collect();
    if origin == Host::Hub {
        hosts.push(origin);
    }
    for host in &hosts {
        let mark = field.directory.join(format!("{}.mark", host.name()));
        let mut words = program(team, field);
        let mut word = |option: &str, value: &str| {
            words.extend([option.to_owned(), value.to_owned()]);
        };
        word("--torrent", &torrent.display().to_string());
        word("--mark", &mark.display().to_string());
        if *host == origin {
            word("--directory", &above.display().to_string());
            words.push("--seed".to_owned());
            if team == Team::LibtorrentSuper {
                words.push("--super".to_owned());
            }
        } else {
            word("--directory", &home(field, *host).display().to_string());
            for other in hosts.iter().filter(|other| *other != host) {
                let net = match other {
                    Host::Hub => field.case.hub_net(),
                    _ => Net::Lan,
                };
                word("--peer", &other.address(net).to_string());
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut process = Process::start(*host, &host.name(), field.logs, &words)?;
        process.until_says("up", START_PATIENCE)?;
        if *host == origin {
            process.tell("go")?;
        }
        if let Host::Node(_) = host {
            players.nodes.push(Some(process));
            players.marks.push(mark);
            players.data.push(home(field, *host).join(&name));
        } else {
            players.hub.push(process);
        }
    }
    Ok(players)
}

fn program(team: Team, field: &Field<'_>) -> Vec<String> {
    if team == Team::Librqbit {
        vec![field.program("modelcache-bench-librqbit")]
    } else {
        vec![PYTHON.to_owned(), field.script("node.py"), "run".to_owned()]
    }
}

fn home(field: &Field<'_>, host: Host) -> PathBuf {
    field.directory.join(host.name())
}
