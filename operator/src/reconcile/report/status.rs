//! What to tell of one ModelCache. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use modelcache_crds::ModelCacheStatus;
use modelcache_crds::conditions::{self, Finding, Status, reasons, types};
use modelcache_crds::model_cache::ModelStatus;
use modelcache_crds::quantity::{human_bytes, human_copies};

use crate::reconcile::apply::Applied;
use crate::reconcile::plan::{ModelOutlook, ModelState, Outlook, Selection, Standing};
use crate::reconcile::validate::{Cache, Model};

/// Nodes named in one message; more are counted.
const NAMED: usize = 5;

/// Identifies a problem while its wording may change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    reason: String,
    /// Field of the spec, or what else it is about.
    about: String,
}

/// Something that needs a person's attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    reason: &'static str,
    about: String,
    model: Option<String>,
    message: String,
}

impl Found {
    pub(super) fn subject(&self) -> Subject {
        Subject {
            reason: self.reason.to_owned(),
            about: self.about.clone(),
        }
    }
}

/// An Event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Warning, else Normal.
    pub warning: bool,
    /// The same as of the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The model it is about.
    pub model: Option<String>,
}

/// Everything that needs a person's attention, the most basic first.
pub(super) fn problems(cache: &Cache, outlook: &Outlook, applied: &Applied) -> Vec<Found> {
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

fn nodes_for_people(nodes: &[&str]) -> String {
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

/// The problems that an earlier process has told of already, as far as its status shows.
pub(super) fn told_before(
    cache: &Cache,
    problems: &[Found],
    before: &ModelCacheStatus,
) -> BTreeSet<Subject> {
    let Some(degraded) = conditions::get(&before.conditions, types::DEGRADED)
        .filter(|condition| condition.status == Status::True.as_str())
    else {
        return BTreeSet::new();
    };
    let still_there = problems
        .iter()
        .filter(|found| {
            found.reason == degraded.reason || degraded.message.contains(&found.message)
        })
        .map(Found::subject);
    // What the hub said is not known again yet.
    let asked_again = cache.models.iter().filter_map(|model| {
        let known = before
            .models
            .iter()
            .find(|known| known.name == model.name)?;
        Some(Subject {
            reason: known.reason.clone()?,
            about: model.field.clone(),
        })
    });
    still_there.chain(asked_again).collect()
}

/// The problems that have had their Event: those that are there, and those of models about which the hub is being asked
/// again, because the answer will probably be the same.
pub(super) fn told_now(
    cache: &Cache,
    outlook: &Outlook,
    problems: &[Found],
    told: &BTreeSet<Subject>,
) -> BTreeSet<Subject> {
    let asked: BTreeSet<&str> = cache
        .models
        .iter()
        .zip(&outlook.models)
        .filter(|(_, outlook)| matches!(outlook.state, ModelState::Resolving { .. }))
        .map(|(model, _)| model.field.as_str())
        .collect();
    let kept = told
        .iter()
        .filter(|subject| asked.contains(subject.about.as_str()));
    problems
        .iter()
        .map(Found::subject)
        .chain(kept.cloned())
        .collect()
}

/// The Events that the step from one status to the next deserves: each problem once while it lasts, each model that is
/// resolved, and each turn of the whole.
pub(super) fn notes(
    problems: &[Found],
    told: &BTreeSet<Subject>,
    before: &ModelCacheStatus,
    now: &ModelCacheStatus,
) -> Vec<Note> {
    let mut notes: Vec<Note> = problems
        .iter()
        .filter(|found| !told.contains(&found.subject()))
        .map(|found| Note {
            warning: true,
            reason: found.reason,
            message: found.message.clone(),
            model: found.model.clone(),
        })
        .collect();
    for model in now.models.iter().filter(|model| model.snapshot.is_some()) {
        let old = before.models.iter().find(|old| old.name == model.name);
        if old.is_none_or(|old| old.snapshot != model.snapshot) {
            notes.push(Note {
                warning: false,
                reason: reasons::RESOLVED,
                message: format!(
                    "model {:?}: revision {} of {} is commit {}: {} files, {}",
                    model.name,
                    model.revision,
                    model.repository,
                    model.commit.as_deref().unwrap_or_default(),
                    model.files,
                    human_bytes(model.size_bytes),
                ),
                model: Some(model.name.clone()),
            });
        }
    }
    let reason = |status: &ModelCacheStatus| {
        conditions::get(&status.conditions, types::READY).map(|condition| condition.reason.clone())
    };
    if let Some(ready) = conditions::get(&now.conditions, types::READY)
        && reason(before).as_ref() != Some(&ready.reason)
    {
        let turn = [
            (reasons::DOWNLOADING, false),
            (reasons::ALL_NODES_READY, false),
            (reasons::SUSPENDED, false),
            (reasons::NO_NODES, true),
        ];
        if let Some((reason, warning)) = turn.into_iter().find(|(one, _)| ready.reason == *one) {
            notes.push(Note {
                warning,
                reason,
                message: ready.message.clone(),
                model: None,
            });
        }
    }
    notes
}

/// The whole status.
pub(super) fn status(
    cache: &Cache,
    outlook: &Outlook,
    problems: &[Found],
    before: &ModelCacheStatus,
    now: Timestamp,
) -> ModelCacheStatus {
    let generation = cache.object.metadata.generation;
    let models: Vec<ModelStatus> = cache
        .models
        .iter()
        .zip(&outlook.models)
        .map(|(model, outlook)| model_status(model, outlook))
        .collect();
    let counts = Counts::new(cache, outlook);
    let resolved = resolved(cache, outlook);
    let ready = ready(cache, outlook, problems, &counts);
    let progressing = progressing(cache, outlook, problems, &counts, &ready);
    let degraded = degraded(problems, &ready);
    let mut conditions = before.conditions.clone();
    for finding in [resolved, progressing, ready, degraded] {
        conditions::set(&mut conditions, finding, generation, now);
    }
    let size: i64 = models.iter().map(|model| model.size_bytes).sum();
    let origin: i64 = models.iter().map(|model| model.origin_bytes).sum();
    let known = outlook
        .models
        .iter()
        .any(|model| model.state.facts().is_some());
    ModelCacheStatus {
        observed_generation: generation,
        conditions,
        ready: format!("{}/{}", counts.ready.len(), counts.nodes.len()),
        size: if known {
            human_bytes(size)
        } else {
            String::new()
        },
        revision: models.first().map(revision).unwrap_or_default(),
        origin_copies: human_copies(origin, size),
        models,
    }
}

fn revision(model: &ModelStatus) -> String {
    match &model.commit {
        Some(commit) if *commit == model.revision => commit.chars().take(8).collect(),
        Some(commit) => {
            let commit: String = commit.chars().take(8).collect();
            format!("{} ({commit})", model.revision)
        }
        None => model.revision.clone(),
    }
}

fn model_status(model: &Model, outlook: &ModelOutlook) -> ModelStatus {
    let count = |which: fn(&Standing) -> bool| {
        let nodes = outlook.nodes.values().filter(|standing| which(standing));
        i64::try_from(nodes.count()).unwrap_or(i64::MAX)
    };
    let mut status = ModelStatus {
        name: model.name.clone(),
        repository: model.source.repository.clone(),
        revision: model.source.revision.clone(),
        nodes_desired: count(|_| true),
        nodes_ready: count(|standing| *standing == Standing::Ready),
        nodes_failed: count(|standing| matches!(standing, Standing::Failed { .. })),
        origin_bytes: outlook.origin_bytes,
        peer_bytes: outlook.peer_bytes,
        ..ModelStatus::default()
    };
    match &outlook.state {
        ModelState::Known(facts) => {
            status.commit = Some(facts.commit.clone());
            status.snapshot = Some(facts.name.clone());
            status.files = i64::try_from(facts.files).unwrap_or(i64::MAX);
            status.size_bytes = i64::try_from(facts.size_bytes).unwrap_or(i64::MAX);
        }
        ModelState::Resolving { commit } => {
            status.commit.clone_from(commit);
            status.reason = Some(reasons::RESOLVING.to_owned());
            status.message = Some(format!("asking {}", model.source.endpoint));
        }
        ModelState::Failed { fault, commit } => {
            status.commit.clone_from(commit);
            status.reason = Some(fault.reason().to_owned());
            status.message = Some(fault.message(&model.field, &model.name, &model.source));
        }
        ModelState::Suspended => {
            status.reason = Some(reasons::SUSPENDED.to_owned());
            status.message = Some("spec.suspend is set: the hub is not asked".to_owned());
        }
    }
    status
}

/// Nodes of a ModelCache.
struct Counts<'a> {
    /// Those that should hold a model.
    nodes: BTreeSet<&'a str>,
    /// Those that hold all they should.
    ready: BTreeSet<&'a str>,
    /// Those that report an error.
    failed: BTreeSet<&'a str>,
    /// Whether no pool lacks more nodes than it may.
    tolerable: bool,
}

impl<'a> Counts<'a> {
    fn new(cache: &Cache, outlook: &'a Outlook) -> Self {
        let standings = || outlook.models.iter().flat_map(|model| &model.nodes);
        let which = |matches: fn(&Standing) -> bool| -> BTreeSet<&'a str> {
            standings()
                .filter(|(_, standing)| matches(standing))
                .map(|(node, _)| node.as_str())
                .collect()
        };
        let nodes = which(|_| true);
        let lacking = which(|standing| *standing != Standing::Ready);
        let mut lacking_of_pool: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        for node in &lacking {
            let pool = outlook.selection.pools.get(*node).copied();
            *lacking_of_pool.entry(pool).or_default() += 1;
        }
        let tolerable = lacking_of_pool.iter().all(|(pool, lacking)| {
            let pool = pool.and_then(|pool| cache.pools.get(pool));
            pool.is_some_and(|pool| *lacking <= pool.tolerable_failures)
        });
        Self {
            ready: nodes.difference(&lacking).copied().collect(),
            failed: which(|standing| matches!(standing, Standing::Failed { .. })),
            nodes,
            tolerable,
        }
    }
}

