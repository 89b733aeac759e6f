//! Metrics, probes, and torrents for other BitTorrent clients over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use modelcache_daemon::health::Health;
use modelcache_daemon::probes::{self, Wrong};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::plain::Shelf;

/// What the probes answer when something is wrong.
const WRONG: Wrong = Wrong {
    hangs: "the work loop hangs",
    not_ready: "the cache is not open yet",
};

/// The port cannot be had.
#[derive(Debug, Error)]
#[error(
    "cannot listen for metrics and probes on {addr}: {source}; choose another with --metrics-listen"
)]
pub struct HttpError {
    addr: SocketAddr,
    source: std::io::Error,
}

/// What is answered from.
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
    let Sources {
        metrics,
        health,
        shelf,
    } = sources;
    let router = probes::router(health, WRONG, move || metrics.encode());
    let Some(shelf) = shelf else {
        return router;
    };
    let torrents = Router::new()
        .route("/torrents", get(list_torrents))
        .route("/torrents/{file}", get(torrent))
        .with_state(shelf);
    router.merge(torrents)
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::core::LONGEST_SILENCE;

    async fn status(router: &Router, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn torrents_are_served_only_where_there_is_a_shelf() {
        let metrics = Arc::new(Metrics::new());
        let router = |shelf| {
            router(Sources {
                metrics: metrics.clone(),
                health: Arc::new(Health::new(LONGEST_SILENCE)),
                shelf,
            })
        };
        let shelf = Shelf::new("10.0.0.1".parse().unwrap(), 9493, metrics.clone());
        let (without, with) = (router(None), router(Some(Arc::new(shelf))));
        for router in [&without, &with] {
            assert_eq!(status(router, "/healthz").await, StatusCode::OK);
            assert_eq!(status(router, "/metrics").await, StatusCode::OK);
        }
        assert_eq!(status(&without, "/torrents").await, StatusCode::NOT_FOUND);
        assert_eq!(status(&with, "/torrents").await, StatusCode::OK);
        for path in ["/torrents/x", "/torrents/x.torrent"] {
            assert_eq!(status(&with, path).await, StatusCode::NOT_FOUND);
        }
    }
}
