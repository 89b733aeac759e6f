//! Agents without Kubernetes: real transfers between cores in one process, a hub and a simple coordinator.
#![allow(clippy::unwrap_used, clippy::panic, clippy::duration_suboptimal_units)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use modelcache_agent::reasons;
use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::coordination::{AgentMessage, Held};
use modelcache_swarm::discovery::table::Origin;
use modelcache_swarm::plan;
use modelcache_swarm::segment::PieceHashes;
use modelcache_swarm::snapshot::Snapshot;
use support::agent::Agent;
use support::coordinator::Coordinator;
use support::hub::Hub;
use support::model::{Model, bytes, intent};

#[tokio::test(flavor = "multi_thread")]
async fn three_from_cold_with_one_copy_from_the_hub() {
    let hub = Hub::start().await;
    let model = Model::odd();
    hub.put("odd", &model);
    let coordinator = Coordinator::start(hub.access());
    let wish = intent(&[model.snapshot("odd")]);
    let caches: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut agents = Vec::new();
    for (number, cache) in caches.iter().enumerate() {
        let name = format!("node-{number}");
        agents.push(Agent::start(&name, cache.path(), &coordinator, wish.clone()).await);
    }
    let (mut origin, mut peer) = (0, 0);
    for (agent, cache) in agents.iter_mut().zip(&caches) {
        let state = agent.until_ready().await;
        model.assert_published(cache.path(), "odd");
        assert_eq!(state.held_bytes, state.size_bytes);
        assert!(state.verified_at.is_some() && state.fresh);
        origin += state.origin_bytes;
        peer += state.peer_bytes;
    }
    let size = model.distinct_bytes("odd");
    assert_eq!(origin, size, "each byte once from the hub");
    assert_eq!(peer, 2 * size, "the rest from each other");
    assert_eq!(hub.sent(), size, "the hub's own count");
    let sent = |agent: &Agent| {
        let text = agent.metrics.encode();
        let line = |name: &str| {
            let start = format!("modelcache_agent_{name}_bytes_total{{model=\"acme/odd\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&start));
            value.map_or(0, |value| value.parse::<u64>().unwrap())
        };
        (
            line("origin_received"),
            line("peer_received"),
            line("peer_sent"),
        )
    };
    let counts: Vec<_> = agents.iter().map(sent).collect();
    assert_eq!(counts.iter().map(|count| count.0).sum::<u64>(), size);
    assert_eq!(counts.iter().map(|count| count.1).sum::<u64>(), 2 * size);
    // The sender counts what it gave to the network, which a broken connection may have lost.
    assert!(counts.iter().map(|count| count.2).sum::<u64>() >= 2 * size);
    for agent in agents {
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_goes_on_where_it_was() {
    let hub = Hub::start().await;
    hub.delay(Duration::from_millis(60));
    let mut model = Model::default();
    model.add("model.bin", bytes(7, 24 << 20));
    hub.put("large", &model);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let wish = intent(&[model.snapshot("large")]);
    let mut before = 0;
    for _ in 0..3 {
        let mut agent = Agent::start("node", cache.path(), &coordinator, wish.clone()).await;
        let state = agent
            .until("further", |state| state.held_bytes >= before + (3 << 20))
            .await;
        before = state.held_bytes;
        assert!(!cache.path().join("volumes/large").exists());
        drop(agent);
    }
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    let state = agent.until_ready().await;
    model.assert_published(cache.path(), "large");
    assert_eq!(state.origin_bytes, 24 << 20, "counted across restarts");
    // Of each killed agent at most the segments under way, twice two at most, came again.
    assert!(hub.sent() <= (24 + 3 * 4) << 20, "{}", hub.sent());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_may_come_and_go() {
    let hub = Hub::start().await;
    hub.delay(Duration::from_millis(40));
    let model = Model::odd();
    hub.put("odd", &model);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let wish = intent(&[model.snapshot("odd")]);
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    for part in 1..=3_u64 {
        agent
            .until("further", |state| state.held_bytes >= part << 20)
            .await;
        coordinator
            .interrupt("node", Duration::from_millis(100))
            .await;
    }
    agent.until_ready().await;
    model.assert_published(cache.path(), "odd");
    assert_eq!(hub.sent(), model.distinct_bytes("odd"), "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_published_and_fetched_again() {
    let hub = Hub::start().await;
    let mut model = Model::default();
    model.add("config.json", bytes(1, 700));
    model.add("model.bin", bytes(2, 4 << 20));
    let mut wrong = model.clone();
    wrong.files.get_mut("model.bin").unwrap()[1 << 20] ^= 1;
    hub.put("m", &wrong);
    let coordinator = Coordinator::start(hub.access());
    let wish = intent(&[model.snapshot("m")]);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = Agent::start("one", one.path(), &coordinator, wish.clone()).await;
    let mut second = Agent::start("two", two.path(), &coordinator, wish).await;
    let failed = first.until("told", |state| state.problem.is_some()).await;
    let problem = failed.problem.unwrap();
    assert_eq!(failed.phase, Phase::Failed);
    assert_eq!(problem.reason, reasons::HASH_MISMATCH);
    assert!(problem.message.contains("model.bin"), "{}", problem.message);
    for cache in [&one, &two] {
        assert!(!cache.path().join("volumes/m").exists());
    }
    hub.put("m", &model);
    for (agent, cache) in [(&mut first, &one), (&mut second, &two)] {
        let state = agent.until_ready().await;
        assert_eq!(state.problem, None);
        model.assert_published(cache.path(), "m");
    }
    let corrupt = |message: &AgentMessage| matches!(message, AgentMessage::Corrupt { .. });
    assert!(coordinator.said(corrupt).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_a_lying_fetcher_spoilt_only_that_is_moved_again() {
    let (hub, liar) = (Hub::start().await, Hub::start().await);
    let mut model = Model::default();
    model.add("model.bin", bytes(2, 16 << 20));
    let mut wrong = model.clone();
    for segment in 0..16 {
        wrong.files.get_mut("model.bin").unwrap()[(segment << 20) + 9] ^= 1;
    }
    hub.put("m", &model);
    liar.put("m", &wrong);
    // So that all of them have their part in it.
    hub.delay(Duration::from_millis(200));
    liar.delay(Duration::from_millis(200));
    let coordinator = Coordinator::start(hub.access());
    coordinator.lead("liar", liar.access()).await;
    let wish = intent(&[model.snapshot("m")]);
    let names = ["liar", "one", "two"];
    let caches: Vec<_> = names.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let mut agents = Vec::new();
    for (name, cache) in names.iter().zip(&caches) {
        agents.push(Agent::start(name, cache.path(), &coordinator, wish.clone()).await);
    }
    let failed = agents[1]
        .until("told", |state| state.problem.is_some())
        .await;
    assert_eq!(failed.problem.unwrap().reason, reasons::HASH_MISMATCH);
    liar.put("m", &model);
    let mut kept = 0;
    for (agent, cache) in agents.iter_mut().zip(&caches) {
        agent.until_ready().await;
        model.assert_published(cache.path(), "m");
        let text = agent.metrics.encode();
        let start = "modelcache_agent_segments_total{source=\"disk\",result=\"held\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(start));
        kept += line.map_or(0, |count| count.parse::<u32>().unwrap());
    }
    assert!(kept > 0, "what was right is moved a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_from_which_nothing_comes_is_known_as_that() {
    let hub = Hub::start().await;
    let mut model = Model::default();
    model.add("model.bin", bytes(8, 3 << 20));
    let snapshot = model.snapshot("ghostly");
    let coordinator = Coordinator::start(hub.access());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = gone.local_addr().unwrap();
    let held: Vec<Held> = plan::cut(&snapshot)
        .iter()
        .map(|segment| {
            let pieces = segment
                .len()
                .div_ceil(u64::from(snapshot.sizes.piece_bytes));
            Held {
                segment: segment.index,
                pieces: PieceHashes::new(vec![[0; 20]; usize::try_from(pieces).unwrap()]),
                verified: true,
            }
        })
        .collect();
    let (ghost, _orders) = coordinator.connect("ghost", gone).await;
    let track = AgentMessage::Track {
        snapshot: "ghostly".to_owned(),
        segments: u32::try_from(held.len()).unwrap(),
        held,
    };
    ghost.send(track).unwrap();

    let cache = tempfile::tempdir().unwrap();
    let wish = intent(&[snapshot]);
    let agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    let now = Instant::now();
    agent.peers.lock().heard(gone, Origin::Static, &[], now);
    agent.peers.lock().verified(gone, now);
    let reached = || {
        let peers = agent.peers.lock();
        peers
            .peers(now)
            .iter()
            .any(|(_, peer)| peer.verified.is_some())
    };
    let failing = async {
        while reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let failed = tokio::time::timeout(Duration::from_secs(60), failing).await;
    assert!(failed.is_ok(), "it counts as one that was reached");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_the_rest_goes_on() {
    let hub = Hub::start().await;
    let model = Model::odd();
    hub.put("odd", &model);
    let coordinator = Coordinator::start(hub.access());
    let mut huge: Snapshot = (*model.snapshot("huge")).clone();
    huge.files[1].size = 1 << 50;
    huge.files[1].blob = modelcache_swarm::segment::BlobId::Sha256([7; 32]);
    huge.sizes.segment_bytes = 1 << 40;
    let cache = tempfile::tempdir().unwrap();
    let wish = intent(&[huge.into(), model.snapshot("odd")]);
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    let failed = agent
        .until("refused", |state| state.phase == Phase::Failed)
        .await;
    let problem = failed.problem.unwrap();
    assert_eq!(problem.reason, reasons::NO_SPACE);
    assert!(problem.message.contains("too few"), "{}", problem.message);
    assert_eq!(problem.retry_at, None, "it looks all the time");
    let both = |state: &modelcache_agent::state::NodeState| {
        state.snapshots[1].phase == Phase::Ready && state.snapshots[0].phase == Phase::Failed
    };
    let wait = agent.state.wait_for(both);
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap()
        .unwrap();
    model.assert_published(cache.path(), "odd");
    let tracked = |message: &AgentMessage| matches!(message, AgentMessage::Track { snapshot, .. } if snapshot == "huge");
    assert_eq!(
        coordinator.said(tracked).await,
        0,
        "nothing is ordered for it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_refuses_is_told_and_got_over() {
    let hub = Hub::start().await;
    let model = Model::odd();
    hub.put("odd", &model);
    hub.refuse(403);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let wish = intent(&[model.snapshot("odd")]);
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    let failed = agent
        .until("refused", |state| state.phase == Phase::Failed)
        .await;
    let problem = failed.problem.unwrap();
    assert!(
        [reasons::GATED, reasons::UNAUTHORIZED].contains(&problem.reason),
        "{problem:?}"
    );
    hub.refuse(0);
    agent.until_ready().await;
    model.assert_published(cache.path(), "odd");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_longer_wanted_keeps_the_data_and_wanted_again_costs_nothing() {
    let hub = Hub::start().await;
    let model = Model::odd();
    hub.put("odd", &model);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let wish = intent(&[model.snapshot("odd")]);
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish.clone()).await;
    let first = agent.until_ready().await;
    let link = cache.path().join("models/tests/odd");
    assert!(link.exists());
    agent.intent.send_replace(intent(&[]));
    let empty = agent.state.wait_for(|state| state.snapshots.is_empty());
    tokio::time::timeout(Duration::from_secs(10), empty)
        .await
        .unwrap()
        .unwrap();
    for _ in 0..100 {
        if !link.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!link.exists(), "its name is gone");
    assert!(cache.path().join("volumes/odd").exists(), "its data is not");
    let cost = hub.sent();
    agent.intent.send_replace(wish.clone());
    let again = agent.until_ready().await;
    assert!(link.exists());
    assert_eq!(hub.sent(), cost);
    assert_eq!(again.verified_at, first.verified_at, "it was verified then");
    // Nor does a restart, after which being ready is no news.
    agent.stop().await;
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    let state = agent.until_ready().await;
    assert!(!state.fresh);
    assert_eq!(state.verified_at, first.verified_at);
    assert_eq!(hub.sent(), cost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_file_that_was_cut_short_is_fetched_again() {
    let hub = Hub::start().await;
    let model = Model::odd();
    hub.put("odd", &model);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let snapshot = model.snapshot("odd");
    let wish = intent(std::slice::from_ref(&snapshot));
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish.clone()).await;
    agent.until_ready().await;
    agent.stop().await;
    let file = snapshot
        .files
        .iter()
        .find(|file| file.path == "weights/model-2.bin")
        .unwrap();
    let blob = cache.path().join("blobs").join(file.blob.etag());
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"short").unwrap();
    let cost = hub.sent();
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    let state = agent.until_ready().await;
    assert!(state.fresh);
    model.assert_published(cache.path(), "odd");
    assert_eq!(hub.sent() - cost, file.size, "only what was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_that_share_a_large_file_fetch_it_once() {
    let hub = Hub::start().await;
    let mut one = Model::default();
    one.add("shared.bin", bytes(1, 6 << 20));
    one.add("one.json", bytes(2, 3000));
    let mut two = Model::default();
    two.add("shared.bin", bytes(1, 6 << 20));
    two.add("two.json", bytes(3, 3000));
    hub.put("one", &one);
    hub.put("two", &two);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let wish = intent(&[one.snapshot("one"), two.snapshot("two")]);
    let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
    let both = agent.state.wait_for(|state| {
        state.snapshots.len() == 2
            && state
                .snapshots
                .iter()
                .all(|snapshot| snapshot.phase == Phase::Ready)
    });
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap_or_else(|_| panic!("not both ready within a minute"))
        .unwrap();
    one.assert_published(cache.path(), "one");
    two.assert_published(cache.path(), "two");
    assert_eq!(hub.sent(), (6 << 20) + 6000);
}
