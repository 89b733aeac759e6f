//! What should be, from a validated picture of the cluster: a pure function.
//!
//! Level-triggered: the plan depends on nothing but the picture, so that any event may be lost and anything restarted,
//! and the next pass arrives at the same plan.

mod coordination;
mod holdings;
mod plain;
mod pools;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use modelcache_crds::model_cache_node::{NodeModel, NodeSnapshot, NodeSnapshotStatus, Phase};

use crate::agents::Agents;
use crate::coordinator::CoordinatedSnapshot;
use crate::fault::Fault;
use crate::picture::{Picture, SnapshotSeen};
use crate::reconcile::validate::{Cache, Model, World};
use crate::resolve::{Request, Resolution, Resolved};
use crate::secrets::TokenUse;
use crate::source::Facts;

pub use self::plain::{NotPublic, Plain};
pub use self::pools::Selection;
pub use self::volumes::Volume;

/// What should be.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// One entry a ModelCache of the world, in the same order.
    pub outlooks: Vec<Outlook>,
    /// What to ask the hub.
    pub requests: Vec<Request>,
    /// Snapshots to write, by name.
    pub snapshots: BTreeMap<String, Arc<Resolved>>,
    /// Snapshots that nothing names any longer.
    pub stale_snapshots: BTreeSet<String>,
    /// What each node should hold; nodes that hold nothing are absent.
    pub nodes: BTreeMap<String, NodePlan>,
    /// Nodes whose labels and ModelCacheNode are ours to change.
    pub managed: BTreeSet<String>,
    /// Ready labels that each managed node should bear, and no others.
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// Volumes and claims that should be, by the volume's name.
    pub volumes: BTreeMap<String, Volume>,
    /// Volumes of ours that should go.
    pub stale_volumes: BTreeSet<String>,
    /// Claims of ours that should go, as `namespace/name`.
    pub stale_claims: BTreeSet<String>,
    /// What the coordinator should bring to the nodes.
    pub coordinated: Vec<CoordinatedSnapshot>,
}

/// What one node should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodePlan {
    /// uid of the Node.
    pub owner: String,
    /// The snapshots, by name.
    pub snapshots: Vec<NodeSnapshot>,
    /// Which snapshot of each model was found ready there.
    pub published: BTreeMap<NodeModel, String>,
}

/// How a ModelCache stands.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// One entry a model of the spec, in the same order.
    pub models: Vec<ModelOutlook>,
    /// Which node belongs to which pool.
    pub selection: Selection,
}

/// How a model stands.
#[derive(Clone, Debug)]
pub struct ModelOutlook {
    /// What is known of it.
    pub state: ModelState,
    /// Its token is missing, though the model is resolved: nodes may be unable to fetch it.
    pub token: Option<Fault>,
    /// Whether other BitTorrent clients may take it.
    pub plain: Plain,
    /// How it stands on each node that should hold it.
    pub nodes: BTreeMap<String, Standing>,
    /// Bytes fetched from the hub, by all nodes.
    pub origin_bytes: i64,
    /// Bytes taken from other nodes, by all nodes.
    pub peer_bytes: i64,
}

/// What is known of a model.
#[derive(Clone, Debug)]
pub enum ModelState {
    /// It is resolved.
    Known(Facts),
    /// The hub is being asked.
    Resolving {
        /// Its commit, when it was resolved before.
        commit: Option<String>,
    },
    /// The hub could not tell.
    Failed {
        /// Why.
        fault: Fault,
        /// Its commit, when it was resolved before.
        commit: Option<String>,
    },
    /// Nothing is asked.
    Suspended,
}

impl ModelState {
    /// What is known of its snapshot.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        match self {
            Self::Known(facts) => Some(facts),
            _ => None,
        }
    }
}

/// How a model stands on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Whole and verified.
    Ready,
    /// Under way.
    Busy(Phase),
    /// The agent reports an error.
    Failed {
        /// Its reason.
        reason: String,
        /// The same for people.
        message: String,
    },
}

/// Makes the plan.
#[must_use]
pub fn plan(picture: &Picture, world: &World, agents: &Agents) -> Plan {
    let mut plan = Plan::default();
    let snapshots = SnapshotIndex::new(picture);
    for cache in &world.caches {
        let models = cache
            .models
            .iter()
            .map(|model| {
                let state = state(picture, &snapshots, cache, model, &mut plan);
                let token = match (&state, model.token()) {
                    (ModelState::Known(_), Some(token)) => missing_token(picture, &token),
                    _ => None,
                };
                ModelOutlook {
                    state,
                    token,
                    plain: Plain::Off,
                    nodes: BTreeMap::new(),
                    origin_bytes: 0,
                    peer_bytes: 0,
                }
            })
            .collect();
        plan.outlooks.push(Outlook {
            models,
            selection: pools::select(picture, agents, cache),
        });
    }
    plain::plan(world, &mut plan);
    volumes::plan(picture, world, &agents.cache_dir, &mut plan);
    holdings::plan(picture, world, agents, &mut plan);
    stand(picture, world, &mut plan);
    coordination::plan(picture, world, &mut plan);
    stale_snapshots(picture, world, &mut plan);
    plan
}

/// Finds snapshots by the hash of their source.
struct SnapshotIndex<'a>(BTreeMap<&'a str, Vec<(&'a SnapshotSeen, &'a Facts)>>);

impl<'a> SnapshotIndex<'a> {
    fn new(picture: &'a Picture) -> Self {
        let mut index: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for seen in picture.snapshots.values().filter(|seen| !seen.deleting) {
            if let Some(facts) = &seen.facts {
                index
                    .entry(&facts.source)
                    .or_default()
                    .push((&**seen, facts));
            }
        }
        Self(index)
    }

