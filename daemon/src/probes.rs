//! Probes and metrics over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use crate::health::Health;
use crate::metrics::CONTENT_TYPE;

/// What the probes answer when something is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Wrong {
    /// The loop hangs.
    pub hangs: &'static str,
    /// What is needed is not there yet.
    pub not_ready: &'static str,
}

/// `/healthz` and `/readyz` as the health is, and `/metrics` from `encode`, in the form of [`crate::metrics::encode`].
pub fn router(
    health: Arc<Health>,
    wrong: Wrong,
    encode: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    let alive = {
        let health = health.clone();
        move || async move { answer(health.alive(), wrong.hangs) }
    };
    Router::new()
        .route("/healthz", get(alive))
        .route(
            "/readyz",
            get(move || async move { answer(health.ready(), wrong.not_ready) }),
        )
        .route(
            "/metrics",
            get(move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], encode()) }),
        )
}

fn answer(well: bool, wrong: &str) -> (StatusCode, String) {
    if well {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let said = format!("{wrong}; see the log\n");
        (StatusCode::SERVICE_UNAVAILABLE, said)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn probes_follow_the_health() {
        let wrong = Wrong {
            hangs: "it hangs",
            not_ready: "nothing is there",
        };
        // Hangs as soon as it is ready.
        let health = Arc::new(Health::new(Duration::ZERO));
        let router = router(health.clone(), wrong, || "metrics".to_owned());
        let (well, ill) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        let is = |status: StatusCode, text: &str| (status, text.to_owned());
        assert_eq!(ask(&router, "/healthz").await, is(well, "ok\n"));
        let waits = is(ill, "nothing is there; see the log\n");
        assert_eq!(ask(&router, "/readyz").await, waits);
        health.set_ready();
        assert_eq!(ask(&router, "/readyz").await, is(well, "ok\n"));
        let hangs = is(ill, "it hangs; see the log\n");
        assert_eq!(ask(&router, "/healthz").await, hangs);
        assert_eq!(ask(&router, "/metrics").await, is(well, "metrics"));
    }
}
