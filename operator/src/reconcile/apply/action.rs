//! What can be written to the cluster: one case a kind of write.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use modelcache_crds::ModelSnapshot;
use serde_json::Value;

use crate::reconcile::plan::Volume;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Writes a snapshot that was resolved.
    CreateSnapshot(Box<ModelSnapshot>),
    /// Sets (`true`) and removes (`false`) ready labels of a Node.
    Label {
        /// Name of the Node.
        node: String,
        /// By key.
        labels: BTreeMap<String, bool>,
    },
    /// Writes what a node should hold.
    ApplyIntent {
        /// Name of the Node.
        node: String,
        /// The whole object.
        object: Value,
    },
    /// Removes the object of a node that holds nothing.
    DeleteIntent {
        /// Name of the Node.
        node: String,
        /// uid of the object.
        uid: String,
    },
    /// Writes a PersistentVolume.
    ApplyVolume {
        /// What it is.
        volume: Volume,
        /// uid of its claim, where that is there already.
        claim_uid: Option<String>,
    },
    /// Lets a PersistentVolume whose claim was deleted be claimed again.
    ReclaimVolume(Volume),
    /// Writes a PersistentVolumeClaim.
    ApplyClaim {
        /// What it is for.
        volume: Volume,
        /// It is there already, and ours.
        exists: bool,
    },
    /// Lets Kubernetes look again at a PersistentVolumeClaim that it did not bind although the volume is there.
    WakeClaim {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// uid of its volume.
        volume_uid: String,
    },
    /// Removes a PersistentVolumeClaim.
    DeleteClaim {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Removes a PersistentVolume.
    DeleteVolume {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Removes a snapshot.
    DeleteSnapshot {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

impl Action {
    /// Kind of the object.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateSnapshot(_) | Self::DeleteSnapshot { .. } => "ModelSnapshot",
            Self::Label { .. } => "Node",
            Self::ApplyIntent { .. } | Self::DeleteIntent { .. } => "ModelCacheNode",
            Self::ApplyVolume { .. } | Self::ReclaimVolume(_) | Self::DeleteVolume { .. } => {
                "PersistentVolume"
            }
            Self::ApplyClaim { .. } | Self::WakeClaim { .. } | Self::DeleteClaim { .. } => {
                "PersistentVolumeClaim"
            }
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Self::CreateSnapshot(_) => "create",
            Self::Label { .. } => "label",
            Self::ApplyIntent { .. } | Self::ApplyVolume { .. } | Self::ApplyClaim { .. } => {
                "apply"
            }
            Self::ReclaimVolume(_) => "reclaim",
            Self::WakeClaim { .. } => "wake",
            Self::DeleteIntent { .. }
            | Self::DeleteClaim { .. }
            | Self::DeleteVolume { .. }
            | Self::DeleteSnapshot { .. } => "delete",
        }
    }

    /// Name of the object.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::CreateSnapshot(object) => object.name_any(),
            Self::Label { node, .. }
            | Self::ApplyIntent { node, .. }
            | Self::DeleteIntent { node, .. } => node.clone(),
            Self::ApplyVolume { volume, .. } | Self::ReclaimVolume(volume) => volume.name.clone(),
            Self::ApplyClaim { volume, .. } => volume.claim_key(),
            Self::WakeClaim {
                namespace, name, ..
            }
            | Self::DeleteClaim {
                namespace, name, ..
            } => format!("{namespace}/{name}"),
            Self::DeleteVolume { name, .. } | Self::DeleteSnapshot { name, .. } => name.clone(),
        }
    }

    /// `verb kind name`: the same for every try at the same write.
    pub(super) fn key(&self) -> String {
        format!("{} {} {}", self.verb(), self.kind(), self.object())
    }
}