    /// The snapshot of this source: the one that is named already, else the oldest.
    fn find(&self, hash: &str, named: Option<&str>) -> Option<&'a Facts> {
        let candidates = self.0.get(hash)?;
        candidates
            .iter()
            .min_by_key(|(seen, facts)| (Some(facts.name.as_str()) != named, seen.age, &facts.name))
            .map(|(_, facts)| *facts)
    }
}

fn state(
    picture: &Picture,
    snapshots: &SnapshotIndex<'_>,
    cache: &Cache,
    model: &Model,
    plan: &mut Plan,
) -> ModelState {
    let found = snapshots.find(&model.source.hash(), model.snapshot.as_deref());
    if let Some(facts) = found {
        return ModelState::Known(facts.clone());
    }
    if cache.suspended {
        return ModelState::Suspended;
    }
    let request = Request {
        source: model.source.clone(),
        commit: model.pinned.clone(),
        secret: model.secret.clone(),
        ca_bundle: model.ca_bundle.clone(),
    };
    let resolution = picture.resolutions.get(&request.key()).cloned();
    plan.requests.push(request);
    let commit = model.pinned.clone();
    match resolution {
        Some(Resolution::Resolved(resolved)) => {
            let facts = resolved.facts.clone();
            plan.snapshots.insert(facts.name.clone(), resolved);
            ModelState::Known(facts)
        }
        Some(Resolution::Failed(fault)) => ModelState::Failed { fault, commit },
        Some(Resolution::Resolving) | None => ModelState::Resolving { commit },
    }
}

fn missing_token(picture: &Picture, token: &TokenUse) -> Option<Fault> {
    match picture.tokens.get(token) {
        Some(Err(error)) => Some(Fault::of_secret(error.clone())),
        Some(Ok(_)) | None => None,
    }
}

/// What the node's agent says of a snapshot.
fn reported<'a>(
    picture: &'a Picture,
    node: &str,
    snapshot: &str,
) -> Option<&'a NodeSnapshotStatus> {
    let intent = picture.intents.get(node)?;
    intent
        .status
        .snapshots
        .iter()
        .find(|status| status.name == snapshot)
}

/// Whether the agent says that this model is whole there, and shown under its name.
fn is_ready(status: &NodeSnapshotStatus, model: &NodeModel) -> bool {
    status.phase == Phase::Ready && status.models.contains(model)
}

/// Fills in how each model stands on the nodes that should hold it.
fn stand(picture: &Picture, world: &World, plan: &mut Plan) {
    for (cache, outlook) in world.caches.iter().zip(&mut plan.outlooks) {
        for (model, outlook_of_model) in cache.models.iter().zip(&mut outlook.models) {
            let name = NodeModel {
                cache: cache.name.clone(),
                model: model.name.clone(),
            };
            let snapshot = outlook_of_model.state.facts().map(|facts| &facts.name);
            let nodes: Vec<String> = if cache.suspended {
                let holds =
                    |plan: &&NodePlan| plan.snapshots.iter().any(|one| one.models.contains(&name));
                plan.nodes
                    .iter()
                    .filter(|(_, node)| holds(node))
                    .map(|(node, _)| node.clone())
                    .collect()
            } else {
                outlook.selection.nodes_of(cache, &model.name)
            };
            outlook_of_model.nodes = nodes
                .into_iter()
                .map(|node| {
                    let status = snapshot.and_then(|snapshot| reported(picture, &node, snapshot));
                    let standing = standing(status, &name);
                    (node, standing)
                })
                .collect();
            let Some(snapshot) = snapshot else {
                continue;
            };
            let statuses = picture
                .intents
                .values()
                .flat_map(|seen| &seen.status.snapshots);
            for status in statuses.filter(|status| status.name == *snapshot) {
                outlook_of_model.origin_bytes += status.origin_bytes;
                outlook_of_model.peer_bytes += status.peer_bytes;
            }
        }
    }
}

fn standing(status: Option<&NodeSnapshotStatus>, model: &NodeModel) -> Standing {
    match status {
        None => Standing::Busy(Phase::Pending),
        Some(status) if is_ready(status, model) => Standing::Ready,
        Some(status) if status.phase == Phase::Failed => Standing::Failed {
            reason: status.reason.clone().unwrap_or_default(),
            message: status.message.clone().unwrap_or_default(),
        },
        // Ready under other names: this one is about to be added.
        Some(status) if status.phase == Phase::Ready => Standing::Busy(Phase::Verifying),
        Some(status) => Standing::Busy(status.phase),
    }
}

/// Snapshots that no model is, and no node holds or should hold.
fn stale_snapshots(picture: &Picture, world: &World, plan: &mut Plan) {
    // What an object that cannot be understood names is not known.
    if !world.frozen.is_empty() {
        return;
    }
    let models = plan.outlooks.iter().flat_map(|outlook| &outlook.models);
    let known = models.filter_map(|model| model.state.facts().map(|facts| &facts.name));
    let held = picture.intents.values().flat_map(|seen| &seen.spec);
    let held = held.flat_map(|spec| spec.snapshots.iter().map(|one| &one.name));
    let planned = plan.nodes.values().flat_map(|node| &node.snapshots);
    let used: BTreeSet<&String> = known
        .chain(held)
        .chain(planned.map(|one| &one.name))
        .collect();
    plan.stale_snapshots = picture
        .snapshots
        .iter()
        .filter(|(name, seen)| !seen.deleting && !used.contains(name))
        .map(|(name, _)| name.clone())
        .collect();
}

#[cfg(test)]
mod tests;
