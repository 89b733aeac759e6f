//! Asking the cluster: once, or on and on.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config, ResourceExt as _};
use modelcache_crds::names::ROTATE_ANNOTATION;
use modelcache_crds::{ModelCache, ModelCacheNode};
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;

use crate::args::Cluster;
use crate::view::{CacheView, view};

/// How long an answer of the API server may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why the cluster could not be asked.
#[derive(Debug, Error)]
pub(crate) enum ClusterError {
    /// No or wrong kubeconfig.
    #[error("cannot tell which cluster: {0}; set KUBECONFIG, or give --kubeconfig or --context")]
    Config(String),
    /// The client cannot be made.
    #[error("cannot make a client for the cluster: {0}")]
    Client(String),
    /// It is not installed.
    #[error(
        "this cluster does not know {0}; install ModelCache: helm install modelcache charts/modelcache --namespace modelcache-system --create-namespace"
    )]
    NotInstalled(&'static str),
    /// No rights.
    #[error("you may not list {kind}: {message}")]
    Forbidden {
        /// What.
        kind: &'static str,
        /// What the API server said.
        message: String,
    },
    /// Anything else.
    #[error("cannot list {kind}: {message}")]
    List {
        /// What.
        kind: &'static str,
        /// What happened.
        message: String,
    },
    /// The Secret with the cluster's keys is not there or may not be changed.
    #[error(
        "cannot ask for a new key at Secret {namespace}/{name}: {message}; name the operator's namespace with --namespace and the Secret with --secret, and see whether you may patch it"
    )]
    Rotate {
        /// Namespace of the operator.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// What happened.
        message: String,
    },
    /// No answer.
    #[error("the API server does not answer within {} seconds", PATIENCE.as_secs())]
    Silent,
}

/// What the cluster holds, by name.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    caches: BTreeMap<String, ModelCache>,
    nodes: BTreeMap<String, ModelCacheNode>,
}

impl Picture {
    /// How they stand: all, or the one of that name.
    pub(crate) fn views(&self, name: Option<&str>) -> Vec<CacheView> {
        let nodes: Vec<&ModelCacheNode> = self.nodes.values().collect();
        self.caches
            .iter()
            .filter(|(key, _)| name.is_none_or(|name| name == *key))
            .map(|(_, cache)| view(cache, &nodes))
            .collect()
    }

    /// Names of all.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.caches.keys().map(String::as_str).collect()
    }
}

/// A client for the cluster that the arguments or the environment name.
pub(crate) async fn connect(arguments: &Cluster) -> Result<Client, ClusterError> {
    let config_error = |error: &dyn std::error::Error| ClusterError::Config(chain(error));
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &arguments.kubeconfig {
        Some(file) => {
            let file = Kubeconfig::read_from(file).map_err(|error| config_error(&error))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| config_error(&error))?
        }
        None if options.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| config_error(&error))?,
        None => Config::infer()
            .await
            .map_err(|error| config_error(&error))?,
    };
    Client::try_from(config).map_err(|error| ClusterError::Client(chain(&error)))
}

/// Asks the operator for a new key. What the Secret holds is neither read nor sent back.
pub(crate) async fn ask_for_key(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<(), ClusterError> {
    let secrets = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &secrets);
    let patch =
        Patch::Merge(json!({ "metadata": { "annotations": { ROTATE_ANNOTATION: "now" } } }));
    let params = PatchParams::default();
    let asked = api.patch_metadata(name, &params, &patch);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(ClusterError::Rotate {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            message: chain(&error),
        }),
        Err(_) => Err(ClusterError::Silent),
    }
}

/// Everything, now.
pub(crate) async fn picture(client: &Client) -> Result<Picture, ClusterError> {
    let (caches, nodes) = tokio::try_join!(
        list::<ModelCache>(Api::all(client.clone()), "ModelCaches"),
        list::<ModelCacheNode>(Api::all(client.clone()), "ModelCacheNodes"),
    )?;
    Ok(Picture { caches, nodes })
}

