//! Contents: redirects, ranges, signatures, encryption.

use modelcache_test_hub::admin::{Effect, Endpoint, Fault, RepositorySpec, Settings};
use modelcache_test_hub::content::synthetic;
use modelcache_test_hub::{Hub, HubOptions, Tls};
use reqwest::Client;
use std::time::Duration;

use crate::{MIB, client, get, hub, ranged, signed, text};

#[tokio::test]
async fn lfs_files_come_from_the_cdn_in_ranges() {
    let (hub, commit) = hub().await;
    let response = get(&format!("{}/org/a/resolve/main/sub/model.bin", hub.url())).await;
    assert_eq!(response.status(), 302);
    let headers = response.headers();
    assert_eq!(text(headers, "x-repo-commit"), commit);
    assert_eq!(text(headers, "x-linked-size"), (3 * MIB + 5).to_string());
    let etag = text(headers, "x-linked-etag").trim_matches('"').to_owned();
    assert_eq!(etag.len(), 64);
    let location = text(headers, "location").to_owned();
    assert!(
        location.starts_with(&format!("{}/", hub.cdn_url())),
        "{location}"
    );
    for (range, first, len) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-4999", 1000, 4000),
        ("bytes=3145720-", 3_145_720, 13),
        ("bytes=-5", 3 * MIB, 5),
    ] {
        let response = ranged(&location, range).send().await.unwrap();
        assert_eq!(response.status(), 206);
        let expected = format!("bytes {first}-{}/{}", first + len - 1, 3 * MIB + 5);
        assert_eq!(text(response.headers(), "content-range"), expected);
        assert_eq!(text(response.headers(), "etag"), format!("\"{etag}\""));
        let body = response.bytes().await.unwrap();
        assert_eq!(
            body,
            synthetic(1, first, usize::try_from(len).unwrap()),
            "{range}"
        );
    }
    let beyond = ranged(&location, "bytes=3145733-").send().await.unwrap();
    assert_eq!(beyond.status(), 416);
    assert_eq!(text(beyond.headers(), "content-range"), "bytes */3145733");
    let whole = get(&location).await;
    assert_eq!(
        (
            whole.status().as_u16(),
            whole.bytes().await.unwrap().len() as u64
        ),
        (200, 3 * MIB + 5)
    );
    let head = client().head(&location).send().await.unwrap();
    assert_eq!(
        text(head.headers(), "content-length"),
        (3 * MIB + 5).to_string()
    );
}

#[tokio::test]
async fn counters_are_the_bytes_that_left() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    ranged(&location, "bytes=0-999")
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    ranged(&location, "bytes=1000-2999")
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    client().head(&location).send().await.unwrap();
    let counters = hub.counters();
    assert_eq!(counters.repository_bytes("org/a"), 3000);
    let repository = &counters.repositories["org/a"];
    assert_eq!(repository.files["sub/model.bin"].content_bytes, 3000);
    assert_eq!(counters.endpoints[&Endpoint::Cdn].requests, 3);
    assert_eq!(counters.endpoints[&Endpoint::Cdn].body_bytes, 3000);
    assert_eq!(counters.clients[&[127, 0, 0, 1].into()].requests, 4);
    assert!(
        counters.total.body_bytes > 3000,
        "the redirect has a body too"
    );
    assert_eq!(counters.statuses[&206], 2);
    hub.reset_counters();
    assert_eq!(
        hub.counters(),
        modelcache_test_hub::admin::Counters::default()
    );
}

#[tokio::test]
async fn regular_files_go_through_a_relative_redirect_or_inline() {
    let (hub, commit) = hub().await;
    let url = format!("{}/org/a/resolve/main/config.json", hub.url());
    let response = get(&url).await;
    assert_eq!(response.status(), 307);
    assert_eq!(text(response.headers(), "x-repo-commit"), commit);
    let location = text(response.headers(), "location").to_owned();
    assert!(
        location.starts_with(&format!(
            "/api/resolve-cache/models/org/a/{commit}/config.json?"
        )),
        "{location}"
    );
    let response = ranged(&format!("{}{location}", hub.url()), "bytes=0-1")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "x-repo-commit")
        ),
        (206, commit.as_str())
    );
    assert_eq!(response.bytes().await.unwrap(), "{\"");
    hub.set_settings(Settings {
        resolve_cache: false,
        ..Settings::default()
    })
    .await;
    let response = get(&url).await;
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "content-length")
        ),
        (200, "509")
    );
    assert_eq!(text(response.headers(), "etag").trim_matches('"').len(), 40);
}

