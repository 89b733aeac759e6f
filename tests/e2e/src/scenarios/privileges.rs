//! What somebody with a stolen token can do: of an agent, and as the operator. Every verb on every type, really asked.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use http::{Method, Request, StatusCode};
use kube::client::Body;
use kube::discovery::{ApiResource, Discovery, Scope};
use kube::{Client, Config, ResourceExt};
use modelcache_crds::names::{READY_LABEL_PREFIX, VOLUME_PREFIX};
use serde_json::{Value, json};

use super::Outcome;
use crate::world::{APPS, RELEASE, SYSTEM, World};

/// A name that no object has: authorization comes before existence.
const NOBODY: &str = "nobody";

/// What an agent may, as `verb group/resource`. Reviews of oneself are everybody's.
const AGENT_MAY: [&str; 9] = [
    "create authentication.k8s.io/selfsubjectreviews",
    "create authorization.k8s.io/selfsubjectaccessreviews",
    "create authorization.k8s.io/selfsubjectrulesreviews",
    "create events.k8s.io/events",
    "get modelcache.io/modelsnapshots",
    "list modelcache.io/modelcachenodes",
    "patch events.k8s.io/events",
    "patch modelcache.io/modelcachenodes/status",
    "watch modelcache.io/modelcachenodes",
];

pub(super) async fn run(world: &World) -> Result<Outcome> {
    world.install(&[]).await?;
    let nodes = world.ready_nodes().await?;
    ensure!(nodes.len() > 1, "own and other node: two are needed");
    let agent = world.agent_pod(&nodes[0]).await?.name_any();
    let token = world.kubectl(&[
        "-n",
        SYSTEM,
        "create",
        "token",
        &format!("{RELEASE}-agent"),
        "--bound-object-kind=Pod",
        &format!("--bound-object-name={agent}"),
    ])?;
    let stolen = client(&json!({"token": token.trim()})).await?;
    let asked = every_verb(world, &stolen).await?;
    own_node_only(world, &stolen, &nodes[0], &nodes[1]).await?;
    let elsewhere =
        world.kubectl(&["-n", SYSTEM, "create", "token", &format!("{RELEASE}-agent")])?;
    let unbound = client(&json!({"token": elsewhere.trim()})).await?;
    refused(
        &unbound,
        &status_of(&nodes[0]),
        "a token of no node writes a node's status",
        &format!("may not write ModelCacheNode {}", nodes[0]),
    )
    .await?;
    let tricks = operator_tricks(world, &nodes[0]).await?;
    Ok(Outcome::Done(vec![
        format!("{asked} requests with an agent's token"),
        format!("{tricks} as the operator"),
    ]))
}

/// A client of the same cluster that is somebody else.
async fn client(auth: &Value) -> Result<Client> {
    let mut config = Config::infer().await?;
    config.auth_info = serde_json::from_value(auth.clone())?;
    Ok(Client::try_from(config)?)
}

/// One request: what it does and how it is written.
struct Ask {
    method: Method,
    path: String,
    body: Value,
    content_type: &'static str,
}

impl Ask {
    fn new(method: Method, path: String, body: Value) -> Self {
        let content_type = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        Self {
            method,
            path,
            body,
            content_type,
        }
    }

    async fn send(&self, client: &Client) -> Result<(StatusCode, String)> {
        let request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header("content-type", self.content_type)
            .body(Body::from(self.body.to_string().into_bytes()))?;
        let response = client.send(request).await?;
        let status = response.status();
        let text = response.into_body().collect_bytes().await?;
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Asks for everything that there is; whatever is not in [`AGENT_MAY`] must be forbidden. The number of requests.
async fn every_verb(world: &World, stolen: &Client) -> Result<usize> {
    let discovery = Discovery::new(world.client.clone()).run().await?;
    let mut allowed = BTreeSet::new();
    let mut asked = 0;
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let path = path_of(&resource, &capabilities.scope);
            let plural = format!("{}/{}", resource.group, resource.plural);
            let subresources = capabilities.subresources.iter().flat_map(|(sub, _)| {
                let asks = asks_of_sub(&format!("{path}/{NOBODY}/{}", sub.plural));
                asks.map(|(verb, ask)| (format!("{verb} {plural}/{}", sub.plural), ask))
            });
            let resource = asks(&path)
                .into_iter()
                .map(|(verb, ask)| (format!("{verb} {plural}"), ask));
            for (what, ask) in resource.chain(subresources) {
                let (status, _) = ask.send(stolen).await?;
                asked += 1;
                if status != StatusCode::FORBIDDEN {
                    allowed.insert(what);
                }
            }
        }
    }
    let expected: BTreeSet<String> = AGENT_MAY.iter().map(ToString::to_string).collect();
    let surplus: Vec<_> = allowed.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&allowed).collect();
    ensure!(
        surplus.is_empty() && missing.is_empty(),
        "a stolen agent's token can also: {surplus:?}; it should be able to, and is not: {missing:?}"
    );
    ensure!(asked > 200, "only {asked} requests were made");
    Ok(asked)
}

