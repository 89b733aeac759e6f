//! Where the rig keeps its things, and the names that keep two rigs on one machine apart.

use std::path::{Path, PathBuf};
use std::{env, fmt};

use sha2::{Digest, Sha256};

use crate::ClusterError;

/// The environment variable that names the rig's state directory to programs that `exec` runs.
pub const RIG_VARIABLE: &str = "MODELCACHE_TEST_RIG";

/// Directories that a node replaces by its own: nothing below them that the rig needs may lie there.
const REPLACED: [&str; 7] = [
    "/var/lib", "/var/log", "/srv", "/mnt", "/run", "/etc", "/opt",
];

/// The project's cache directory, outside every checkout.
pub fn cache_root() -> Result<PathBuf, ClusterError> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").ok_or_else(|| ClusterError::Unsuitable {
            what: "HOME is not set".to_owned(),
            remedy: "set HOME or XDG_CACHE_HOME to where caches may be kept".to_owned(),
        })?)
        .join(".cache"),
    };
    Ok(base.join("modelcache"))
}

/// One node of the rig, 1 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u8);

impl NodeId {
    /// All nodes that a rig can have.
    pub fn all() -> impl Iterator<Item = NodeId> {
        (1..=9).map(NodeId)
    }

    /// From `node-2` or `2`.
    pub fn parse(name: &str) -> Result<NodeId, ClusterError> {
        let digits = name.strip_prefix("node-").unwrap_or(name);
        match digits.parse() {
            Ok(number @ 1..=9) => Ok(NodeId(number)),
            _ => Err(ClusterError::NoSuchNode {
                name: name.to_owned(),
            }),
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its address on the cluster's network.
    #[must_use]
    pub fn address(self) -> String {
        format!("10.77.0.1{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node-{}", self.0)
    }
}

/// The places and names of one rig.
#[derive(Clone, Debug)]
pub struct Paths {
    state: PathBuf,
    id: String,
}

impl Paths {
    /// For the state directory, which must be an absolute path.
    pub fn new(state: PathBuf) -> Result<Paths, ClusterError> {
        if let Some(replaced) = REPLACED.iter().find(|replaced| state.starts_with(replaced)) {
            return Err(ClusterError::Unsuitable {
                what: format!(
                    "the cluster's state directory {} lies under {replaced}, which every node replaces by its own",
                    state.display()
                ),
                remedy: "set XDG_CACHE_HOME to a directory elsewhere".to_owned(),
            });
        }
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let id = hex::encode(&digest[..3]);
        Ok(Paths { state, id })
    }

    /// The state directory itself.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The binaries that the running cluster uses.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.state.join("bin")
    }

    /// Logs of everything that runs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state.join("log")
    }

    /// Certificates and keys.
    pub(crate) fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// Configurations and scripts, written by `up`.
    pub(crate) fn conf(&self) -> PathBuf {
        self.state.join("conf")
    }

    /// The kubeconfig of a user of the cluster.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.state.join("kubeconfig").join(format!("{user}.conf"))
    }

    /// Records of what runs.
    pub(crate) fn run(&self) -> PathBuf {
        self.state.join("run")
    }

    /// Images that every node gets.
    pub(crate) fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// What the disk of a fresh node starts from.
    pub(crate) fn template(&self) -> PathBuf {
        self.state.join("template")
    }

    /// The disk of a node.
    pub(crate) fn disk(&self, node: NodeId) -> PathBuf {
        self.state.join("nodes").join(node.to_string())
    }

    /// The network namespace of the control plane.
    pub(crate) fn control_namespace(&self) -> String {
        format!("mc-{}-cp", self.id)
    }

    /// The network namespace of a node.
    pub(crate) fn node_namespace(&self, node: NodeId) -> String {
        format!("mc-{}-{}", self.id, node.number())
    }

    /// What all network namespaces of this rig begin with.
    pub(crate) fn namespace_prefix(&self) -> String {
        format!("mc-{}-", self.id)
    }

    /// The cgroup above all pods of this rig.
    pub(crate) fn cgroup(&self) -> String {
        format!("modelcache-{}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_known_by_number_and_by_name() {
        assert_eq!(
            NodeId::parse("3").unwrap(),
            NodeId::parse("node-3").unwrap()
        );
        assert_eq!(NodeId::parse("3").unwrap().address(), "10.77.0.13");
        for wrong in ["0", "10", "node-", "node-x", ""] {
            assert!(NodeId::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn two_rigs_share_no_name() {
        let (one, two) = (
            Paths::new("/home/a/state".into()).unwrap(),
            Paths::new("/home/b/state".into()).unwrap(),
        );
        assert_ne!(one.control_namespace(), two.control_namespace());
        assert_ne!(one.cgroup(), two.cgroup());
        assert!(
            one.node_namespace(NodeId::parse("1").unwrap())
                .starts_with(&one.namespace_prefix())
        );
    }

    #[test]
    fn a_state_directory_that_nodes_would_hide_is_refused() {
        let error = Paths::new("/var/lib/ci/state".into()).unwrap_err();
        assert!(error.to_string().contains("XDG_CACHE_HOME"), "{error}");
    }
}
