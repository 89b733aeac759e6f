//! The stand-in hub as a pod of the cluster, driven through the API server's service proxy.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wait::until;
use crate::world::{APPS, World, is_ready};

/// The hub's address as pods and agents see it.
pub const URL: &str = "http://hub.modelcache-test.svc.cluster.local:8080";
/// The second host name, from which large files are served.
const CDN: &str = "http://hub-cdn.modelcache-test.svc.cluster.local:8081";

const MANIFEST: &str = include_str!("../manifests/hub.yaml");

/// A running stand-in hub.
pub struct Hub<'a> {
    world: &'a World,
}

impl<'a> Hub<'a> {
    /// Starts a fresh hub (an earlier one is replaced) and waits until it answers.
    pub async fn start(world: &'a World, extra: &[&str]) -> Result<Hub<'a>> {
        world.namespace(APPS).await?;
        let mut arguments = vec!["--listen-address", "0.0.0.0", "--cdn-url", CDN];
        arguments.extend(extra);
        let manifest = MANIFEST
            .replace("HUB_IMAGE", &world.images.name("hub"))
            .replace("HUB_ARGUMENTS", &serde_json::to_string(&arguments)?);
        world.delete(&manifest, Duration::from_secs(60)).await?;
        until("the old hub's pods to be gone", Duration::from_secs(30), || async {
            match world.pods(APPS, "app=hub").await?.len() {
                0 => Ok(()),
                n => bail!("{n} left"),
            }
        })
        .await?;
        world.apply(&manifest).await?;
        until("the hub to be ready", Duration::from_secs(60), || async {
            if world.pods(APPS, "app=hub").await?.iter().any(is_ready) { Ok(()) } else { bail!("not ready") }
        })
        .await?;
        Ok(Self { world })
    }

    /// GET of the admin API.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("GET", path, Vec::new()).await
    }

    /// POST of the admin API.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.call("POST", path, serde_json::to_vec(body)?).await
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Vec<u8>) -> Result<T> {
        let uri = format!("/api/v1/namespaces/{APPS}/services/hub-admin:8082/proxy{path}");
        let request =
            http::Request::builder().method(method).uri(uri).header("content-type", "application/json").body(body)?;
        let text = self.world.client.request_text(request).await.with_context(|| format!("hub: {method} {path}"))?;
        serde_json::from_str(if text.is_empty() { "null" } else { &text })
            .with_context(|| format!("hub: {method} {path} answered {}", text.chars().take(200).collect::<String>()))
    }
}
