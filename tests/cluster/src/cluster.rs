//! The cluster that tests run against: the project's own rig, or any other.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use crate::ClusterError;
use crate::rig::{NodeId, RIG_VARIABLE, Rig, binaries};
use crate::run::{output, run};

/// A cluster for tests.
#[derive(Clone, Debug)]
pub enum Cluster {
    /// The project's own, on this machine.
    Rig(Rig),
    /// Any other, which `KUBECONFIG` names.
    External,
}

impl Cluster {
    /// The cluster that the environment names: the rig inside `modelcache-cluster exec`, else what `KUBECONFIG` points at.
    pub fn from_env() -> Result<Cluster, ClusterError> {
        if env::var_os(RIG_VARIABLE).is_some() {
            let rig = Rig::find()?;
            return if rig.is_up() {
                Ok(Cluster::Rig(rig))
            } else {
                Err(ClusterError::NotUp)
            };
        }
        match env::var_os("KUBECONFIG") {
            Some(path) if env::split_paths(&path).any(|file| fs::metadata(file).is_ok()) => {
                Ok(Cluster::External)
            }
            _ => Err(ClusterError::NoCluster),
        }
    }

    /// Whether power cuts, partitions and other accidents are possible.
    #[must_use]
    pub fn is_rig(&self) -> bool {
        matches!(self, Cluster::Rig(_))
    }

    fn rig(&self, operation: &'static str) -> Result<&Rig, ClusterError> {
        match self {
            Cluster::Rig(rig) => Ok(rig),
            Cluster::External => Err(ClusterError::NeedsRig { operation }),
        }
    }

    fn client(&self, program: &str, args: &[&str]) -> Result<Command, ClusterError> {
        match self {
            Cluster::Rig(rig) => {
                let program = rig.paths().bin().join(program).display().to_string();
                let words: Vec<&str> = std::iter::once(program.as_str())
                    .chain(args.iter().copied())
                    .collect();
                rig.control_command(&words)
            }
            Cluster::External => {
                let mut command = Command::new(binaries::client(program));
                command.args(args);
                Ok(command)
            }
        }
    }

    /// A `kubectl` command to be run by the caller, for example to give it input.
    pub fn kubectl_command(&self, args: &[&str]) -> Result<Command, ClusterError> {
        self.client("kubectl", args)
    }

