//! The hub over real HTTP: what clients see of redirects, ranges, limits and faults.

use std::time::{Duration, Instant};

use modelcache_test_hub::admin::{
    AccessSpec, CommitSpec, Effect, Endpoint, Fault, FileSpec, Mode, Quotas, RefSpec,
    RepositorySpec, Settings, Token,
};
use modelcache_test_hub::content::synthetic;
use modelcache_test_hub::{Hub, HubOptions};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A hub with a repository `org/a` that has an LFS file, a text and a small file.
async fn hub() -> (Hub, String) {
    let hub = Hub::start(HubOptions::default()).await.unwrap();
    let spec = RepositorySpec::new("org/a")
        .text(
            "config.json",
            &format!("{{\"x\": \"{}\"}}", "y".repeat(500)),
        )
        .text("empty.txt", "")
        .synthetic("sub/model.bin", 1, 3 * MIB + 5);
    let commit = hub.add_repository(&spec).unwrap();
    (hub, commit)
}

/// Follows nothing by itself and asks for no compression.
fn client() -> Client {
    Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .build()
        .unwrap()
}

async fn get(url: &str) -> Response {
    client().get(url).send().await.unwrap()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .unwrap_or_else(|| panic!("no {name} in {headers:?}"))
        .to_str()
        .unwrap()
}

/// The signed address of the LFS file.
async fn signed(hub: &Hub, commit: &str) -> String {
    let response = get(&format!(
        "{}/org/a/resolve/{commit}/sub/model.bin",
        hub.url()
    ))
    .await;
    assert_eq!(response.status(), 302);
    text(response.headers(), "location").to_owned()
}

fn ranged(url: &str, range: &str) -> RequestBuilder {
    client()
        .get(url)
        .header("Range", range)
        .header("Accept-Encoding", "identity")
}

#[tokio::test]
async fn metadata() {
    let (hub, commit) = hub().await;
    let info: Value = get(&format!("{}/api/models/org/a?blobs=true", hub.url()))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (info["id"].as_str(), info["sha"].as_str()),
        (Some("org/a"), Some(commit.as_str()))
    );
    let model = info["siblings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["rfilename"] == "sub/model.bin")
        .unwrap();
    assert_eq!(model["lfs"]["size"], 3 * MIB + 5);
    for revision in ["main", &commit] {
        let url = format!("{}/api/models/org/a/revision/{revision}", hub.url());
        assert_eq!(
            get(&url).await.json::<Value>().await.unwrap()["sha"],
            commit
        );
    }
    let tree = format!(
        "{}/api/models/org/a/tree/{commit}?recursive=True&expand=False",
        hub.url()
    );
    let tree: Vec<Value> = get(&tree).await.json().await.unwrap();
    assert_eq!(tree.len(), 4);
    let entry = |path: &str| tree.iter().find(|entry| entry["path"] == path).unwrap();
    assert_eq!(entry("sub")["type"], "directory");
    assert_eq!(
        entry("empty.txt")["oid"],
        "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    );
    assert_eq!(entry("sub/model.bin")["lfs"]["oid"], model["lfs"]["sha256"]);
    assert!(entry("config.json").get("lfs").is_none());
    let url = format!("{}/api/models/org/a/paths-info/main", hub.url());
    let body = json!({"paths": ["sub", "sub/model.bin", "nothing"], "expand": true});
    let listed = client()
        .post(url)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let listed: Vec<Value> = listed.json().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1]["lastCommit"]["id"], commit);
}

