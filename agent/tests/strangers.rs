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
use modelcache_swarm::coordination::AgentMessage;
use modelcache_swarm::discovery::hali::packet::Seed;
use support::agent::Agent;
use support::coordinator::{Coordinator, FETCHES};
use support::giving::{Giving, PLAIN, own_address};
use support::hub::Hub;
use support::model::{Model, bytes, intent};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Longer than an agent waits for hub and nodes.
const LONGEST: Duration = Duration::from_mins(3);

/// The large one of the files that are given, alone.
fn large() -> Model {
    let mut model = Model::default();
    model.add("gguf/tiny model.gguf", bytes(3, (5 << 20) + 7));
    model
}

/// What a machine with hali would say of that file, and its size.
async fn said_of_large(giving: &Giving) -> (Seed, u64) {
    let (listed, _) = giving.large().await;
    let mut info_hash = [0; 20];
    hex::decode_to_slice(&listed.hybrid_info_hash, &mut info_hash).unwrap();
    let seed = Seed::new("tiny:1b:base:q8_0", info_hash, [0; 32], "acme/open", "").unwrap();
    (seed, listed.size_bytes)
}

/// An agent with a coordinator and a hub of its own, which refuses everything, that hears of this seed.
struct Asking {
    agent: Agent,
    cache: TempDir,
    hub: Hub,
    coordinator: Coordinator,
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
            coordinator,
        }
    }

    async fn until_ready(&mut self) {
        let ready = self.agent.state.wait_for(|state| {
            let first = state.snapshots.first();
            first.is_some_and(|snapshot| snapshot.phase == Phase::Ready)
        });
        let state = tokio::time::timeout(LONGEST, ready).await;
        drop(state.unwrap().unwrap());
    }

    fn asked(&self) -> bool {
        let metrics = self.agent.metrics.encode();
        metrics.contains("modelcache_agent_hali_files_total{")
    }
}

/// Waits for something that is to happen soon.
async fn until(what: &str, happened: impl Fn() -> bool) {
    let wait = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let happened = tokio::time::timeout(Duration::from_secs(25), wait).await;
    assert!(happened.is_ok(), "still not: {what}");
}

/// Passes one connection on to `address` when it may; where it is dialled, and when that happened.
async fn gate(
    address: SocketAddr,
    may: oneshot::Receiver<()>,
) -> (SocketAddr, oneshot::Receiver<()>) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let gate = listener.local_addr().unwrap();
    let (dialled, was_dialled) = oneshot::channel();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        dialled.send(()).unwrap();
        may.await.unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut far).await;
    });
    (gate, was_dialled)
}

/// What comes from the hub late, and is wrong, is neither waited for nor written, and nobody is told of a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_under_way_ends_when_a_stranger_gave_the_file() {
    let giving = Giving::start(PLAIN).await;
    let (seed, _) = said_of_large(&giving).await;
    let (open_gate, may) = oneshot::channel();
    let (gate, dialled) = gate(giving.addr, may).await;
    let mut asking = Asking::start(&large(), true, gate, &seed).await;
    tokio::time::timeout(LONGEST, dialled)
        .await
        .unwrap()
        .unwrap();
    asking.hub.trickle();
    // All of them, so that no earlier one fails from here on.
    let all = || asking.hub.trickling() == FETCHES;
    until("fetches are under way", all).await;
    let failed = |said: &AgentMessage| matches!(said, AgentMessage::FetchFailed { .. });
    let failures = asking.coordinator.said(failed).await;
    open_gate.send(()).unwrap();
    asking.until_ready().await;
    until("no fetch goes on", || asking.hub.trickling() == 0).await;
    large().assert_published(asking.cache.path(), "open");
    assert_eq!(asking.coordinator.said(failed).await, failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_of_a_public_model_is_asked_for() {
    let giving = Giving::start(PLAIN).await;
    let (seed, size) = said_of_large(&giving).await;
    let model = large();
    // Waits for longer than the other, because it began before.
    let closed = Asking::start(&model, false, giving.addr, &seed).await;
    let mut open = Asking::start(&model, true, giving.addr, &seed).await;
    open.until_ready().await;
    model.assert_published(open.cache.path(), "open");
    let metrics = open.agent.metrics.encode();
    let taken = "modelcache_agent_hali_files_total{result=\"taken\"} 1";
    assert!(metrics.lines().any(|line| line == taken), "{metrics}");
    assert_eq!(giving.sent(), size, "once");
    assert_eq!(open.hub.sent(), 0);
    assert!(!closed.asked());
    assert_eq!(closed.agent.state.borrow().snapshots[0].held_bytes, 0);
}
