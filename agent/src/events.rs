//! Which Events a change of the state is worth: pure.

use modelcache_crds::model_cache_node::Phase;
use modelcache_crds::quantity::human_bytes;

use crate::reasons;
use crate::state::{NodeState, SnapshotState};

/// An Event to be published about this node's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which snapshot it is about.
    pub snapshot: String,
    /// One of [`reasons`].
    pub reason: &'static str,
    /// Whether a person should look at it.
    pub warning: bool,
    /// For people.
    pub message: String,
}

/// What happened between two states.
#[must_use]
pub fn between(old: &NodeState, new: &NodeState) -> Vec<Note> {
    new.snapshots
        .iter()
        .flat_map(|now| {
            let before = old.snapshots.iter().find(|before| before.name == now.name);
            notes(before, now)
        })
        .collect()
}

fn notes(before: Option<&SnapshotState>, now: &SnapshotState) -> Vec<Note> {
    let mut notes = Vec::new();
    let old_phase = before.map_or(Phase::Pending, |before| before.phase);
    let old_reason = before
        .and_then(|before| before.problem.as_ref())
        .map(|problem| problem.reason);
    let name = named(now);
    if now.phase == Phase::Downloading && old_phase == Phase::Pending {
        notes.push(Note {
            snapshot: now.name.clone(),
            reason: reasons::DOWNLOADING,
            warning: false,
            message: format!(
                "Downloading {name}: {} of {} are here",
                human(now.held_bytes),
                human(now.size_bytes)
            ),
        });
    }
    if now.phase == Phase::Ready && old_phase != Phase::Ready && now.fresh {
        notes.push(Note {
            snapshot: now.name.clone(),
            reason: reasons::READY,
            warning: false,
            message: format!(
                "{name} is whole, verified and published: {}, of it {} from the hub and {} from other nodes",
                human(now.size_bytes),
                human(now.origin_bytes),
                human(now.peer_bytes)
            ),
        });
    }
    if let Some(problem) = &now.problem
        && now.phase == Phase::Failed
        && (old_phase != Phase::Failed || old_reason != Some(problem.reason))
    {
        notes.push(Note {
            snapshot: now.name.clone(),
            reason: problem.reason,
            warning: true,
            message: format!("{name}: {}", problem.message),
        });
    }
    notes
}

fn named(snapshot: &SnapshotState) -> String {
    let models: Vec<String> = snapshot
        .models
        .iter()
        .map(|model| format!("{}/{}", model.cache, model.model))
        .collect();
    if models.is_empty() {
        snapshot.name.clone()
    } else {
        format!("{} ({})", models.join(", "), snapshot.name)
    }
}

fn human(bytes: u64) -> String {
    human_bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use modelcache_crds::model_cache_node::NodeModel;

    use crate::state::Problem;

    use super::*;

    fn state(phase: Phase) -> NodeState {
        NodeState {
            snapshots: vec![SnapshotState {
                name: "rocket-1".to_owned(),
                repository: None,
                models: vec![NodeModel {
                    cache: "space".to_owned(),
                    model: "rocket".to_owned(),
                }],
                phase,
                size_bytes: 91_000_000,
                held_bytes: 0,
                origin_bytes: 30_000_000,
                peer_bytes: 61_000_000,
                problem: None,
                verified_at: None,
                fresh: true,
            }],
            ..NodeState::default()
        }
    }

    fn failed(reason: &'static str) -> NodeState {
        let mut state = state(Phase::Failed);
        state.snapshots[0].problem = Some(Problem {
            reason,
            message: "why".to_owned(),
            retry_at: None,
        });
        state
    }

    fn reasons_of(old: &NodeState, new: &NodeState) -> Vec<&'static str> {
        between(old, new).iter().map(|note| note.reason).collect()
    }

    #[test]
    fn transitions_are_told_once() {
        let nothing: [&str; 0] = [];
        let none = NodeState::default();
        assert_eq!(reasons_of(&none, &state(Phase::Pending)), nothing);
        assert_eq!(
            reasons_of(&none, &state(Phase::Downloading)),
            [reasons::DOWNLOADING]
        );
        assert_eq!(
            reasons_of(&state(Phase::Downloading), &state(Phase::Downloading)),
            nothing
        );
        assert_eq!(
            reasons_of(&state(Phase::Downloading), &failed(reasons::GATED)),
            [reasons::GATED]
        );
        assert_eq!(
            reasons_of(&failed(reasons::GATED), &failed(reasons::GATED)),
            nothing
        );
        assert_eq!(
            reasons_of(&failed(reasons::GATED), &failed(reasons::NO_SPACE)),
            [reasons::NO_SPACE]
        );
        // Getting over a problem is no new download.
        assert_eq!(
            reasons_of(&failed(reasons::GATED), &state(Phase::Downloading)),
            nothing
        );
        let ready = between(&state(Phase::Verifying), &state(Phase::Ready));
        assert_eq!(
            ready[0].message,
            "space/rocket (rocket-1) is whole, verified and published: 91 MB, of it 30 MB from the hub and 61 MB from other nodes"
        );
    }

    #[test]
    fn what_was_ready_before_the_agent_started_is_no_news() {
        let mut ready = state(Phase::Ready);
        ready.snapshots[0].fresh = false;
        assert!(between(&NodeState::default(), &ready).is_empty());
    }
}
