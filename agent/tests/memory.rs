//! How much memory moving a large file takes: two agents and the hub together in this process stay below what one agent
//! may use.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use modelcache_swarm::coordination::OriginAccess;
use modelcache_swarm::plan;
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::{Snapshot, SnapshotFile};
use sha2::{Digest as _, Sha256};
use support::agent::Agent;
use support::coordinator::Coordinator;
use support::model::intent;
use tokio::net::TcpListener;

const SIZE: u64 = 1 << 30;
/// What one agent may use.
const LIMIT: u64 = 200 << 20;

/// Any range of a file that is nowhere in memory: each 8 bytes are a function of their place.
fn bytes(range: Range<u64>) -> Vec<u8> {
    let first = range.start / 8;
    let words = (first..range.end.div_ceil(8)).flat_map(|word| {
        let mixed = (word ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).to_le_bytes()
    });
    let skip = (range.start - first * 8) as usize;
    words
        .skip(skip)
        .take((range.end - range.start) as usize)
        .collect()
}

async fn serve(headers: HeaderMap) -> impl IntoResponse {
    let range = headers[header::RANGE].to_str().unwrap();
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
    let body = axum::body::Body::from_stream(futures_util::stream::iter(
        (first..=last).step_by(64 << 10).map(move |from| {
            let to = (from + (64 << 10)).min(last + 1);
            Ok::<_, std::convert::Infallible>(bytes(from..to))
        }),
    ));
    let headers = [
        (
            header::CONTENT_RANGE,
            format!("bytes {first}-{last}/{SIZE}"),
        ),
        (header::CONTENT_LENGTH, (last + 1 - first).to_string()),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, body)
}

async fn hub() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(get(serve));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn snapshot() -> Arc<Snapshot> {
    let mut digest = Sha256::new();
    for from in (0..SIZE).step_by(1 << 20) {
        digest.update(bytes(from..from + (1 << 20)));
    }
    Arc::new(Snapshot {
        name: "large".to_owned(),
        repository: "acme/large".to_owned(),
        revision: "main".to_owned(),
        commit: "c".repeat(40),
        files: vec![SnapshotFile {
            path: "model.safetensors".to_owned(),
            size: SIZE,
            blob: BlobId::Sha256(digest.finalize().into()),
            git_oid: "0".repeat(40),
        }],
        sizes: plan::sizes(SIZE),
    })
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

/// The largest resident size seen until `stop`.
fn watch_memory(stop: Arc<AtomicBool>) -> (std::thread::JoinHandle<()>, Arc<AtomicU64>) {
    let peak = Arc::new(AtomicU64::new(0));
    let seen = peak.clone();
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            seen.fetch_max(resident(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    (thread, peak)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_through_two_agents_fits_in_what_one_may_use() {
    let snapshot = tokio::task::spawn_blocking(snapshot).await.unwrap();
    let access = OriginAccess {
        endpoint: format!("http://{}", hub().await),
        token: None,
        ca_bundle: None,
    };
    let coordinator = Coordinator::start(access);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let (thread, peak) = watch_memory(stop.clone());
    let began = Instant::now();
    let wish = intent(&[snapshot]);
    let mut first = Agent::start("one", one.path(), &coordinator, wish.clone()).await;
    let mut second = Agent::start("two", two.path(), &coordinator, wish).await;
    for agent in [&mut first, &mut second] {
        agent.until_ready().await;
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    let peak = peak.load(Ordering::Relaxed);
    println!(
        "1 GiB to two nodes in {seconds:.1} s, {} MiB resident",
        peak >> 20
    );
    assert!(peak < LIMIT, "{} MiB resident", peak >> 20);
}
