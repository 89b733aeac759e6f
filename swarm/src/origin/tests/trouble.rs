//! Hubs that are busy, absent or slow, that refuse, and disks that are full.

use super::*;

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
