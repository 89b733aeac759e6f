//! Making ModelCaches and seeing how they stand.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams};
use modelcache_crds::model_cache_node::{NodeSnapshotStatus, Phase};
use modelcache_crds::{ModelCache, ModelCacheNode, ModelCacheStatus};

use crate::wait::until;
use crate::world::World;

impl World {
    /// The status of a ModelCache.
    pub async fn status(&self, name: &str) -> Result<ModelCacheStatus> {
        let api: Api<ModelCache> = Api::all(self.client.clone());
        api.get(name)
            .await?
            .status
            .with_context(|| format!("{name} has no status yet"))
    }

    /// Waits until the ModelCache's Ready condition is true for its current generation.
    pub async fn ready(&self, name: &str, limit: Duration) -> Result<ModelCacheStatus> {
        let api: Api<ModelCache> = Api::all(self.client.clone());
        until(format!("ModelCache {name} to be Ready"), limit, || async {
            let object = api.get(name).await?;
            let status = object.status.context("no status yet")?;
            if status.observed_generation != object.metadata.generation {
                bail!("status is of an older generation");
            }
            let condition = condition(&status, "Ready").context("no Ready condition yet")?;
            if condition.status != "True" {
                let nodes = self.describe_nodes().await.unwrap_or_default();
                bail!(
                    "Ready is {} ({}): {}\n{nodes}",
                    condition.status,
                    condition.reason,
                    condition.message
                );
            }
            Ok(status)
        })
        .await
    }

    /// Waits for a condition with this status and reason; its message.
    pub async fn reason(
        &self,
        name: &str,
        type_: &str,
        status: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<String> {
        until(
            format!("ModelCache {name}: {type_}={status} {reason}"),
            limit,
            || async {
                let found = self.status(name).await?;
                let condition =
                    condition(&found, type_).with_context(|| format!("no condition {type_}"))?;
                if condition.status != status || condition.reason != reason {
                    bail!(
                        "{type_} is {} {}: {}",
                        condition.status,
                        condition.reason,
                        condition.message
                    );
                }
                Ok(condition.message.clone())
            },
        )
        .await
    }

    /// How a snapshot of `cache` stands on every node, by node name.
    pub async fn node_statuses(&self, cache: &str) -> Result<Vec<(String, NodeSnapshotStatus)>> {
        let snapshots: Vec<String> = self
            .status(cache)
            .await?
            .models
            .into_iter()
            .filter_map(|model| model.snapshot)
            .collect();
        let api: Api<ModelCacheNode> = Api::all(self.client.clone());
        let mut found = Vec::new();
        for node in api.list(&ListParams::default()).await? {
            for snapshot in node
                .status
                .map(|status| status.snapshots)
                .unwrap_or_default()
            {
                if snapshots.contains(&snapshot.name) {
                    found.push((node.spec.node_name.clone(), snapshot));
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// One line a node and snapshot, for messages.
    pub async fn describe_nodes(&self) -> Result<String> {
        let api: Api<ModelCacheNode> = Api::all(self.client.clone());
        let mut lines = Vec::new();
        for node in api.list(&ListParams::default()).await? {
            for s in node
                .status
                .map(|status| status.snapshots)
                .unwrap_or_default()
            {
                lines.push(format!(
                    "  {}: {} {:?} {}/{} origin {} peers {} {} {}",
                    node.spec.node_name,
                    s.name,
                    s.phase,
                    s.held_bytes,
                    s.size_bytes,
                    s.origin_bytes,
                    s.peer_bytes,
                    s.reason.unwrap_or_default(),
                    s.message.unwrap_or_default()
                ));
            }
        }
        Ok(lines.join("\n"))
    }

    /// Waits until `node` reports the phase Ready for every model of `cache`.
    pub async fn ready_on(&self, cache: &str, node: &str, limit: Duration) -> Result<()> {
        until(format!("{cache} to be Ready on {node}"), limit, || async {
            let models = self.status(cache).await?.models.len();
            let statuses = self.node_statuses(cache).await?;
            let ready = statuses
                .iter()
                .filter(|(name, status)| name == node && status.phase == Phase::Ready)
                .count();
            if ready < models {
                bail!(
                    "{ready} of {models} models are ready there\n{}",
                    self.describe_nodes().await?
                );
            }
            Ok(())
        })
        .await
    }

    /// Deletes a ModelCache and waits until it is gone.
    pub async fn delete_cache(&self, name: &str) -> Result<()> {
        let api: Api<ModelCache> = Api::all(self.client.clone());
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        until(
            format!("ModelCache {name} to be gone"),
            Duration::from_secs(30),
            || async {
                match api.get_opt(name).await? {
                    None => Ok(()),
                    Some(_) => bail!("still there"),
                }
            },
        )
        .await
    }
}

/// A condition of a ModelCache's status.
#[must_use]
pub fn condition<'a>(status: &'a ModelCacheStatus, type_: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}
