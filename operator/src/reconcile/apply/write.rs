//! Carries out one write. Client required.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use modelcache_crds::names::{OPERATOR_MANAGER, READY_LABEL_VALUE, WAKE_ANNOTATION};
use modelcache_crds::{ModelCacheNode, ModelSnapshot};
use serde_json::json;

use super::{Action, ApplyError, said};
use crate::reconcile::build;
use crate::reconcile::plan::Volume;
use crate::source::SOURCE_LABEL;

pub(super) async fn run(client: &Client, action: &Action) -> Result<(), ApplyError> {
    let refused = |error: kube::Error| ApplyError::Refused(said(&error));
    let apply = PatchParams::apply(OPERATOR_MANAGER).force();
    let merge = PatchParams {
        field_manager: Some(OPERATOR_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let client = client.clone();
    match action {
        Action::CreateSnapshot(object) => create_snapshot(client, object, &merge)
            .await
            .map_err(refused),
        Action::Label { node, labels } => {
            let labels: BTreeMap<&String, Option<&str>> = labels
                .iter()
                .map(|(key, set)| (key, set.then_some(READY_LABEL_VALUE)))
                .collect();
            let patch = json!({"metadata": {"labels": labels}});
            let api: Api<Node> = Api::all(client);
            let patched = api
                .patch_metadata(node, &merge, &Patch::Merge(&patch))
                .await;
            gone_is_fine(patched.map(drop)).map_err(refused)
        }
        Action::ApplyIntent { node, object } => {
            let api: Api<ModelCacheNode> = Api::all(client);
            let patched = api
                .patch_metadata(node, &apply, &Patch::Apply(object))
                .await;
            patched.map(drop).map_err(refused)
        }
        Action::DeleteIntent { node, uid } => {
            delete(Api::<ModelCacheNode>::all(client), node, uid).await
        }
        Action::ApplyVolume { volume, claim_uid } => {
            let object = build::volume(volume, claim_uid.as_deref());
            let api: Api<PersistentVolume> = Api::all(client);
            let patched = api
                .patch_metadata(&volume.name, &apply, &Patch::Apply(&object))
                .await;
            patched.map(drop).map_err(refused)
        }
        Action::ReclaimVolume(volume) => {
            let patch = json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}});
            let api: Api<PersistentVolume> = Api::all(client);
            let patched = api
                .patch_metadata(&volume.name, &merge, &Patch::Merge(&patch))
                .await;
            gone_is_fine(patched.map(drop)).map_err(refused)
        }
        Action::ApplyClaim { volume, exists } => apply_claim(client, volume, *exists, &apply).await,
        Action::WakeClaim {
            namespace,
            name,
            volume_uid,
        } => {
            let patch = json!({"metadata": {"annotations": {WAKE_ANNOTATION: volume_uid}}});
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace);
            let patched = api
                .patch_metadata(name, &merge, &Patch::Merge(&patch))
                .await;
            gone_is_fine(patched.map(drop)).map_err(refused)
        }
        Action::DeleteClaim {
            namespace,
            name,
            uid,
        } => {
            delete(
                Api::<PersistentVolumeClaim>::namespaced(client, namespace),
                name,
                uid,
            )
            .await
        }
        Action::DeleteVolume { name, uid } => {
            delete(Api::<PersistentVolume>::all(client), name, uid).await
        }
        Action::DeleteSnapshot { name, uid } => {
            delete(Api::<ModelSnapshot>::all(client), name, uid).await
        }
    }
}

/// Immutable objects are created, not applied. One of that name that is there has the same content, because the name
/// says it; only its label may have been lost.
async fn create_snapshot(
    client: Client,
    object: &ModelSnapshot,
    merge: &PatchParams,
) -> Result<(), kube::Error> {
    let api: Api<ModelSnapshot> = Api::all(client);
    let parameters = PostParams {
        field_manager: Some(OPERATOR_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let label = object.labels().get(SOURCE_LABEL);
            let patch = json!({"metadata": {"labels": {SOURCE_LABEL: label}}});
            api.patch_metadata(&object.name_any(), merge, &Patch::Merge(&patch))
                .await
                .map(drop)
        }
        created => created.map(drop),
    }
}

/// A claim of that name that is not ours is not touched, unless it was made for our volume.
async fn apply_claim(
    client: Client,
    volume: &Volume,
    exists: bool,
    apply: &PatchParams,
) -> Result<(), ApplyError> {
    let refused = |error: kube::Error| ApplyError::Refused(said(&error));
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client, &volume.namespace);
    if !exists && let Some(other) = api.get_opt(&volume.claim).await.map_err(refused)? {
        let named = other.spec.and_then(|spec| spec.volume_name);
        if named.as_deref() != Some(volume.name.as_str()) {
            return Err(ApplyError::ForeignClaim(volume.claim_key()));
        }
    }
    let object = build::claim(volume);
    let patched = api
        .patch_metadata(&volume.claim, apply, &Patch::Apply(&object))
        .await;
    patched.map(drop).map_err(refused)
}

async fn delete<K>(api: Api<K>, name: &str, uid: &str) -> Result<(), ApplyError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &parameters).await {
        // Another object of that name is none of this action's business.
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
        deleted => {
            gone_is_fine(deleted.map(drop)).map_err(|error| ApplyError::Refused(said(&error)))
        }
    }
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result,
    }
}