#[tokio::test]
async fn trees_come_in_pages() {
    let (hub, _) = hub().await;
    let files: Vec<FileSpec> = (0..25)
        .map(|n| FileSpec::text(&format!("d/{n}.txt"), &n.to_string()))
        .collect();
    hub.add_repository(&RepositorySpec {
        files,
        ..RepositorySpec::new("org/many")
    })
    .unwrap();
    hub.set_settings(Settings {
        page_size: 10,
        ..Settings::default()
    })
    .await;
    let mut next = Some(format!(
        "{}/api/models/org/many/tree/main?recursive=true",
        hub.url()
    ));
    let (mut paths, mut pages) = (Vec::new(), 0);
    while let Some(url) = next {
        let response = get(&url).await;
        next = response.headers().get("link").map(|link| {
            let link = link.to_str().unwrap();
            link.strip_prefix('<')
                .unwrap()
                .strip_suffix(">; rel=\"next\"")
                .unwrap()
                .to_owned()
        });
        let page: Vec<Value> = response.json().await.unwrap();
        assert!(page.len() <= 10);
        paths.extend(
            page.iter()
                .map(|entry| entry["path"].as_str().unwrap().to_owned()),
        );
        pages += 1;
    }
    paths.sort();
    paths.dedup();
    assert_eq!(
        (paths.len(), pages),
        (26, 3),
        "25 files and their directory"
    );
    let top: Vec<Value> = get(&format!("{}/api/models/org/many/tree/main", hub.url()))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(top.len(), 1, "without recursive: the directory only");
}

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
async fn errors_have_the_hubs_words() {
    let (hub, commit) = hub().await;
    hub.add_repository(&RepositorySpec::new("org/private").text("x", "1").private())
        .unwrap();
    hub.add_repository(&RepositorySpec::new("org/gated").text("x", "1").gated())
        .unwrap();
    hub.add_repository(&RepositorySpec::new("org/off").text("x", "1"))
        .unwrap();
    hub.set_access(&AccessSpec {
        repository: "org/off".into(),
        disabled: Some(true),
        ..AccessSpec::default()
    })
    .unwrap();
    let token = |token: &str, user: &str, repositories: &[&str]| Token {
        token: token.into(),
        user: user.into(),
        repositories: repositories.iter().map(|name| (*name).to_owned()).collect(),
    };
    hub.set_tokens(vec![
        token("hf_in", "alice", &["org/private", "org/gated"]),
        token("hf_out", "bob", &[]),
    ]);
    let cases: [(&str, &str, u16, &str, &str); 16] = [
        (
            "/api/models/org/none",
            "",
            401,
            "RepoNotFound",
            "Repository not found",
        ),
        (
            "/api/models/org/none",
            "hf_out",
            404,
            "RepoNotFound",
            "Repository not found",
        ),
        (
            "/org/none/resolve/main/x",
            "",
            401,
            "RepoNotFound",
            "Repository not found",
        ),
        (
            "/api/models/org/a/revision/none",
            "",
            404,
            "RevisionNotFound",
            "Invalid rev id: none",
        ),
        (
            "/org/a/resolve/none/x",
            "",
            404,
            "RevisionNotFound",
            "Invalid rev id: none",
        ),
        (
            "/org/a/resolve/main/none",
            "",
            404,
            "EntryNotFound",
            "none does not exist",
        ),
        (
            "/api/models/org/private/tree/main",
            "",
            401,
            "RepoNotFound",
            "Repository not found",
        ),
        ("/api/models/org/private/tree/main", "hf_in", 200, "", ""),
        ("/api/models/org/gated", "", 200, "", ""),
        (
            "/org/gated/resolve/main/x",
            "",
            401,
            "GatedRepo",
            "Access to model org/gated is restricted.",
        ),
        (
            "/org/gated/resolve/main/x",
            "hf_out",
            403,
            "GatedRepo",
            "not in the authorized list",
        ),
        ("/org/gated/resolve/main/x", "hf_in", 307, "", ""),
        (
            "/api/models/org/gated/auth-check",
            "hf_out",
            403,
            "GatedRepo",
            "",
        ),
        ("/api/models/org/gated/auth-check", "hf_in", 200, "", ""),
        (
            "/api/models/org/off",
            "",
            403,
            "",
            "Access to this resource is disabled.",
        ),
        (
            "/api/models/org/a",
            "hf_wrong",
            401,
            "",
            "Invalid credentials in Authorization header",
        ),
    ];
    for (path, token, status, code, message) in cases {
        let mut request = client().get(format!("{}{path}", hub.url()));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let header = |name| {
            response
                .headers()
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
        };
        assert_eq!(
            (response.status().as_u16(), header("x-error-code")),
            (status, code),
            "{path} {token}"
        );
        assert!(
            header("x-error-message").contains(message),
            "{path} {token}"
        );
        if code == "EntryNotFound" {
            assert_eq!(header("x-repo-commit"), commit);
        }
    }
    assert_eq!(
        client()
            .get(format!("{}/api/whoami-v2", hub.url()))
            .send()
            .await
            .unwrap()
            .status(),
        401
    );
    let log = serde_json::to_string(&hub.requests()).unwrap();
    assert!(
        !log.contains("hf_") && log.contains("alice"),
        "the log names users, not tokens"
    );
}

