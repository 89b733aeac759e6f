//! `modelcache-agent doctor` on hosts in network namespaces: beside an agent and without one, with multicast blocked, with
//! another secret, and with a hub whose clock is off. Needs root.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use clap::Parser as _;
use modelcache_agent::args::{Cli, Command as Sub};
use modelcache_agent::lan::Lan;
use modelcache_agent::metrics::Metrics;
use modelcache_agent::state::NodeState;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::engine::{SegmentSource, Served, Uploader};
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::secret::{Keys, Purpose};
use modelcache_swarm::store::Store;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a doctor listens: longer than the ten seconds for which it, or an agent that just started, believes nobody.
const SECONDS: &str = "16";

/// Hosts around a switch; removed when dropped.
struct Hosts {
    prefix: String,
    count: u8,
}

impl Hosts {
    fn new(count: u8) -> Option<Self> {
        let hosts = Self {
            prefix: format!("mcdoc{}", std::process::id()),
            count,
        };
        let switch = hosts.name(0);
        if !ip(&format!("netns add {switch}")) {
            eprintln!("SKIPPED: network namespaces cannot be made here; run as root");
            return None;
        }
        let done = |line: String| assert!(ip(&line), "ip {line}");
        done(format!(
            "-n {switch} link add br0 type bridge mcast_snooping 0"
        ));
        done(format!("-n {switch} link set br0 up"));
        for host in 1..=count {
            let name = hosts.name(host);
            done(format!("netns add {name}"));
            done(format!(
                "-n {switch} link add port{host} type veth peer name eth0 netns {name}"
            ));
            done(format!("-n {switch} link set port{host} master br0 up"));
            done(format!("-n {name} link set lo up"));
            done(format!(
                "-n {name} addr add {}/24 brd + dev eth0",
                address(host)
            ));
            done(format!("-n {name} link set eth0 up"));
        }
        Some(hosts)
    }

    /// Of a host, or of the switch, which is number 0.
    fn name(&self, host: u8) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn block_multicast(&self) {
        for host in 1..=self.count {
            assert!(ip(&format!(
                "-n {} link set port{host} type bridge_slave mcast_flood off",
                self.name(0)
            )));
        }
    }

    /// Does something in a host in a thread of its own.
    fn within<T: Send + 'static>(
        &self,
        host: u8,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.name(host));
        thread::spawn(move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in 0..=self.count {
            ip(&format!("netns del {}", self.name(host)));
        }
    }
}

fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 85, 0, host).into()
}

fn ip(line: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(line.split_whitespace());
    command.stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn key_file(dir: &Path, number: u8) -> PathBuf {
    let path = dir.join(format!("key-{number}"));
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut secret = [7; 32];
    secret[0] = number;
    let text = hex::encode(secret);
    let mut file = options.open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

/// Serves no segment.
struct Nothing;

impl SegmentSource for Nothing {
    fn find(&self, _: [u8; 20]) -> Option<Served> {
        None
    }
}

/// What an agent is to its network: it serves peers, and announces itself once a second because something changes.
async fn agent(host: u8, key: PathBuf, stop: CancellationToken) {
    let keys = Keys::follow(key).unwrap();
    let security = Security::new(keys.clone(), Purpose::PeerLink, Mode::Encrypted);
    let any = "0.0.0.0:9492".parse().unwrap();
    let told = Arc::new(|_, _| {});
    let _uploader = Uploader::bind(any, security, Arc::new(Nothing), told)
        .await
        .unwrap();
    let Sub::Peers(args) = Cli::parse_from(["agent", "peers"]).command else {
        panic!("another command");
    };
    let name = format!("node-{host}");
    let metrics = Arc::new(Metrics::new());
    let here = (address(host), 9492).into();
    let lan = Lan::start(args.lan, keys, &name, here, Peers::default(), &metrics).unwrap();
    let (change, state) = watch::channel(NodeState::default());
    let ended = stop.clone();
    let changing = async move {
        let mut turns = tokio::time::interval(Duration::from_secs(1));
        for turn in 0_u64.. {
            turns.tick().await;
            change.send_replace(changing_state(turn));
        }
    };
    tokio::select! {
        () = lan.run(state, ended) => {}
        () = changing => {}
    }
}

/// A node that is whole in every other turn.
fn changing_state(turn: u64) -> NodeState {
    use modelcache_agent::state::SnapshotState;
    use modelcache_crds::model_cache_node::Phase;
    let snapshot = SnapshotState {
        name: "whole".to_owned(),
        repository: None,
        models: Vec::new(),
        phase: if turn.is_multiple_of(2) {
            Phase::Ready
        } else {
            Phase::Downloading
        },
        size_bytes: 0,
        held_bytes: 0,
        origin_bytes: 0,
        peer_bytes: 0,
        problem: None,
        verified_at: None,
        fresh: false,
    };
    NodeState {
        snapshots: vec![snapshot],
        ..NodeState::default()
    }
}

fn start_agent(hosts: &Hosts, host: u8, key: PathBuf, stop: &CancellationToken) -> JoinHandle<()> {
    let stop = stop.clone();
    hosts.within(host, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(agent(host, key, stop));
    })
}

/// A hub whose clock is so much ahead; answers until the test ends.
fn start_hub(hosts: &Hosts, host: u8, ahead: Duration) {
    hosts.within(host, move || {
        let listener = TcpListener::bind((address(host), 8080)).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 2000]);
            let date = jiff::Timestamp::try_from(SystemTime::now() + ahead).unwrap();
            let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
    });
}

