//! Agents whose coordinator is gone: real transfers between cores in one process.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::time::{Duration, Instant};

use modelcache_agent::intent::Intent;
use modelcache_agent::reasons;
use modelcache_agent::state::SnapshotState;
use modelcache_crds::model_cache::SourcePolicy;
use modelcache_swarm::coordination::AgentMessage;
use modelcache_swarm::discovery::announcement::ContentId;
use modelcache_swarm::discovery::table::Origin;
use support::agent::Agent;
use support::coordinator::Coordinator;
use support::hub::Hub;
use support::model::{Model, bytes, intent};
use tempfile::TempDir;

const SIZE: u64 = 24 << 20;
const SEGMENT: u64 = 1 << 20;

struct Cluster {
    hub: Hub,
    model: Model,
    wish: Intent,
    coordinator: Coordinator,
    agents: Vec<(Agent, TempDir)>,
}

impl Cluster {
    async fn start(agents: usize) -> Self {
        let hub = Hub::start().await;
        let mut model = Model::default();
        model.add("model.bin", bytes(5, SIZE as usize));
        hub.put("m", &model);
        let wish = intent(&[model.snapshot("m")]);
        let coordinator = Coordinator::start(hub.access());
        let mut cluster = Self {
            hub,
            model,
            wish,
            coordinator,
            agents: Vec::new(),
        };
        for _ in 0..agents {
            cluster.add(SourcePolicy::PeersFirst).await;
        }
        cluster
    }

    async fn add(&mut self, source: SourcePolicy) {
        let cache = tempfile::tempdir().unwrap();
        let mut wish = self.wish.clone();
        wish.snapshots[0].source = source;
        let name = format!("node-{}", self.agents.len());
        let agent = Agent::start(&name, cache.path(), &self.coordinator, wish).await;
        self.agents.push((agent, cache));
    }

    async fn all_until(&mut self, what: &str, test: impl Fn(&SnapshotState) -> bool) {
        for (agent, _) in &mut self.agents {
            agent.until(what, &test).await;
        }
    }

    async fn all_ready(&mut self) {
        for (agent, cache) in &mut self.agents {
            let state = agent.until_ready().await;
            assert_eq!(state.problem, None);
            self.model.assert_published(cache.path(), "m");
        }
    }
}

fn without_coordinator(state: &SnapshotState) -> bool {
    let problem = state.problem.as_ref();
    problem.is_some_and(|problem| problem.reason == reasons::NO_COORDINATOR)
}

#[tokio::test(flavor = "multi_thread")]
async fn they_share_what_is_missing_by_themselves() {
    let mut cluster = Cluster::start(3).await;
    cluster.hub.delay(Duration::from_secs(1));
    cluster
        .all_until("on its way", |state| state.held_bytes >= 3 * SEGMENT)
        .await;
    cluster.coordinator.die().await;
    cluster.all_until("without", without_coordinator).await;
    cluster.all_ready().await;
    let copies = cluster.hub.sent();
    // Two nodes may see the same gap when one of them heard nothing of the other yet.
    assert!(copies <= SIZE + 3 * SEGMENT, "{copies} bytes from the hub");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_comes_back_finds_everything_in_order() {
    let mut cluster = Cluster::start(3).await;
    cluster.hub.delay(Duration::from_secs(1));
    cluster
        .all_until("on its way", |state| state.held_bytes >= 3 * SEGMENT)
        .await;
    cluster.coordinator.die().await;
    cluster.all_until("without", without_coordinator).await;
    let (first, _) = &mut cluster.agents[0];
    let before = first.state.borrow().snapshots[0].held_bytes;
    first
        .until("further by itself", |state| {
            state.held_bytes >= before + 2 * SEGMENT
        })
        .await;
    cluster.coordinator.come_back().await;
    cluster.all_ready().await;
    let copies = cluster.hub.sent();
    // What was under way at each of the two changes may come twice: two fetches of three nodes.
    assert!(copies <= SIZE + 9 * SEGMENT, "{copies} bytes from the hub");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_must_not_go_to_the_hub_takes_from_the_others() {
    let mut cluster = Cluster::start(1).await;
    cluster.all_ready().await;
    cluster.coordinator.fall_silent().await;
    cluster.add(SourcePolicy::PeersOnly).await;
    // Then it is told who else there is.
    let tracks = |message: &AgentMessage| matches!(message, AgentMessage::Track { .. });
    while cluster.coordinator.said(tracks).await < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.coordinator.die().await;
    cluster.agents[1]
        .0
        .until("without", without_coordinator)
        .await;
    cluster.all_ready().await;
    assert_eq!(cluster.hub.sent(), SIZE, "all of it by the first node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_heard_of_a_coordinator_takes_from_peers_that_the_table_knows() {
    let mut cluster = Cluster::start(1).await;
    cluster.all_ready().await;
    cluster.coordinator.die().await;
    let giver = cluster.agents[0].0.address;
    let cache = tempfile::tempdir().unwrap();
    let mut alone = Agent::start_alone("fresh", cache.path(), cluster.wish.clone()).await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    let content = ContentId::of_snapshot("m");
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    alone.peers.lock().heard(
        stranger.local_addr().unwrap(),
        Origin::LocalService,
        &[content],
        Instant::now(),
    );
    let waits = alone.until("without", without_coordinator).await;
    let words = waits.problem.unwrap().message;
    assert!(words.contains("nobody is known"), "{words}");

    for address in [giver, nobody] {
        alone
            .peers
            .lock()
            .heard(address, Origin::Static, &[], Instant::now());
    }
    let state = alone.until_ready().await;
    assert_eq!((state.peer_bytes, state.origin_bytes), (SIZE, 0));
    cluster.model.assert_published(cache.path(), "m");
    let table = alone.peers.lock();
    for (address, peer) in table.peers(Instant::now()) {
        assert_eq!(peer.verified.is_some(), address == giver, "{address}");
    }
    let asked = futures_util::FutureExt::now_or_never(stranger.accept());
    assert!(asked.is_none(), "nobody vouches for it");
}