#[tokio::test]
async fn gzip_traps() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    let request = || {
        client()
            .get(&location)
            .header("Range", "bytes=5-9")
            .header("Accept-Encoding", "gzip, deflate")
    };
    assert_eq!(
        request().send().await.unwrap().status(),
        200,
        "the range is ignored"
    );
    let cached = format!(
        "{}/api/resolve-cache/models/org/a/{commit}/config.json",
        hub.url()
    );
    let response = client()
        .get(&cached)
        .header("Accept-Encoding", "gzip")
        .send()
        .await
        .unwrap();
    let headers = response.headers();
    assert_eq!(text(headers, "content-encoding"), "gzip");
    assert!(headers.get("content-length").is_none());
    assert!(text(headers, "etag").starts_with("W/\""));
    let body = response.bytes().await.unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut text).unwrap();
    assert_eq!(text.len(), 509);
    hub.set_settings(Settings {
        gzip_traps: false,
        ..Settings::default()
    })
    .await;
    assert_eq!(request().send().await.unwrap().status(), 206);
}

#[tokio::test]
async fn signed_addresses_expire_and_cannot_be_changed() {
    let (hub, commit) = hub().await;
    hub.set_settings(Settings {
        url_lifetime_seconds: 1,
        ..Settings::default()
    })
    .await;
    let location = signed(&hub, &commit).await;
    assert_eq!(get(&location).await.status(), 200);
    assert_eq!(
        get(&location.replace("file=sub%2Fmodel.bin", "file=config.json"))
            .await
            .status(),
        403
    );
    assert_eq!(
        get(location.split("&Signature").next().unwrap())
            .await
            .status(),
        403
    );
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(get(&location).await.status(), 403);
    assert_eq!(get(&signed(&hub, &commit).await).await.status(), 200);
}

#[tokio::test]
async fn https_with_a_certificate_of_ones_own() {
    let certified =
        rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let pem = certified.cert.pem();
    let tls = Tls {
        certificate: pem.clone().into(),
        key: certified.signing_key.serialize_pem().into(),
    };
    let hub = Hub::start(HubOptions {
        tls: Some(tls),
        ..HubOptions::default()
    })
    .await
    .unwrap();
    hub.add_repository(&RepositorySpec::new("org/a").synthetic("x.bin", 1, MIB))
        .unwrap();
    let url = format!("{}/org/a/resolve/main/x.bin", hub.url());
    assert!(url.starts_with("https://127.0.0.1:"));
    assert!(
        client().get(&url).send().await.unwrap_err().is_connect(),
        "the certificate is not trusted"
    );
    let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    let trusting = Client::builder()
        .no_proxy()
        .tls_certs_only([root])
        .build()
        .unwrap();
    let body = trusting
        .get(&url)
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(body, synthetic(1, 0, 1 << 20));
    assert_eq!(
        hub.counters().repository_bytes("org/a"),
        MIB,
        "counted before encryption"
    );

    hub.set_faults(vec![
        Fault::new(Effect::Truncate {
            after: 5000,
            reset: false,
        })
        .on(Endpoint::Cdn),
    ]);
    hub.reset_counters();
    assert!(
        trusting
            .get(&url)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .is_err()
    );
    assert_eq!(hub.counters().repository_bytes("org/a"), 5000);

    let broken = Tls {
        certificate: Vec::new(),
        key: Vec::new(),
    };
    assert!(
        Hub::start(HubOptions {
            tls: Some(broken),
            ..HubOptions::default()
        })
        .await
        .is_err()
    );
}
