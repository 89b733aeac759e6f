//! Looking at a node and acting on it from a pod, as it works on any cluster.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;

use crate::wait::until;
use crate::world::{APPS, World, is_ready};

impl World {
    /// Runs a shell script on a node, as root among the node's own processes and with its cache mounted read-only where
    /// the node has it; what it printed.
    pub async fn on_node(&self, node: &str, script: &str) -> Result<String> {
        let pod = self.node_pod(node, true).await?;
        self.kubectl(&["-n", APPS, "exec", &pod, "--", "/bin/sh", "-c", script])
    }

    /// Removes the cache of a node.
    pub(crate) async fn empty_cache(&self, node: &str) -> Result<()> {
        let pod = self.node_pod(node, false).await?;
        let script = format!("rm -rf {0}/* {0}/.[!.]*", self.cache_dir());
        self.kubectl(&["-n", APPS, "exec", &pod, "--", "/bin/sh", "-c", &script])?;
        Ok(())
    }

    /// The running pod for one of the above; its name.
    async fn node_pod(&self, node: &str, read_only: bool) -> Result<String> {
        let purpose = if read_only { "look" } else { "sweep" };
        let name = format!("{purpose}-{node}");
        let image = self.images.name("reader");
        let directory = self.cache_dir();
        self.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {APPS}}}
spec:
  nodeName: {node}
  hostPID: true
  terminationGracePeriodSeconds: 0
  tolerations: [{{operator: Exists}}]
  containers:
  - name: look
    image: {image}
    imagePullPolicy: IfNotPresent
    securityContext: {{runAsUser: 0}}
    command: [/bin/sh, -c, 'sleep 100000']
    volumeMounts: [{{name: cache, mountPath: {directory}, readOnly: {read_only}}}]
  volumes:
  - {{name: cache, hostPath: {{path: {directory}}}}}
"
        ))
        .await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), APPS);
        until(format!("pod {name}"), Duration::from_mins(1), || async {
            if is_ready(&api.get(&name).await?) {
                Ok(())
            } else {
                bail!("not ready")
            }
        })
        .await?;
        Ok(name)
    }

    /// SIGKILL to a program on a node.
    pub async fn kill(&self, node: &str, program: &str) -> Result<()> {
        let killed = self
            .on_node(
                node,
                &each(program, "kill -KILL ${p#/proc/} && echo killed"),
            )
            .await?;
        ensure!(
            killed.contains("killed"),
            "no {program} runs on {node}: it cannot be killed"
        );
        Ok(())
    }

    /// Peak resident memory of a program on a node, in MB of 10⁶ bytes; none if it does not run there.
    pub async fn peak_memory(&self, node: &str, program: &str) -> Result<Option<u64>> {
        let kilobytes = self
            .on_node(node, &each(program, "grep VmHWM $p/status"))
            .await?
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .max();
        Ok(kilobytes.map(|kilobytes| kilobytes * 1024 / 1_000_000))
    }

    /// Copies what a claim of a model shows on a node into a local directory, links as links.
    pub async fn copy_volume(
        &self,
        node: &str,
        cache: &str,
        model: &str,
        into: &Path,
    ) -> Result<()> {
        let pod = self.node_pod(node, true).await?;
        let script = format!(
            "cd \"$(readlink -f {}/models/{cache}/{model})\" && tar -cf - hub",
            self.cache_dir()
        );
        std::fs::create_dir_all(into)?;
        let mut pack = self
            .cluster
            .kubectl_command(&["-n", APPS, "exec", &pod, "--", "/bin/sh", "-c", &script])?
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        let packed = pack.stdout.take().context("kubectl has no output")?;
        let unpacked = std::process::Command::new("tar")
            .arg("-xf")
            .arg("-")
            .arg("-C")
            .arg(into)
            .stdin(packed)
            .status()
            .context("cannot start tar")?;
        let packed = pack.wait()?;
        ensure!(
            packed.success() && unpacked.success(),
            "the cache of {node} cannot be copied"
        );
        Ok(())
    }
}

/// A shell script that does something for each process of a program, whose directory in `/proc` is `$p`. It asks for
/// the first word of the command line, which nobody needs privileges to see.
fn each(program: &str, action: &str) -> String {
    format!(
        "for p in /proc/[0-9]*; do \
         case \"$(tr '\\0' '\\n' <$p/cmdline 2>/dev/null | head -n 1)\" in {program} | */{program}) {action} ;; esac; done; true"
    )
}

/// A directory that is removed with its owner.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A fresh one.
    pub fn new(purpose: &str) -> Result<Self> {
        let path =
            std::env::temp_dir().join(format!("modelcache-{purpose}-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::each;

    #[test]
    fn only_the_program_itself_is_found() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let output = Command::new("sh")
            .args(["-c", &each("sleep", "echo ${p#/proc/}")])
            .output()
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        let own = output.status.success() && found.lines().any(|pid| pid == child.id().to_string());
        assert!(own, "{found}");
        let output = Command::new("sh")
            .args(["-c", &each("no-such-program", "echo ${p#/proc/}")])
            .output()
            .unwrap();
        assert!(output.stdout.is_empty());
    }
}
