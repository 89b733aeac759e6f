//! The admin API; what it does is described in [`crate::admin`].

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;

use crate::admin::{
    AccessSpec, CommitSpec, Committed, Counters, Fault, FaultStatus, LoggedRequest, RefSpec,
    Rename, RepositorySpec, RepositoryStatus, Settings, Token,
};
use crate::locks::{read, write};
use crate::repository::ContentError;
use crate::shared::Shared;

/// Thousands of files in one call.
const LARGEST_REQUEST: usize = 64 << 20;

/// Why a call was refused.
#[derive(Debug, Error)]
enum AdminError {
    #[error("cannot read the body: {0}")]
    Body(#[from] serde_json::Error),
    #[error("write an object with the settings to change")]
    Settings,
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("the work broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Content(ContentError::Exists(_)) => StatusCode::CONFLICT,
            Self::Content(ContentError::NoRepository(_) | ContentError::NoRevision { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::Body(_) | Self::Settings | Self::Content(_) => StatusCode::BAD_REQUEST,
            Self::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

type Hub = State<Arc<Shared>>;
type Answer<T> = Result<Json<T>, AdminError>;

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

async fn repositories(State(hub): Hub) -> Json<Vec<RepositoryStatus>> {
    Json(read(&hub.catalogue).status())
}

async fn create(State(hub): Hub, body: Bytes) -> Answer<Committed> {
    let spec: RepositorySpec = parse(&body)?;
    // Hashing may take seconds: not on a thread that serves.
    let commit = tokio::task::spawn_blocking(move || hub.add_repository(&spec)).await??;
    Ok(Json(Committed { commit }))
}

async fn commit(State(hub): Hub, body: Bytes) -> Answer<Committed> {
    let spec: CommitSpec = parse(&body)?;
    let commit = tokio::task::spawn_blocking(move || hub.commit(&spec)).await??;
    Ok(Json(Committed { commit }))
}

async fn set_ref(State(hub): Hub, body: Bytes) -> Answer<Committed> {
    let spec: RefSpec = parse(&body)?;
    let commit = write(&hub.catalogue).set_ref(&spec)?;
    Ok(Json(Committed { commit }))
}

async fn rename(State(hub): Hub, body: Bytes) -> Answer<Value> {
    let rename: Rename = parse(&body)?;
    write(&hub.catalogue).rename(&rename)?;
    Ok(Json(json!({})))
}

async fn set_access(State(hub): Hub, body: Bytes) -> Answer<Value> {
    let spec: AccessSpec = parse(&body)?;
    write(&hub.catalogue).set_access(&spec)?;
    Ok(Json(json!({})))
}

async fn tokens(State(hub): Hub) -> Json<Vec<Token>> {
    Json(read(&hub.tokens).clone())
}

async fn set_tokens(State(hub): Hub, body: Bytes) -> Answer<Vec<Token>> {
    let tokens: Vec<Token> = parse(&body)?;
    write(&hub.tokens).clone_from(&tokens);
    Ok(Json(tokens))
}

async fn settings(State(hub): Hub) -> Json<Settings> {
    Json(read(&hub.settings).clone())
}

async fn set_settings(State(hub): Hub, body: Bytes) -> Answer<Settings> {
    let current = serde_json::to_value(&*read(&hub.settings))?;
    let (Value::Object(mut merged), Value::Object(change)) = (current, parse(&body)?) else {
        return Err(AdminError::Settings);
    };
    merged.extend(change);
    let settings: Settings = serde_json::from_value(Value::Object(merged))?;
    hub.set_settings(settings.clone()).await;
    Ok(Json(settings))
}

async fn faults(State(hub): Hub) -> Json<Vec<FaultStatus>> {
    Json(hub.faults.status())
}

async fn set_faults(State(hub): Hub, body: Bytes) -> Answer<Vec<FaultStatus>> {
    let faults: Vec<Fault> = parse(&body)?;
    hub.faults.set(faults);
    Ok(Json(hub.faults.status()))
}

async fn add_fault(State(hub): Hub, body: Bytes) -> Answer<Vec<FaultStatus>> {
    let fault: Fault = parse(&body)?;
    hub.faults.add(fault);
    Ok(Json(hub.faults.status()))
}

async fn counters(State(hub): Hub) -> Json<Counters> {
    Json(hub.counters())
}

async fn reset(State(hub): Hub) -> Json<Value> {
    hub.counting.reset();
    Json(json!({}))
}

async fn requests(State(hub): Hub) -> Json<Vec<LoggedRequest>> {
    Json(hub.counting.requests())
}

/// From the bytes, so that no content type is asked for.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, AdminError> {
    Ok(serde_json::from_slice(body)?)
}
