//! Manners on a cluster that is not ours: nothing of anybody else's is touched, and nothing stays behind.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::Api;

use crate::scenarios;
use crate::world::{APPS, RELEASE, SYSTEM, World};

/// Marks the namespaces that tests and demo have made.
const MARK: &str = "modelcache.io/made-by-tests";

/// The types that the chart brings.
const TYPES: [&str; 3] = [
    "modelcaches.modelcache.io",
    "modelsnapshots.modelcache.io",
    "modelcachenodes.modelcache.io",
];

impl World {
    /// Makes the namespaces; on a cluster of somebody else it is an error if ModelCache is in use there.
    pub(crate) async fn arrive(&self) -> Result<()> {
        if !self.cluster.is_rig() {
            self.nobody_uses_it().await?;
        }
        for namespace in [SYSTEM, APPS] {
            // Agents mount a directory of the node, which stricter levels of the Pod Security Standards forbid.
            self.apply(&format!(
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels: {{{MARK}: \"true\", pod-security.kubernetes.io/enforce: privileged}}\n"
            ))
            .await?;
        }
        Ok(())
    }

    async fn nobody_uses_it(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let mut ours = false;
        for name in [SYSTEM, APPS] {
            if let Some(namespace) = namespaces.get_opt(name).await? {
                ensure!(
                    namespace.labels().contains_key(MARK),
                    "the cluster in KUBECONFIG has a namespace {name} that these tests did not make; use a cluster without \
                     ModelCache, or delete the namespace if nobody needs it"
                );
                ours = true;
            }
        }
        let types: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        ensure!(
            ours || types.get_opt(TYPES[0]).await?.is_none(),
            "the cluster in KUBECONFIG knows {}, so ModelCache is or was installed there, and these tests would delete every \
             ModelCache; use another cluster, or delete the three types of modelcache.io if nobody needs them",
            TYPES[0]
        );
        Ok(())
    }

    /// Removes all that was installed, and what lies on the nodes; nothing to do on the test rig, which ends as a whole.
    pub async fn leave(&self) -> Result<()> {
        if self.cluster.is_rig() {
            return Ok(());
        }
        scenarios::clean(self).await?;
        self.helm(&[
            "uninstall",
            RELEASE,
            "-n",
            SYSTEM,
            "--ignore-not-found",
            "--wait",
            "--timeout",
            "90s",
        ])?;
        for node in self.ready_nodes().await? {
            self.empty_cache(&node)
                .await
                .with_context(|| format!("cannot empty {} on {node}", self.cache_dir()))?;
        }
        let mut arguments = vec!["delete", "crd", "--ignore-not-found"];
        arguments.extend(TYPES);
        self.kubectl(&arguments)?;
        self.kubectl(&["delete", "namespace", SYSTEM, APPS, "--ignore-not-found"])?;
        Ok(())
    }
}