fn finding(
    type_: &'static str,
    status: Status,
    reason: &'static str,
    message: impl Into<String>,
) -> Finding {
    Finding {
        type_,
        status,
        reason,
        message: message.into(),
    }
}

fn resolved(cache: &Cache, outlook: &Outlook) -> Finding {
    let type_ = types::RESOLVED;
    let unresolved = cache.models.iter().zip(&outlook.models);
    let mut messages = Vec::new();
    let mut first = None;
    for (model, outlook) in unresolved {
        let (reason, message) = match &outlook.state {
            ModelState::Known(_) => continue,
            ModelState::Failed { fault, .. } => (
                fault.reason(),
                fault.message(&model.field, &model.name, &model.source),
            ),
            ModelState::Resolving { .. } => (
                reasons::RESOLVING,
                format!(
                    "{} {:?}: asking {}",
                    model.field, model.name, model.source.endpoint
                ),
            ),
            ModelState::Suspended => (
                reasons::SUSPENDED,
                format!("{} {:?}: spec.suspend is set", model.field, model.name),
            ),
        };
        // A failure says more than that others are still under way.
        if first.is_none_or(|first| first == reasons::RESOLVING) {
            first = Some(reason);
        }
        messages.push(message);
    }
    match first {
        None => finding(
            type_,
            Status::True,
            reasons::RESOLVED,
            match cache.models.len() {
                1 => "the model is resolved to a commit and its files".to_owned(),
                models => format!("all {models} models are resolved to commits and their files"),
            },
        ),
        Some(reason) if reason == reasons::RESOLVING => {
            finding(type_, Status::Unknown, reason, messages.join("; "))
        }
        Some(reason) => finding(type_, Status::False, reason, messages.join("; ")),
    }
}