/// What a doctor says.
struct Said {
    success: bool,
    report: Value,
}

impl Said {
    /// The status of a check, what was seen, and what is advised.
    fn check(&self, name: &str) -> (&str, &str) {
        let checks = self.report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["check"] == name);
        let found = found.unwrap_or_else(|| panic!("no check '{name}': {:#}", self.report));
        (
            found["status"].as_str().unwrap(),
            found["seen"].as_str().unwrap(),
        )
    }

    #[track_caller]
    fn expect(&self, name: &str, status: &str) -> &str {
        let (found, seen) = self.check(name);
        assert_eq!(found, status, "{name}: {:#}", self.report);
        seen
    }
}

/// Starts a doctor on a host.
fn doctor(hosts: &Hosts, host: u8, key: &Path, cache: &Path, more: &[&str]) -> JoinHandle<Said> {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &hosts.name(host)])
        .args([
            env!("CARGO_BIN_EXE_modelcache-agent"),
            "doctor",
            "-o",
            "json",
        ])
        .args(["--seconds", SECONDS, "--key"])
        .arg(key)
        .arg("--cache-dir")
        .arg(cache)
        .args(more);
    thread::spawn(move || {
        let output = command.output().unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let log = String::from_utf8_lossy(&output.stderr);
            panic!("{error}\n{log}")
        });
        Said {
            success: output.status.success(),
            report,
        }
    })
}

#[test]
fn a_doctor_says_what_works_and_what_does_not() {
    let Some(hosts) = Hosts::new(4) else { return };
    let dir = tempfile::tempdir().unwrap();
    let [key, other_key] = [1, 2].map(|number| key_file(dir.path(), number));
    let caches = [1, 2, 3, 4].map(|host: u8| {
        let cache = dir.path().join(format!("cache-{host}"));
        std::fs::create_dir(&cache).unwrap();
        cache
    });
    let stop = CancellationToken::new();
    let agents = [1, 2].map(|host| start_agent(&hosts, host, key.clone(), &stop));
    start_hub(&hosts, 2, Duration::from_secs(8));
    // As an agent holds it.
    let held = Store::open(&caches[0]).unwrap();

    let beside = doctor(&hosts, 1, &key, &caches[0], &[]);
    let hub = format!("http://{}:8080", address(2));
    let alone = doctor(&hosts, 3, &key, &caches[2], &["--hub", &hub]);
    let (beside, alone) = (beside.join().unwrap(), alone.join().unwrap());
    drop(held);

    let seen = alone.expect("multicast", "ok");
    assert!(seen.contains("node-1 on eth0"), "{seen}");
    assert!(seen.contains("node-2 on eth0"), "{seen}");
    assert!(seen.contains("come back on eth0"), "{seen}");
    for check in [
        "broadcast",
        "own port",
        "peer node-1, from here",
        "peer node-1, to here",
        "peer node-2, to here",
        "secret, file",
        "secret, equal",
        "disk, files",
        "hub",
        "clock, node-1",
    ] {
        alone.expect(check, "ok");
    }
    alone.expect("clock, hub", "warn");
    alone.expect("coordinator", "skipped");
    assert!(alone.success, "{:#}", alone.report);

    let seen = beside.expect("own port", "ok");
    assert!(seen.contains("the agent of this node"), "{seen}");
    let seen = beside.expect("multicast", "ok");
    assert!(
        seen.contains("node-2") && !seen.contains("node-1"),
        "{seen}"
    );
    beside.expect("peer node-2, to here", "ok");
    beside.expect("disk, files", "ok");
    assert!(beside.success, "{:#}", beside.report);

    hosts.block_multicast();
    let blocked = doctor(&hosts, 3, &key, &caches[2], &[]);
    let named = format!("{}:9492", address(1));
    let stranger = doctor(&hosts, 4, &other_key, &caches[3], &["--peer", &named]);
    let (blocked, stranger) = (blocked.join().unwrap(), stranger.join().unwrap());
    stop.cancel();
    for agent in agents {
        agent.join().unwrap();
    }
    let seen = blocked.expect("multicast", "fail");
    assert!(seen.contains("come back on eth0"), "{seen}");
    blocked.expect("broadcast", "ok");
    blocked.expect("peer node-1, to here", "ok");
    assert!(!blocked.success, "{:#}", blocked.report);

    stranger.expect("secret, equal", "fail");
    stranger.expect(&format!("peer {named}, from here"), "fail");
    assert!(!stranger.success, "{:#}", stranger.report);
}
