//! The difference between plan and picture: what is to be written, and in which order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use modelcache_crds::model_cache_node::{ModelCacheNodeSpec, NodeSnapshot};
use modelcache_crds::names::{READY_LABEL_PREFIX, READY_LABEL_VALUE};

use super::Action;
use crate::picture::{IntentSeen, Picture, VolumeSeen, model_key};
use crate::reconcile::build;
use crate::reconcile::plan::{NodePlan, Plan, Volume};

/// All that is to be written, in steps that follow each other; the writes of one step do not depend on each other.
#[must_use]
pub fn actions(picture: &Picture, plan: &Plan) -> Vec<Vec<Action>> {
    // Without `..`: whatever is added to the plan must be applied here, or be left out knowingly.
    let Plan {
        outlooks: _,
        requests: _,
        coordinated: _,
        snapshots,
        stale_snapshots,
        nodes,
        managed,
        labels,
        volumes,
        stale_volumes,
        stale_claims,
    } = plan;
    let (set, remove) = label_actions(picture, managed, labels);
    vec![
        snapshots
            .iter()
            .filter(|(name, _)| !picture.snapshots.contains_key(*name))
            .map(|(_, resolved)| Action::CreateSnapshot(Box::new(resolved.object.clone())))
            .collect(),
        // Before the agent stops showing a model, the scheduler stops sending pods.
        remove,
        intent_actions(picture, managed, nodes),
        volume_actions(picture, volumes),
        claim_actions(picture, volumes),
        wake_claims(picture, volumes),
        set,
        delete_claims(picture, stale_claims),
        delete_volumes(picture, stale_volumes),
        stale_snapshots
            .iter()
            .filter_map(|name| {
                let seen = picture.snapshots.get(name)?;
                Some(Action::DeleteSnapshot {
                    name: name.clone(),
                    uid: seen.uid.clone(),
                })
            })
            .collect(),
    ]
}

fn label_actions(
    picture: &Picture,
    managed: &BTreeSet<String>,
    labels: &BTreeMap<String, BTreeSet<String>>,
) -> (Vec<Action>, Vec<Action>) {
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for name in managed {
        let (Some(node), Some(wanted)) = (picture.nodes.get(name), labels.get(name)) else {
            continue;
        };
        let missing = wanted
            .iter()
            .filter(|key| node.labels.get(*key).map(String::as_str) != Some(READY_LABEL_VALUE))
            .map(|key| (key.clone(), true));
        let surplus = node
            .labels
            .keys()
            .filter(|key| key.starts_with(READY_LABEL_PREFIX) && !wanted.contains(*key))
            .map(|key| (key.clone(), false));
        for (labels, actions) in [
            (missing.collect::<BTreeMap<_, _>>(), &mut set),
            (surplus.collect(), &mut remove),
        ] {
            if !labels.is_empty() {
                actions.push(Action::Label {
                    node: name.clone(),
                    labels,
                });
            }
        }
    }
    (set, remove)
}

fn intent_actions(
    picture: &Picture,
    managed: &BTreeSet<String>,
    nodes: &BTreeMap<String, NodePlan>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for node in managed {
        let seen = picture.intents.get(node);
        match (nodes.get(node), seen) {
            (Some(plan), Some(seen)) if is_as_planned(seen, plan) => {}
            (Some(plan), _) => actions.push(Action::ApplyIntent {
                node: node.clone(),
                object: build::intent(node, plan),
            }),
            (None, Some(seen)) => actions.push(Action::DeleteIntent {
                node: node.clone(),
                uid: seen.uid.clone(),
            }),
            (None, None) => {}
        }
    }
    actions
}

pub(super) fn is_as_planned(seen: &IntentSeen, plan: &NodePlan) -> bool {
    seen.owner.as_ref() == Some(&plan.owner)
        && seen.published == plan.published
        && seen
            .spec
            .as_ref()
            .is_some_and(|spec| in_order(spec) == plan.snapshots)
}