#[tokio::test]
async fn refs_renames_and_moving_revisions() {
    let (hub, first) = hub().await;
    let commit = |detached| CommitSpec {
        repository: "org/a".into(),
        branch: "main".into(),
        files: vec![FileSpec::text("new.txt", "new")],
        detached,
        ..CommitSpec::default()
    };
    let second = hub.commit(&commit(true)).unwrap();
    let set = |name: &str, target: &str| {
        hub.set_ref(&RefSpec {
            repository: "org/a".into(),
            name: name.into(),
            target: target.into(),
        })
        .unwrap()
    };
    set("refs/pr/1", &second);
    set("refs/tags/v1", &first);
    let refs = format!(
        "{}/api/models/org/a/refs?include_pull_requests=1",
        hub.url()
    );
    let refs: Value = get(&refs).await.json().await.unwrap();
    assert_eq!(
        refs["branches"][0],
        json!({"name": "main", "ref": "refs/heads/main", "targetCommit": first})
    );
    assert_eq!(refs["tags"][0]["targetCommit"], first);
    assert_eq!(refs["pullRequests"][0]["ref"], "refs/pr/1");
    let url = format!("{}/org/a/resolve/refs%2Fpr%2F1/new.txt", hub.url());
    assert_eq!(text(get(&url).await.headers(), "x-repo-commit"), second);

    hub.add_fault(
        Fault::new(Effect::MoveRef {
            name: "refs/heads/main".into(),
            commit: second.clone(),
        })
        .on(Endpoint::Info)
        .times(1),
    );
    let url = format!("{}/api/models/org/a/revision/main", hub.url());
    assert_eq!(get(&url).await.json::<Value>().await.unwrap()["sha"], first);
    assert_eq!(
        get(&url).await.json::<Value>().await.unwrap()["sha"],
        second
    );

    hub.rename("org/a", "org/b").unwrap();
    let response = get(&format!(
        "{}/api/models/org/a/tree/main?recursive=true",
        hub.url()
    ))
    .await;
    assert_eq!(response.status(), 307);
    assert_eq!(
        text(response.headers(), "location"),
        "/api/models/org/b/tree/main?recursive=true"
    );
    let response = get(&format!("{}/org/a/resolve/main/new.txt", hub.url())).await;
    assert_eq!(
        text(response.headers(), "location"),
        "/org/b/resolve/main/new.txt"
    );
}

#[tokio::test]
async fn rate_limits_are_used_up_and_come_back() {
    let (hub, _) = hub().await;
    let anonymous = Quotas {
        api: 3,
        resolvers: 1,
        pages: 1,
    };
    hub.set_settings(Settings {
        window_seconds: 2,
        anonymous,
        ..Settings::default()
    })
    .await;
    let url = format!("{}/api/models/org/a", hub.url());
    let mut last = get(&url).await;
    assert_eq!(text(last.headers(), "ratelimit"), "\"api\";r=2;t=2");
    assert_eq!(
        text(last.headers(), "ratelimit-policy"),
        "\"fixed window\";\"api\";q=3;w=2"
    );
    let start = Instant::now();
    for _ in 0..3 {
        last = get(&url).await;
    }
    assert_eq!(last.status(), 429);
    assert!(text(last.headers(), "ratelimit").starts_with("\"api\";r=0;t="));
    assert_eq!(
        get(&format!("{}/org/a/resolve/main/config.json", hub.url()))
            .await
            .status(),
        307,
        "another budget"
    );
    tokio::time::sleep(Duration::from_millis(2100).saturating_sub(start.elapsed())).await;
    assert_eq!(get(&url).await.status(), 200);
}

