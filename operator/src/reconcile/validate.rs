//! From what people wrote to what can be planned. No client required.
//!
//! After this step nothing reads a raw spec. A ModelCache that cannot be planned is set aside by name: what was planned
//! for it before stays, and all others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::core::{ParseExpressionError, Selector, SelectorExt as _};
use modelcache_crds::ModelCache;
use modelcache_crds::conditions::reasons;
use modelcache_crds::model_cache::{Model as ModelSpec, NodePool, Peers, SourcePolicy};
use modelcache_crds::model_cache_node::NodeModel;
use thiserror::Error;

use crate::picture::{CacheSeen, NodeSeen, Picture, model_key};
use crate::secrets::{SecretRef, TokenUse};
use crate::source::{Source, age};

/// All ModelCaches.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Those that can be planned, by name.
    pub caches: Vec<Cache>,
    /// The others, and why.
    pub frozen: BTreeMap<String, String>,
}

/// A ModelCache that can be planned.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The object, for its status and its identity only.
    pub object: Arc<ModelCache>,
    /// Its name.
    pub name: String,
    /// Nothing new is to be planned.
    pub suspended: bool,
    /// Where bytes may come from.
    pub policy: SourcePolicy,
    /// Its models, in the order of the spec.
    pub models: Vec<Model>,
    /// Its pools, in the order of the spec; at least one.
    pub pools: Vec<Pool>,
    /// Its claims, without those that another ModelCache has already.
    pub claims: Vec<Claim>,
    /// What is wrong with it besides.
    pub problems: Vec<Problem>,
}

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name within its ModelCache.
    pub name: String,
    /// Where it stands in the spec: `spec.models[0]`.
    pub field: String,
    /// What it is.
    pub source: Source,
    /// The commit that the status says it is, if the status speaks of this spec.
    pub pinned: Option<String>,
    /// The snapshot that the status names.
    pub snapshot: Option<String>,
    /// Where the access token is.
    pub secret: Option<SecretRef>,
    /// Certificate authorities to trust.
    pub ca_bundle: Option<String>,
    /// How the spec lets other BitTorrent clients take it.
    pub peers: Peers,
}

impl Model {
    /// The access token that it needs, for the hub that it comes from.
    #[must_use]
    pub fn token(&self) -> Option<TokenUse> {
        self.secret.clone().map(|secret| TokenUse {
            secret,
            endpoint: self.source.endpoint.clone(),
        })
    }
}

/// A set of nodes.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name; none for the pool of all nodes that a spec without pools means.
    pub name: Option<String>,
    selector: Selector,
    /// Names of its models; empty: all.
    models: BTreeSet<String>,
    /// How many nodes may be without a model.
    pub tolerable_failures: usize,
}

impl Pool {
    /// Whether the node belongs to it.
    #[must_use]
    pub fn selects(&self, node: &NodeSeen) -> bool {
        self.selector.matches(&node.labels)
    }

    /// Whether its nodes hold the model.
    #[must_use]
    pub fn holds(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.contains(model)
    }

    /// Its selector for people.
    #[must_use]
    pub fn selector(&self) -> String {
        match self.selector.to_string() {
            text if text.is_empty() => "every node".to_owned(),
            text => text,
        }
    }
}

/// A claim that pods mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where it stands in the spec: `spec.volumeClaims[0]`.
    pub field: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it shows.
    pub model: NodeModel,
}

/// Something a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One of the documented reasons.
    pub reason: &'static str,
    /// Object, field and remedy.
    pub message: String,
}

/// Why a ModelCache cannot be planned. The API server's own rules refuse all of these, unless its copy of the
/// definitions is another.
#[derive(Debug, Error)]
pub enum ValidateError {
    /// No source.
    #[error(
        "spec.models[{index}].source names none that this operator knows: set huggingFace, or upgrade the operator"
    )]
    NoSource {
        /// Position of the model.
        index: usize,
    },
    /// A selector that means nothing.
    #[error("spec.nodePools[{index}].nodeSelector: {source}: write a label selector")]
    Selector {
        /// Position of the pool.
        index: usize,
        /// What is wrong.
        source: ParseExpressionError,
    },
}