fn ready(cache: &Cache, outlook: &Outlook, problems: &[Found], counts: &Counts<'_>) -> Finding {
    let type_ = types::READY;
    let (nodes, ready) = (counts.nodes.len(), counts.ready.len());
    let failed = |outlook: &&ModelOutlook| matches!(outlook.state, ModelState::Failed { .. });
    let all_known = outlook
        .models
        .iter()
        .all(|model| model.state.facts().is_some());
    if all_known && nodes > 0 && counts.tolerable {
        let message = if ready == nodes {
            format!(
                "{} all models, verified",
                people(nodes, "node holds", "nodes hold")
            )
        } else {
            format!(
                "{ready} of {nodes} nodes hold all models, verified; spec.nodePools[].tolerableFailures allows for the rest"
            )
        };
        let message = message + &not_counted(&outlook.selection);
        return finding(type_, Status::True, reasons::ALL_NODES_READY, message);
    }
    let (reason, message) = if let Some(fault) = outlook.models.iter().find(failed) {
        let reason = match &fault.state {
            ModelState::Failed { fault, .. } => fault.reason(),
            _ => reasons::RESOLVING,
        };
        (reason, first_message(problems, reason))
    } else if cache.suspended {
        let message = format!(
            "{ready} of {nodes} nodes hold all models; nothing more is done while spec.suspend is set"
        );
        (reasons::SUSPENDED, message)
    } else if !all_known {
        (
            reasons::RESOLVING,
            "the hub is being asked for the models' files".to_owned(),
        )
    } else if nodes == 0 {
        (reasons::NO_NODES, no_nodes(cache, &outlook.selection))
    } else if !counts.failed.is_empty() {
        let message = first_message(problems, reasons::NODES_FAILED);
        (
            reasons::NODES_FAILED,
            format!("{ready} of {nodes} nodes hold all models; {message}"),
        )
    } else {
        (
            reasons::DOWNLOADING,
            format!("{ready} of {nodes} nodes hold all models"),
        )
    };
    let message = match reason {
        reasons::NODES_FAILED | reasons::DOWNLOADING => message + &not_counted(&outlook.selection),
        _ => message,
    };
    finding(type_, Status::False, reason, message)
}