#[tokio::test]
async fn faults_of_the_body() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    let set = |effect| hub.set_faults(vec![Fault::new(effect).on(Endpoint::Cdn).times(1)]);
    let ask = || ranged(&location, "bytes=100000-299999").send();

    for reset in [false, true] {
        set(Effect::Truncate {
            after: 70_001,
            reset,
        });
        hub.reset_counters();
        let mut response = ask().await.unwrap();
        assert_eq!(text(response.headers(), "content-length"), "200000");
        let (mut received, mut failed) = (0, false);
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => received += chunk.len() as u64,
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        assert!(failed, "reset: {reset}");
        assert_eq!(
            (received, hub.counters().repository_bytes("org/a")),
            (70_001, 70_001),
            "reset: {reset}"
        );
    }

    set(Effect::IgnoreRange);
    assert_eq!(ask().await.unwrap().status(), 200);

    set(Effect::ShiftContentRange { by: 7 });
    assert_eq!(
        text(ask().await.unwrap().headers(), "content-range"),
        "bytes 100007-300006/3145733"
    );

    set(Effect::WrongByte { at: 3 });
    let body = ask().await.unwrap().bytes().await.unwrap();
    let right = synthetic(1, 100_000, 200_000);
    let wrong: Vec<usize> = (0..right.len())
        .filter(|&index| body[index] != right[index])
        .collect();
    assert_eq!(wrong, [3]);

    set(Effect::Stall {
        after: 1000,
        milliseconds: 400,
    });
    let start = Instant::now();
    let mut response = ask().await.unwrap();
    let mut received = 0;
    while received < 1000 {
        received += response.chunk().await.unwrap().unwrap().len();
    }
    assert!(start.elapsed() < Duration::from_millis(350));
    assert_eq!(received, 1000);
    assert_eq!(response.bytes().await.unwrap().len(), 199_000);
    assert!(start.elapsed() >= Duration::from_millis(400));

    set(Effect::Gzip);
    let response = ask().await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "content-encoding")
        ),
        (200, "gzip")
    );

    let ok = ask().await.unwrap();
    assert_eq!(
        ok.bytes().await.unwrap(),
        right,
        "every fault ended after one time"
    );
}

#[tokio::test]
async fn faults_instead_of_an_answer() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    let url = format!("{}/org/a/resolve/main/sub/model.bin", hub.url());
    let status = |status, retry_after, rate_limit_reset| Effect::Status {
        status,
        retry_after,
        rate_limit_reset,
    };
    hub.set_faults(vec![
        Fault::new(status(429, Some(7), None))
            .on(Endpoint::Resolve)
            .times(1),
        Fault::new(status(429, None, Some(9)))
            .on(Endpoint::Resolve)
            .times(1)
            .after(1),
        Fault::new(status(429, None, None))
            .on(Endpoint::Resolve)
            .times(1)
            .after(2),
        Fault::new(status(503, None, None))
            .on(Endpoint::Resolve)
            .times(1)
            .after(3),
        Fault::new(status(403, None, None))
            .on(Endpoint::Cdn)
            .times(1),
    ]);
    let response = get(&url).await;
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "retry-after")
        ),
        (429, "7")
    );
    assert!(response.headers().get("ratelimit").is_none());
    let response = get(&url).await;
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "ratelimit")
        ),
        (429, "\"resolvers\";r=0;t=9")
    );
    let response = get(&url).await;
    assert!(
        response.headers().get("ratelimit").is_none()
            && response.headers().get("retry-after").is_none()
    );
    assert_eq!(
        (
            response.status().as_u16(),
            get(&url).await.status().as_u16()
        ),
        (429, 503)
    );
    assert_eq!(
        (
            get(&url).await.status().as_u16(),
            get(&location).await.status().as_u16()
        ),
        (302, 403)
    );
    assert_eq!(get(&location).await.status(), 200);

    hub.set_faults(vec![
        Fault::new(Effect::Disconnect { reset: false }).times(1),
        Fault::new(Effect::SlowStart { milliseconds: 300 })
            .times(1)
            .after(1),
        Fault::new(Effect::RelativeRedirect)
            .on(Endpoint::Resolve)
            .times(1)
            .after(2),
    ]);
    assert!(client().get(&url).send().await.is_err());
    let start = Instant::now();
    assert_eq!(get(&url).await.status(), 302);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let response = get(&url).await;
    assert_eq!(response.status(), 307);
    let next = format!("{}{}", hub.url(), text(response.headers(), "location"));
    assert_eq!(get(&next).await.status(), 302);
}

