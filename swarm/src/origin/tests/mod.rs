//! The client against servers that answer as a hub does, and as it should not. Here: the server, and what all tests share.

mod fetching;
mod listing;
mod tls;
mod trouble;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::HeaderMap;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::*;
use crate::gate::memory::MemoryIo;
use crate::segment::{BlobId, Extent};
use crate::snapshot::SegmentSizes;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_verysecret";

/// One request as a server saw it.
#[derive(Clone, Debug)]
struct Seen {
    uri: String,
    headers: HeaderMap,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        headers::text(&self.headers, name)
    }

    /// The bytes asked for, first and last.
    fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// A server on loopback that answers by a closure and writes down what it was asked.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let log = seen.clone();
        let answer = Arc::new(answer);
        let app = Router::new().fallback(move |request: Request| {
            let (log, answer) = (log.clone(), answer.clone());
            async move {
                let seen = Seen {
                    uri: request.uri().to_string(),
                    headers: request.headers().clone(),
                };
                log.lock().unwrap().push(seen.clone());
                answer(&seen)
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, seen }
    }

    fn client(&self) -> OriginClient {
        client(&self.url, None)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn client(url: &str, ca_bundle: Option<String>) -> OriginClient {
    OriginClient::new(&OriginAccess {
        endpoint: url.to_owned(),
        token: Some(TOKEN.to_owned()),
        ca_bundle,
    })
    .unwrap()
}

fn status(status: u16, headers: &[(&str, &str)]) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Body::from("{}")).unwrap()
}

fn json(text: impl Into<Body>) -> Response {
    text.into().into_response()
}

/// 206 as it should be.
fn partial(file: &[u8], seen: &Seen) -> Response {
    let (first, last) = seen.range().expect("no bounded range was asked for");
    let body = file[usize::try_from(first).unwrap()..=usize::try_from(last).unwrap()].to_vec();
    Response::builder()
        .status(206)
        .header(
            "content-range",
            format!("bytes {first}-{last}/{}", file.len()),
        )
        .body(Body::from(body))
        .unwrap()
}

/// A 206 whose body breaks off after `bytes`.
fn broken(file: &[u8], seen: &Seen, bytes: usize) -> Response {
    let (first, last) = seen.range().unwrap();
    let start = usize::try_from(first).unwrap();
    let some = Bytes::copy_from_slice(&file[start..start + bytes]);
    let body = stream::iter([Ok(some)]).chain(stream::once(async {
        // Time for what was written to leave.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(io::Error::other("pulled the plug"))
    }));
    Response::builder()
        .status(206)
        .header(
            "content-range",
            format!("bytes {first}-{last}/{}", file.len()),
        )
        .body(Body::from_stream(body))
        .unwrap()
}

/// Bytes that differ from place to place.
fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i / 253 + i * 7 + seed * 31) % 256).unwrap())
        .collect()
}

/// A snapshot of these files, each a blob of its own, and one segment with all their bytes.
fn snapshot(files: &[(&str, &[u8])]) -> (Snapshot, Segment, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut snapshot_files = Vec::new();
    let mut extents = Vec::new();
    for (number, (path, content)) in (0_u8..).zip(files) {
        let blob = BlobId::Git([number; 20]);
        snapshot_files.push(SnapshotFile {
            path: (*path).to_owned(),
            size: content.len() as u64,
            blob,
            git_oid: hex::encode([number; 20]),
        });
        extents.push(Extent {
            blob,
            offset: 0,
            len: content.len() as u64,
        });
        bytes.extend_from_slice(content);
    }
    let snapshot = Snapshot {
        name: "model-01234567-89abcdef".to_owned(),
        repository: "org/model".to_owned(),
        revision: "main".to_owned(),
        commit: COMMIT.to_owned(),
        files: snapshot_files,
        sizes: SegmentSizes {
            segment_bytes: 64 << 20,
            piece_bytes: 256 << 10,
        },
    };
    (snapshot, Segment { index: 3, extents }, bytes)
}

/// Fetches one file as one segment.
async fn fetch_file(
    client: &OriginClient,
    path: &str,
    file: &[u8],
) -> Result<Vec<u8>, OriginError> {
    let (snapshot, segment, _) = snapshot(&[(path, file)]);
    let io = Arc::new(MemoryIo::empty(file.len()));
    client
        .fetch_segment(&snapshot, &segment, io.clone(), &|_| ())
        .await?;
    Ok(io.take())
}

/// No error may tell the token or the signature of a URL.
fn harmless(error: OriginError) -> OriginError {
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(
            !text.contains(TOKEN) && !text.contains("signature"),
            "{text}"
        );
    }
    error
}
