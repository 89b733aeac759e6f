//! Which node holds what, and which ready labels it bears.

use std::collections::{BTreeMap, BTreeSet};

use modelcache_crds::model_cache::{Peers, SourcePolicy};
use modelcache_crds::model_cache_node::{NodeModel, NodeSnapshot, NodeSnapshotStatus, Phase};
use modelcache_crds::names;

use super::{NodePlan, Plain, Plan, is_ready, reported};
use crate::agents::Agents;
use crate::picture::{IntentSeen, NodeSeen, Picture, node_model};
use crate::reconcile::validate::World;

/// One model on one node.
#[derive(Clone, Debug)]
struct Holding {
    snapshot: String,
    policy: SourcePolicy,
    /// How other BitTorrent clients may take it. Not at all of what is only kept.
    peers: Peers,
}

type Holdings = BTreeMap<NodeModel, Holding>;

pub(super) fn plan(picture: &Picture, world: &World, agents: &Agents, plan: &mut Plan) {
    let leaving = leaving(picture, world, plan);
    let mut assigned = assign(world, plan, picture);
    for (node, seen) in picture.nodes.iter().filter(|(_, node)| !node.deleting) {
        plan.managed.insert(node.clone());
        let mut holdings = assigned.remove(node).unwrap_or_default();
        if agents.run_on(seen) {
            keep(picture, world, node, seen, &leaving, &mut holdings);
        }
        let (labels, published) = labels(picture, node, seen, &holdings, &leaving);
        plan.labels.insert(node.clone(), labels);
        if !holdings.is_empty() {
            let node_plan = NodePlan {
                owner: seen.uid.clone(),
                snapshots: by_snapshot(holdings),
                published,
            };
            plan.nodes.insert(node.clone(), node_plan);
        }
    }
}

/// Models that nothing asks for any longer and whose volumes are still there: pods may be using them.
fn leaving(picture: &Picture, world: &World, plan: &Plan) -> BTreeSet<NodeModel> {
    let wanted = |model: &NodeModel| {
        world.caches.iter().any(|cache| {
            cache.name == model.cache && cache.models.iter().any(|one| one.name == model.model)
        })
    };
    plan.stale_volumes
        .iter()
        .filter_map(|name| picture.volumes.get(name))
        .filter_map(|volume| node_model(&volume.model))
        .filter(|model| !wanted(model))
        .collect()
}

/// What pools ask for, by node.
fn assign(world: &World, plan: &Plan, picture: &Picture) -> BTreeMap<String, Holdings> {
    let mut assigned: BTreeMap<String, Holdings> = BTreeMap::new();
    for (cache, outlook) in world.caches.iter().zip(&plan.outlooks) {
        if cache.suspended {
            continue;
        }
        for (model, outlook_of_model) in cache.models.iter().zip(&outlook.models) {
            let name = NodeModel {
                cache: cache.name.clone(),
                model: model.name.clone(),
            };
            let facts = outlook_of_model.state.facts();
            for node in outlook.selection.nodes_of(cache, &model.name) {
                // While it is not resolved, the revision that was there before stays.
                let snapshot = match facts {
                    Some(facts) => Some(facts.name.clone()),
                    None => existing(picture.intents.get(&node).map(|seen| &**seen))
                        .find(|(model, _)| **model == name)
                        .map(|(_, snapshot)| snapshot.name.clone()),
                };
                if let Some(snapshot) = snapshot {
                    let holding = Holding {
                        snapshot,
                        policy: cache.policy,
                        peers: match outlook_of_model.plain {
                            Plain::On => model.peers,
                            Plain::Off | Plain::NotPublic(_) => Peers::default(),
                        },
                    };
                    assigned
                        .entry(node)
                        .or_default()
                        .insert(name.clone(), holding);
                }
            }
        }
    }
    assigned
}

/// What a ModelCacheNode asks for now.
fn existing(seen: Option<&IntentSeen>) -> impl Iterator<Item = (&NodeModel, &NodeSnapshot)> {
    seen.and_then(|seen| seen.spec.as_ref())
        .into_iter()
        .flat_map(|spec| &spec.snapshots)
        .flat_map(|snapshot| snapshot.models.iter().map(move |model| (model, snapshot)))
}

/// Keeps what the node holds for suspended ModelCaches, for those that cannot be understood, and for volumes that are
/// still there.
fn keep(
    picture: &Picture,
    world: &World,
    node: &str,
    seen: &NodeSeen,
    leaving: &BTreeSet<NodeModel>,
    holdings: &mut Holdings,
) {
    let suspended = |model: &NodeModel| {
        world.caches.iter().any(|cache| {
            cache.suspended
                && cache.name == model.cache
                && cache.models.iter().any(|one| one.name == model.model)
        })
    };
    for (model, snapshot) in existing(picture.intents.get(node).map(|seen| &**seen)) {
        // Pods can use it only where it is whole.
        let used = leaving.contains(model)
            && seen
                .labels
                .contains_key(&names::ready_label(&model.cache, &model.model));
        let keep = suspended(model) || world.frozen.contains_key(&model.cache) || used;
        if keep && !holdings.contains_key(model) {
            let holding = Holding {
                snapshot: snapshot.name.clone(),
                policy: snapshot.source,
                peers: Peers::default(),
            };
            holdings.insert(model.clone(), holding);
        }
    }
}

