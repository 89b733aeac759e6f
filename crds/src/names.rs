//! Names that more than one program must agree on.

use sha2::{Digest, Sha256};

/// API group.
pub const GROUP: &str = "modelcache.io";

/// Prefix of the labels that the operator sets on a Node where a model is whole.
pub const READY_LABEL_PREFIX: &str = "ready.modelcache.io/";

/// Value of a ready label.
pub const READY_LABEL_VALUE: &str = "true";

/// Label on volumes and claims: the name of the `ModelCache` they belong to.
///
/// Label values end at 63 characters; use [`label_value`].
pub const CACHE_LABEL: &str = "modelcache.io/cache";

/// Label on volumes and claims: the name of the model within its `ModelCache`.
pub const MODEL_LABEL: &str = "modelcache.io/model";

/// Annotation on volumes: `<cache>/<model>`, in full where labels and names had to be hashed.
pub const MODEL_ANNOTATION: &str = "modelcache.io/cache-model";

/// Annotation on volumes: `<namespace>/<claim>` in full.
pub const CLAIM_ANNOTATION: &str = "modelcache.io/claim";

/// Annotation on claims that Kubernetes looked at before it knew their volume: the uid of that volume.
pub const WAKE_ANNOTATION: &str = "modelcache.io/volume-uid";

/// Annotation on a Secret with an access token: base URL of the hub to which alone the token may be sent. Without it: the
/// operator's default.
pub const ENDPOINT_ANNOTATION: &str = "modelcache.io/endpoint";

/// Annotation on the Secret with the cluster's keys: whoever sets it, to any value, asks the operator for a new key.
pub const ROTATE_ANNOTATION: &str = "modelcache.io/rotate";

/// Annotation on the same Secret: when the operator last made a key, RFC 3339.
pub const ROTATED_AT_ANNOTATION: &str = "modelcache.io/rotated-at";

/// Name of that Secret unless the chart is told otherwise.
pub const DEFAULT_KEY_SECRET: &str = "modelcache-key";

/// Field manager of the operator.
pub const OPERATOR_MANAGER: &str = "modelcache-operator";

/// Field manager of the agents.
pub const AGENT_MANAGER: &str = "modelcache-agent";

/// Audience of the token with which an agent shows itself to the coordinator.
pub const COORDINATOR_AUDIENCE: &str = "modelcache.io/coordinator";

/// Prefix of the names of our PersistentVolumes.
pub const VOLUME_PREFIX: &str = "modelcache-";

/// Where the cache lies on a node unless the chart is told otherwise.
pub const DEFAULT_CACHE_DIR: &str = "/var/lib/modelcache";

/// Longest name part of a label key, and longest label value.
const LABEL_MAX: usize = 63;

/// Key of the label that a Node bears while it holds the model whole.
///
/// `ready.modelcache.io/<cache>.<model>`; where that is longer than a label key may be,
/// `ready.modelcache.io/h-<first 16 hex digits of the SHA-256 of "<cache>.<model>">`.
#[must_use]
pub fn ready_label(cache: &str, model: &str) -> String {
    format!(
        "{READY_LABEL_PREFIX}{}",
        label_value(&format!("{cache}.{model}"))
    )
}

/// `text` where it may be a label value, else `h-` and 16 hex digits of its SHA-256.
///
/// Names of Kubernetes objects are right label values except for their length.
#[must_use]
pub fn label_value(text: &str) -> String {
    if text.len() <= LABEL_MAX {
        text.to_owned()
    } else {
        format!("h-{}", short_hash(text))
    }
}

/// Name of the PersistentVolume behind the claim `claim` in `namespace`.
#[must_use]
pub fn volume_name(namespace: &str, claim: &str) -> String {
    format!(
        "{VOLUME_PREFIX}{}",
        short_hash(&format!("{namespace}/{claim}"))
    )
}

/// The first 16 hex digits of the SHA-256 of `text`.
fn short_hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    hex::encode(&digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_label_is_readable_while_it_fits() {
        assert_eq!(
            ready_label("embedders", "minilm"),
            "ready.modelcache.io/embedders.minilm"
        );
        let cache = "c".repeat(31);
        let exactly_63 = ready_label(&cache, &"m".repeat(31));
        assert_eq!(
            exactly_63,
            format!("ready.modelcache.io/{cache}.{}", "m".repeat(31))
        );
    }

    #[test]
    fn a_ready_label_that_does_not_fit_is_hashed_and_stays_distinct() {
        let cache = "c".repeat(31);
        let one = ready_label(&cache, &"m".repeat(32));
        let two = ready_label(&cache, &"n".repeat(32));
        // printf %s "ccc….mmm…" | sha256sum
        assert_eq!(one, "ready.modelcache.io/h-3c5fb0057b8a60f8");
        assert_ne!(one, two);
        for label in [one, two] {
            let name = label.strip_prefix(READY_LABEL_PREFIX).unwrap();
            assert!(name.len() <= LABEL_MAX);
            assert_eq!(name.len(), 2 + 16);
        }
    }

    #[test]
    fn a_volume_is_named_by_its_claim() {
        // printf %s team-a/minilm | sha256sum
        assert_eq!(
            volume_name("team-a", "minilm"),
            "modelcache-d64ceb3c453cbfa7"
        );
        assert_ne!(
            volume_name("team-a", "minilm"),
            volume_name("team", "a-minilm")
        );
    }
}
