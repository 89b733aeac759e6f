//! Which nodes belong to which pool of a ModelCache.

use std::collections::BTreeMap;

use crate::picture::Picture;
use crate::reconcile::validate::Cache;

/// Which node belongs to which pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Position of its pool, by node.
    pub pools: BTreeMap<String, usize>,
    /// Positions of all pools that select it, for nodes that several do; each counts to the first.
    pub overlaps: BTreeMap<String, Vec<usize>>,
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

/// Selects among the nodes that can run the agent. Whether a node is ready or cordoned does not matter: a model may well
/// arrive before the pods do.
pub(super) fn select(picture: &Picture, cache: &Cache) -> Selection {
    let mut selection = Selection::default();
    for (name, node) in picture.nodes.iter().filter(|(_, node)| node.usable()) {
        let pools: Vec<usize> = cache
            .pools
            .iter()
            .enumerate()
            .filter(|(_, pool)| pool.selects(node))
            .map(|(position, _)| position)
            .collect();
        if let Some(first) = pools.first() {
            selection.pools.insert(name.clone(), *first);
        }
        if pools.len() > 1 {
            selection.overlaps.insert(name.clone(), pools);
        }
    }
    selection
}
