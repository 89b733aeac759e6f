//! Against an API server that is a function and holds one Secret.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use modelcache_crds::names::ROTATE_ANNOTATION;
use modelcache_swarm::secret::KeyId;
use serde_json::{Value, json};

use super::*;

const PATH: &str = "/api/v1/namespaces/ns/secrets";

#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    secret: Option<Value>,
    version: u64,
    writes: Vec<Method>,
    /// Somebody else is faster each time.
    raced: bool,
    /// Reasons and notes, as they came.
    events: Vec<(String, String)>,
}

impl Api {
    fn keeper(&self, overlap: SignedDuration) -> KeySecret {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        let policy = Policy {
            every: None,
            overlap,
        };
        KeySecret::new(Client::new(service, "ns"), "ns", "key".to_owned(), policy)
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let mut state = self.0.lock().unwrap();
        let one = format!("{PATH}/key");
        if parts.method == Method::GET {
            assert_eq!(parts.uri.path(), one);
            let found = state.secret.as_ref();
            return found.map_or_else(|| failure(StatusCode::NOT_FOUND, "NotFound"), answer);
        }
        let mut secret: Value = serde_json::from_slice(&body).unwrap();
        if parts.uri.path() == "/apis/events.k8s.io/v1/namespaces/ns/events" {
            assert_eq!(secret["regarding"]["kind"], "Secret");
            assert_eq!(secret["regarding"]["name"], "key");
            let text = |field: &str| secret[field].as_str().unwrap().to_owned();
            state.events.push((text("reason"), text("note")));
            return answer(&secret);
        }
        let version = state.version.to_string();
        let expected = if parts.method == Method::POST {
            PATH
        } else {
            one.as_str()
        };
        assert_eq!(parts.uri.path(), expected);
        let exists = parts.method == Method::POST && state.secret.is_some();
        let outdated =
            parts.method == Method::PUT && secret["metadata"]["resourceVersion"] != version;
        if exists || outdated || state.raced {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        state.version += 1;
        secret["metadata"]["resourceVersion"] = json!(state.version.to_string());
        secret["metadata"]["namespace"] = json!("ns");
        secret["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        state.writes.push(parts.method);
        state.secret = Some(secret.clone());
        answer(&secret)
    }

    /// What a person changes.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        change(state.secret.as_mut().unwrap());
        state.version += 1;
        let version = state.version.to_string();
        state.secret.as_mut().unwrap()["metadata"]["resourceVersion"] = json!(version);
    }

    fn ask(&self) {
        self.edit(|secret| secret["metadata"]["annotations"][ROTATE_ANNOTATION] = json!("please"));
    }

    fn writes(&self) -> usize {
        self.0.lock().unwrap().writes.len()
    }

    /// The first so many Events, once they have come.
    async fn events(&self, count: usize) -> Vec<(String, String)> {
        loop {
            let events = self.0.lock().unwrap().events.clone();
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn answer(value: &Value) -> Response<Body> {
    Response::new(Body::from(value.to_string()))
}

fn failure(status: StatusCode, reason: &str) -> Response<Body> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": status.as_u16(),
    });
    let mut response = answer(&body);
    *response.status_mut() = status;
    response
}

fn ids(ring: &Keyring) -> Vec<KeyId> {
    ring.keys().map(|key| key.id()).collect()
}

#[tokio::test]
async fn a_secret_is_made_once_and_left_alone() {
    let api = Api::default();
    let keeper = api.keeper(SignedDuration::from_hours(1));
    let made = keeper.look().await.unwrap();
    let secret = api.0.lock().unwrap().secret.clone().unwrap();
    for _ in 0..3 {
        assert_eq!(ids(&keeper.look().await.unwrap()), ids(&made));
    }
    assert_eq!(api.writes(), 1);
    assert_eq!(api.0.lock().unwrap().secret, Some(secret));
    // Another one would be another.
    let other = Api::default()
        .keeper(SignedDuration::ZERO)
        .look()
        .await
        .unwrap();
    assert_ne!(ids(&other), ids(&made));
}

#[tokio::test]
async fn a_secret_that_is_no_key_is_not_overwritten() {
    let api = Api::default();
    let keeper = api.keeper(SignedDuration::ZERO);
    keeper.look().await.unwrap();
    api.edit(|secret| secret["data"] = json!({ "current": "ZmVlZGZhY2U=" }));
    api.ask();
    let problem = keeper.look().await.unwrap_err().to_string();
    assert!(
        problem.contains("Secret key") && problem.contains("'current'"),
        "{problem}"
    );
    assert!(!problem.contains("feedface"), "{problem}");
    assert_eq!(api.writes(), 1);
}

#[tokio::test]
async fn a_key_is_replaced_on_request_and_the_old_one_forgotten_after_the_overlap() {
    let api = Api::default();
    let first = ids(&api.keeper(SignedDuration::ZERO).look().await.unwrap());
    api.ask();
    let patient = api.keeper(SignedDuration::from_hours(1));
    let both = ids(&patient.look().await.unwrap());
    assert_eq!(both[1..], first);
    // Asked again: not before the overlap is over.
    api.ask();
    assert_eq!(ids(&patient.look().await.unwrap()), both);
    assert_eq!(api.writes(), 2);
    let hasty = api.keeper(SignedDuration::ZERO);
    assert_eq!(ids(&hasty.look().await.unwrap()), both[..1]);
    let next = ids(&hasty.look().await.unwrap());
    assert_eq!(next[1..], both[..1]);
    assert!(!next.contains(&first[0]));
}

#[tokio::test]
async fn somebody_who_is_faster_loses_nothing() {
    let api = Api::default();
    let keeper = api.keeper(SignedDuration::ZERO);
    api.0.lock().unwrap().raced = true;
    assert!(keeper.look().await.is_err());
    api.0.lock().unwrap().raced = false;
    let made = keeper.look().await.unwrap();
    api.ask();
    api.0.lock().unwrap().raced = true;
    assert!(keeper.look().await.is_err());
    api.0.lock().unwrap().raced = false;
    assert_eq!(ids(&keeper.look().await.unwrap())[1..], ids(&made));
}

#[tokio::test]
async fn who_uses_the_keys_hears_of_a_new_one() {
    let api = Api::default();
    let stop = CancellationToken::new();
    let keeper = api.keeper(SignedDuration::from_hours(1));
    let mut keys = keeper.keep(stop.clone()).await.unwrap();
    let first = ids(&keys.now());
    api.ask();
    keys.changed().await;
    assert_eq!(ids(&keys.now())[1..], first);
    stop.cancel();
}

#[tokio::test]
async fn what_happens_to_the_keys_is_told_by_their_names() {
    let api = Api::default();
    let old = api.keeper(SignedDuration::from_hours(1)).look().await;
    let old = old.unwrap().current().id();
    api.events(1).await;
    api.ask();
    let new = api.keeper(SignedDuration::from_hours(1)).look().await;
    let new = new.unwrap().current().id();
    api.events(2).await;
    let secret = api.0.lock().unwrap().secret.clone().unwrap();
    api.keeper(SignedDuration::ZERO).look().await.unwrap();
    let events = api.events(3).await;
    let reasons: Vec<_> = events.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["KeyMade", "KeyRotated", "KeyRetired"]);
    let notes: Vec<_> = events.iter().map(|(_, note)| note.as_str()).collect();
    assert!(notes[0].contains(&old.to_string()), "{}", notes[0]);
    for note in &notes[1..] {
        for key in [old, new] {
            assert!(note.contains(&key.to_string()), "{note}");
        }
    }
    assert!(notes[1].ends_with("for 1h"), "{}", notes[1]);
    // As they stand in the Secret, and as people write them.
    for entry in ["current", "previous"] {
        let written = secret["data"][entry].as_str().unwrap();
        let key: ByteString = serde_json::from_value(json!(written)).unwrap();
        let plain = String::from_utf8(key.0).unwrap();
        for note in &notes {
            assert!(!note.contains(written) && !note.contains(&plain), "{note}");
        }
    }
    api.keeper(SignedDuration::ZERO).look().await.unwrap();
    assert_eq!(api.events(3).await.len(), 3, "nothing happened");
}
