//! Metrics, probes, and torrents for other BitTorrent clients over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::plain::Shelf;

/// The work loop beats at least every second; after this time without it, it hangs.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);

/// The port cannot be had.
#[derive(Debug, Error)]
#[error(
    "cannot listen for metrics and probes on {addr}: {source}; choose another with --metrics-listen"
)]
pub struct HttpError {
    addr: SocketAddr,
    source: std::io::Error,
}

/// What the probes ask about.
#[derive(Debug)]
pub struct Health {
    start: Instant,
    beat: AtomicU64,
    ready: AtomicBool,
}

impl Health {
    /// Alive from now on, not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            beat: AtomicU64::new(0),
            ready: AtomicBool::new(false),
        }
    }

    /// The work loop went round.
    pub fn beat(&self) {
        self.beat
            .store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// The cache is open and peers are served.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Whether the work loop goes round. Before the cache is open there is none yet, and waiting for it is no hang.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive_after(self.start.elapsed())
    }

    fn alive_after(&self, elapsed: Duration) -> bool {
        let beat = Duration::from_secs(self.beat.load(Ordering::Relaxed));
        !self.ready() || elapsed.saturating_sub(beat) < LONGEST_SILENCE
    }

    /// Whether the cache is open and peers are served.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// What is answered from.
#[derive(Clone)]
pub struct Sources {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For the probes.
    pub health: Arc<Health>,
    /// For `/torrents`; absent: there is no such path.
    pub shelf: Option<Arc<Shelf>>,
}

/// Listens, and answers until `stop`.
pub async fn serve(
    addr: SocketAddr,
    sources: Sources,
    stop: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, HttpError> {
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|source| HttpError { addr, source })?;
    let router = router(sources);
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "metrics and probes are no longer served");
        }
    }))
}

fn router(sources: Sources) -> Router {
    let torrents = match &sources.shelf {
        Some(shelf) => Router::new()
            .route("/torrents", get(list_torrents))
            .route("/torrents/{file}", get(torrent))
            .with_state(shelf.clone()),
        None => Router::new(),
    };
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(sources)
        .merge(torrents)
}

/// What other BitTorrent clients can take here, with magnet links.
async fn list_torrents(State(shelf): State<Arc<Shelf>>) -> impl IntoResponse {
    Json(shelf.list())
}

/// One torrent file: `<info hash>.torrent`.
async fn torrent(State(shelf): State<Arc<Shelf>>, Path(file): Path<String>) -> impl IntoResponse {
    let hash = file.strip_suffix(".torrent");
    let found = hash.and_then(|hash| shelf.torrent(hash));
    let kind = [(header::CONTENT_TYPE, "application/x-bittorrent")];
    match found {
        Some(torrent) => (kind, torrent).into_response(),
        None => (StatusCode::NOT_FOUND, "no such torrent; see /torrents\n").into_response(),
    }
}

async fn show_metrics(State(sources): State<Sources>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], sources.metrics.encode())
}

async fn alive(State(Sources { health, .. }): State<Sources>) -> impl IntoResponse {
    if health.alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the work loop hangs; see the log\n",
        )
    }
}

async fn ready(State(Sources { health, .. }): State<Sources>) -> impl IntoResponse {
    if health.ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the cache is not open yet; see the log\n",
        )
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn status(router: &Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn probes_follow_the_health() {
        let health = Arc::new(Health::new());
        let metrics = Arc::new(Metrics::new());
        let sources = |shelf| Sources {
            metrics: metrics.clone(),
            health: health.clone(),
            shelf,
        };
        let router = router(sources(None));
        assert_eq!(status(&router, "/healthz").await, StatusCode::OK);
        assert_eq!(
            status(&router, "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
        health.set_ready();
        assert_eq!(status(&router, "/readyz").await, StatusCode::OK);
        assert_eq!(status(&router, "/metrics").await, StatusCode::OK);
        assert_eq!(status(&router, "/torrents").await, StatusCode::NOT_FOUND);
        assert!(!health.alive_after(LONGEST_SILENCE));
        let shelf = Shelf::new("10.0.0.1".parse().unwrap(), 9493, metrics.clone());
        let with_shelf = super::router(sources(Some(Arc::new(shelf))));
        assert_eq!(status(&with_shelf, "/torrents").await, StatusCode::OK);
        for path in ["/torrents/x", "/torrents/x.torrent"] {
            assert_eq!(status(&with_shelf, path).await, StatusCode::NOT_FOUND);
        }
    }
}
