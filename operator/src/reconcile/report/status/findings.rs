//! The four conditions of a ModelCache.

use std::collections::{BTreeMap, BTreeSet};

use modelcache_crds::conditions::{Finding, Status, reasons, types};

use super::problems::{Found, nodes_for_people};
use crate::reconcile::plan::{ModelOutlook, ModelState, Outlook, Selection, Standing};
use crate::reconcile::validate::Cache;

/// Nodes of a ModelCache.
pub(super) struct Counts<'a> {
    /// Those that should hold a model.
    pub(super) nodes: BTreeSet<&'a str>,
    /// Those that hold all they should.
    pub(super) ready: BTreeSet<&'a str>,
    /// Those that report an error.
    failed: BTreeSet<&'a str>,
    /// Whether no pool lacks more nodes than it may.
    tolerable: bool,
}

impl<'a> Counts<'a> {
    pub(super) fn new(cache: &Cache, outlook: &'a Outlook) -> Self {
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

pub(super) fn resolved(cache: &Cache, outlook: &Outlook) -> Finding {
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

pub(super) fn ready(
    cache: &Cache,
    outlook: &Outlook,
    problems: &[Found],
    counts: &Counts<'_>,
) -> Finding {
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

pub(super) fn progressing(
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

pub(super) fn degraded(problems: &[Found], ready: &Finding) -> Finding {
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