fn by_snapshot(holdings: Holdings) -> Vec<NodeSnapshot> {
    let mut snapshots: BTreeMap<String, NodeSnapshot> = BTreeMap::new();
    for (model, holding) in holdings {
        let snapshot = snapshots
            .entry(holding.snapshot.clone())
            .or_insert_with(|| NodeSnapshot {
                name: holding.snapshot,
                source: holding.policy,
                plain_bit_torrent: false,
                pex: false,
                dht: false,
                models: Vec::new(),
            });
        snapshot.source = freer(snapshot.source, holding.policy);
        snapshot.plain_bit_torrent |= holding.peers.plain_bit_torrent;
        snapshot.pex |= holding.peers.pex;
        snapshot.dht |= holding.peers.dht;
        snapshot.models.push(model);
    }
    snapshots.into_values().collect()
}

/// Of two policies for the same bytes, the one that gets them sooner.
pub(super) fn freer(one: SourcePolicy, other: SourcePolicy) -> SourcePolicy {
    let freedom = |policy: &SourcePolicy| match policy {
        SourcePolicy::PeersFirst => 0,
        SourcePolicy::OriginOnly => 1,
        SourcePolicy::PeersOnly => 2,
    };
    [one, other]
        .into_iter()
        .min_by_key(freedom)
        .unwrap_or_default()
}

/// The ready labels the node should bear, and which snapshot of each model stands behind them.
fn labels(
    picture: &Picture,
    node: &str,
    seen: &NodeSeen,
    holdings: &Holdings,
    leaving: &BTreeSet<NodeModel>,
) -> (BTreeSet<String>, BTreeMap<NodeModel, String>) {
    let before = picture.intents.get(node).map(|intent| &intent.published);
    let mut labels = BTreeSet::new();
    let mut published = BTreeMap::new();
    for (model, holding) in holdings {
        let label = names::ready_label(&model.cache, &model.model);
        let status = reported(picture, node, &holding.snapshot);
        if status.is_some_and(|status| is_ready(status, model)) {
            labels.insert(label);
            published.insert(model.clone(), holding.snapshot.clone());
            continue;
        }
        let shown = before.and_then(|before| before.get(model));
        // While another revision is on its way, pods go on with the one that is shown.
        let replaced = shown.is_some_and(|shown| *shown != holding.snapshot);
        let keep = seen.labels.contains_key(&label) && (replaced || !status.is_some_and(is_broken));
        if keep {
            labels.insert(label);
            if let Some(shown) = shown {
                published.insert(model.clone(), shown.clone());
            }
        }
    }
    // A label goes only after the last volume that needs it.
    for model in leaving {
        let label = names::ready_label(&model.cache, &model.model);
        if !holdings.contains_key(model) && seen.labels.contains_key(&label) {
            labels.insert(label);
        }
    }
    (labels, published)
}

/// Whether the agent says that what was whole is not any longer. An agent that has just started and still reads its
/// journal says Pending with nothing held, or Verifying: that is no reason to stop pods.
fn is_broken(status: &NodeSnapshotStatus) -> bool {
    let partly = status.held_bytes < status.size_bytes;
    match status.phase {
        Phase::Downloading | Phase::Failed => partly,
        Phase::Pending => partly && status.held_bytes > 0,
        Phase::Verifying | Phase::Ready => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: Phase, held_bytes: i64) -> NodeSnapshotStatus {
        NodeSnapshotStatus {
            name: "s".to_owned(),
            models: Vec::new(),
            phase,
            size_bytes: 10,
            held_bytes,
            origin_bytes: 0,
            peer_bytes: 0,
            reason: None,
            message: None,
            retry_time: None,
            verified_at: None,
        }
    }

    #[test]
    fn only_a_loss_counts_as_broken() {
        for (phase, held, broken) in [
            (Phase::Pending, 0, false),
            (Phase::Pending, 10, false),
            (Phase::Verifying, 10, false),
            (Phase::Ready, 10, false),
            (Phase::Pending, 9, true),
            (Phase::Downloading, 9, true),
            (Phase::Failed, 0, true),
            (Phase::Failed, 10, false),
        ] {
            assert_eq!(is_broken(&status(phase, held)), broken, "{phase:?} {held}");
        }
    }

    #[test]
    fn the_freer_policy_wins() {
        use SourcePolicy::{OriginOnly, PeersFirst, PeersOnly};
        assert_eq!(freer(PeersOnly, PeersFirst), PeersFirst);
        assert_eq!(freer(PeersOnly, OriginOnly), OriginOnly);
        assert_eq!(freer(PeersOnly, PeersOnly), PeersOnly);
    }
}
