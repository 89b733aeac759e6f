//! What needs a person's attention, in words that name object, field and remedy.

use std::collections::BTreeMap;

use modelcache_crds::conditions::reasons;

use crate::reconcile::apply::Applied;
use crate::reconcile::plan::{ModelOutlook, ModelState, NotPublic, Outlook, Plain, Standing};
use crate::reconcile::validate::{Cache, Model};

/// Nodes named in one message; more are counted.
const NAMED: usize = 5;

/// Identifies a problem while its wording may change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub(super) reason: String,
    /// Field of the spec, or what else it is about.
    pub(super) about: String,
}

/// Something that needs a person's attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::reconcile::report) struct Found {
    pub(super) reason: &'static str,
    pub(super) about: String,
    pub(super) model: Option<String>,
    pub(super) message: String,
}

impl Found {
    pub(in crate::reconcile::report) fn subject(&self) -> Subject {
        Subject {
            reason: self.reason.to_owned(),
            about: self.about.clone(),
        }
    }
}

/// Everything that needs a person's attention, the most basic first.
pub(in crate::reconcile::report) fn problems(
    cache: &Cache,
    outlook: &Outlook,
    applied: &Applied,
) -> Vec<Found> {
    let mut found = Vec::new();
    for (model, outlook) in cache.models.iter().zip(&outlook.models) {
        let fault = match &outlook.state {
            ModelState::Failed { fault, .. } => Some(fault),
            _ => outlook.token.as_ref(),
        };
        if let Some(fault) = fault {
            found.push(Found {
                reason: fault.reason(),
                about: model.field.clone(),
                model: Some(model.name.clone()),
                message: fault.message(&model.field, &model.name, &model.source),
            });
        }
        if let Plain::NotPublic(why) = &outlook.plain {
            found.push(Found {
                reason: reasons::NOT_PUBLIC,
                about: format!("{}.peers", model.field),
                model: Some(model.name.clone()),
                message: not_public(model, why),
            });
        }
        let unwritten = outlook
            .state
            .facts()
            .and_then(|facts| Some((facts, applied.of_snapshot(&facts.name)?)));
        if let Some((facts, error)) = unwritten {
            found.push(Found {
                reason: reasons::WRITE_FAILED,
                about: model.field.clone(),
                model: Some(model.name.clone()),
                message: format!(
                    "{} {:?}: ModelSnapshot {} cannot be written: {error}; it is tried again by itself",
                    model.field, model.name, facts.name
                ),
            });
        }
    }
    found.extend(overlaps(cache, outlook));
    found.extend(cache.problems.iter().map(|problem| Found {
        reason: problem.reason,
        about: problem.message.clone(),
        model: None,
        message: problem.message.clone(),
    }));
    for claim in &cache.claims {
        let volume = modelcache_crds::names::volume_name(&claim.namespace, &claim.name);
        if let Some(error) = applied.of_volume(&claim.namespace, &claim.name, &volume) {
            found.push(Found {
                reason: reasons::VOLUME_CLAIM_FAILED,
                about: claim.field.clone(),
                model: None,
                message: format!(
                    "{}: the claim {}/{} cannot be made: {error}; check the namespace, the name and the quota; it is tried again by itself",
                    claim.field, claim.namespace, claim.name
                ),
            });
        }
    }
    for (model, outlook) in cache.models.iter().zip(&outlook.models) {
        found.extend(failures(model, outlook));
    }
    found
}

fn overlaps(cache: &Cache, outlook: &Outlook) -> Vec<Found> {
    let mut by_pools: BTreeMap<&[usize], Vec<&str>> = BTreeMap::new();
    for (node, pools) in &outlook.selection.overlaps {
        by_pools.entry(pools).or_default().push(node);
    }
    by_pools
        .into_iter()
        .map(|(pools, nodes)| {
            let names: Vec<String> = pools
                .iter()
                .filter_map(|pool| cache.pools.get(*pool)?.name.as_ref())
                .map(|name| format!("{name:?}"))
                .collect();
            let first = names.first().cloned().unwrap_or_default();
            Found {
                reason: reasons::POOL_OVERLAP,
                about: names.join(" "),
                model: None,
                message: format!(
                    "spec.nodePools: pools {} all select {}, and each counts to pool {first} only: make their nodeSelector exclude each other",
                    names.join(" and "),
                    nodes_for_people(&nodes),
                ),
            }
        })
        .collect()
}

/// Why other BitTorrent clients are not given a model, and what to do.
fn not_public(model: &Model, why: &NotPublic) -> String {
    let why = match why {
        NotPublic::Token => "it needs a token: remove one of the two".to_owned(),
        NotPublic::TokenOf(other) => format!(
            "model {:?} of ModelCache {:?} is the same snapshot and needs a token: remove plainBitTorrent here or tokenSecret there",
            other.model, other.cache
        ),
        NotPublic::Snapshot(name) => format!(
            "nothing says that the hub gives it to everybody: if it does, remove the model, wait until ModelSnapshot {name} is gone, and add the model again without tokenSecret"
        ),
    };
    format!(
        "{}.peers.plainBitTorrent: {:?} is not given to other BitTorrent clients, because {why}",
        model.field, model.name
    )
}

fn failures(model: &Model, outlook: &ModelOutlook) -> Option<Found> {
    let failed: Vec<(&String, &String, &String)> = outlook
        .nodes
        .iter()
        .filter_map(|(node, standing)| match standing {
            Standing::Failed { reason, message } => Some((node, reason, message)),
            Standing::Ready | Standing::Busy(_) => None,
        })
        .collect();
    if failed.is_empty() {
        return None;
    }
    let mut named: Vec<String> = failed
        .iter()
        .take(NAMED)
        .map(|(node, reason, message)| format!("node {node:?} says {reason}: {message}"))
        .collect();
    if failed.len() > NAMED {
        named.push(format!("and {} more", failed.len() - NAMED));
    }
    Some(Found {
        reason: reasons::NODES_FAILED,
        about: format!("nodes of {}", model.field),
        model: Some(model.name.clone()),
        message: format!(
            "{} {:?}: {} of {} nodes cannot get on: {} (see kubectl describe modelcachenode)",
            model.field,
            model.name,
            failed.len(),
            outlook.nodes.len(),
            named.join("; "),
        ),
    })
}

pub(super) fn nodes_for_people(nodes: &[&str]) -> String {
    let named: Vec<String> = nodes
        .iter()
        .take(NAMED)
        .map(|node| format!("{node:?}"))
        .collect();
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    let more = nodes.len().saturating_sub(NAMED);
    if more > 0 {
        format!("{word} {} and {more} more", named.join(", "))
    } else {
        format!("{word} {}", named.join(", "))
    }
}
