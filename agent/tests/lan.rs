//! An agent that announces itself, and the command that shows it, on two hosts in network namespaces. Needs root.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use modelcache_agent::args::{Cli, Command as Sub};
use modelcache_agent::lan::Lan;
use modelcache_agent::metrics::Metrics;
use modelcache_agent::state::{NodeState, SnapshotState};
use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::secret::Keys;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Two hosts with a cable between them; removed when dropped.
struct Hosts([String; 2]);

impl Hosts {
    fn new() -> Option<Self> {
        let hosts = Self(["a", "b"].map(|host| format!("mclan{}-{host}", std::process::id())));
        let [a, b] = &hosts.0;
        if !ip(&format!("netns add {a}")) || !ip(&format!("netns add {b}")) {
            eprintln!("SKIPPED: network namespaces cannot be made here; run as root");
            return None;
        }
        assert!(ip(&format!(
            "-n {a} link add eth0 type veth peer name eth0 netns {b}"
        )));
        for (host, address) in [(a, "10.84.0.1"), (b, "10.84.0.2")] {
            assert!(ip(&format!(
                "-n {host} addr add {address}/24 brd + dev eth0"
            )));
            assert!(ip(&format!("-n {host} link set eth0 up")));
        }
        Some(hosts)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.0 {
            ip(&format!("netns del {host}"));
        }
    }
}

fn ip(line: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(line.split_whitespace());
    command.stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn state(snapshots: &[(&str, Phase)]) -> NodeState {
    let snapshots = snapshots.iter().map(|(name, phase)| SnapshotState {
        name: (*name).to_owned(),
        repository: None,
        models: Vec::new(),
        phase: *phase,
        size_bytes: 0,
        held_bytes: 0,
        origin_bytes: 0,
        peer_bytes: 0,
        problem: None,
        verified_at: None,
        fresh: false,
    });
    NodeState {
        snapshots: snapshots.collect(),
        ..NodeState::default()
    }
}

#[test]
fn the_command_shows_an_agent_that_announces_itself() {
    let Some(hosts) = Hosts::new() else { return };
    let [a, b] = hosts.0.clone();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let mut file = File::options()
        .write(true)
        .create(true)
        .mode(0o600)
        .truncate(true)
        .open(&key)
        .unwrap();
    file.write_all(b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
        .unwrap();

    let shown = {
        let key = key.clone();
        thread::spawn(move || {
            Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    &b,
                    env!("CARGO_BIN_EXE_modelcache-agent"),
                    "peers",
                ])
                .args(["--seconds", "20", "--key"])
                .arg(key)
                .output()
                .unwrap()
        })
    };
    let (change, state_of_node) = watch::channel(state(&[]));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let metrics = Arc::new(Metrics::new());
    let counted = metrics.clone();
    let agent = thread::spawn(move || {
        let namespace = File::open(format!("/run/netns/{a}")).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let _listener = TcpListener::bind("10.84.0.1:9492").await.unwrap();
            let Sub::Peers(args) = Cli::parse_from(["agent", "peers"]).command else {
                panic!("another command");
            };
            let keys = Keys::follow(key).unwrap();
            let here = "10.84.0.1:9492".parse().unwrap();
            let peers = Peers::default();
            let lan = Lan::start(args.lan, keys, "node-a", here, peers, &counted).unwrap();
            lan.run(state_of_node, stopped).await;
        });
    });
    // A change is announced at once; by then the other side believes what is news.
    thread::sleep(Duration::from_secs(13));
    change.send_replace(state(&[
        ("whole-1", Phase::Ready),
        ("partly-1", Phase::Downloading),
    ]));
    let output = shown.join().unwrap();
    stop.cancel();
    agent.join().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let row = text
        .lines()
        .find(|line| line.starts_with("node-a "))
        .unwrap_or_else(|| {
            panic!(
                "not shown:\n{text}\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[1..3], ["10.84.0.1:9492", "announcement"]);
    assert_eq!(cells[6..], ["yes", "snapshots:", "1"], "{row}");
    let told = metrics.encode();
    assert!(
        told.contains("modelcache_agent_announcements_total{result=\"accepted\"} 0"),
        "{told}"
    );
}
