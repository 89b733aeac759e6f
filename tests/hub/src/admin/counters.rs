//! What was counted and logged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Endpoint;

/// One set of counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Body bytes written to sockets, errors and redirects included.
    pub body_bytes: u64,
    /// Of these: contents of files.
    pub content_bytes: u64,
}

/// Everything that was counted since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Counters {
    /// All together.
    pub total: Count,
    /// By client address.
    pub clients: BTreeMap<IpAddr, Count>,
    /// By kind of request.
    pub endpoints: BTreeMap<Endpoint, Count>,
    /// By status.
    pub statuses: BTreeMap<u16, u64>,
    /// By repository (its present name).
    pub repositories: BTreeMap<String, RepositoryCount>,
    /// Requests at the CDN that carried an `Authorization` header: a client that leaks its token.
    pub leaked_tokens: u64,
}

impl Counters {
    /// How many bytes of file contents of this repository left the hub.
    #[must_use]
    pub fn repository_bytes(&self, repository: &str) -> u64 {
        self.repositories
            .get(repository)
            .map_or(0, |counters| counters.total.content_bytes)
    }
}

/// What was counted for one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct RepositoryCount {
    /// All requests for it; `content_bytes` is the figure for "copies that left the hub".
    pub total: Count,
    /// By file path.
    pub files: BTreeMap<String, Count>,
}

/// One request, without its secrets.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LoggedRequest {
    /// Unix time in milliseconds.
    pub time: u64,
    /// Who asked.
    pub client: IpAddr,
    /// What kind of request.
    pub endpoint: Endpoint,
    /// The method.
    pub method: String,
    /// The path and query as sent; a signature is cut out.
    pub target: String,
    /// The headers in lower case; of `authorization` only the user's name, or `unknown token`.
    pub headers: BTreeMap<String, String>,
    /// The status of the answer; 0: none was given.
    pub status: u16,
    /// Body bytes written so far.
    pub body_bytes: u64,
}
