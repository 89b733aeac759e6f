//! Conditions of a `ModelCache`: their types, their documented reasons, and how one is set.
//!
//! The reasons are also those of Events, of `status.models[].reason` and of a `ModelCacheNode`'s
//! `status.snapshots[].reason`; what each means stands here and nowhere else.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Types of conditions.
pub mod types {
    /// Every model of the spec was resolved to a commit and an exact list of files.
    pub const RESOLVED: &str = "Resolved";
    /// Something is under way: resolving, downloading, verifying.
    pub const PROGRESSING: &str = "Progressing";
    /// Every node that should hold a model holds it whole, but for the tolerable failures of its pool.
    pub const READY: &str = "Ready";
    /// Something needs a person's attention; the message says what.
    pub const DEGRADED: &str = "Degraded";
}

/// Reasons, in `CamelCase` as Kubernetes wants them.
pub mod reasons {
    // What the operator finds.

    /// All models are resolved.
    pub const RESOLVED: &str = "Resolved";
    /// The hub is being asked; nothing is known yet.
    pub const RESOLVING: &str = "Resolving";
    /// The hub knows no such repository (or hides it from whoever has no right to it).
    pub const REPOSITORY_NOT_FOUND: &str = "RepositoryNotFound";
    /// The repository has no such branch, tag or commit.
    pub const REVISION_NOT_FOUND: &str = "RevisionNotFound";
    /// `spec.models[].source.huggingFace.tokenSecret` names a Secret or key that is not there.
    pub const TOKEN_SECRET_MISSING: &str = "TokenSecretMissing";
    /// `include` and `exclude` leave no file.
    pub const NO_FILES_MATCH: &str = "NoFilesMatch";
    /// The repository has a file whose path would leave the cache.
    pub const UNSAFE_PATH: &str = "UnsafePath";
    /// The repository has more files than one `ModelSnapshot` can list.
    pub const TOO_MANY_FILES: &str = "TooManyFiles";
    /// One node is selected by two pools of the same `ModelCache`.
    pub const POOL_OVERLAP: &str = "PoolOverlap";
    /// No node is selected.
    pub const NO_NODES: &str = "NoNodes";
    /// The hub's certificate is not trusted.
    pub const ORIGIN_CERTIFICATE: &str = "OriginCertificate";
    /// `spec.suspend` is set.
    pub const SUSPENDED: &str = "Suspended";
    /// Nodes are still fetching or verifying.
    pub const DOWNLOADING: &str = "Downloading";
    /// Every node holds all its models.
    pub const ALL_NODES_READY: &str = "AllNodesReady";
    /// Some nodes report an error.
    pub const NODES_FAILED: &str = "NodesFailed";
    /// The object cannot be understood; what was planned for it before stays as it is.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The volume or the claim of `spec.volumeClaims[]` cannot be made, or the claim belongs to another `ModelCache`.
    pub const VOLUME_CLAIM_FAILED: &str = "VolumeClaimFailed";
    /// `spec.models[].peers.plainBitTorrent` is set of a model that is not for everybody: it, or what another `ModelCache` makes
    /// of the same snapshot, needs a token.
    pub const NOT_PUBLIC: &str = "NotPublic";
    /// The API server refuses a `ModelSnapshot` that a model needs.
    pub const WRITE_FAILED: &str = "WriteFailed";
    /// The cluster's secret was absent and is made (only of an Event, of the Secret).
    pub const KEY_MADE: &str = "KeyMade";
    /// The cluster has a new key, and the one before it is still valid (only of an Event, of the Secret).
    pub const KEY_ROTATED: &str = "KeyRotated";
    /// The key before the current one is no longer valid (only of an Event, of the Secret).
    pub const KEY_RETIRED: &str = "KeyRetired";

    // What operator and agents find.

    /// The repository is gated and the token, or its absence, gives no right to it.
    pub const GATED: &str = "Gated";
    /// The hub refuses the token.
    pub const UNAUTHORIZED: &str = "Unauthorized";
    /// The hub says that it is asked too often (HTTP 429); it is asked again after the time it named.
    pub const RATE_LIMITED: &str = "RateLimited";
    /// The hub does not answer, or answers with a server error.
    pub const ORIGIN_UNAVAILABLE: &str = "OriginUnavailable";

    // What agents find.

    /// The model does not fit on the node's disk, or somebody else filled the disk meanwhile; nothing more is written until
    /// there is room.
    pub const NO_SPACE: &str = "NoSpace";
    /// A file that arrived does not have the hub's hash; it was thrown away and is fetched again.
    pub const HASH_MISMATCH: &str = "HashMismatch";
    /// The node's disk reports an error or is read-only.
    pub const DISK_ERROR: &str = "DiskError";
    /// The agent has no connection to the operator's coordinator. It gets on by itself as far as it can, as the message
    /// says.
    pub const NO_COORDINATOR: &str = "NoCoordinator";
    /// The policy is `PeersOnly` and no node has the bytes.
    pub const WAITING_FOR_PEERS: &str = "WaitingForPeers";
    /// The `ModelSnapshot` could not be read yet; the agent tries again by itself.
    pub const SNAPSHOT_UNKNOWN: &str = "SnapshotUnknown";
    /// The `ModelSnapshot` says something that no snapshot can say, or contradicts another one on the node.
    pub const INVALID_SNAPSHOT: &str = "InvalidSnapshot";
    /// A model is whole, verified and published on the node (only of an Event).
    pub const READY: &str = "Ready";