    /// Runs `kubectl` and returns what it printed; an error, with what it said, when it fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, ClusterError> {
        run(&mut self.client("kubectl", args)?)
    }

    /// Runs `kubectl` where failing is a possible answer.
    pub fn kubectl_output(&self, args: &[&str]) -> Result<Output, ClusterError> {
        output(&mut self.client("kubectl", args)?)
    }

    /// Runs `helm` and returns what it printed; an error, with what it said, when it fails.
    pub fn helm(&self, args: &[&str]) -> Result<String, ClusterError> {
        run(&mut self.client("helm", args)?)
    }

    /// Names of the cluster's nodes.
    pub fn nodes(&self) -> Result<Vec<String>, ClusterError> {
        let names = self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// Takes a node's power away: everything on it ends at once.
    pub fn power_cut(&self, node: &str) -> Result<(), ClusterError> {
        self.rig("cutting the power of a node")?
            .power_cut(NodeId::parse(node)?)
    }

    /// Gives a node power again, or adds a node that the cluster did not have.
    pub fn boot(&self, node: &str) -> Result<(), ClusterError> {
        self.rig("booting a node")?.boot(NodeId::parse(node)?)
    }

    /// Takes a node out of the cluster for good, with its disk and its Node object.
    pub fn remove_node(&self, node: &str) -> Result<(), ClusterError> {
        self.rig("removing a node")?
            .remove_node(NodeId::parse(node)?)
    }

    /// Waits until nodes are Ready.
    pub fn wait_ready(&self, nodes: &[&str]) -> Result<(), ClusterError> {
        let names: Vec<String> = nodes.iter().map(|node| format!("node/{node}")).collect();
        let mut args = vec!["wait", "--for=condition=Ready", "--timeout=120s"];
        args.extend(names.iter().map(String::as_str));
        match self {
            Cluster::Rig(rig) => rig.wait_ready(
                &nodes
                    .iter()
                    .map(|node| NodeId::parse(node))
                    .collect::<Result<Vec<_>, _>>()?,
            ),
            Cluster::External => self.kubectl(&args).map(drop),
        }
    }

    /// Pulls a node's network cable out.
    pub fn cut(&self, node: &str) -> Result<(), ClusterError> {
        self.rig("pulling a network cable")?
            .plug(NodeId::parse(node)?, false)
    }

    /// Puts a node's network cable back.
    pub fn join(&self, node: &str) -> Result<(), ClusterError> {
        self.rig("plugging a network cable")?
            .plug(NodeId::parse(node)?, true)
    }

    /// A `tcpdump` command that writes what passes a node's cable to its standard output, until it is interrupted.
    pub fn capture_command(&self, node: &str) -> Result<Command, ClusterError> {
        self.rig("listening to a network cable")?
            .capture_command(NodeId::parse(node)?)
    }

    /// Lets nothing pass between two nodes; both still reach the others.
    pub fn partition(&self, one: &str, other: &str) -> Result<(), ClusterError> {
        self.rig("partitioning the network")?
            .partition(NodeId::parse(one)?, NodeId::parse(other)?)
    }

    /// Ends all partitions.
    pub fn heal(&self) -> Result<(), ClusterError> {
        self.rig("ending partitions")?.heal()
    }

    /// Limits a node's bandwidth in both directions, for example to `20mbit`; `None` lifts the limit.
    pub fn shape(&self, node: &str, rate: Option<&str>) -> Result<(), ClusterError> {
        self.rig("limiting bandwidth")?
            .shape(NodeId::parse(node)?, rate)
    }

    /// Ends the API server as a crash would.
    pub fn stop_api_server(&self) -> Result<(), ClusterError> {
        self.rig("stopping the API server")?.stop_api_server()
    }

    /// Starts the API server again and waits until it answers.
    pub fn start_api_server(&self) -> Result<(), ClusterError> {
        self.rig("starting the API server")?.start_api_server()
    }

    /// Runs a command inside a node (its processes, network and files) and returns what it printed.
    pub fn node_exec(&self, node: &str, words: &[&str]) -> Result<String, ClusterError> {
        run(&mut self
            .rig("running commands inside a node")?
            .node_command(NodeId::parse(node)?, words)?)
    }

    /// Where a path of a node can be found from outside, also while the node has no power.
    pub fn node_path(&self, node: &str, path: impl AsRef<Path>) -> Result<PathBuf, ClusterError> {
        self.rig("looking at a node's disk")?
            .node_path(NodeId::parse(node)?, path.as_ref())
    }

    /// Gives image archives to all nodes, now and at later boots.
    pub fn load_images(&self, archives: &[PathBuf]) -> Result<Vec<String>, ClusterError> {
        self.rig("loading images without a registry")?
            .load_images(archives)
    }

    /// Forgets an image: nodes that are made later do not get it.
    pub fn forget_image(&self, reference: &str) -> Result<(), ClusterError> {
        self.rig("loading images without a registry")?
            .forget_image(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accidents_need_the_rig() {
        let cluster = Cluster::External;
        assert!(!cluster.is_rig());
        assert!(matches!(
            cluster.power_cut("node-1"),
            Err(ClusterError::NeedsRig { .. })
        ));
        assert!(matches!(
            cluster.node_path("node-1", "/var/lib/modelcache"),
            Err(ClusterError::NeedsRig { .. })
        ));
        let message = cluster.shape("node-1", None).unwrap_err().to_string();
        assert!(message.contains("cluster exec"), "{message}");
    }
}
