//! The admin API; what it does is described in [`crate::admin`].

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post, put};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin::{
    AccessSpec, CommitSpec, Committed, Fault, RefSpec, Rename, RepositorySpec, Settings, Token,
};
use crate::answer;
use crate::locks::{read, write};
use crate::repository::ContentError;
use crate::server::Shared;

/// Thousands of files in one call.
const LARGEST_REQUEST: usize = 64 << 20;

type Hub = State<Arc<Shared>>;

/// The service at the admin port.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/repositories", get(repositories).post(create))
        .route("/commits", post(commit))
        .route("/refs", put(set_ref))
        .route("/rename", post(rename))
        .route("/access", put(set_access))
        .route("/tokens", get(tokens).put(set_tokens))
        .route("/settings", get(settings).put(set_settings))
        .route("/faults", get(faults).put(set_faults).post(add_fault))
        .route("/counters", get(counters))
        .route("/counters/reset", post(reset))
        .route("/requests", get(requests))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(shared)
}

async fn repositories(State(hub): Hub) -> Response {
    answer::json(&read(&hub.catalogue).status())
}

async fn create(State(hub): Hub, body: Bytes) -> Response {
    let spec: RepositorySpec = match parse(&body) {
        Ok(spec) => spec,
        Err(response) => return response,
    };
    committed(blocking(move || hub.add_repository(&spec)).await)
}

async fn commit(State(hub): Hub, body: Bytes) -> Response {
    let spec: CommitSpec = match parse(&body) {
        Ok(spec) => spec,
        Err(response) => return response,
    };
    committed(blocking(move || hub.commit(&spec)).await)
}

async fn set_ref(State(hub): Hub, body: Bytes) -> Response {
    parse::<RefSpec>(&body).map_or_else(
        |response| response,
        |spec| committed(write(&hub.catalogue).set_ref(&spec)),
    )
}

async fn rename(State(hub): Hub, body: Bytes) -> Response {
    parse::<Rename>(&body).map_or_else(
        |response| response,
        |spec| done(write(&hub.catalogue).rename(&spec)),
    )
}

async fn set_access(State(hub): Hub, body: Bytes) -> Response {
    parse::<AccessSpec>(&body).map_or_else(
        |response| response,
        |spec| done(write(&hub.catalogue).set_access(&spec)),
    )
}

async fn tokens(State(hub): Hub) -> Response {
    answer::json(&*read(&hub.tokens))
}

async fn set_tokens(State(hub): Hub, body: Bytes) -> Response {
    match parse::<Vec<Token>>(&body) {
        Ok(tokens) => {
            *write(&hub.tokens) = tokens;
            answer::json(&*read(&hub.tokens))
        }
        Err(response) => response,
    }
}

async fn settings(State(hub): Hub) -> Response {
    answer::json(&*read(&hub.settings))
}

async fn set_settings(State(hub): Hub, body: Bytes) -> Response {
    let current = serde_json::to_value(&*read(&hub.settings)).unwrap_or_default();
    let merged = parse::<Value>(&body).and_then(|change| match (current, change) {
        (Value::Object(mut current), Value::Object(change)) => {
            current.extend(change);
            serde_json::from_value::<Settings>(Value::Object(current))
                .map_err(|error| bad_request(&error))
        }
        _ => Err(bad_request(&"write an object with the settings to change")),
    });
    match merged {
        Ok(settings) => {
            hub.set_settings(settings).await;
            answer::json(&*read(&hub.settings))
        }
        Err(response) => response,
    }
}

async fn faults(State(hub): Hub) -> Response {
    answer::json(&hub.faults.status())
}

async fn set_faults(State(hub): Hub, body: Bytes) -> Response {
    match parse::<Vec<Fault>>(&body) {
        Ok(faults) => {
            hub.faults.set(faults);
            answer::json(&hub.faults.status())
        }
        Err(response) => response,
    }
}

async fn add_fault(State(hub): Hub, body: Bytes) -> Response {
    match parse::<Fault>(&body) {
        Ok(fault) => {
            hub.faults.add(fault);
            answer::json(&hub.faults.status())
        }
        Err(response) => response,
    }
}

async fn counters(State(hub): Hub) -> Response {
    answer::json(&hub.counters())
}

async fn reset(State(hub): Hub) -> Response {
    hub.counting.reset();
    answer::json(&json!({}))
}

async fn requests(State(hub): Hub) -> Response {
    answer::json(&hub.counting.requests())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(body).map_err(|error| bad_request(&error))
}

fn bad_request(error: &dyn std::fmt::Display) -> Response {
    failed(StatusCode::BAD_REQUEST, error)
}

fn failed(status: StatusCode, error: &dyn std::fmt::Display) -> Response {
    let mut response = answer::json(&json!({ "error": error.to_string() }));
    *response.status_mut() = status;
    response
}

fn committed(result: Result<String, ContentError>) -> Response {
    result.map_or_else(
        |error| refused(&error),
        |commit| answer::json(&Committed { commit }),
    )
}

fn done(result: Result<(), ContentError>) -> Response {
    result.map_or_else(|error| refused(&error), |()| answer::json(&json!({})))
}

fn refused(error: &ContentError) -> Response {
    let status = match error {
        ContentError::Exists(_) => StatusCode::CONFLICT,
        ContentError::NoRepository(_) | ContentError::NoRevision { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    failed(status, error)
}

/// Hashing may take seconds: not on a thread that serves.
async fn blocking(
    work: impl FnOnce() -> Result<String, ContentError> + Send + 'static,
) -> Result<String, ContentError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            let source = std::io::Error::other(error);
            Err(ContentError::Read {
                path: String::new(),
                source,
            })
        })
}
