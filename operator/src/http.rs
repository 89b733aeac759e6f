//! Metrics and probes over HTTP.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;

type Shared = (Arc<Metrics>, Arc<Health>);

/// Answers until `stop`.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(metrics, health))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(metrics: Arc<Metrics>, health: Arc<Health>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state((metrics, health))
}

async fn show_metrics(State((metrics, _)): State<Shared>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.encode())
}

async fn alive(State((_, health)): State<Shared>) -> impl IntoResponse {
    if health.alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the reconciler hangs; see the log\n",
        )
    }
}

async fn ready(State((_, health)): State<Shared>) -> impl IntoResponse {
    if health.ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster has not been seen yet; see the log\n",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn get_path(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_follow_the_health() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Arc::new(Health::new());
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(
            listener,
            Arc::new(Metrics::new()),
            Arc::clone(&health),
            stop.clone(),
        ));
        assert!(get_path(address, "/healthz").await.contains(" 200 "));
        assert!(get_path(address, "/readyz").await.contains(" 503 "));
        health.set_ready();
        assert!(get_path(address, "/readyz").await.contains(" 200 "));
        let metrics = get_path(address, "/metrics").await;
        assert!(metrics.contains("version=0.0.4"), "{metrics}");
        assert!(metrics.contains("modelcache_operator_build_info"));
        stop.cancel();
        served.await.unwrap().unwrap();
    }
}
