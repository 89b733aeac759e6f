//! Pictures of clusters for tests, from YAML as people write it.

use std::sync::Arc;

use kube::core::Selector;
use modelcache_crds::ModelCache;
use modelcache_crds::model_cache::SourcePolicy;
use modelcache_crds::model_cache_node::{
    ModelCacheNodeSpec, NodeModel, NodeSnapshot, NodeSnapshotStatus, Phase,
};
use serde_json::json;

use super::plan::{Plan, plan};
use super::validate::{World, validate};
use crate::agents::{Agents, node_selector};
use crate::picture::{
    CacheSeen, ClaimSeen, IntentSeen, NodeSeen, Picture, SnapshotSeen, VolumeSeen,
};
use crate::source::{Facts, Source};

/// The hub of models that name none.
pub(crate) const HUB: &str = "https://hub.example";

/// Size of each snapshot in these pictures.
pub(crate) const SIZE: i64 = 1000;

/// Nothing.
pub(crate) fn picture() -> Picture {
    Picture::default()
}

/// A ModelCache with this spec.
pub(crate) fn cache_yaml(name: &str, spec: &str) -> Arc<CacheSeen> {
    let spec: serde_json::Value = serde_norway::from_str(spec).expect("the YAML of a spec");
    let object: ModelCache = serde_json::from_value(json!({
        "apiVersion": "modelcache.io/v1alpha1",
        "kind": "ModelCache",
        "metadata": {"name": name, "uid": format!("uid-of-{name}"), "generation": 1},
        "spec": spec,
    }))
    .expect("a ModelCache");
    Arc::new(CacheSeen {
        uid: format!("uid-of-{name}"),
        deleting: false,
        object: Ok(Arc::new(object)),
    })
}

/// A model of a ModelCache.
pub(crate) fn model(cache: &str, model: &str) -> NodeModel {
    NodeModel {
        cache: cache.to_owned(),
        model: model.to_owned(),
    }
}

/// A picture that is put together step by step.
#[derive(Clone, Default)]
pub(crate) struct Scene {
    pub(crate) picture: Picture,
    /// `nodeSelector` of the agents.
    agents: Selector,
}

impl Scene {
    /// Three Linux nodes: `n1` and `n2` with `gpu=a100`, `n3` with `gpu=t4`.
    pub(crate) fn new() -> Self {
        Self::default()
            .node("n1", &["kubernetes.io/os=linux", "gpu=a100"])
            .node("n2", &["kubernetes.io/os=linux", "gpu=a100"])
            .node("n3", &["kubernetes.io/os=linux", "gpu=t4"])
    }

    /// Agents run only on nodes with these labels, written as `key=value,key=value`.
    pub(crate) fn agents_on(mut self, selector: &str) -> Self {
        self.agents = node_selector(selector).expect("labels");
        self
    }

    /// Adds a Node with these labels, written as `key=value`, or replaces it.
    pub(crate) fn node(mut self, name: &str, labels: &[&str]) -> Self {
        let labels = labels.iter().map(|label| {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            (key.to_owned(), value.to_owned())
        });
        let node = NodeSeen {
            uid: format!("uid-of-{name}"),
            labels: labels.collect(),
            deleting: false,
        };
        self.picture.nodes.insert(name.to_owned(), Arc::new(node));
        self
    }

    /// Adds a ready label to a Node.
    pub(crate) fn labelled(mut self, node: &str, label: &str) -> Self {
        let mut seen = (*self.picture.nodes[node]).clone();
        seen.labels.insert(label.to_owned(), "true".to_owned());
        self.picture.nodes.insert(node.to_owned(), Arc::new(seen));
        self
    }

    /// Adds or replaces a ModelCache.
    pub(crate) fn cache(mut self, name: &str, spec: &str) -> Self {
        self.picture
            .caches
            .insert(name.to_owned(), cache_yaml(name, spec));
        self
    }

    /// Adds a ModelCache with one model `m` of this repository on all nodes.
    pub(crate) fn simple_cache(self, name: &str, repository: &str) -> Self {
        self.cache(
            name,
            &format!(
                "models: [{{name: m, source: {{huggingFace: {{repository: {repository}}}}}}}]"
            ),
        )
    }