#[tokio::test]
async fn switched_off_and_on() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    let url = format!("{}/api/models/org/a", hub.url());
    let keep_alive = client();
    assert_eq!(keep_alive.get(&url).send().await.unwrap().status(), 200);
    let both = |mode| Settings {
        hub: mode,
        cdn: mode,
        ..Settings::default()
    };

    hub.set_settings(both(Mode::Refuse)).await;
    assert!(keep_alive.get(&url).send().await.unwrap_err().is_connect());
    assert!(
        client()
            .get(&location)
            .send()
            .await
            .unwrap_err()
            .is_connect()
    );

    hub.set_settings(both(Mode::Drop)).await;
    let error = client().get(&url).send().await.unwrap_err();
    assert!(!error.is_timeout());

    hub.set_settings(both(Mode::Unavailable)).await;
    assert_eq!(
        (
            get(&url).await.status().as_u16(),
            get(&location).await.status().as_u16()
        ),
        (503, 503)
    );

    hub.set_settings(both(Mode::Silent)).await;
    let waiting = client()
        .get(&url)
        .timeout(Duration::from_millis(300))
        .send()
        .await;
    assert!(waiting.unwrap_err().is_timeout());

    hub.set_settings(Settings {
        cdn: Mode::Refuse,
        ..Settings::default()
    })
    .await;
    assert_eq!(keep_alive.get(&url).send().await.unwrap().status(), 200);
    assert!(
        client()
            .get(&location)
            .send()
            .await
            .unwrap_err()
            .is_connect()
    );

    hub.set_settings(Settings::default()).await;
    assert_eq!(
        (
            get(&url).await.status().as_u16(),
            get(&location).await.status().as_u16()
        ),
        (200, 200)
    );
}

#[tokio::test]
async fn switching_off_cuts_a_download_and_the_cap_slows_it() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    hub.set_settings(Settings {
        bytes_per_second: Some(1_000_000),
        ..Settings::default()
    })
    .await;
    let start = Instant::now();
    let part = |range: &str| ranged(&location, range).send();
    let (one, two) = tokio::join!(part("bytes=0-199999"), part("bytes=200000-399999"));
    let (one, two) = tokio::join!(one.unwrap().bytes(), two.unwrap().bytes());
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 400_000);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(390),
        "{took:?} for 400 kB at 1 MB/s"
    );

    hub.reset_counters();
    let mut response = get(&location).await;
    response.chunk().await.unwrap();
    hub.set_settings(Settings {
        cdn: Mode::Refuse,
        bytes_per_second: Some(1_000_000),
        ..Settings::default()
    })
    .await;
    let rest = response.bytes().await;
    assert!(rest.is_err());
    let sent = hub.counters().repository_bytes("org/a");
    assert!(sent > 0 && sent < 3 * MIB, "{sent}");
}

#[tokio::test]
async fn odd_repositories() {
    let (hub, _) = hub().await;
    let spec = RepositorySpec::new("odd")
        .text("../evil", "x")
        .text("a b/é%+#?.txt", "odd")
        .file(FileSpec::declared("huge.bin", 100_000_000_000_000))
        .file(FileSpec::synthetic("wrong.bin", 5, 1000).wrong_byte_at(10));
    hub.add_repository(&spec).unwrap();
    let tree: Vec<Value> = get(&format!(
        "{}/api/models/odd/tree/main?recursive=true",
        hub.url()
    ))
    .await
    .json()
    .await
    .unwrap();
    let sizes: Vec<u64> = tree
        .iter()
        .map(|entry| entry["size"].as_u64().unwrap())
        .collect();
    assert!(sizes.contains(&100_000_000_000_000));
    assert!(tree.iter().any(|entry| entry["path"] == "../evil"));
    let following = Client::builder().no_proxy().build().unwrap();
    let odd = format!(
        "{}/odd/resolve/main/a%20b/%C3%A9%25%2B%23%3F.txt",
        hub.url()
    );
    assert_eq!(
        following
            .get(odd)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "odd"
    );
    let wrong = following
        .get(format!("{}/odd/resolve/main/wrong.bin", hub.url()))
        .send()
        .await
        .unwrap();
    let (wrong, right) = (wrong.bytes().await.unwrap(), synthetic(5, 0, 1000));
    assert_ne!(wrong[10], right[10]);
    assert_eq!((&wrong[..10], &wrong[11..]), (&right[..10], &right[11..]));
    let huge = get(&format!("{}/odd/resolve/main/huge.bin", hub.url())).await;
    let location = text(huge.headers(), "location").to_owned();
    assert_eq!(
        get(&location).await.status(),
        400,
        "a huge file without a range"
    );
    assert_eq!(
        ranged(&location, "bytes=99999999999999-")
            .send()
            .await
            .unwrap()
            .status(),
        206
    );
}

