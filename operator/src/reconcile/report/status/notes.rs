//! The Events that the step from one status to the next deserves, each told once.

use std::collections::BTreeSet;

use modelcache_crds::ModelCacheStatus;
use modelcache_crds::conditions::{self, Status, reasons, types};
use modelcache_crds::quantity::human_bytes;

use super::problems::{Found, Subject};
use crate::reconcile::plan::{ModelState, Outlook};
use crate::reconcile::validate::Cache;

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

/// The problems that an earlier process has told of already, as far as its status shows.
pub(in crate::reconcile::report) fn told_before(
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
pub(in crate::reconcile::report) fn told_now(
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
pub(in crate::reconcile::report) fn notes(
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
