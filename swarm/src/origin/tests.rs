//! The client against servers that answer as a hub does, and as it should not.

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

#[tokio::test]
async fn a_segment_of_large_and_small_files_comes_in_bounded_ranges() {
    let large = content((17 << 20) + 5, 1);
    let small: Vec<_> = (0..40).map(|seed| content(1 + seed * 997, seed)).collect();
    let names: Vec<_> = (0..40)
        .map(|n| format!("dir with space/{n} +%#é.bin"))
        .collect();
    let mut files = vec![("large.safetensors", &large[..])];
    files.extend(
        names
            .iter()
            .map(String::as_str)
            .zip(small.iter().map(Vec::as_slice)),
    );
    let (snapshot, segment, bytes) = snapshot(&files);
    let served: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|(path, content)| ((*path).to_owned(), content.to_vec()))
        .collect();
    let hub = Server::start(move |seen| {
        let path = percent_encoding::percent_decode_str(&seen.uri)
            .decode_utf8()
            .unwrap();
        let path = path
            .strip_prefix(&format!("/org/model/resolve/{COMMIT}/"))
            .unwrap();
        let (_, file) = served.iter().find(|(name, _)| name == path).unwrap();
        partial(file, seen)
    })
    .await;

    let io = Arc::new(MemoryIo::empty(bytes.len()));
    let count = AtomicU64::new(0);
    let hashes = hub
        .client()
        .fetch_segment(&snapshot, &segment, io.clone(), &|bytes| {
            count.fetch_add(bytes, Ordering::Relaxed);
        })
        .await
        .unwrap();

    assert!(io.take() == bytes);
    assert!(io.checked_once());
    assert_eq!(count.load(Ordering::Relaxed), bytes.len() as u64);
    let expected: Vec<[u8; 20]> = bytes
        .chunks(256 << 10)
        .map(|piece| {
            digest(&SHA1_FOR_LEGACY_USE_ONLY, piece)
                .as_ref()
                .try_into()
                .unwrap()
        })
        .collect();
    assert_eq!(hashes, PieceHashes::new(expected));
    let seen = hub.seen();
    assert_eq!(seen.len(), 42);
    for request in seen {
        let (first, last) = request.range().unwrap();
        assert!(last - first < 16 << 20);
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!(
            request.header("authorization"),
            Some("Bearer hf_verysecret")
        );
    }
}

#[tokio::test]
async fn only_the_bytes_of_the_extents_are_asked_for() {
    let file = content(1_000_000, 1);
    let served = file.clone();
    let hub = Server::start(move |seen| partial(&served, seen)).await;
    let (snapshot, mut segment, _) = snapshot(&[("a", &file)]);
    segment.extents[0].offset = 640_000;
    segment.extents[0].len = 64_000;
    let io = Arc::new(MemoryIo::empty(64_000));
    hub.client()
        .fetch_segment(&snapshot, &segment, io.clone(), &|_| ())
        .await
        .unwrap();
    assert!(io.take() == file[640_000..704_000]);
    assert_eq!(hub.seen()[0].range(), Some((640_000, 703_999)));

    segment.extents[0].len = 400_000;
    let error = hub
        .client()
        .fetch_segment(&snapshot, &segment, io, &|_| ())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("segment 3"), "{error}");
}

#[tokio::test]
async fn signed_addresses_are_remembered_renewed_and_never_given_the_token() {
    let file = content(3000, 1);
    let served = file.clone();
    let expired = Arc::new(Mutex::new(false));
    let is_expired = expired.clone();
    let storage = Server::start(move |seen| {
        let is_expired = *is_expired.lock().unwrap();
        if is_expired && seen.uri.contains("signature=1") {
            return status(403, &[]);
        }
        partial(&served, seen)
    })
    .await;
    let target = storage.url.clone();
    let calls = AtomicU64::new(0);
    let hub = Server::start(move |_| {
        let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
        let location = format!("{target}/xet/abc?signature={call}");
        status(302, &[("location", &location)])
    })
    .await;
    let client = hub.client();
    for _ in 0..3 {
        assert!(fetch_file(&client, "a", &file).await.unwrap() == file);
    }
    assert_eq!(hub.seen().len(), 1, "the address was not remembered");
    *expired.lock().unwrap() = true;
    assert!(fetch_file(&client, "a", &file).await.unwrap() == file);
    assert_eq!(hub.seen().len(), 2, "asked again once");
    for request in hub.seen() {
        assert!(request.header("authorization").is_some());
        assert!(request.range().is_some());
    }
    for request in storage.seen() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
}