/// Nodes that a person may miss in the number of nodes.
fn not_counted(selection: &Selection) -> String {
    if selection.without_agent.is_empty() {
        return String::new();
    }
    let nodes: Vec<&str> = selection.without_agent.iter().map(String::as_str).collect();
    format!(
        "; not counted: {}, selected by spec.nodePools but without an agent (agents run on {})",
        nodes_for_people(&nodes),
        selection.agents
    )
}

fn first_message(problems: &[Found], reason: &str) -> String {
    problems
        .iter()
        .find(|found| found.reason == reason)
        .map(|found| found.message.clone())
        .unwrap_or_default()
}

fn people(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("the one {one}"),
        count => format!("all {count} {many}"),
    }
}

fn no_nodes(cache: &Cache, selection: &Selection) -> String {
    let agents = &selection.agents;
    let pools: Vec<String> = cache
        .pools
        .iter()
        .filter_map(|pool| {
            Some(format!(
                "pool {:?} ({})",
                pool.name.as_ref()?,
                pool.selector()
            ))
        })
        .collect();
    let without: Vec<&str> = selection.without_agent.iter().map(String::as_str).collect();
    if pools.is_empty() {
        format!(
            "no node is there to hold the models: agents run on {agents}: add or label nodes, or correct agent.nodeSelector of the chart"
        )
    } else if without.is_empty() {
        format!(
            "spec.nodePools: no node is selected by {}: label nodes so, or correct nodeSelector",
            pools.join(", ")
        )
    } else {
        format!(
            "spec.nodePools: {} select {} only, without an agent: agents run on {agents}: correct nodeSelector, or agent.nodeSelector of the chart",
            pools.join(", "),
            nodes_for_people(&without),
        )
    }
}

fn progressing(
    cache: &Cache,
    outlook: &Outlook,
    problems: &[Found],
    counts: &Counts<'_>,
    ready: &Finding,
) -> Finding {
    let type_ = types::PROGRESSING;
    if cache.suspended {
        return finding(
            type_,
            Status::False,
            reasons::SUSPENDED,
            "spec.suspend is set: what is there stays and can be mounted, nothing more is fetched",
        );
    }
    let states = || outlook.models.iter().map(|model| &model.state);
    if states().any(|state| matches!(state, ModelState::Resolving { .. })) {
        return finding(
            type_,
            Status::True,
            reasons::RESOLVING,
            "the hub is being asked for the models' files",
        );
    }
    let busy = counts.nodes.len() - counts.ready.len() - counts.failed.len();
    let known = states().any(|state| state.facts().is_some());
    if busy > 0 && known {
        return finding(
            type_,
            Status::True,
            reasons::DOWNLOADING,
            format!(
                "{} of {} nodes hold all models",
                counts.ready.len(),
                counts.nodes.len()
            ),
        );
    }
    let passing = [reasons::RATE_LIMITED, reasons::ORIGIN_UNAVAILABLE];
    let asking = passing.contains(&ready.reason);
    let message = if ready.status == Status::True {
        "nothing is left to do".to_owned()
    } else if problems.is_empty() {
        ready.message.clone()
    } else {
        "see the condition Degraded".to_owned()
    };
    finding(type_, asking.into(), ready.reason, message)
}

fn degraded(problems: &[Found], ready: &Finding) -> Finding {
    let type_ = types::DEGRADED;
    match problems.first() {
        None => finding(
            type_,
            Status::False,
            ready.reason,
            "nothing needs attention",
        ),
        Some(first) => {
            let messages: Vec<&str> = problems
                .iter()
                .map(|found| found.message.as_str())
                .collect();
            finding(type_, Status::True, first.reason, messages.join("; "))
        }
    }
}

#[cfg(test)]
mod tests;
