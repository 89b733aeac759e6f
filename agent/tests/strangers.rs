//! An agent whose hub does not give a file asks somebody of whom nothing is believed; here that is another agent's plain port.
#![allow(clippy::unwrap_used, clippy::panic, clippy::duration_suboptimal_units)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::discovery::hali::packet::Seed;
use support::agent::Agent;
use support::coordinator::Coordinator;
use support::giving::{Giving, PLAIN};
use support::hub::Hub;
use support::model::{Model, bytes, intent};
use tempfile::TempDir;

/// Longer than an agent waits for hub and nodes.
const LONGEST: Duration = Duration::from_mins(3);
const PATH: &str = "gguf/tiny model.gguf";

/// An agent with a coordinator and a hub of its own, which refuses everything, that hears of this seed.
struct Asking {
    agent: Agent,
    cache: TempDir,
    hub: Hub,
    _coordinator: Coordinator,
}

impl Asking {
    async fn start(model: &Model, public: bool, address: SocketAddr, seed: &Seed) -> Self {
        let hub = Hub::start().await;
        hub.put("open", model);
        hub.refuse(503);
        let coordinator = Coordinator::start(hub.access());
        let cache = tempfile::tempdir().unwrap();
        let mut wish = intent(&[model.snapshot("open")]);
        wish.snapshots[0].public = public;
        let agent = Agent::start("asking", cache.path(), &coordinator, wish).await;
        agent
            .seeds
            .heard(address, std::slice::from_ref(seed), Instant::now());
        Self {
            agent,
            cache,
            hub,
            _coordinator: coordinator,
        }
    }

    fn asked(&self) -> bool {
        let metrics = self.agent.metrics.encode();
        metrics.contains("modelcache_agent_hali_files_total{")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_of_a_public_model_is_asked_for() {
    let giving = Giving::start(PLAIN).await;
    let (listed, _) = giving.large().await;
    let mut info_hash = [0; 20];
    hex::decode_to_slice(&listed.hybrid_info_hash, &mut info_hash).unwrap();
    let seed = Seed::new("tiny:1b:base:q8_0", info_hash, [0; 32], "acme/open", "").unwrap();
    let mut model = Model::default();
    model.add(PATH, bytes(3, (5 << 20) + 7));
    // Waits for longer than the other, because it began before.
    let closed = Asking::start(&model, false, giving.addr, &seed).await;
    let mut open = Asking::start(&model, true, giving.addr, &seed).await;
    let ready = open.agent.state.wait_for(|state| {
        let first = state.snapshots.first();
        first.is_some_and(|snapshot| snapshot.phase == Phase::Ready)
    });
    let state = tokio::time::timeout(LONGEST, ready).await;
    drop(state.unwrap().unwrap());
    model.assert_published(open.cache.path(), "open");
    let metrics = open.agent.metrics.encode();
    let taken = "modelcache_agent_hali_files_total{result=\"taken\"} 1";
    assert!(metrics.lines().any(|line| line == taken), "{metrics}");
    assert_eq!(giving.sent(), listed.size_bytes, "once");
    assert_eq!(open.hub.sent(), 0);
    assert!(!closed.asked());
    assert_eq!(closed.agent.state.borrow().snapshots[0].held_bytes, 0);
}
