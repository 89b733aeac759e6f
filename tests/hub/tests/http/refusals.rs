//! What is refused, and how.

use modelcache_test_hub::admin::{AccessSpec, Quotas, RepositorySpec, Settings, Token};
use std::time::{Duration, Instant};

use crate::{client, get, hub, text};

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