#[tokio::test]
async fn a_storage_host_that_always_refuses_is_reported_without_the_signature() {
    let storage = Server::start(|_| status(403, &[])).await;
    let target = storage.url.clone();
    let hub =
        Server::start(move |_| status(302, &[("location", &format!("{target}/xet?signature=1"))]))
            .await;
    let error = harmless(fetch_file(&hub.client(), "a", b"xyz").await.unwrap_err());
    assert!(matches!(error, OriginError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn relative_redirects_are_followed_with_the_token_but_not_for_ever() {
    let file = content(100, 1);
    let served = file.clone();
    let hub = Server::start(move |seen| {
        if seen.uri.starts_with("/api/resolve-cache/") {
            return partial(&served, seen);
        }
        status(307, &[("location", "/api/resolve-cache/models/x?y=z")])
    })
    .await;
    assert!(fetch_file(&hub.client(), "a", &file).await.unwrap() == file);
    assert!(
        hub.seen()
            .iter()
            .all(|seen| seen.header("authorization").is_some())
    );

    let circle = Server::start(|_| status(302, &[("location", "/again?signature=1")])).await;
    let error = harmless(fetch_file(&circle.client(), "a", &file).await.unwrap_err());
    assert!(matches!(error, OriginError::Protocol { .. }), "{error}");
    assert_eq!(circle.seen().len(), 6);
}

#[tokio::test]
async fn a_whole_file_instead_of_a_range_is_taken_when_it_is_small() {
    let file = content(100_000, 1);
    let served = file.clone();
    let hub = Server::start(move |_| json(served.clone())).await;
    let (snapshot, mut segment, _) = snapshot(&[("a", &file)]);
    segment.extents[0].offset = 64_000;
    segment.extents[0].len = 6_400;
    let io = Arc::new(MemoryIo::empty(6_400));
    hub.client()
        .fetch_segment(&snapshot, &segment, io.clone(), &|_| ())
        .await
        .unwrap();
    assert!(io.take() == file[64_000..70_400]);

    // As large a file would be, and as one that has changed is.
    for len in [9 << 20, 50_000] {
        let error = fetch_file(&hub.client(), "a", &content(len, 1))
            .await
            .unwrap_err();
        assert!(matches!(error, OriginError::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn wrong_ranges_and_compressed_bodies_are_refused() {
    for (name, value) in [
        ("content-range", "bytes 1-100/100"),
        ("content-range", "bytes 0-98/100"),
        ("content-range", "bytes 0-99/101"),
        ("content-range", "bytes 0-99/*"),
        ("x-nothing", "here"),
    ] {
        let hub = Server::start(move |_| {
            Response::builder()
                .status(206)
                .header(name, value)
                .body(Body::from(vec![0; 100]))
                .unwrap()
        })
        .await;
        let error = fetch_file(&hub.client(), "a", &[0; 100]).await.unwrap_err();
        assert!(
            matches!(error, OriginError::Protocol { .. }),
            "{value}: {error}"
        );
        assert_eq!(hub.seen().len(), 1);
    }
    let hub = Server::start(|_| {
        Response::builder()
            .header("content-encoding", "gzip")
            .body(Body::from(vec![0; 100]))
            .unwrap()
    })
    .await;
    let error = fetch_file(&hub.client(), "a", &[0; 100]).await.unwrap_err();
    assert!(error.to_string().contains("compressed"), "{error}");
}

#[tokio::test]
async fn a_broken_answer_is_taken_up_where_it_ended() {
    let file = content(2_000_000, 1);
    let served = file.clone();
    let breaks = Mutex::new(VecDeque::from([700_000, 0, 300_000, 16]));
    let hub = Server::start(move |seen| match breaks.lock().unwrap().pop_front() {
        Some(bytes) => broken(&served, seen, bytes),
        None => partial(&served, seen),
    })
    .await;
    assert!(fetch_file(&hub.client(), "a", &file).await.unwrap() == file);
    let starts: Vec<u64> = hub
        .seen()
        .iter()
        .map(|seen| seen.range().unwrap().0)
        .collect();
    assert_eq!(starts, [0, 700_000, 700_000, 1_000_000, 1_000_016]);
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again() {
    let file = content(100, 1);
    let served = file.clone();
    let failures = Mutex::new(VecDeque::from([503, 500, 408]));
    let hub = Server::start(move |seen| match failures.lock().unwrap().pop_front() {
        Some(code) => status(code, &[]),
        None => partial(&served, seen),
    })
    .await;
    assert!(fetch_file(&hub.client(), "a", &file).await.unwrap() == file);
}

#[tokio::test]
async fn a_hub_that_is_asked_too_often_is_left_alone_at_once() {
    for (name, value, seconds) in [
        ("ratelimit", "\"resolvers\";r=0;t=55", Some(56)),
        ("retry-after", "9", Some(10)),
        ("x-nothing", "", None),
    ] {
        let hub = Server::start(move |_| status(429, &[(name, value)])).await;
        let error = fetch_file(&hub.client(), "a", b"x").await.unwrap_err();
        let OriginError::RateLimited { retry_after, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(retry_after.map(|wait| wait.as_secs()), seconds);
        assert_eq!(hub.seen().len(), 1);
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    type Headers = &'static [(&'static str, &'static str)];
    let cases: [(u16, Headers, &str); 12] = [
        (
            404,
            &[("x-error-code", "RepoNotFound")],
            "RepositoryNotFound",
        ),
        (
            401,
            &[("x-error-code", "RepoNotFound")],
            "RepositoryNotFound",
        ),
        (
            404,
            &[("x-error-code", "RevisionNotFound")],
            "RevisionNotFound",
        ),
        (404, &[("x-error-code", "EntryNotFound")], "EntryNotFound"),
        (403, &[("x-error-code", "GatedRepo")], "Gated"),
        (401, &[("x-error-code", "GatedRepo")], "Gated"),
        (
            401,
            &[(
                "x-error-message",
                "Invalid credentials in Authorization header",
            )],
            "Unauthorized",
        ),
        (401, &[], "Unauthorized"),
        (403, &[], "Unauthorized"),
        (
            403,
            &[("x-error-message", "Access to this resource is disabled.")],
            "Disabled",
        ),
        (404, &[], "RepositoryNotFound"),
        (418, &[], "Protocol"),
    ];
    for (code, headers, expected) in cases {
        let hub = Server::start(move |_| status(code, headers)).await;
        let error = hub.client().resolve("org/model", "main").await.unwrap_err();
        let debug = format!("{:?}", harmless(error));
        assert!(debug.starts_with(expected), "{code} {headers:?}: {debug}");
        assert_eq!(hub.seen().len(), 1);
    }
    let hub = Server::start(|_| status(401, &[])).await;
    let anonymous = OriginClient::new(&OriginAccess {
        endpoint: hub.url.clone(),
        token: None,
        ca_bundle: None,
    });
    let error = anonymous
        .unwrap()
        .resolve("org/model", "main")
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::RepositoryNotFound { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_absent_hub_is_unavailable() {
    let error = client("http://127.0.0.1:9", None)
        .resolve("org/model", "main")
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_stalled_hub_is_given_up_within_half_a_minute() {
    let file = content(200_000, 1);
    let served = file.clone();
    let in_body = Server::start(move |seen| {
        let (first, last) = seen.range().unwrap();
        let some =
            (first == 0).then(|| Ok::<_, io::Error>(Bytes::copy_from_slice(&served[..100_000])));
        let body = stream::iter(some).chain(stream::pending());
        Response::builder()
            .status(206)
            .header("content-range", format!("bytes {first}-{last}/200000"))
            .body(Body::from_stream(body))
            .unwrap()
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let before_headers = format!("http://{}", listener.local_addr().unwrap());
    let started = Instant::now();
    let (client_a, client_b) = (in_body.client(), client(&before_headers, None));
    let (a, b) = tokio::join!(
        fetch_file(&client_a, "a", &file),
        fetch_file(&client_b, "a", &file)
    );
    for error in [a.unwrap_err(), b.unwrap_err()] {
        assert!(matches!(error, OriginError::Unavailable { .. }), "{error}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    drop(listener);
}

#[tokio::test]
async fn a_full_disk_is_not_the_hubs_fault() {
    let file = content(3_000_000, 1);
    let served = file.clone();
    let hub = Server::start(move |seen| partial(&served, seen)).await;
    let (snapshot, segment, _) = snapshot(&[("a", &file)]);
    let error = hub
        .client()
        .fetch_segment(
            &snapshot,
            &segment,
            Arc::new(MemoryIo::full(3_000_000)),
            &|_| (),
        )
        .await
        .unwrap_err();
    assert!(
        matches!(&error, OriginError::Io { source, segment: 3, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
}

#[tokio::test]
async fn a_revision_is_resolved() {
    let hub = Server::start(|seen| {
        assert_eq!(seen.uri, "/api/models/org/model/revision/refs%2Fpr%2F1");
        json(format!(
            "{{\"id\":\"org/model\",\"sha\":\"{COMMIT}\",\"siblings\":[]}}"
        ))
    })
    .await;
    assert_eq!(
        hub.client()
            .resolve("org/model", "refs/pr/1")
            .await
            .unwrap(),
        COMMIT
    );

    for bad in ["{}", "[]", "<html>", "{\"sha\":\"main\"}", "{\"sha\":null}"] {
        let hub = Server::start(move |_| json(bad)).await;
        let error = hub.client().resolve("org/model", "main").await.unwrap_err();
        assert!(
            matches!(error, OriginError::Protocol { .. }),
            "{bad}: {error}"
        );
    }
}

const OID: &str = "1111111111111111111111111111111111111111";

#[tokio::test]
async fn a_listing_comes_in_pages() {
    let entry = |n: usize| {
        format!("{{\"type\":\"file\",\"path\":\"d/{n:05}\",\"size\":{n},\"oid\":\"{OID}\"}}")
    };
    let hub = Server::start(move |seen| {
        let page: usize = seen
            .uri
            .split_once("cursor=")
            .map_or(0, |(_, cursor)| cursor.parse().unwrap());
        let mut entries: Vec<String> = (page * 1000..(page + 1) * 1000).rev().map(entry).collect();
        entries.push(format!("{{\"type\":\"directory\",\"path\":\"d{page}\",\"size\":0,\"oid\":\"{OID}\"}}"));
        let mut response = json(format!("[{}]", entries.join(",")));
        if page < 2 {
            // Once relative, once with the host.
            let host = seen.header("host").unwrap();
            let base = if page == 0 { String::new() } else { format!("http://{host}") };
            let link = format!("<{base}/api/models/org/model/tree/{COMMIT}?recursive=true&cursor={}>; rel=\"next\"", page + 1);
            response.headers_mut().insert("link", link.parse().unwrap());
        }
        response
    })
    .await;
    let files = hub.client().tree("org/model", COMMIT).await.unwrap();
    assert_eq!(files.len(), 3000);
    assert!(files.is_sorted_by(|a, b| a.path < b.path));
    assert_eq!(files[2999].size, 2999);
    let seen = hub.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(
        seen[0].uri,
        format!("/api/models/org/model/tree/{COMMIT}?recursive=true&expand=false")
    );
}

#[tokio::test]
async fn the_hash_of_a_large_file_is_that_of_its_content() {
    let sha = "ab".repeat(32);
    let body = format!(
        "[{{\"type\":\"file\",\"path\":\"b.bin\",\"size\":7,\"oid\":\"{OID}\",\"lfs\":{{\"oid\":\"{sha}\",\"size\":7,\"pointerSize\":130}},\"xetHash\":\"00\"}},\
          {{\"type\":\"file\",\"path\":\"a.txt\",\"size\":0,\"oid\":\"{OID}\"}}]"
    );
    let hub = Server::start(move |_| json(body.clone())).await;
    let files = hub.client().tree("org/model", COMMIT).await.unwrap();
    assert_eq!(files[0].path, "a.txt");
    assert_eq!(files[0].blob, BlobId::Git([0x11; 20]));
    assert_eq!(files[1].blob, BlobId::Sha256([0xab; 32]));
    assert_eq!(files[1].git_oid, OID);
    assert_eq!(files[1].size, 7);
}

#[tokio::test]
async fn listings_that_cannot_be_trusted_are_refused() {
    let file = |path: &str| {
        format!("{{\"type\":\"file\",\"path\":{path:?},\"size\":1,\"oid\":\"{OID}\"}}")
    };
    let cases = [
        (format!("[{}]", file("../../etc/passwd")), "", "UnsafePath"),
        (format!("[{},{}]", file("a"), file("a")), "", "Protocol"),
        (
            "[{\"type\":\"file\",\"path\":\"a\",\"size\":1,\"oid\":\"xyz\"}]".to_owned(),
            "",
            "Protocol",
        ),
        (
            format!("[{}]", file("a")),
            "<https://elsewhere.example/next?signature=1>; rel=\"next\"",
            "Protocol",
        ),
        ("[]".to_owned(), "</circle>; rel=\"next\"", "Protocol"),
    ];
    for (body, link, expected) in cases {
        let hub = Server::start(move |_| {
            let mut response = json(body.clone());
            if !link.is_empty() {
                response.headers_mut().insert("link", link.parse().unwrap());
            }
            response
        })
        .await;
        let error = harmless(hub.client().tree("org/model", COMMIT).await.unwrap_err());
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        if let OriginError::UnsafePath { path, .. } = error {
            assert_eq!(path, "../../etc/passwd");
        }
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let hub = Server::start(|_| {
        let body = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![b' '; 65_536])));
        Body::from_stream(body).into_response()
    })
    .await;
    let error = hub.client().resolve("org/model", "main").await.unwrap_err();
    assert!(matches!(error, OriginError::TooLarge { .. }), "{error}");
}

/// Serves one HTTP answer per connection over TLS with a certificate of its own making, which it returns as PEM.
async fn tls_server() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut stream = acceptor.accept(stream).await?;
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await?;
                let body = format!("{{\"sha\":\"{COMMIT}\"}}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    (url, made.cert.pem())
}

#[tokio::test]
async fn an_untrusted_certificate_is_told_apart_and_a_ca_bundle_helps() {
    let (url, pem) = tls_server().await;
    let error = client(&url, None)
        .resolve("org/model", "main")
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::Certificate { .. }),
        "{error:?}"
    );
    println!("{error}");
    assert_eq!(
        client(&url, Some(pem.clone()))
            .resolve("org/model", "main")
            .await
            .unwrap(),
        COMMIT
    );

    let other_name = url.replace("127.0.0.1", "localhost");
    let error = client(&other_name, Some(pem))
        .resolve("org/model", "main")
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::Certificate { .. }),
        "{error:?}"
    );
}

#[test]
fn a_client_shows_no_token() {
    let client = client("https://hub.example", None);
    assert!(!format!("{client:?}").contains(TOKEN));
}
