//! Agents that find each other with neither API server nor operator, on hosts in network namespaces. Needs root.
//!
//! Two of them hold a model. Others know from disk what they should hold, and nobody tells them where that is.
#![allow(clippy::unwrap_used, clippy::panic)]

mod hali;
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
use std::path::{Path, PathBuf};

use modelcache_agent::intent::Objects;
use modelcache_agent::state_file;
use modelcache_crds::model_cache::SourcePolicy;
use modelcache_crds::model_cache_node::{NodeModel, NodeSnapshot};
use modelcache_crds::model_snapshot::{File as FileOfSnapshot, ModelSnapshotSpec};
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::Snapshot;
use support::coordinator::Coordinator;
use support::hub::Hub;
use support::model::Model;
use tempfile::TempDir;

use hosts::{Agent, Carries, Hosts, Network};

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
        public: true,
        files: snapshot.files.iter().map(file).collect(),
        segment_bytes: i64::try_from(snapshot.sizes.segment_bytes).unwrap(),
        piece_bytes: i64::from(snapshot.sizes.piece_bytes),
    };
    Objects {
        generation: Some(1),
        snapshots: vec![NodeSnapshot {
            name: "m".to_owned(),
            source: SourcePolicy::PeersFirst,
            plain_bit_torrent: true,
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

/// A file that only its user may read.
fn write_secret(file: &Path, secret: &str) {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .unwrap();
    file.write_all(secret.as_bytes()).unwrap();
}

fn write_settings(directory: &Path) {
    let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    write_secret(&directory.join("key"), key);
    let kubeconfig = "{apiVersion: v1, kind: Config, current-context: c,
        contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}],
        clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]}";
    std::fs::write(directory.join("kubeconfig"), kubeconfig).unwrap();
}

/// What an agent's table says of its peers, one line each kind.
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

/// Hosts whose caches say that they should hold the model; those of the first two have it.
struct Lab {
    hosts: Hosts,
    model: Model,
    directory: TempDir,
}

impl Lab {
    fn new(hosts: u8, network: Network) -> Option<Self> {
        let lab = Self {
            hosts: Hosts::new(hosts, network)?,
            model: Model::odd(),
            directory: tempfile::tempdir().unwrap(),
        };
        write_settings(lab.directory.path());
        for host in 1..=hosts {
            let cache = lab.cache(host);
            std::fs::create_dir(&cache).unwrap();
            let file = state_file::path(&cache, "intent.json");
            state_file::save(&file, &objects(&lab.model.snapshot("m"))).unwrap();
        }
        Some(lab)
    }

    fn cache(&self, host: u8) -> PathBuf {
        self.directory.path().join(format!("cache-{host}"))
    }

    fn start(&self, host: u8, more: &[String]) -> Agent {
        let settings = self.directory.path();
        self.hosts.start(host, &self.cache(host), settings, more)
    }

    /// The first two, whole.
    fn start_givers(&self, more: &[String]) -> [Agent; 2] {
        [1, 2].map(|host| {
            fill(&self.cache(host), &self.model);
            let mut giver = self.start(host, more);
            giver.wait_for(READY);
            giver
        })
    }

    /// The third becomes whole, from the first two, which it knows from this source and no other.
    fn complete(&self, agent: &mut Agent, origin: &str) {
        let metrics = agent.wait_for(READY);
        self.model.assert_published(&self.cache(3), "m");
        assert_eq!(
            value(&metrics, "modelcache_agent_origin_received_bytes"),
            None
        );
        let received = value(&metrics, "modelcache_agent_peer_received_bytes_total");
        assert_eq!(received, Some(self.model.distinct_bytes("m")));
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
        assert!(count(&metrics) <= 2, "{known:?}");
        let heard = value(
            &metrics,
            "modelcache_agent_announcements_total{result=\"accepted\"}",
        );
        assert_eq!(heard > Some(0), origin == "announcement");
    }
}

/// How many peers an agent knows.
fn count(metrics: &str) -> u64 {
    known(metrics)
        .iter()
        .filter_map(|line| value(line, "modelcache_agent_known_peers"))
        .sum()
}

/// On one switch, with these settings of the third.
fn on_a_switch(carries: Carries, origin: &str, more: &[String]) {
    let Some(lab) = Lab::new(3, Network::Switch(carries)) else {
        return;
    };
    let _givers = lab.start_givers(&[]);
    lab.complete(&mut lab.start(3, more), origin);
}

/// Each in a subnet of its own, and the tracker in another. Who does not ask it finds nobody.
fn beyond_a_router(v6: bool) {
    let Some(lab) = Lab::new(5, Network::Router { v6 }) else {
        return;
    };
    let tracker = lab.hosts.track(5, lab.directory.path(), "m");
    let ask = [format!("--tracker={}", tracker.url)];
    let mut givers = lab.start_givers(&ask);
    let answers = "modelcache_agent_tracker_announces_total{result=\"ok\"}";
    for giver in &mut givers {
        giver.wait(answers, |metrics| value(metrics, answers) > Some(0));
    }
    let mut lonely = lab.start(4, &[]);
    lonely.wait_for("modelcache_agent_snapshot_ready{snapshot=\"m\"} 0");
    lab.complete(&mut lab.start(3, &ask), "tracker");
    // It had more time than the third.
    let metrics = lonely.wait_for("modelcache_agent_snapshot_ready{snapshot=\"m\"} 0");
    assert_eq!(count(&metrics), 0, "{metrics}");
}

#[test]
fn by_announcements() {
    let carries = Carries {
        multicast: true,
        broadcast: false,
    };
    on_a_switch(carries, "announcement", &[]);
}

#[test]
fn by_broadcast_where_there_is_no_multicast() {
    let carries = Carries {
        multicast: false,
        broadcast: true,
    };
    on_a_switch(carries, "announcement", &[]);
}

#[test]
fn by_the_settings_where_there_is_neither() {
    let carries = Carries {
        multicast: false,
        broadcast: false,
    };
    let all: Vec<String> = [1, 2, 3]
        .map(|host| format!("--peer={}:9492", Network::Switch(carries).address(host)))
        .into();
    on_a_switch(carries, "static", &all);
}

#[test]
fn by_the_tracker_in_other_subnets() {
    beyond_a_router(false);
}

#[test]
fn by_the_tracker_in_other_subnets_of_ipv6() {
    beyond_a_router(true);
}
