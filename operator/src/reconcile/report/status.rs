//! What to tell of one ModelCache. Pure.

mod findings;
mod notes;
mod problems;

use jiff::Timestamp;
use modelcache_crds::ModelCacheStatus;
use modelcache_crds::conditions::{self, reasons};
use modelcache_crds::model_cache::ModelStatus;
use modelcache_crds::quantity::{human_bytes, human_copies};

use self::findings::Counts;
use crate::reconcile::plan::{ModelOutlook, ModelState, Outlook, Standing};
use crate::reconcile::validate::{Cache, Model};

pub use self::notes::Note;
pub(super) use self::notes::{notes, told_before, told_now};
pub use self::problems::Subject;
pub(super) use self::problems::{Found, problems};

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
    let resolved = findings::resolved(cache, outlook);
    let ready = findings::ready(cache, outlook, problems, &counts);
    let progressing = findings::progressing(cache, outlook, problems, &counts, &ready);
    let degraded = findings::degraded(problems, &ready);
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

#[cfg(test)]
mod tests;