/// Validates all ModelCaches. `default_endpoint` is the hub of models that name none.
#[must_use]
pub fn validate(picture: &Picture, default_endpoint: &str) -> World {
    let mut world = World::default();
    for (name, seen) in &picture.caches {
        let CacheSeen {
            deleting, object, ..
        } = &**seen;
        // Somebody's finalizer holds it, but it is gone as far as its user is concerned.
        if *deleting {
            continue;
        }
        let validated = match object {
            Ok(object) => cache(object, default_endpoint).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        match validated {
            Ok(cache) => world.caches.push(cache),
            Err(error) => {
                world.frozen.insert(name.clone(), error);
            }
        }
    }
    claims_once(picture, &mut world.caches);
    world
}

fn cache(object: &Arc<ModelCache>, default_endpoint: &str) -> Result<Cache, ValidateError> {
    let name = object.name_any();
    let spec = &object.spec;
    let models = spec
        .models
        .iter()
        .enumerate()
        .map(|(index, spec)| model(object, index, spec, default_endpoint))
        .collect::<Result<Vec<_>, _>>()?;
    let mut pools = spec
        .node_pools
        .iter()
        .enumerate()
        .map(|(index, spec)| pool(index, spec))
        .collect::<Result<Vec<_>, _>>()?;
    if pools.is_empty() {
        pools.push(Pool {
            name: None,
            selector: Selector::default(),
            models: BTreeSet::new(),
            tolerable_failures: 0,
        });
    }
    let claims = spec
        .volume_claims
        .iter()
        .enumerate()
        .filter(|(_, claim)| models.iter().any(|model| model.name == claim.model))
        .map(|(index, claim)| Claim {
            field: format!("spec.volumeClaims[{index}]"),
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            model: NodeModel {
                cache: name.clone(),
                model: claim.model.clone(),
            },
        })
        .collect();
    Ok(Cache {
        object: Arc::clone(object),
        name,
        suspended: spec.suspend,
        policy: spec.source,
        models,
        pools,
        claims,
        problems: Vec::new(),
    })
}

fn model(
    object: &ModelCache,
    index: usize,
    spec: &ModelSpec,
    default_endpoint: &str,
) -> Result<Model, ValidateError> {
    let hub = spec
        .source
        .hugging_face
        .as_ref()
        .ok_or(ValidateError::NoSource { index })?;
    let known = object
        .status
        .as_ref()
        .and_then(|status| status.models.iter().find(|known| known.name == spec.name))
        .filter(|known| known.repository == hub.repository && known.revision == hub.revision);
    let current = object.status.as_ref().is_some_and(|status| {
        status.observed_generation.is_some()
            && status.observed_generation == object.metadata.generation
    });
    Ok(Model {
        name: spec.name.clone(),
        field: format!("spec.models[{index}]"),
        source: Source::new(
            hub.endpoint.as_deref().unwrap_or(default_endpoint),
            &hub.repository,
            &hub.revision,
            &hub.include,
            &hub.exclude,
        ),
        pinned: known
            .filter(|_| current)
            .and_then(|known| known.commit.clone()),
        snapshot: known.and_then(|known| known.snapshot.clone()),
        secret: hub.token_secret.as_ref().map(|secret| SecretRef {
            name: secret.name.clone(),
            key: secret.key.clone(),
        }),
        ca_bundle: hub.ca_bundle.clone(),
        peers: spec.peers,
    })
}

fn pool(index: usize, spec: &NodePool) -> Result<Pool, ValidateError> {
    Ok(Pool {
        name: Some(spec.name.clone()),
        selector: spec
            .node_selector
            .clone()
            .try_into()
            .map_err(|source| ValidateError::Selector { index, source })?,
        models: spec.models.iter().cloned().collect(),
        tolerable_failures: usize::try_from(spec.tolerable_failures).unwrap_or(0),
    })
}

/// Leaves each claim to one ModelCache: to the one whose volume is there, else to the oldest.
fn claims_once(picture: &Picture, caches: &mut [Cache]) {
    let mut owners: BTreeMap<String, (bool, i128, String)> = BTreeMap::new();
    for cache in caches.iter() {
        for claim in &cache.claims {
            let key = format!("{}/{}", claim.namespace, claim.name);
            let there = picture
                .claims
                .get(&key)
                .is_some_and(|seen| seen.model == model_key(&claim.model));
            let created = cache.object.metadata.creation_timestamp.as_ref();
            let rank = (!there, age(created), cache.name.clone());
            owners
                .entry(key)
                .and_modify(|best| *best = rank.clone().min(best.clone()))
                .or_insert(rank);
        }
    }
    for cache in caches {
        let Cache {
            claims,
            problems,
            name,
            ..
        } = cache;
        claims.retain(|claim| {
            let key = format!("{}/{}", claim.namespace, claim.name);
            let Some((_, _, owner)) = owners.get(&key).filter(|(_, _, owner)| owner != name) else {
                return true;
            };
            problems.push(Problem {
                reason: reasons::VOLUME_CLAIM_FAILED,
                message: format!(
                    "{}: the claim {key} belongs to ModelCache {owner:?} already: give this one another name",
                    claim.field
                ),
            });
            false
        });
    }
}

#[cfg(test)]
mod tests;