    /// Adds the snapshot of this repository at `main`, named after it.
    pub(crate) fn known(mut self, repository: &str, name: &str) -> Self {
        let source = Source::new(HUB, repository, "main", &[], &[]);
        let seen = SnapshotSeen {
            uid: format!("uid-of-{name}"),
            facts: Some(Facts {
                name: name.to_owned(),
                source: source.hash(),
                endpoint: HUB.to_owned(),
                repository: repository.to_owned(),
                revision: "main".to_owned(),
                commit: "c".repeat(40),
                files: 3,
                size_bytes: SIZE.unsigned_abs(),
                segments: 7,
                public: true,
            }),
            ..SnapshotSeen::default()
        };
        self.picture
            .snapshots
            .insert(name.to_owned(), Arc::new(seen));
        self
    }

    /// Adds a snapshot to what a node should hold, and what its agent says of it.
    pub(crate) fn holds(
        mut self,
        node: &str,
        snapshot: &str,
        models: &[NodeModel],
        phase: Phase,
        held_bytes: i64,
    ) -> Self {
        let mut seen = self
            .picture
            .intents
            .get(node)
            .map_or_else(IntentSeen::default, |seen| (**seen).clone());
        seen.uid = format!("uid-of-mcn-{node}");
        seen.owner = Some(format!("uid-of-{node}"));
        let spec = seen.spec.get_or_insert_with(|| ModelCacheNodeSpec {
            node_name: node.to_owned(),
            snapshots: Vec::new(),
        });
        spec.snapshots.push(NodeSnapshot {
            name: snapshot.to_owned(),
            source: SourcePolicy::PeersFirst,
            plain_bit_torrent: false,
            pex: false,
            dht: false,
            models: models.to_vec(),
        });
        seen.status.snapshots.push(NodeSnapshotStatus {
            name: snapshot.to_owned(),
            models: models.to_vec(),
            phase,
            size_bytes: SIZE,
            held_bytes,
            origin_bytes: held_bytes / 2,
            peer_bytes: held_bytes - held_bytes / 2,
            reason: None,
            message: None,
            retry_time: None,
            verified_at: None,
        });
        if phase == Phase::Ready {
            for model in models {
                seen.published.insert(model.clone(), snapshot.to_owned());
            }
        }
        self.picture.intents.insert(node.to_owned(), Arc::new(seen));
        self
    }

    /// Adds why the last snapshot of the node does not get on.
    pub(crate) fn because(mut self, node: &str, reason: &str, message: &str) -> Self {
        let mut seen = (*self.picture.intents[node]).clone();
        if let Some(last) = seen.status.snapshots.last_mut() {
            last.reason = Some(reason.to_owned());
            last.message = Some(message.to_owned());
        }
        self.picture.intents.insert(node.to_owned(), Arc::new(seen));
        self
    }

    /// Adds a bound volume of ours and its claim, as they are after they were made.
    pub(crate) fn volume(mut self, namespace: &str, claim: &str, shows: &NodeModel) -> Self {
        use modelcache_crds::names;
        let name = names::volume_name(namespace, claim);
        let key = format!("{namespace}/{claim}");
        let model = format!("{}/{}", shows.cache, shows.model);
        self.picture.volumes.insert(
            name.clone(),
            Arc::new(VolumeSeen {
                uid: format!("uid-of-{name}"),
                model: model.clone(),
                claim: key.clone(),
                path: format!("/cache/models/{model}"),
                gate: names::ready_label(&shows.cache, &shows.model),
                mount_options: vec!["ro".to_owned()],
                reclaim: "Retain".to_owned(),
                phase: "Bound".to_owned(),
                claim_uid: Some(format!("uid-of-{key}")),
                deleting: false,
            }),
        );
        self.picture.claims.insert(
            key.clone(),
            Arc::new(ClaimSeen {
                uid: format!("uid-of-{key}"),
                model,
                volume: name,
                bound: true,
                woken_for: None,
                deleting: false,
            }),
        );
        self
    }

    /// Validates and plans.
    pub(crate) fn plan(&self) -> (World, Plan) {
        let world = validate(&self.picture, HUB);
        let agents = Agents {
            cache_dir: "/cache".to_owned(),
            node_selector: self.agents.clone(),
        };
        let plan = plan(&self.picture, &world, &agents);
        (world, plan)
    }
}