/// The API server keeps lists in the order in which they grew.
fn in_order(spec: &ModelCacheNodeSpec) -> Vec<NodeSnapshot> {
    let mut snapshots = spec.snapshots.clone();
    snapshots.sort_by(|one, other| one.name.cmp(&other.name));
    for snapshot in &mut snapshots {
        snapshot.models.sort();
    }
    snapshots
}

fn volume_actions(picture: &Picture, volumes: &BTreeMap<String, Volume>) -> Vec<Action> {
    volumes
        .values()
        .filter_map(|volume| {
            let claim = picture.claims.get(&volume.claim_key());
            match picture.volumes.get(&volume.name) {
                Some(seen) if seen.deleting => None,
                Some(seen) if has_our_form(seen, volume) && seen.phase == "Released" => {
                    // While the old claim is not quite gone, the volume still belongs to it.
                    let gone =
                        claim.is_none_or(|claim| Some(&claim.uid) != seen.claim_uid.as_ref());
                    gone.then(|| Action::ReclaimVolume(volume.clone()))
                }
                Some(seen) if has_our_form(seen, volume) => None,
                _ => Some(Action::ApplyVolume {
                    volume: volume.clone(),
                    claim_uid: claim
                        .filter(|claim| !claim.deleting)
                        .map(|claim| claim.uid.clone()),
                }),
            }
        })
        .collect()
}

pub(super) fn has_our_form(seen: &VolumeSeen, volume: &Volume) -> bool {
    seen.claim == volume.claim_key()
        && seen.mount_options == build::MOUNT_OPTIONS
        && seen.reclaim == build::RECLAIM_POLICY
}

fn claim_actions(picture: &Picture, volumes: &BTreeMap<String, Volume>) -> Vec<Action> {
    volumes
        .values()
        .filter_map(|volume| {
            let exists = match picture.claims.get(&volume.claim_key()) {
                Some(seen) if seen.deleting => return None,
                Some(seen)
                    if seen.volume == volume.name && seen.model == model_key(&volume.model) =>
                {
                    return None;
                }
                seen => seen.is_some(),
            };
            Some(Action::ApplyClaim {
                volume: volume.clone(),
                exists,
            })
        })
        .collect()
}

/// Claims that Kubernetes looked at before it knew of their volume. It looks again only when the claim changes, or at
/// its next round, up to 15 seconds later, and would keep pods from nodes that are ready. An available volume is one that
/// it knows, so one change of the claim is enough.
fn wake_claims(picture: &Picture, volumes: &BTreeMap<String, Volume>) -> Vec<Action> {
    volumes
        .values()
        .filter_map(|volume| {
            let claim = picture.claims.get(&volume.claim_key())?;
            let seen = picture.volumes.get(&volume.name)?;
            let overlooked = !claim.bound
                && !claim.deleting
                && claim.volume == volume.name
                && seen.phase == "Available"
                && claim.woken_for.as_ref() != Some(&seen.uid);
            overlooked.then(|| Action::WakeClaim {
                namespace: volume.namespace.clone(),
                name: volume.claim.clone(),
                volume_uid: seen.uid.clone(),
            })
        })
        .collect()
}

fn delete_claims(picture: &Picture, stale: &BTreeSet<String>) -> Vec<Action> {
    stale
        .iter()
        .filter_map(|key| {
            let seen = picture.claims.get(key).filter(|seen| !seen.deleting)?;
            let (namespace, name) = key.split_once('/')?;
            Some(Action::DeleteClaim {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: seen.uid.clone(),
            })
        })
        .collect()
}

/// A volume goes when its claim is gone: until then a pod may be using it.
fn delete_volumes(picture: &Picture, stale: &BTreeSet<String>) -> Vec<Action> {
    stale
        .iter()
        .filter_map(|name| {
            let seen = picture.volumes.get(name).filter(|seen| !seen.deleting)?;
            (!picture.claims.contains_key(&seen.claim)).then(|| Action::DeleteVolume {
                name: name.clone(),
                uid: seen.uid.clone(),
            })
        })
        .collect()
}
