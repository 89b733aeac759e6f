//! What the coordinator should bring to the nodes, and how its hub is reached.

use std::collections::{BTreeMap, BTreeSet};

use modelcache_crds::model_cache::SourcePolicy as Policy;
use modelcache_swarm::coordination::OriginAccess;

use super::Plan;
use super::holdings::freer;
use crate::coordinator::{CoordinatedSnapshot, SourcePolicy};
use crate::picture::Picture;
use crate::reconcile::validate::{Model, World};
use crate::secrets::TokenUse;
use crate::source::Facts;

/// The models that are one snapshot.
struct Group<'a> {
    facts: &'a Facts,
    policy: Policy,
    models: Vec<&'a Model>,
}

pub(super) fn plan(picture: &Picture, world: &World, plan: &mut Plan) {
    let held: BTreeSet<&str> = plan
        .nodes
        .values()
        .flat_map(|node| &node.snapshots)
        .map(|snapshot| snapshot.name.as_str())
        .collect();
    // In the order of the ModelCaches; what only suspended ones name is not moved.
    let mut order: Vec<&str> = Vec::new();
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for (cache, outlook) in world.caches.iter().zip(&plan.outlooks) {
        for (model, outlook) in cache.models.iter().zip(&outlook.models) {
            let Some(facts) = outlook.state.facts() else {
                continue;
            };
            if cache.suspended || !held.contains(facts.name.as_str()) {
                continue;
            }
            let group = groups.entry(&facts.name).or_insert_with(|| {
                order.push(&facts.name);
                Group {
                    facts,
                    policy: cache.policy,
                    models: Vec::new(),
                }
            });
            group.policy = freer(group.policy, cache.policy);
            group.models.push(model);
        }
    }
    let mut coordinated: Vec<CoordinatedSnapshot> = order
        .iter()
        .filter_map(|name| groups.get(name))
        .map(|group| {
            coordinated_snapshot(
                group.facts,
                group.policy,
                access(picture, group.facts, &group.models),
            )
        })
        .collect();
    let suspended: BTreeSet<&str> = world
        .caches
        .iter()
        .filter(|cache| cache.suspended)
        .map(|cache| cache.name.as_str())
        .collect();
    // Held for volumes that are still there, for objects that cannot be understood, or as the revision before. Nodes may
    // give them to each other.
    let mut kept = BTreeSet::new();
    for snapshot in plan.nodes.values().flat_map(|node| &node.snapshots) {
        let moved = snapshot
            .models
            .iter()
            .any(|model| !suspended.contains(model.cache.as_str()));
        let facts = picture
            .snapshots
            .get(&snapshot.name)
            .and_then(|seen| seen.facts.as_ref());
        if let Some(facts) = facts
            && moved
            && !groups.contains_key(snapshot.name.as_str())
            && kept.insert(&snapshot.name)
        {
            let access = access(picture, facts, &[]);
            coordinated.push(coordinated_snapshot(facts, snapshot.source, access));
        }
    }
    plan.coordinated = coordinated;
}

fn coordinated_snapshot(
    facts: &Facts,
    policy: Policy,
    access: OriginAccess,
) -> CoordinatedSnapshot {
    CoordinatedSnapshot {
        name: facts.name.clone(),
        segments: facts.segments,
        policy: match policy {
            Policy::PeersFirst => SourcePolicy::PeersFirst,
            Policy::PeersOnly => SourcePolicy::PeersOnly,
            Policy::OriginOnly => SourcePolicy::OriginOnly,
        },
        access,
    }
}

/// The way to the hub that the snapshot names: with the first token that is there and for this hub.
fn access(picture: &Picture, facts: &Facts, models: &[&Model]) -> OriginAccess {
    let token = |model: &Model| {
        let wanted = TokenUse {
            secret: model.secret.clone()?,
            endpoint: facts.endpoint.clone(),
        };
        picture.tokens.get(&wanted)?.as_ref().ok()
    };
    let with_token = models
        .iter()
        .find_map(|model| token(model).map(|token| (*model, token)));
    let ca_bundle = match with_token {
        Some((model, _)) => model.ca_bundle.clone(),
        None => models.iter().find_map(|model| model.ca_bundle.clone()),
    };
    OriginAccess {
        endpoint: facts.endpoint.clone(),
        token: with_token.map(|(_, token)| token.reveal().to_owned()),
        ca_bundle,
    }
}
