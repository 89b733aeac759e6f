//! A cluster with ModelCache installed in it.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::discovery::{ApiResource, Discovery, Scope};
use kube::{Client, ResourceExt};
use modelcache_crds::ModelSnapshot;
use modelcache_test_cluster::Cluster;

use crate::wait::until;

/// Namespace of the operator and the agents.
pub const SYSTEM: &str = "modelcache-system";
/// Namespace of the hub and of pods that use models.
pub const APPS: &str = "modelcache-test";
/// Name of the Helm release.
pub const RELEASE: &str = "modelcache";
/// Field manager of the tests.
const MANAGER: &str = "modelcache-e2e";

/// The images under test: `registry/name:tag`, by default those that the test cluster has loaded.
#[derive(Clone, Debug)]
pub struct Images {
    prefix: String,
    tag: String,
}

impl Images {
    /// From `MODELCACHE_IMAGES` (`registry/prefix`, where a cluster given by `KUBECONFIG` can pull them) and
    /// `MODELCACHE_IMAGE_TAG`.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            prefix: std::env::var("MODELCACHE_IMAGES")
                .unwrap_or_else(|_| "modelcache.local".to_owned()),
            tag: std::env::var("MODELCACHE_IMAGE_TAG").unwrap_or_else(|_| "dev".to_owned()),
        }
    }

    /// Full name of one image.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}:{}", self.prefix, self.tag)
    }
}

/// A cluster, ways to reach it, and what is installed.
pub struct World {
    /// Typed client.
    pub client: Client,
    /// The machine room: power, cables, kubectl, helm.
    pub cluster: Cluster,
    /// Which images to run.
    pub images: Images,
    /// Root of the project.
    pub root: PathBuf,
}

impl World {
    /// Connects to the cluster that the environment names.
    pub async fn connect() -> Result<Self> {
        let cluster = Cluster::from_env().context("no cluster to test on")?;
        let client = Client::try_default()
            .await
            .context("cannot make a client from KUBECONFIG")?;
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let root = root
            .canonicalize()
            .context("the project's directory is gone")?;
        let world = Self {
            client,
            cluster,
            images: Images::from_env(),
            root,
        };
        world.arrive().await?;
        Ok(world)
    }

