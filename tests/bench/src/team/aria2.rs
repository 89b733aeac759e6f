//! aria2 over BitTorrent, its clients brought together by a tracker.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::torrent::torrent;
use super::{Field, PYTHON, Players, START_PATIENCE, Team};
use crate::network::Host;
use crate::process::Process;

/// Where the tracker listens.
const TRACKER: &str = "http://10.91.0.3:6969/announce";

pub(super) fn start(field: &Field<'_>) -> Result<Players> {
    let (_, name) = torrent(field, Some(TRACKER))?;
    let script = field.script("tracker.py");
    let tracker = Process::start(
        Host::Control,
        "tracker",
        field.logs,
        &[PYTHON, &script, "6969"],
    )?;
    std::thread::sleep(Duration::from_millis(500));
    let above = field.model.directory.parent().context("no directory")?;
    let origin = field.case.origin();
    let mark = field.directory.join("origin.mark");
    let seed = node(field, origin, above, &mark)?;
    let began = Instant::now();
    // It has found its files whole, and the tracker knows it.
    while !mark.exists() {
        if began.elapsed() > START_PATIENCE {
            bail!("aria2 does not seed; see its log");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    let mut players = Players::new(Team::Aria2);
    players.control.push(tracker);
    let mut seed = Some(seed);
    for number in 0..field.case.hosts() {
        let host = Host::Node(number);
        players
            .nodes
            .push(if host == origin { seed.take() } else { None });
        players
            .marks
            .push(field.directory.join(format!("{}.mark", host.name())));
        players.data.push(field.home(number).join(&name));
    }
    players.hub.extend(seed);
    Ok(players)
}

/// One client; `mark` exists once it has everything.
pub(super) fn node(
    field: &Field<'_>,
    host: Host,
    directory: &Path,
    mark: &Path,
) -> Result<Process> {
    Process::start(
        host,
        &host.name(),
        field.logs,
        &[
            "env",
            &format!("MARK={}", mark.display()),
            "aria2c",
            "--no-conf",
            &format!("--dir={}", directory.display()),
            "--enable-dht=false",
            "--enable-dht6=false",
            "--disable-ipv6=true",
            "--listen-port=6881",
            "--seed-ratio=0.0",
            "--check-integrity=true",
            "--file-allocation=none",
            "--summary-interval=0",
            "--bt-max-peers=0",
            "--bt-request-peer-speed-limit=1000M",
            "--bt-tracker-interval=3",
            &format!("--on-bt-download-complete={}", field.script("mark")),
            &field.directory.join("model.torrent").display().to_string(),
        ],
    )
}
