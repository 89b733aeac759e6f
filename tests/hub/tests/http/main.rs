//! The hub over real HTTP: what clients see of redirects, ranges, limits and faults.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "only tests here; a long one is a story"
)]

mod admin;
mod faults;
mod files;
mod metadata;
mod refusals;

use modelcache_test_hub::admin::RepositorySpec;
use modelcache_test_hub::{Hub, HubOptions};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};

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
