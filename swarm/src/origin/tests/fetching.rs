//! Segments: which ranges are asked for, of whom, and what is made of the answers.

use super::*;

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
