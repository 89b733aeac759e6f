//! What can be changed while the hub runs.

use serde::{Deserialize, Serialize};

/// How a listener behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Answers.
    #[default]
    On,
    /// The port is closed and every connection ended: connecting is refused.
    Refuse,
    /// Connections are accepted and closed at once, running ones ended.
    Drop,
    /// Requests are taken and never answered.
    Silent,
    /// Every request is answered with 503.
    Unavailable,
}

/// What can be changed while the hub runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How the hub's port behaves.
    pub hub: Mode,
    /// How the CDN's port behaves.
    pub cdn: Mode,
    /// Cap on file contents, over all clients together.
    pub bytes_per_second: Option<u64>,
    /// Added before every answer.
    pub latency_milliseconds: u64,
    /// Life of a signed address.
    pub url_lifetime_seconds: u64,
    /// Regular files are served through a relative redirect to `/api/resolve-cache/…`, else inline.
    pub resolve_cache: bool,
    /// The hub's habits with `Accept-Encoding: gzip`: the CDN ignores `Range`; small texts come compressed and chunked.
    pub gzip_traps: bool,
    /// Length of the rate limit's window.
    pub window_seconds: u64,
    /// Requests per window for an address without a token.
    pub anonymous: Quotas,
    /// Requests per window for a user with a token.
    pub user: Quotas,
    /// Entries on a page of a tree.
    pub page_size: usize,
    /// Entries on a page of a tree with `expand=true`.
    pub expanded_page_size: usize,
    /// A larger file is served only in ranges; without one the answer is 400.
    pub largest_unranged: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hub: Mode::On,
            cdn: Mode::On,
            bytes_per_second: None,
            latency_milliseconds: 0,
            url_lifetime_seconds: 3600,
            resolve_cache: true,
            gzip_traps: true,
            window_seconds: 300,
            anonymous: Quotas {
                api: 500,
                resolvers: 3000,
                pages: 100,
            },
            user: Quotas {
                api: 1000,
                resolvers: 5000,
                pages: 200,
            },
            page_size: 1000,
            expanded_page_size: 50,
            largest_unranged: 50_000_000_000,
        }
    }
}

/// Requests that one client may make in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// `/api/…`
    pub api: u64,
    /// `/{repository}/resolve/…`
    pub resolvers: u64,
    /// Everything else.
    pub pages: u64,
}
