use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use modelcache_swarm::discovery::refusal::Refusal;

use super::*;
use crate::state::SnapshotState;

fn filled() -> (Metrics, NodeState) {
    let metrics = Metrics::new();
    let model = Model {
        model: "acme/rocket".to_owned(),
    };
    metrics.origin_received.get_or_create(&model).inc_by(7);
    metrics.peer_received.get_or_create(&model).inc();
    metrics.peer_sent.get_or_create(&model).inc();
    metrics
        .segments
        .get_or_create(&Transfer {
            source: Origin::Peer,
            result: Outcome::Failed,
        })
        .inc();
    let state = NodeState {
        connected: true,
        snapshots: vec![SnapshotState {
            name: "rocket-1".to_owned(),
            repository: None,
            models: Vec::new(),
            phase: Phase::Ready,
            size_bytes: 7,
            held_bytes: 7,
            origin_bytes: 7,
            peer_bytes: 0,
            problem: None,
            verified_at: None,
            fresh: true,
        }],
        ..NodeState::default()
    };
    metrics.show(&state);
    let counters = Arc::new(Counters::default());
    counters.refuse(Refusal::Replayed);
    let peers = Peers::default();
    let address = "10.0.0.1:9492".parse().unwrap();
    let origin = modelcache_swarm::discovery::table::Origin::Static;
    peers.lock().heard(address, origin, &[], Instant::now());
    metrics.show_announcements(counters.clone());
    metrics.show_hali(counters);
    metrics.show_peers(peers);
    (metrics, state)
}

#[test]
fn names_labels_and_help_are_as_documented() {
    let (metrics, mut state) = filled();
    let text = metrics.encode();
    for line in [
        "# TYPE modelcache_agent_origin_received_bytes_total counter",
        "modelcache_agent_origin_received_bytes_total{model=\"acme/rocket\"} 7",
        "modelcache_agent_snapshot_ready{snapshot=\"rocket-1\"} 1",
        "modelcache_agent_coordinator_connected 1",
        "modelcache_agent_segments_total{source=\"peer\",result=\"failed\"} 1",
        "# TYPE modelcache_agent_announcements_total counter",
        "modelcache_agent_announcements_total{result=\"replayed\"} 1",
        "modelcache_agent_announcements_total{result=\"accepted\"} 0",
        "modelcache_agent_hali_packets_total{result=\"replayed\"} 1",
        "modelcache_agent_known_peers{origin=\"static\",age=\"fresh\",verified=\"no\"} 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    for line in text.lines().filter(|line| line.starts_with("# HELP ")) {
        assert!(line.ends_with('.') && !line.ends_with(".."), "{line}");
    }
    assert!(!text.contains("EOF"));
    state.snapshots.clear();
    metrics.show(&state);
    assert!(!metrics.encode().contains("rocket-1"));
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let mut promtool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(promtool) => promtool,
        Err(error) => {
            eprintln!(
                "SKIPPED: promtool cannot be run ({error}); install Debian's package prometheus"
            );
            return;
        }
    };
    let text = filled().0.encode();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
