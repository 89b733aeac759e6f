//! A hub that serves ranges of files, counts the bytes, and can be slow or wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use modelcache_swarm::coordination::OriginAccess;
use tokio::net::TcpListener;

use super::model::Model;

/// The hub; clones are the same.
#[derive(Clone)]
pub struct Hub {
    address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    models: Mutex<BTreeMap<String, Model>>,
    sent: AtomicU64,
    /// Milliseconds before each answer.
    delay: AtomicU64,
    /// Status instead of bytes, when not 0.
    refuse: AtomicU64,
    /// Answers trickle.
    trickle: AtomicBool,
    trickling: AtomicUsize,
}

/// An answer that trickles, until it is dropped.
struct Trickling(Arc<Inner>);

impl Trickling {
    fn new(inner: Arc<Inner>) -> Self {
        inner.trickling.fetch_add(1, Ordering::SeqCst);
        Self(inner)
    }
}

impl Drop for Trickling {
    fn drop(&mut self) {
        self.0.trickling.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Hub {
    pub async fn start() -> Self {
        let inner = Arc::new(Inner::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/acme/{name}/resolve/{commit}/{*path}", get(serve))
            .with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, inner }
    }

    pub fn put(&self, name: &str, model: &Model) {
        let mut models = self.inner.models.lock().unwrap();
        models.insert(name.to_owned(), model.clone());
    }

    pub fn sent(&self) -> u64 {
        self.inner.sent.load(Ordering::SeqCst)
    }

    pub fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap();
        self.inner.delay.store(millis, Ordering::SeqCst);
    }

    /// Answers with this status; 0: with bytes again.
    pub fn refuse(&self, status: u16) {
        self.inner.refuse.store(status.into(), Ordering::SeqCst);
    }

    /// Answers go on for as long as somebody listens: a byte now and then, and a wrong one.
    pub fn trickle(&self) {
        self.inner.trickle.store(true, Ordering::SeqCst);
        self.refuse(0);
    }

    /// Answers that trickle to somebody.
    pub fn trickling(&self) -> usize {
        self.inner.trickling.load(Ordering::SeqCst)
    }

    pub fn access(&self) -> OriginAccess {
        OriginAccess {
            endpoint: format!("http://{}", self.address),
            token: None,
            ca_bundle: None,
        }
    }
}

async fn serve(
    State(inner): State<Arc<Inner>>,
    Path((name, _commit, path)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let refuse = inner.refuse.load(Ordering::SeqCst);
    if refuse != 0 {
        let status = StatusCode::from_u16(u16::try_from(refuse).unwrap()).unwrap();
        return (status, [(header::RETRY_AFTER, "2")]).into_response();
    }
    tokio::time::sleep(Duration::from_millis(inner.delay.load(Ordering::SeqCst))).await;
    let models = inner.models.lock().unwrap();
    let Some(content) = models.get(&name).and_then(|model| model.files.get(&path)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers[header::RANGE].to_str().unwrap();
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let total = content.len();
    let range_len = last.min(total - 1) + 1 - first;
    let body = if inner.trickle.load(Ordering::SeqCst) {
        let listened_to = Trickling::new(inner.clone());
        Body::from_stream(stream::unfold(listened_to, async |listened_to| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let wrong = Bytes::from_static(b"x");
            Some((Ok::<_, std::convert::Infallible>(wrong), listened_to))
        }))
    } else {
        inner.sent.fetch_add(range_len as u64, Ordering::SeqCst);
        Body::from(content[first..first + range_len].to_vec())
    };
    let range = format!("bytes {first}-{}/{total}", last.min(total - 1));
    (
        StatusCode::PARTIAL_CONTENT,
        [(header::CONTENT_RANGE, range)],
        body,
    )
        .into_response()
}