    /// Where the cache lies on every node. On a cluster of somebody else it is a directory of the tests' own.
    #[must_use]
    pub fn cache_dir(&self) -> &'static str {
        if self.cluster.is_rig() {
            "/var/lib/modelcache"
        } else {
            "/var/lib/modelcache-tests"
        }
    }

    /// Installs or upgrades the chart and waits until operator and agents are up. `values` are `key=value` pairs.
    pub async fn install(&self, values: &[&str]) -> Result<()> {
        let chart = self.root.join("charts/modelcache").display().to_string();
        let mut arguments = vec![
            "upgrade".to_owned(),
            "--install".to_owned(),
            RELEASE.to_owned(),
            chart,
            "--namespace".to_owned(),
            SYSTEM.to_owned(),
            "--wait".to_owned(),
            "--timeout".to_owned(),
            "120s".to_owned(),
        ];
        let mut set = vec![
            format!("image.registry={}", self.images.prefix),
            format!("image.tag={}", self.images.tag),
            "image.pullPolicy=IfNotPresent".to_owned(),
            format!("agent.cacheDir={}", self.cache_dir()),
        ];
        set.extend(values.iter().map(|value| (*value).to_owned()));
        for value in set {
            arguments.push("--set".to_owned());
            arguments.push(value);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.helm(&arguments)?;
        self.agents_ready(Duration::from_mins(2)).await
    }

    /// Runs helm; its output, or an error with what it said.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.cluster.helm(arguments)?)
    }

    /// Runs kubectl; its output, or an error with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.cluster.kubectl(arguments)?)
    }

    /// Names of the nodes that are Ready and can run the agent, sorted.
    pub async fn ready_nodes(&self) -> Result<Vec<String>> {
        let nodes = Api::<Node>::all(self.client.clone())
            .list(&ListParams::default())
            .await?;
        let mut names: Vec<String> = nodes
            .iter()
            .filter(|node| {
                node.status
                    .as_ref()
                    .and_then(|status| status.conditions.as_ref())
                    .is_some_and(|conditions| {
                        conditions.iter().any(|condition| {
                            condition.type_ == "Ready" && condition.status == "True"
                        })
                    })
            })
            .map(ResourceExt::name_any)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Waits until an agent is ready on every ready node.
    pub async fn agents_ready(&self, limit: Duration) -> Result<()> {
        until("an agent on every node", limit, || async {
            let nodes = self.ready_nodes().await?;
            let pods = self
                .pods(SYSTEM, "app.kubernetes.io/component=agent")
                .await?;
            for node in &nodes {
                let there = pods.iter().any(|pod| {
                    pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(node)
                        && is_ready(pod)
                });
                if !there {
                    bail!("no ready agent on {node}");
                }
            }
            Ok(())
        })
        .await
    }

    /// Pods of a namespace by label selector.
    pub async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        Ok(api
            .list(&ListParams::default().labels(selector))
            .await?
            .items)
    }

    /// The agent's pod on a node.
    pub async fn agent_pod(&self, node: &str) -> Result<Pod> {
        let pods = self
            .pods(SYSTEM, "app.kubernetes.io/component=agent")
            .await?;
        pods.into_iter()
            .find(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node))
            .with_context(|| format!("no agent on {node}"))
    }

    /// Waits until a node is Ready.
    pub async fn node_ready(&self, node: &str, limit: Duration) -> Result<()> {
        until(format!("{node} to be Ready"), limit, || async {
            if self.ready_nodes().await?.iter().any(|name| name == node) {
                Ok(())
            } else {
                bail!("not yet")
            }
        })
        .await
    }

    /// Boots one more node of the test rig; its name, once it is Ready.
    pub async fn add_node(&self) -> Result<String> {
        let there = self.ready_nodes().await?;
        let node = (1..=9)
            .map(|number| format!("node-{number}"))
            .find(|name| !there.contains(name))
            .context("the rig has nine nodes at most")?;
        self.cluster.boot(&node)?;
        self.node_ready(&node, Duration::from_mins(1)).await?;
        Ok(node)
    }

    /// The address of the hub's pod, for programs outside the cluster's service network.
    pub async fn hub_address(&self) -> Result<String> {
        let pods = self.pods(APPS, "app=hub").await?;
        let ip = pods
            .first()
            .and_then(|pod| pod.status.as_ref()?.pod_ip.clone())
            .context("the hub has no address")?;
        Ok(format!("http://{ip}:8080"))
    }

    /// Takes a node of the test rig away for good.
    pub async fn remove_node(&self, node: &str) -> Result<()> {
        self.cluster.power_cut(node)?;
        self.kubectl(&["delete", "node", node])?;
        // Its pods would otherwise wait for a kubelet that never comes back.
        for pod in self.pods_on(node).await? {
            let namespace = pod.namespace().unwrap_or_default();
            self.kubectl(&[
                "-n",
                &namespace,
                "delete",
                "pod",
                &pod.name_any(),
                "--force",
                "--grace-period=0",
                "--ignore-not-found",
            ])?;
        }
        Ok(())
    }

    async fn pods_on(&self, node: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::all(self.client.clone());
        Ok(api
            .list(&ListParams::default().fields(&format!("spec.nodeName={node}")))
            .await?
            .items)
    }

    /// The ends of the logs of operator and agents, for a failure's report.
    pub async fn recent_logs(&self) -> Result<String> {
        let mut text = String::new();
        for pod in self.pods(SYSTEM, "").await? {
            let name = pod.name_any();
            let log = self
                .kubectl(&["-n", SYSTEM, "logs", &name, "--tail=15"])
                .unwrap_or_else(|error| format!("{error:#}"));
            _ = writeln!(text, "--- {name}\n{log}");
        }
        Ok(text)
    }

    /// Waits until no ModelSnapshot is left, which means that the operator has let go of everything.
    pub async fn no_snapshots(&self, limit: Duration) -> Result<()> {
        let api: Api<ModelSnapshot> = Api::all(self.client.clone());
        until("the snapshots to be gone", limit, || async {
            match api.list(&ListParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                Err(error) => Err(error.into()),
                Ok(list) if list.items.is_empty() => Ok(()),
                Ok(list) => bail!("{} are left", list.items.len()),
            }
        })
        .await
    }

    /// Applies every document of a YAML text (server-side apply), as `kubectl apply` would.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        for document in yaml.split("\n---\n") {
            if document.trim().is_empty() {
                continue;
            }
            let object: DynamicObject =
                serde_norway::from_str(document).context("not a Kubernetes object")?;
            let (api, name) = self.api_of(&discovery, &object)?;
            api.patch(
                &name,
                &PatchParams::apply(MANAGER).force(),
                &Patch::Apply(&object),
            )
            .await
            .with_context(|| format!("cannot apply {name}"))?;
        }
        Ok(())
    }

    /// Deletes every object of a YAML text and waits until it is gone.
    pub async fn delete(&self, yaml: &str, limit: Duration) -> Result<()> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        for document in yaml.split("\n---\n") {
            if document.trim().is_empty() {
                continue;
            }
            let object: DynamicObject =
                serde_norway::from_str(document).context("not a Kubernetes object")?;
            let (api, name) = self.api_of(&discovery, &object)?;
            match api
                .delete(&name, &DeleteParams::default().grace_period(0))
                .await
            {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            }
            until(format!("{name} to be gone"), limit, || async {
                match api.get_opt(&name).await? {
                    None => Ok(()),
                    Some(_) => bail!("{name} is still there"),
                }
            })
            .await?;
        }
        Ok(())
    }

    fn api_of(
        &self,
        discovery: &Discovery,
        object: &DynamicObject,
    ) -> Result<(Api<DynamicObject>, String)> {
        let types = object
            .types
            .as_ref()
            .context("apiVersion and kind are missing")?;
        let gvk = kube::core::GroupVersionKind::try_from(types)?;
        let (resource, capabilities): (ApiResource, _) = discovery
            .resolve_gvk(&gvk)
            .with_context(|| format!("the cluster does not know {gvk:?}"))?;
        let api = match (capabilities.scope, object.namespace()) {
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), &namespace, &resource)
            }
            (Scope::Namespaced, None) => bail!("{} has no namespace", object.name_any()),
            (Scope::Cluster, _) => Api::all_with(self.client.clone(), &resource),
        };
        Ok((api, object.name_any()))
    }
}

/// Whether a pod's Ready condition is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            })
}
