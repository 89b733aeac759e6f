//! Progress as lines, where nothing can be drawn over: one for each step of a node. Pure.

use std::collections::HashMap;

use modelcache_crds::model_cache_node::Phase;
use modelcache_crds::quantity::human_bytes;

use crate::view::{CacheView, NodeView};

/// Per cent between two lines of one node.
const STEP: i64 = 10;

/// What was last said.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    nodes: HashMap<(String, String, String), Said>,
    caches: HashMap<String, (String, String)>,
}

#[derive(Debug, PartialEq)]
struct Said {
    phase: Phase,
    step: i64,
    reason: Option<String>,
}

impl Steps {
    /// What is new, a line each.
    pub(crate) fn lines(&mut self, caches: &[CacheView]) -> Vec<String> {
        let mut lines = Vec::new();
        for cache in caches {
            for model in &cache.models {
                for node in &model.nodes {
                    let now = Said {
                        phase: node.phase,
                        step: node.percent / STEP,
                        reason: node.reason.clone(),
                    };
                    let key = (cache.name.clone(), model.name.clone(), node.node.clone());
                    if self.nodes.get(&key) == Some(&now) {
                        continue;
                    }
                    self.nodes.insert(key, now);
                    lines.push(format!("{}/{} {}", cache.name, model.name, line(node)));
                }
            }
            let now = (cache.reason.clone(), cache.ready.clone());
            if self.caches.get(&cache.name) != Some(&now) {
                self.caches.insert(cache.name.clone(), now);
                lines.push(format!(
                    "{}: {}: {}",
                    cache.name, cache.reason, cache.message
                ));
            }
        }
        lines
    }
}

fn line(node: &NodeView) -> String {
    let done = if node.size_bytes > 0 && node.phase != Phase::Pending {
        format!(
            " {}% of {} ({} from the hub, {} from other nodes)",
            node.percent,
            human_bytes(node.size_bytes),
            human_bytes(node.origin_bytes),
            human_bytes(node.peer_bytes),
        )
    } else {
        String::new()
    };
    let why: Vec<&str> = node
        .reason
        .iter()
        .chain(&node.message)
        .map(String::as_str)
        .collect();
    let why = if why.is_empty() {
        String::new()
    } else {
        format!(": {}", why.join(": "))
    };
    format!("{}: {:?}{done}{why}", node.node, node.phase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{cache, node};
    use crate::view::view;

    #[test]
    fn a_line_is_printed_for_each_step_and_not_for_less() {
        let mut steps = Steps::default();
        let mut at = |held: i64| {
            let status = format!(
                "phase: Downloading, sizeBytes: 100000000, heldBytes: {held}, originBytes: {held}"
            );
            let view = view(
                &cache(&["Ready=False/Downloading"]),
                &[&node("node-1", &status)],
            );
            steps.lines(&[view])
        };
        assert_eq!(
            at(41_000_000),
            [
                "demo/lm node-1: Downloading 41% of 100 MB (41 MB from the hub, 0 B from other nodes)",
                "demo: Downloading: about Downloading"
            ]
        );
        assert!(at(49_000_000).is_empty());
        assert_eq!(at(50_000_000).len(), 1);
    }

    #[test]
    fn a_reason_is_told_once() {
        let mut steps = Steps::default();
        let mut told = || {
            let failed = node(
                "node-1",
                "phase: Failed, reason: NoSpace, message: 12 GB are missing",
            );
            steps.lines(&[view(&cache(&["Ready=False/NodesFailed"]), &[&failed])])
        };
        assert_eq!(
            told()[0],
            "demo/lm node-1: Failed: NoSpace: 12 GB are missing"
        );
        assert!(told().is_empty());
    }
}
