//! The agent's Kubernetes side against an API server that is a function: what it asks, what it writes, how often, and
//! that it does without.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::duration_suboptimal_units,
    clippy::similar_names
)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use futures_util::StreamExt as _;
use kube::Client;
use modelcache_agent::intent::{self, Intent, Objects};
use modelcache_agent::report::Reports;
use modelcache_agent::watch::Follow;
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::Snapshot;
use serde_json::{Value, json};
use support::agent::Agent;
use support::coordinator::Coordinator;
use support::hub::Hub;
use support::model::{Model, bytes};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    node: Option<Value>,
    snapshots: Vec<Value>,
    watchers: Vec<mpsc::UnboundedSender<String>>,
    statuses: Vec<(String, Value)>,
    events: Vec<Value>,
    down: bool,
}

impl Api {
    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let mut state = self.0.lock().unwrap();
        if state.down {
            return failure(StatusCode::SERVICE_UNAVAILABLE);
        }
        let nodes = "/apis/modelcache.io/v1alpha1/modelcachenodes";
        if parts.method == Method::GET && path == nodes {
            assert!(
                query.contains("fieldSelector=metadata.name%3Dnode"),
                "{query}"
            );
            if query.contains("watch=true") {
                let (sender, receiver) = mpsc::unbounded_channel();
                state.watchers.push(sender);
                let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
                    let line = receiver.recv().await?;
                    Some((Ok::<_, std::convert::Infallible>(line + "\n"), receiver))
                });
                return Response::new(Body::from_stream(lines.boxed()));
            }
            let items: Vec<&Value> = state.node.iter().collect();
            return answer(&json!({
                "apiVersion": "modelcache.io/v1alpha1", "kind": "ModelCacheNodeList",
                "metadata": { "resourceVersion": "1" }, "items": items,
            }));
        }
        if let Some(name) = path.strip_prefix("/apis/modelcache.io/v1alpha1/modelsnapshots/") {
            let found = state
                .snapshots
                .iter()
                .find(|object| object["metadata"]["name"] == name);
            return found.map_or_else(|| failure(StatusCode::NOT_FOUND), answer);
        }
        if parts.method == Method::PATCH && path == format!("{nodes}/node/status") {
            let patch: Value = serde_json::from_slice(&body).unwrap();
            let mut node = state.node.clone().unwrap();
            node["status"] = patch["status"].clone();
            state.statuses.push((query, patch));
            return answer(&node);
        }
        if path == "/apis/events.k8s.io/v1/namespaces/default/events" {
            let event: Value = serde_json::from_slice(&body).unwrap();
            state.events.push(event.clone());
            return answer(&event);
        }
        panic!("{} {path}?{query} is not for an agent", parts.method);
    }

    /// Makes the object as the operator does, and tells who watches.
    fn put_node(&self, generation: i64, snapshots: &[&str]) {
        let wanted: Vec<Value> = snapshots
            .iter()
            .map(|name| {
                json!({ "name": name, "source": "PeersFirst",
                        "models": [{ "cache": "tests", "model": name }] })
            })
            .collect();
        let node = json!({
            "apiVersion": "modelcache.io/v1alpha1", "kind": "ModelCacheNode",
            "metadata": { "name": "node", "uid": "1-2-3", "generation": generation, "resourceVersion": generation.to_string() },
            "spec": { "nodeName": "node", "snapshots": wanted },
        });
        let mut state = self.0.lock().unwrap();
        let event = json!({ "type": "MODIFIED", "object": node }).to_string();
        state.node = Some(node);
        state
            .watchers
            .retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    fn put_snapshot(&self, snapshot: &Snapshot) {
        let files: Vec<Value> = snapshot
            .files
            .iter()
            .map(|file| {
                let BlobId::Sha256(digest) = file.blob else {
                    panic!("these models have only SHA-256")
                };
                json!({ "path": file.path, "size": file.size, "gitOid": file.git_oid, "sha256": hex::encode(digest) })
            })
            .collect();
        self.0.lock().unwrap().snapshots.push(json!({
            "apiVersion": "modelcache.io/v1alpha1", "kind": "ModelSnapshot",
            "metadata": { "name": snapshot.name },
            "spec": {
                "endpoint": "http://hub", "repository": snapshot.repository, "revision": snapshot.revision,
                "commit": snapshot.commit, "files": files,
                "segmentBytes": snapshot.sizes.segment_bytes, "pieceBytes": snapshot.sizes.piece_bytes,
            },
        }));
    }

    fn last_status(&self) -> Value {
        let state = self.0.lock().unwrap();
        let last = state.statuses.last();
        last.map_or(Value::Null, |(_, patch)| patch["status"].clone())
    }

    async fn until_status(&self, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let status = self.last_status();
            if test(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("status not {what} within a minute: {}", self.last_status());
    }
}

fn answer(value: &Value) -> Response<Body> {
    Response::new(Body::from(value.to_string()))
}

fn failure(status: StatusCode) -> Response<Body> {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                       "code": status.as_u16(), "reason": "x", "message": "no" });
    let mut response = answer(&body);
    *response.status_mut() = status;
    response
}

