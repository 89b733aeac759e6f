//! The admin API.

use modelcache_test_hub::admin::{Mode, Settings};
use serde_json::{Value, json};

use crate::{client, get, hub};

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
