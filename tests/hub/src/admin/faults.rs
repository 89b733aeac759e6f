//! What goes wrong on purpose, and for whom.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Kinds of requests, for counters and to aim faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `/api/models/{repository}` and `…/revision/{revision}`
    Info,
    /// `…/tree/{revision}`
    Tree,
    /// `…/paths-info/{revision}`
    PathsInfo,
    /// `…/refs`
    Refs,
    /// `…/auth-check`
    AuthCheck,
    /// `/api/whoami-v2`
    Whoami,
    /// `/{repository}/resolve/{revision}/{path}`
    Resolve,
    /// `/api/resolve-cache/…`
    ResolveCache,
    /// File contents at the second address.
    Cdn,
    /// Anything else.
    Other,
}

/// Something that goes wrong on purpose.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub effect: Effect,
    /// Only on these kinds of requests; empty: on all.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Only on this repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Only on file paths that match (`*` stands for anything).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only for this client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Only for this method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only for requests with (or without) a `Range`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranged: Option<bool>,
    /// Lets that many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// Ends after that many requests; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Happens to this share of the matching requests.
    #[serde(default = "always")]
    pub probability: f64,
}

fn always() -> f64 {
    1.0
}

impl Fault {
    /// A fault on every request; narrow it with the methods and fields.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            endpoints: Vec::new(),
            repository: None,
            path: None,
            client: None,
            method: None,
            ranged: None,
            skip: 0,
            times: None,
            probability: always(),
        }
    }

    /// Only on this kind of requests (and those named before).
    #[must_use]
    pub fn on(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Only that many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Only after that many matching requests.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Only on file paths that match.
    #[must_use]
    pub fn path(mut self, pattern: &str) -> Self {
        self.path = Some(pattern.to_owned());
        self
    }
}

/// What a [`Fault`] does.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// Answers with this status instead: 429, 403 at the CDN, 5xx, anything.
    Status {
        /// The status.
        status: u16,
        /// A `Retry-After` header in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// A `RateLimit` header with nothing left and this many seconds to wait. Without it there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate_limit_reset: Option<u64>,
    },
    /// Ends the connection without an answer.
    Disconnect {
        /// With a reset instead of an orderly end.
        #[serde(default)]
        reset: bool,
    },
    /// Ends the connection after so many bytes of the body.
    Truncate {
        /// Bytes that are still sent.
        after: u64,
        /// With a reset instead of an orderly end.
        #[serde(default)]
        reset: bool,
    },
    /// Stops in mid-body for a time, then goes on.
    Stall {
        /// Bytes that are sent before.
        after: u64,
        /// How long.
        milliseconds: u64,
    },
    /// Waits before the answer.
    SlowStart {
        /// How long.
        milliseconds: u64,
    },
    /// Answers 200 with the whole content although a range was asked for.
    IgnoreRange,
    /// Compresses the body with gzip, whatever was asked for.
    Gzip,
    /// Sends the right bytes under a `Content-Range` shifted by so many.
    ShiftContentRange {
        /// How many.
        by: u64,
    },
    /// Changes one byte of the body: this one, or the last of a shorter body.
    WrongByte {
        /// Where.
        at: u64,
    },
    /// Makes a resolve request go through a relative redirect first (any file, also in LFS).
    RelativeRedirect,
    /// After the answer, sets a ref of the repository: the revision moves between two calls.
    MoveRef {
        /// `refs/heads/…`
        name: String,
        /// A commit of the repository.
        commit: String,
    },
}

/// A fault and how often it happened.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FaultStatus {
    /// The fault.
    pub fault: Fault,
    /// Requests it happened to.
    pub happened: u64,
}
