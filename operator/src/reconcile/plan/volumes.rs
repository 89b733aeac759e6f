//! Volumes and claims through which pods mount models.
//!
//! Path and node affinity of a PersistentVolume cannot be changed, so a volume that shows something else than it should
//! goes as a stale one does, and is made anew afterwards. Going is done in steps that each wait for the one before: the
//! claim (which Kubernetes keeps while a pod uses it), then the volume, then the ready labels.

use modelcache_crds::model_cache_node::NodeModel;
use modelcache_crds::names;

use super::Plan;
use crate::picture::{Picture, VolumeSeen, model_key, node_model};
use crate::reconcile::validate::{Claim, World};

/// A volume and the claim it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name of the PersistentVolume.
    pub name: String,
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub claim: String,
    /// What it shows.
    pub model: NodeModel,
    /// Directory on the node.
    pub path: String,
    /// Key of the label that a Node must bear.
    pub gate: String,
    /// Where the claim stands in the spec of its ModelCache.
    pub field: String,
}

impl Volume {
    /// `namespace/name` of the claim.
    #[must_use]
    pub fn claim_key(&self) -> String {
        format!("{}/{}", self.namespace, self.claim)
    }

    fn is_shown_by(&self, seen: &VolumeSeen) -> bool {
        seen.model == model_key(&self.model) && seen.path == self.path && seen.gate == self.gate
    }
}

pub(super) fn plan(picture: &Picture, world: &World, cache_dir: &str, plan: &mut Plan) {
    for cache in &world.caches {
        for claim in &cache.claims {
            let volume = volume(claim, cache_dir);
            let other = picture
                .volumes
                .get(&volume.name)
                .is_some_and(|seen| !volume.is_shown_by(seen));
            if other {
                plan.stale_claims.insert(volume.claim_key());
                plan.stale_volumes.insert(volume.name);
            } else {
                plan.volumes.insert(volume.name.clone(), volume);
            }
        }
    }
    let frozen = |model: &str| {
        node_model(model).is_some_and(|model| world.frozen.contains_key(&model.cache))
    };
    for (name, seen) in &picture.volumes {
        if !plan.volumes.contains_key(name) && !frozen(&seen.model) {
            plan.stale_volumes.insert(name.clone());
        }
    }
    for (key, seen) in &picture.claims {
        let wanted = plan
            .volumes
            .values()
            .any(|volume| volume.claim_key() == *key);
        if !wanted && !frozen(&seen.model) {
            plan.stale_claims.insert(key.clone());
        }
    }
    plan.stale_claims
        .retain(|key| picture.claims.contains_key(key));
}

fn volume(claim: &Claim, cache_dir: &str) -> Volume {
    let NodeModel { cache, model } = &claim.model;
    Volume {
        name: names::volume_name(&claim.namespace, &claim.name),
        namespace: claim.namespace.clone(),
        claim: claim.name.clone(),
        model: claim.model.clone(),
        path: format!("{}/models/{cache}/{model}", cache_dir.trim_end_matches('/')),
        gate: names::ready_label(cache, model),
        field: claim.field.clone(),
    }
}