/// An agent with its Kubernetes side.
struct Whole {
    agent: Agent,
    stop: CancellationToken,
}

async fn start(api: &Api, cache: &Path, coordinator: &Coordinator) -> Whole {
    let file = intent::state_path(cache, "intent.json");
    let objects: Objects = intent::load(&file).unwrap().unwrap_or_default();
    let (intent, mut intents) = watch::channel(objects.intent());
    let (target, targets) = watch::channel(None);
    let agent = Agent::start("node", cache, coordinator, Intent::default()).await;
    let sender = agent.intent.clone();
    tokio::spawn(async move {
        intents.mark_changed();
        while intents.changed().await.is_ok() {
            sender.send_replace(intents.borrow_and_update().clone());
        }
    });
    let follow = Follow {
        client: api.client(),
        node: "node".to_owned(),
        file,
        objects,
        intent,
        target,
    };
    let reports = Reports {
        client: api.client(),
        node: "node".to_owned(),
        target: targets,
        state: agent.state.clone(),
        metrics: agent.metrics.clone(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(follow.run(stop.clone()));
    tokio::spawn(reports.run(stop.clone()));
    Whole { agent, stop }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_object_is_followed_and_its_status_written_seldom() {
    let hub = Hub::start().await;
    hub.delay(Duration::from_millis(250));
    let mut model = Model::default();
    model.add("model.bin", bytes(3, 40 << 20));
    hub.put("m", &model);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let api = Api::default();
    let whole = start(&api, cache.path(), &coordinator).await;
    // Nothing is there to be written to yet; then the object comes before the snapshot that it names.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(api.last_status(), Value::Null);
    api.put_node(2, &["m"]);
    let status = api
        .until_status("waiting", |status| {
            status["snapshots"][0]["reason"] == "SnapshotUnknown"
        })
        .await;
    assert_eq!(status["snapshots"][0]["phase"], "Pending");
    api.put_snapshot(&model.snapshot("m"));
    let status = api
        .until_status("ready", |status| status["snapshots"][0]["phase"] == "Ready")
        .await;
    model.assert_published(cache.path(), "m");
    assert_eq!(status["ready"], "1/1");
    assert_eq!(status["observedGeneration"], 2);
    assert_eq!(status["snapshots"][0]["originBytes"], 40 << 20);
    assert_eq!(status["snapshots"][0]["models"][0]["cache"], "tests");
    assert!(status["snapshots"][0]["verifiedAt"].is_string());
    assert!(status["capacityBytes"].as_i64().unwrap() > 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let state = api.0.lock().unwrap();
    assert!(
        state.statuses.len() <= 10,
        "{} writes",
        state.statuses.len()
    );
    for (query, patch) in &state.statuses {
        assert!(
            query.contains("force=true") && query.contains("fieldManager=modelcache-agent"),
            "{query}"
        );
        assert_eq!(patch["metadata"], json!({ "name": "node" }));
    }
    let reasons: Vec<_> = state
        .events
        .iter()
        .map(|event| event["reason"].clone())
        .collect();
    assert_eq!(reasons, ["Downloading", "Ready"]);
    assert_eq!(state.events[0]["regarding"]["uid"], "1-2-3");
    assert_eq!(state.events[0]["regarding"]["kind"], "ModelCacheNode");
    drop(state);
    drop(whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_a_restarted_agent_goes_on() {
    let hub = Hub::start().await;
    hub.delay(Duration::from_millis(100));
    let mut model = Model::default();
    model.add("model.bin", bytes(4, 12 << 20));
    hub.put("m", &model);
    let coordinator = Coordinator::start(hub.access());
    let cache = tempfile::tempdir().unwrap();
    let api = Api::default();
    api.put_snapshot(&model.snapshot("m"));
    api.put_node(1, &["m"]);
    let mut whole = start(&api, cache.path(), &coordinator).await;
    whole
        .agent
        .until("begun", |state| state.held_bytes > 0)
        .await;
    api.0.lock().unwrap().down = true;
    drop(whole);
    let mut whole = start(&api, cache.path(), &coordinator).await;
    whole.agent.until_ready().await;
    model.assert_published(cache.path(), "m");
    // It comes back, with the object gone: nothing is wanted.
    {
        let mut state = api.0.lock().unwrap();
        state.down = false;
        state.node = None;
    }
    let gone = whole
        .agent
        .state
        .wait_for(|state| state.snapshots.is_empty());
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap()
        .unwrap();
}
