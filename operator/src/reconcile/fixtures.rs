//! Pictures of clusters for tests, from YAML as people write it.

use std::sync::Arc;

use modelcache_crds::ModelCache;
use serde_json::json;

use crate::picture::{CacheSeen, NodeSeen, Picture};

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

/// A Node with these labels, written as `key=value`.
pub(crate) fn node(name: &str, labels: &[&str]) -> Arc<NodeSeen> {
    Arc::new(NodeSeen {
        uid: format!("uid-of-{name}"),
        labels: labels
            .iter()
            .map(|label| {
                let (key, value) = label.split_once('=').unwrap_or((label, ""));
                (key.to_owned(), value.to_owned())
            })
            .collect(),
        deleting: false,
    })
}
