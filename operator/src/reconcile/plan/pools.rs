//! Which nodes belong to which pool of a ModelCache.

use std::collections::{BTreeMap, BTreeSet};

use crate::agents::Agents;
use crate::picture::Picture;
use crate::reconcile::validate::Cache;

/// Which node belongs to which pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Position of its pool, by node.
    pub pools: BTreeMap<String, usize>,
    /// Positions of all pools that select it, for nodes that several do; each counts to the first.
    pub overlaps: BTreeMap<String, Vec<usize>>,
    /// Nodes that pools of the spec select although no agent runs there. They hold nothing and are not counted.
    pub without_agent: BTreeSet<String>,
    /// Where agents run, for people.
    pub agents: String,
}

impl Selection {
    /// The nodes that hold a model.
    #[must_use]
    pub fn nodes_of(&self, cache: &Cache, model: &str) -> Vec<String> {
        self.pools
            .iter()
            .filter(|(_, pool)| {
                cache
                    .pools
                    .get(**pool)
                    .is_some_and(|pool| pool.holds(model))
            })
            .map(|(node, _)| node.clone())
            .collect()
    }
}

/// Selects among the nodes that agents run on: a node without one would be waited for for ever.
pub(super) fn select(picture: &Picture, agents: &Agents, cache: &Cache) -> Selection {
    let mut selection = Selection {
        agents: agents.nodes(),
        ..Selection::default()
    };
    for (name, node) in picture.nodes.iter().filter(|(_, node)| !node.deleting) {
        let pools: Vec<usize> = cache
            .pools
            .iter()
            .enumerate()
            .filter(|(_, pool)| pool.selects(node))
            .map(|(position, _)| position)
            .collect();
        if !agents.run_on(node) {
            // The pool that a spec without pools means is just those with an agent.
            let meant = |pool: &usize| {
                cache
                    .pools
                    .get(*pool)
                    .is_some_and(|pool| pool.name.is_some())
            };
            if pools.iter().any(meant) {
                selection.without_agent.insert(name.clone());
            }
            continue;
        }
        if let Some(first) = pools.first() {
            selection.pools.insert(name.clone(), *first);
        }
        if pools.len() > 1 {
            selection.overlaps.insert(name.clone(), pools);
        }
    }
    selection
}