/// Where the objects of a type are.
fn path_of(resource: &ApiResource, scope: &Scope) -> String {
    let version = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    match scope {
        Scope::Namespaced => format!("{version}/namespaces/{SYSTEM}/{}", resource.plural),
        Scope::Cluster => format!("{version}/{}", resource.plural),
    }
}

/// Every verb on one type, none of which changes anything.
fn asks(all: &str) -> [(&'static str, Ask); 8] {
    let one = format!("{all}/{NOBODY}");
    let ask = |method: Method, path: &str, query: &str| {
        Ask::new(method, format!("{path}{query}"), json!({}))
    };
    let trial = "?dryRun=All";
    [
        ("get", ask(Method::GET, &one, "")),
        ("list", ask(Method::GET, all, "?limit=1")),
        (
            "watch",
            ask(Method::GET, all, "?watch=true&timeoutSeconds=1"),
        ),
        ("create", ask(Method::POST, all, trial)),
        ("update", ask(Method::PUT, &one, trial)),
        ("patch", ask(Method::PATCH, &one, trial)),
        ("delete", ask(Method::DELETE, &one, trial)),
        ("deletecollection", ask(Method::DELETE, all, trial)),
    ]
}

/// The same on a subresource.
fn asks_of_sub(path: &str) -> std::array::IntoIter<(&'static str, Ask), 4> {
    let trial = format!("{path}?dryRun=All");
    [
        ("get", Ask::new(Method::GET, path.to_owned(), json!({}))),
        ("create", Ask::new(Method::POST, trial.clone(), json!({}))),
        ("update", Ask::new(Method::PUT, trial.clone(), json!({}))),
        ("patch", Ask::new(Method::PATCH, trial, json!({}))),
    ]
    .into_iter()
}

fn status_of(node: &str) -> Ask {
    Ask::new(
        Method::PATCH,
        format!("/apis/modelcache.io/v1alpha1/modelcachenodes/{node}/status?dryRun=All"),
        json!({"status": {"peerAddress": "10.0.0.66:4242"}}),
    )
}

fn event_about(kind: &str, name: &str) -> Ask {
    Ask::new(
        Method::POST,
        "/apis/events.k8s.io/v1/namespaces/default/events?dryRun=All".to_owned(),
        json!({
            "metadata": {"generateName": "stolen-", "namespace": "default"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "modelcache-agent",
            "reportingInstance": "stolen",
            "action": "Stolen",
            "reason": "Stolen",
            "type": "Normal",
            "regarding": {"apiVersion": "modelcache.io/v1alpha1", "kind": kind, "name": name},
        }),
    )
}

/// An agent writes the status of its own node's object and Events about it, of no other.
async fn own_node_only(world: &World, stolen: &Client, own: &str, other: &str) -> Result<()> {
    for node in [own, other] {
        let object = json!({
            "apiVersion": "modelcache.io/v1alpha1",
            "kind": "ModelCacheNode",
            "metadata": {"name": node},
            "spec": {"nodeName": node, "snapshots": []},
        });
        world.apply(&object.to_string()).await?;
    }
    accepted(stolen, &status_of(own), "the status of the own node").await?;
    let own_event = event_about("ModelCacheNode", own);
    accepted(stolen, &own_event, "an Event about the own node").await?;
    let other_status = status_of(other);
    let words = format!("may not write ModelCacheNode {other}");
    refused(stolen, &other_status, "the status of another node", &words).await?;
    for (kind, name) in [
        ("ModelCacheNode", other),
        ("ModelCache", own),
        ("Node", own),
    ] {
        let event = event_about(kind, name);
        let what = format!("an Event about {kind} {name}");
        refused(
            stolen,
            &event,
            &what,
            "may not write Events about anything but its own",
        )
        .await?;
    }
    Ok(())
}

async fn accepted(client: &Client, ask: &Ask, what: &str) -> Result<()> {
    let (status, text) = ask.send(client).await?;
    ensure!(status.is_success(), "{what}: HTTP {status}: {text}");
    Ok(())
}

async fn refused(client: &Client, ask: &Ask, what: &str, words: &str) -> Result<()> {
    let (status, text) = ask.send(client).await?;
    ensure!(
        status == StatusCode::FORBIDDEN && text.contains(words),
        "{what} should be refused with {words:?}, the API server says HTTP {status}: {text}"
    );
    Ok(())
}

/// What the operator's account may by RBAC and is kept from by the policies.
async fn operator_tricks(world: &World, node: &str) -> Result<usize> {
    let user = format!("system:serviceaccount:{SYSTEM}:{RELEASE}-operator");
    let operator = client_as(&user).await?;
    let node_path = format!("/api/v1/nodes/{node}?dryRun=All");
    let patch = |path: &str, body: Value| Ask::new(Method::PATCH, path.to_owned(), body);
    accepted(
        &operator,
        &patch(
            &node_path,
            json!({"metadata": {"labels": {format!("{READY_LABEL_PREFIX}a.b"): "true"}}}),
        ),
        "a ready label",
    )
    .await?;
    let ours = format!("{VOLUME_PREFIX}0123456789abcdef");
    let models = format!("{}/models", world.cache_dir());
    accepted(
        &operator,
        &volume(&ours, &format!("{models}/a/b"), &["ro"]),
        "a volume that shows a model",
    )
    .await?;
    let tricks = [
        (
            patch(
                &node_path,
                json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
            ),
            "may change only labels",
        ),
        (
            patch(&node_path, json!({"spec": {"unschedulable": true}})),
            "may change nothing but taints",
        ),
        (
            patch(
                &node_path,
                json!({"spec": {"taints": [{"key": "other", "effect": "NoExecute"}]}}),
            ),
            "may change only taints",
        ),
        (
            patch(&node_path, json!({"metadata": {"annotations": {"a": "b"}}})),
            "may not change annotations",
        ),
        (
            volume("somebody-elses", &format!("{models}/a/b"), &["ro"]),
            "may touch only PersistentVolumes named",
        ),
        (
            volume(&ours, "/etc", &["ro"]),
            "may make only local PersistentVolumes below",
        ),
        (
            volume(&ours, &format!("{models}/a/b"), &[]),
            "with the mount option ro",
        ),
        (foreign_claim(), "may touch only PersistentVolumeClaims"),
    ];
    for (trick, words) in &tricks {
        refused(&operator, trick, &trick.path, words).await?;
    }
    let secrets = Ask::new(
        Method::GET,
        format!("/api/v1/namespaces/{APPS}/secrets/{NOBODY}"),
        json!({}),
    );
    refused(
        &operator,
        &secrets,
        "a Secret of another namespace",
        "cannot get resource",
    )
    .await?;
    Ok(tricks.len() + 3)
}

/// A volume, not quite made.
fn volume(name: &str, path: &str, options: &[&str]) -> Ask {
    Ask::new(
        Method::POST,
        "/api/v1/persistentvolumes?dryRun=All".to_owned(),
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1"},
                "accessModes": ["ReadOnlyMany"],
                "mountOptions": options,
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "local": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "x", "operator": "Exists"}]},
                ]}},
            },
        }),
    )
}

/// A claim of a volume that is not ours.
fn foreign_claim() -> Ask {
    Ask::new(
        Method::POST,
        format!("/api/v1/namespaces/{APPS}/persistentvolumeclaims?dryRun=All"),
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "stolen"},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "volumeName": "somebody-elses",
                "resources": {"requests": {"storage": "1"}},
            },
        }),
    )
}

/// A client that acts as somebody, by impersonation.
async fn client_as(user: &str) -> Result<Client> {
    let mut config = Config::infer().await?;
    let mut auth = serde_json::to_value(&config.auth_info)?;
    auth.as_object_mut()
        .context("no way to the cluster")?
        .insert("as".to_owned(), json!(user));
    config.auth_info = serde_json::from_value(auth)?;
    Ok(Client::try_from(config)?)
}