async fn list<K>(
    api: Api<DeserializeGuard<K>>,
    kind: &'static str,
) -> Result<BTreeMap<String, K>, ClusterError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let parameters = ListParams::default();
    let objects = tokio::time::timeout(PATIENCE, api.list(&parameters))
        .await
        .map_err(|_| ClusterError::Silent)?
        .map_err(|error| match &error {
            kube::Error::Api(status) if status.is_not_found() => ClusterError::NotInstalled(kind),
            kube::Error::Api(status) if status.is_forbidden() => ClusterError::Forbidden {
                kind,
                message: status.message.clone(),
            },
            _ => ClusterError::List {
                kind,
                message: chain(&error),
            },
        })?;
    // An object that this version cannot read must not hide the others.
    Ok(objects
        .into_iter()
        .filter_map(|object| object.0.ok())
        .map(|object| (object.name_any(), object))
        .collect())
}

/// A change of the picture.
pub(crate) enum Change {
    /// One of the ModelCaches.
    Cache(watcher::Event<DeserializeGuard<ModelCache>>),
    /// One of the nodes.
    Node(watcher::Event<DeserializeGuard<ModelCacheNode>>),
}

impl Change {
    /// Whether the picture is complete after this change, when it was or was not before: a watch that begins anew lists
    /// everything once more, and in between half of it seems to be gone.
    pub(crate) fn completes(&self, listing: &mut Listing) -> bool {
        match self {
            Self::Cache(watcher::Event::Init) => listing.caches = true,
            Self::Cache(watcher::Event::InitDone) => listing.caches = false,
            Self::Node(watcher::Event::Init) => listing.nodes = true,
            Self::Node(watcher::Event::InitDone) => listing.nodes = false,
            _ => {}
        }
        !listing.caches && !listing.nodes
    }
}

/// Which kinds are being listed anew.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    caches: bool,
    nodes: bool,
}

impl Picture {
    /// Takes a change in.
    pub(crate) fn change(&mut self, change: Change) {
        match change {
            Change::Cache(event) => apply(&mut self.caches, event),
            Change::Node(event) => apply(&mut self.nodes, event),
        }
    }
}

fn apply<K>(objects: &mut BTreeMap<String, K>, event: watcher::Event<DeserializeGuard<K>>)
where
    K: kube::Resource<DynamicType = ()>,
{
    match event {
        watcher::Event::Init => objects.clear(),
        watcher::Event::InitDone => {}
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            if let Ok(object) = object.0 {
                objects.insert(object.name_any(), object);
            }
        }
        watcher::Event::Delete(object) => {
            objects.remove(&object.name_any());
        }
    }
}

/// Changes without end. An API server that is away is asked again; meanwhile nothing comes.
pub(crate) fn changes(client: &Client) -> BoxStream<'static, Result<Change, watcher::Error>> {
    let caches = watcher(
        Api::<DeserializeGuard<ModelCache>>::all(client.clone()),
        watcher::Config::default(),
    )
    .default_backoff()
    .map_ok(Change::Cache);
    let nodes = watcher(
        Api::<DeserializeGuard<ModelCacheNode>>::all(client.clone()),
        watcher::Config::default(),
    )
    .default_backoff()
    .map_ok(Change::Node);
    futures_util::stream::select(caches, nodes).boxed()
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{cache, node};

    #[test]
    fn changes_are_taken_in() {
        let mut picture = Picture::default();
        let mut listing = Listing::default();
        let demo = || DeserializeGuard(Ok(cache(&["Ready=False/Downloading"])));
        picture.change(Change::Cache(watcher::Event::Init));
        picture.change(Change::Cache(watcher::Event::InitApply(demo())));
        picture.change(Change::Cache(watcher::Event::InitDone));
        picture.change(Change::Node(watcher::Event::Apply(DeserializeGuard(Ok(
            node("node-1", ""),
        )))));
        assert_eq!(picture.names(), ["demo"]);
        assert!(!Change::Cache(watcher::Event::Init).completes(&mut listing));
        assert!(!Change::Node(watcher::Event::InitDone).completes(&mut listing));
        assert!(Change::Cache(watcher::Event::InitDone).completes(&mut listing));
        assert_eq!(picture.views(Some("demo"))[0].models[0].nodes.len(), 1);
        assert!(picture.views(Some("other")).is_empty());
        picture.change(Change::Cache(watcher::Event::Delete(demo())));
        assert!(picture.names().is_empty());
    }
}