#[tokio::test]
async fn the_admin_api_does_what_the_methods_do() {
    let (hub, _) = hub().await;
    let admin = hub.admin_url();
    let post = |path: &str, body: Value| {
        client()
            .post(format!("{admin}{path}"))
            .body(body.to_string())
            .send()
    };
    let put = |path: &str, body: Value| {
        client()
            .put(format!("{admin}{path}"))
            .body(body.to_string())
            .send()
    };
    let made = json!({"name": "org/new", "gated": "everything", "files": [
        {"path": "a", "content": {"text": "1"}},
        {"path": "b", "content": {"hex": "00ff"}, "lfs": true},
        {"path": "c", "content": {"synthetic": {"seed": 1, "size": 10}}},
    ]});
    let response = post("/repositories", made.clone()).await.unwrap();
    assert_eq!(response.status(), 200);
    let commit = response.json::<Value>().await.unwrap()["commit"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(post("/repositories", made).await.unwrap().status(), 409);
    let changed = put("/settings", json!({"page_size": 7, "hub": "unavailable"}))
        .await
        .unwrap();
    assert_eq!(
        changed.json::<Settings>().await.unwrap(),
        Settings {
            page_size: 7,
            hub: Mode::Unavailable,
            ..Settings::default()
        }
    );
    assert_eq!(
        put("/settings", json!({"hub": "on"}))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        put("/settings", json!({"hubb": "on"}))
            .await
            .unwrap()
            .status(),
        400
    );
    let token = json!([{"token": "hf_x", "user": "alice", "repositories": ["org/new"]}]);
    assert_eq!(put("/tokens", token).await.unwrap().status(), 200);
    let url = format!("{}/api/models/org/new/revision/main", hub.url());
    assert_eq!(get(&url).await.status(), 401);
    let info: Value = client()
        .get(&url)
        .bearer_auth("hf_x")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(info["sha"], commit);
    let next = json!({"repository": "org/new", "branch": "main", "delete": ["a"]});
    assert_eq!(post("/commits", next).await.unwrap().status(), 200);
    let back = json!({"repository": "org/new", "name": "refs/heads/main", "target": commit});
    assert_eq!(put("/refs", back).await.unwrap().status(), 200);
    assert_eq!(
        put("/access", json!({"repository": "org/new", "gated": "open"}))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(get(&url).await.status(), 200);
    let fault =
        json!({"effect": {"kind": "status", "status": 500}, "endpoints": ["info"], "times": 1});
    assert_eq!(post("/faults", fault.clone()).await.unwrap().status(), 200);
    assert_eq!(get(&url).await.status(), 500);
    let faults: Value = get(&format!("{admin}/faults")).await.json().await.unwrap();
    assert_eq!(faults[0]["happened"], 1);
    assert_eq!(
        put("/faults", json!([]))
            .await
            .unwrap()
            .json::<Value>()
            .await
            .unwrap(),
        json!([])
    );
    assert_eq!(
        post("/rename", json!({"from": "org/new", "to": "org/newer"}))
            .await
            .unwrap()
            .status(),
        200
    );
    let counters: Value = get(&format!("{admin}/counters"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        counters["repositories"]["org/newer"]["total"]["requests"],
        4
    );
    assert!(
        get(&format!("{admin}/requests"))
            .await
            .json::<Vec<Value>>()
            .await
            .unwrap()
            .len()
            >= 4
    );
    assert_eq!(
        post("/counters/reset", json!({})).await.unwrap().status(),
        200
    );
}
