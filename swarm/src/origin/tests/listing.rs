//! Revisions and listings of files.

use super::*;

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
