//! Pods that use a model.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use serde::Deserialize;

use crate::wait::until;
use crate::world::{World, is_ready};

const MANIFEST: &str = include_str!("../manifests/readers.yaml");
const SCRIPT: &str = include_str!("../reader/embed.py");

/// What a reader found and computed.
#[derive(Clone, Debug, Deserialize)]
pub struct Reading {
    /// Node it ran on.
    pub node: String,
    /// Where the client library found the files.
    pub directory: String,
    /// SHA-256 of every file, by path.
    pub files: BTreeMap<String, String>,
    /// The embedding.
    pub embedding: Vec<f64>,
}

impl Reading {
    /// Whether all files read are those of the original, the weights among them, and give the same embedding (to 1e-5:
    /// another processor may order the sums differently).
    #[must_use]
    pub fn agrees_with(&self, original: &Self) -> bool {
        self.files.contains_key("model.safetensors")
            && self
                .files
                .iter()
                .all(|(path, digest)| original.files.get(path) == Some(digest))
            && self.embedding.len() == original.embedding.len()
            && self
                .embedding
                .iter()
                .zip(&original.embedding)
                .all(|(a, b)| (a - b).abs() <= 1e-5)
    }
}

/// The manifest of a `DaemonSet` whose pods mount `claim` of their namespace and compute an embedding of `repository`.
#[must_use]
pub fn readers(world: &World, namespace: &str, claim: &str, repository: &str) -> String {
    let script = SCRIPT
        .lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n");
    let config = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: reader-script, namespace: {namespace}}}\ndata:\n  embed.py: |\n{script}"
    );
    let daemon_set = MANIFEST
        .replace("READER_IMAGE", &world.images.name("reader"))
        .replace("REPOSITORY", repository)
        .replace("CLAIM", claim)
        .replace("NAMESPACE", namespace);
    format!("{config}\n---\n{daemon_set}")
}

impl World {
    /// Why the scheduler keeps a pod pending, in its own words.
    pub async fn pending_reason(&self, pod: &Pod) -> Result<String> {
        let events: Api<Event> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let selector = format!(
            "involvedObject.name={},reason=FailedScheduling",
            pod.name_any()
        );
        let found = events
            .list(&ListParams::default().fields(&selector))
            .await?;
        found
            .items
            .into_iter()
            .filter_map(|event| event.message)
            .next_back()
            .context("no FailedScheduling event")
    }

    /// What the readers of every node found; waits until each has answered.
    pub async fn readings(
        &self,
        namespace: &str,
        nodes: usize,
        limit: Duration,
    ) -> Result<Vec<Reading>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        until(format!("{nodes} readers to answer"), limit, || async {
            let mut readings = Vec::new();
            for pod in self.pods(namespace, "app=readers").await? {
                if !is_ready(&pod) {
                    continue;
                }
                let parameters = LogParams {
                    container: Some("reader".to_owned()),
                    ..LogParams::default()
                };
                let log = api.logs(&pod.name_any(), &parameters).await?;
                if let Some(line) = log.lines().find(|line| line.starts_with('{')) {
                    readings.push(serde_json::from_str::<Reading>(line)?);
                }
            }
            if readings.len() < nodes {
                bail!("{} of {nodes} have", readings.len());
            }
            readings.sort_by(|a, b| a.node.cmp(&b.node));
            Ok(readings)
        })
        .await
    }
}
