//! What can go wrong with a cluster, and what to do about it.

use std::path::{Path, PathBuf};
use std::{io, process};

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The operation cuts power, cables or bandwidth, which only the project's own rig can do.
    #[error(
        "{operation} needs the project's own cluster: run this test through `tests/cluster/cluster exec -- …`"
    )]
    NeedsRig {
        /// What was asked for.
        operation: &'static str,
    },
    /// Neither the rig nor another cluster is named by the environment.
    #[error(
        "no cluster: run this through `tests/cluster/cluster exec -- …`, or set KUBECONFIG to a cluster that tests may install into"
    )]
    NoCluster,
    /// The machine lacks something that the rig needs.
    #[error("{what}; {remedy}")]
    Unsuitable {
        /// What is missing.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The rig is not up.
    #[error("the cluster is not up: start it with `tests/cluster/cluster up`")]
    NotUp,
    /// The rig is up already.
    #[error(
        "the cluster is up already: `tests/cluster/cluster down` ends it, `tests/cluster/cluster status` shows it"
    )]
    AlreadyUp,
    /// A node that cannot exist.
    #[error("there is no node {name:?}: nodes are node-1 to node-9, or just their number")]
    NoSuchNode {
        /// What was given as a node.
        name: String,
    },
    /// A command was sent to a node without power.
    #[error("{node} has no power: `tests/cluster/cluster boot {node}` starts it")]
    NodeDown {
        /// The node.
        node: String,
    },
    /// The node runs already.
    #[error("{node} runs already")]
    NodeUp {
        /// The node.
        node: String,
    },
    /// Only some directories of a node are its own.
    #[error("{} is not a node's own directory: only /var/lib, /var/log, /srv and /mnt are", path.display())]
    SharedPath {
        /// The path within the node.
        path: PathBuf,
    },
    /// An argument that cannot be understood.
    #[error("{what}")]
    Argument {
        /// What is wrong with it and what it should look like.
        what: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A command could not be started.
    #[error(
        "cannot run {command}: {source}; `tests/cluster/packages` installs what the cluster needs"
    )]
    Start {
        /// The command line.
        command: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A command failed.
    #[error("{command}: {status}\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: process::ExitStatus,
        /// The end of what it said.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s: see {}", log.display())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// Where to look for the cause.
        log: PathBuf,
    },
}

impl ClusterError {
    /// A file operation that failed, for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
        let path = path.to_path_buf();
        move |source| ClusterError::Io {
            action,
            path,
            source,
        }
    }
}