    /// All of them.
    pub const ALL: [&str; 34] = [
        RESOLVED,
        RESOLVING,
        REPOSITORY_NOT_FOUND,
        REVISION_NOT_FOUND,
        TOKEN_SECRET_MISSING,
        NO_FILES_MATCH,
        UNSAFE_PATH,
        TOO_MANY_FILES,
        POOL_OVERLAP,
        NO_NODES,
        ORIGIN_CERTIFICATE,
        SUSPENDED,
        DOWNLOADING,
        ALL_NODES_READY,
        NODES_FAILED,
        INVALID_SPEC,
        VOLUME_CLAIM_FAILED,
        NOT_PUBLIC,
        WRITE_FAILED,
        KEY_MADE,
        KEY_ROTATED,
        KEY_RETIRED,
        GATED,
        UNAUTHORIZED,
        RATE_LIMITED,
        ORIGIN_UNAVAILABLE,
        NO_SPACE,
        HASH_MISMATCH,
        DISK_ERROR,
        NO_COORDINATOR,
        WAITING_FOR_PEERS,
        SNAPSHOT_UNKNOWN,
        INVALID_SNAPSHOT,
        READY,
    ];
}

/// Longest message of a condition that the API server accepts.
const MESSAGE_MAX: usize = 32_768;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// What is to be said of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// One of [`types`].
    pub type_: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// One of [`reasons`].
    pub reason: &'static str,
    /// The same for people: object, field and remedy.
    pub message: String,
}

/// Sets one condition in place, or adds it at the end.
///
/// `lastTransitionTime` moves to `now` only when the status changes, so that a repeated report leaves the list as it
/// was and costs no write.
pub fn set(
    conditions: &mut Vec<Condition>,
    finding: Finding,
    generation: Option<i64>,
    now: Timestamp,
) {
    let existing = conditions
        .iter_mut()
        .find(|condition| condition.type_ == finding.type_);
    let status = finding.status.as_str();
    let since = existing
        .as_ref()
        .filter(|condition| condition.status == status)
        .map_or(Time(now), |condition| {
            condition.last_transition_time.clone()
        });
    let condition = Condition {
        type_: finding.type_.to_owned(),
        status: status.to_owned(),
        reason: finding.reason.to_owned(),
        message: shortened(finding.message),
        observed_generation: generation,
        last_transition_time: since,
    };
    match existing {
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}

/// The condition of that type.
#[must_use]
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of that type is there and `True`.
#[must_use]
pub fn holds(conditions: &[Condition], type_: &str) -> bool {
    get(conditions, type_).is_some_and(|condition| condition.status == Status::True.as_str())
}

/// A message the API server accepts, cut at a character's end where it is longer.
fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(status: Status, reason: &'static str) -> Finding {
        Finding {
            type_: types::READY,
            status,
            reason,
            message: reason.to_lowercase(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        set(
            &mut conditions,
            finding(Status::False, reasons::RESOLVING),
            Some(1),
            at(10),
        );
        set(
            &mut conditions,
            finding(Status::False, reasons::DOWNLOADING),
            Some(2),
            at(20),
        );
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].reason, "Downloading");
        assert_eq!(conditions[0].message, "downloading");
        assert_eq!(conditions[0].observed_generation, Some(2));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));

        set(
            &mut conditions,
            finding(Status::True, reasons::ALL_NODES_READY),
            Some(2),
            at(30),
        );
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
        assert!(holds(&conditions, types::READY));
        assert!(!holds(&conditions, types::DEGRADED));
    }

    #[test]
    fn the_same_report_again_changes_nothing() {
        let mut conditions = Vec::new();
        set(
            &mut conditions,
            finding(Status::Unknown, reasons::RESOLVING),
            Some(1),
            at(10),
        );
        let before = conditions.clone();
        set(
            &mut conditions,
            finding(Status::Unknown, reasons::RESOLVING),
            Some(1),
            at(99),
        );
        assert_eq!(conditions, before);
    }

    #[test]
    fn other_conditions_are_left_alone() {
        let mut conditions = Vec::new();
        let other = Finding {
            type_: types::DEGRADED,
            ..finding(Status::False, reasons::ALL_NODES_READY)
        };
        set(&mut conditions, other, Some(1), at(10));
        set(
            &mut conditions,
            finding(Status::True, reasons::ALL_NODES_READY),
            Some(1),
            at(20),
        );
        assert_eq!(conditions.len(), 2);
        assert_eq!(
            get(&conditions, types::DEGRADED).map(|c| c.last_transition_time.clone()),
            Some(Time(at(10)))
        );
    }

    #[test]
    fn a_message_too_long_for_the_api_server_is_cut_at_a_character() {
        let mut conditions = Vec::new();
        let long = Finding {
            message: "ü".repeat(MESSAGE_MAX),
            ..finding(Status::False, reasons::NODES_FAILED)
        };
        set(&mut conditions, long, None, at(1));
        let message = &conditions[0].message;
        assert!(message.len() <= MESSAGE_MAX && message.ends_with("ü…"));
    }

    #[test]
    fn reasons_are_written_as_the_api_server_wants_them() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in reasons::ALL {
            assert!(seen.insert(reason), "{reason} twice");
            assert!(reason.starts_with(|c: char| c.is_ascii_uppercase()));
            assert!(reason.chars().all(|c| c.is_ascii_alphanumeric()));
        }
    }
}
