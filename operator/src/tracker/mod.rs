//! The HTTP tracker: `/announce` and `/scrape`, for agents and, where that is asked for, for other BitTorrent clients.
//!
//! What is answered is decided in [`modelcache_swarm::tracker`]; here are its port, its keys and its clocks.

mod listener;
mod metrics;

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{ConnectInfo, RawQuery, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use modelcache_swarm::discovery::announcement::ContentId;
use modelcache_swarm::discovery::clock::Now;
use modelcache_swarm::secret::Keys;
use modelcache_swarm::tracker::refusal::Refusal;
use modelcache_swarm::tracker::{Admission, Tracker, answer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::listener::{BriefListener, Source};
use self::metrics::TrackerMetrics;

/// The tracker, shared between those who ask it and those who tell it what to track. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedTracker {
    tracker: Arc<Mutex<Tracker>>,
    metrics: Arc<TrackerMetrics>,
}

impl SharedTracker {
    /// One that knows nobody.
    #[must_use]
    pub fn new(admission: Admission) -> Self {
        let seed = RandomState::new().hash_one(());
        Self {
            tracker: Arc::new(Mutex::new(Tracker::new(admission, seed, Now::read()))),
            metrics: Arc::default(),
        }
    }

    /// From now on it tells agents who has these snapshots.
    pub fn register<'a>(&self, snapshots: impl Iterator<Item = &'a str>) {
        let torrents: BTreeSet<_> = snapshots.map(ContentId::of_snapshot).collect();
        self.lock().register(torrents);
    }

    fn lock(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Shared = (SharedTracker, Keys);

/// Answers until `stop`.
pub async fn serve(
    listener: TcpListener,
    tracker: SharedTracker,
    keys: Keys,
    stop: CancellationToken,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/announce", get(announce))
        .route("/scrape", get(scrape))
        .with_state((tracker, keys))
        .into_make_service_with_connect_info::<Source>();
    axum::serve(BriefListener::new(listener), routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn announce(
    State((tracker, keys)): State<Shared>,
    ConnectInfo(Source(source)): ConnectInfo<Source>,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    let query = query.unwrap_or_default();
    let result = tracker
        .lock()
        .announce(&query, source, &keys.now(), Now::read());
    tracker.metrics.announced(result.as_ref().err().copied());
    if let Err(refusal) = &result {
        tracing::debug!(%source, %refusal, "an announce was refused");
    }
    reply(result)
}

async fn scrape(
    State((tracker, _)): State<Shared>,
    ConnectInfo(Source(source)): ConnectInfo<Source>,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    let query = query.unwrap_or_default();
    reply(tracker.lock().scrape(&query, source, Now::read()))
}

/// Refusals are answers too (BEP 3). One connection serves one request: clients come back only after minutes.
fn reply(result: Result<Vec<u8>, Refusal>) -> impl IntoResponse {
    let body = result.unwrap_or_else(|refusal| answer::failure(&refusal.to_string()));
    let headers = [
        (header::CONTENT_TYPE, "text/plain"),
        (header::CONNECTION, "close"),
    ];
    (headers, body)
}
