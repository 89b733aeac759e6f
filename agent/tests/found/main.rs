//! Agents that find each other with neither API server nor operator, on hosts in network namespaces. Needs root.
//!
//! Two of them hold a model. The third knows from disk what it should hold, and nobody tells it where that is.
#![allow(clippy::unwrap_used, clippy::panic)]

mod hosts;
// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use modelcache_agent::intent::{self, Objects};
use modelcache_crds::model_cache::SourcePolicy;
use modelcache_crds::model_cache_node::{NodeModel, NodeSnapshot};
use modelcache_crds::model_snapshot::{File as FileOfSnapshot, ModelSnapshotSpec};
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::Snapshot;
use support::coordinator::Coordinator;
use support::hub::Hub;
use support::model::Model;

use hosts::{Carries, Hosts, address};

const READY: &str = "modelcache_agent_snapshot_ready{snapshot=\"m\"} 1";

/// What an agent keeps on disk of the API objects.
fn objects(snapshot: &Snapshot) -> Objects {
    let file = |file: &modelcache_swarm::snapshot::SnapshotFile| FileOfSnapshot {
        path: file.path.clone(),
        size: i64::try_from(file.size).unwrap(),
        git_oid: file.git_oid.clone(),
        sha256: match &file.blob {
            BlobId::Sha256(digest) => Some(hex::encode(digest)),
            BlobId::Git(_) => None,
        },
    };
    let spec = ModelSnapshotSpec {
        endpoint: "http://hub.invalid".to_owned(),
        repository: snapshot.repository.clone(),
        revision: snapshot.revision.clone(),
        commit: snapshot.commit.clone(),
        public: false,
        files: snapshot.files.iter().map(file).collect(),
        segment_bytes: i64::try_from(snapshot.sizes.segment_bytes).unwrap(),
        piece_bytes: i64::from(snapshot.sizes.piece_bytes),
    };
    Objects {
        generation: Some(1),
        snapshots: vec![NodeSnapshot {
            name: "m".to_owned(),
            source: SourcePolicy::PeersFirst,
            plain_bit_torrent: false,
            pex: false,
            dht: false,
            models: vec![NodeModel {
                cache: "tests".to_owned(),
                model: "m".to_owned(),
            }],
        }],
        contents: [("m".to_owned(), spec)].into(),
    }
}

/// Fills a cache as in a cluster, then ends the agent.
fn fill(cache: &Path, model: &Model) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let hub = Hub::start().await;
        hub.put("m", model);
        let wish = support::model::intent(&[model.snapshot("m")]);
        let coordinator = Coordinator::start(hub.access());
        let mut agent = support::agent::Agent::start("node", cache, &coordinator, wish).await;
        agent.until_ready().await;
        agent.stop().await;
    });
}

fn write_settings(directory: &Path) {
    let mut key = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(directory.join("key"))
        .unwrap();
    key.write_all(b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
        .unwrap();
    let kubeconfig = "{apiVersion: v1, kind: Config, current-context: c,
        contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}],
        clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]}";
    std::fs::write(directory.join("kubeconfig"), kubeconfig).unwrap();
}

/// What the third agent's table says of its peers, one line each kind.
fn known(metrics: &str) -> Vec<&str> {
    let lines = metrics.lines();
    lines
        .filter(|line| line.starts_with("modelcache_agent_known_peers{"))
        .collect()
}

fn value(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics.lines().find(|line| line.starts_with(name))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// The third agent becomes whole, from peers that it knows from this source and no other.
fn complete(carries: Carries, origin: &str, more: &[String]) {
    let Some(hosts) = Hosts::new(3, carries) else {
        return;
    };
    let model = Model::odd();
    let directory = tempfile::tempdir().unwrap();
    write_settings(directory.path());
    let caches = [1, 2, 3].map(|host| directory.path().join(format!("cache-{host}")));
    for cache in &caches {
        std::fs::create_dir(cache).unwrap();
        let file = intent::state_path(cache, "intent.json");
        intent::save(&file, &objects(&model.snapshot("m"))).unwrap();
    }
    let [first, second, third] = caches.each_ref().map(std::path::PathBuf::as_path);
    fill(first, &model);
    fill(second, &model);
    let mut givers = [(1, first), (2, second)]
        .map(|(host, cache)| hosts.start(host, cache, directory.path(), &[]));
    for giver in &mut givers {
        giver.wait_for(READY);
    }
    let mut agent = hosts.start(3, third, directory.path(), more);
    let metrics = agent.wait_for(READY);
    model.assert_published(third, "m");
    assert_eq!(
        value(&metrics, "modelcache_agent_origin_received_bytes"),
        None
    );
    let received = value(&metrics, "modelcache_agent_peer_received_bytes_total");
    assert_eq!(received, Some(model.distinct_bytes("m")));
    let known = known(&metrics);
    let from = format!("modelcache_agent_known_peers{{origin=\"{origin}\",");
    assert!(
        known.iter().all(|line| line.starts_with(&from)),
        "{known:?}"
    );
    let reached = format!("{from}age=\"fresh\",verified=\"yes\"}}");
    let reached = value(&metrics, &reached);
    assert!(matches!(reached, Some(1 | 2)), "{known:?}");
    // It is none of its own peers, whatever its settings say.
    let all: u64 = known
        .iter()
        .filter_map(|line| value(line, "modelcache_agent_known_peers"))
        .sum();
    assert!(all <= 2, "{known:?}");
    let heard = value(
        &metrics,
        "modelcache_agent_announcements_total{result=\"accepted\"}",
    );
    assert_eq!(heard > Some(0), origin == "announcement");
}

#[test]
fn by_announcements() {
    let carries = Carries {
        multicast: true,
        broadcast: false,
    };
    complete(carries, "announcement", &[]);
}

#[test]
fn by_broadcast_where_there_is_no_multicast() {
    let carries = Carries {
        multicast: false,
        broadcast: true,
    };
    complete(carries, "announcement", &[]);
}

#[test]
fn by_the_settings_where_there_is_neither() {
    let carries = Carries {
        multicast: false,
        broadcast: false,
    };
    let all: Vec<String> = [1, 2, 3]
        .map(|host| format!("--peer={}:9492", address(host)))
        .into();
    complete(carries, "static", &all);
}
