//! Counting the status writes that the API server sees.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use kube::ResourceExt;
use kube::api::{Api, WatchEvent, WatchParams};
use modelcache_crds::{ModelCacheNode, ModelCacheNodeStatus};

use crate::world::World;

/// Watches all ModelCacheNodes and counts how often the status of each changes.
pub struct StatusWrites {
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    task: tokio::task::JoinHandle<()>,
}

impl StatusWrites {
    /// Begins to count.
    #[must_use]
    pub fn watch(world: &World) -> Self {
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let shared = counts.clone();
        let api: Api<ModelCacheNode> = Api::all(world.client.clone());
        let task = tokio::spawn(async move {
            let mut last: BTreeMap<String, Option<ModelCacheNodeStatus>> = BTreeMap::new();
            let Ok(stream) = api.watch(&WatchParams::default(), "0").await else {
                return;
            };
            let mut stream = stream.boxed();
            while let Some(Ok(event)) = stream.next().await {
                let (WatchEvent::Added(node) | WatchEvent::Modified(node)) = event else {
                    continue;
                };
                let name = node.name_any();
                let before = last.insert(name.clone(), node.status.clone());
                // The first sight of a node is where counting starts.
                if before.is_some_and(|before| before != node.status) {
                    *shared
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .entry(name)
                        .or_insert(0) += 1;
                }
            }
        });
        Self { counts, task }
    }

    /// The most that any node wrote until now.
    #[must_use]
    pub fn most(&self) -> usize {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .copied()
            .max()
            .unwrap_or(0)
    }
}

impl Drop for StatusWrites {
    fn drop(&mut self) {
        self.task.abort();
    }
}
