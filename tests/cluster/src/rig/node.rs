//! One node: its disk, its boot, its power cut, and commands inside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ClusterError;
use crate::rig::paths::{NodeId, Paths};
use crate::rig::processes::{Daemon, Process};
use crate::rig::{cgroups, images, network, pki};
use crate::run::{command, make_dir, write};

/// Directories of a node that are its own, and where they lie outside.
const OWN: [(&str, &str); 4] = [
    ("/var/lib", "varlib"),
    ("/var/log", "varlog"),
    ("/srv", "srv"),
    ("/mnt", "mnt"),
];

/// Makes everything that a node needs before its first boot: certificates, configuration, cgroup, cable, and a disk with the images.
pub(crate) fn create(paths: &Paths, node: NodeId) -> Result<(), ClusterError> {
    pki::node(paths, node)?;
    let replace = [
        ("@IP@", node.address()),
        ("@NODE@", node.to_string()),
        ("@CGROUP@", paths.cgroup()),
        ("@STATE@", paths.state().display().to_string()),
        ("@RESERVED@", reserved_memory()),
    ];
    for (name, template) in [
        ("kubelet", include_str!("../../node/kubelet.yaml")),
        ("kube-proxy", include_str!("../../node/kube-proxy.yaml")),
    ] {
        let text = replace
            .iter()
            .fold(template.to_owned(), |text, (mark, value)| {
                text.replace(mark, value)
            });
        write(&paths.conf().join(format!("{node}-{name}.yaml")), text)?;
    }
    cgroups::prepare(paths, node)?;
    network::create_node(paths, node)?;
    let disk = paths.disk(node);
    make_dir(&disk)?;
    images::seed(paths, &disk)
}

/// Two thirds of the machine's memory: what is left to pods by each of up to nine nodes that all see the whole of it.
fn reserved_memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    format!("{}Mi", total.unwrap_or(0) / 1024 * 2 / 3)
}

/// Gives it power. The kubelet reports to the API server a moment later.
pub(crate) fn boot(paths: &Paths, node: NodeId) -> Result<(), ClusterError> {
    cgroups::clear_pods(paths, node);
    cgroups::prepare(paths, node)?;
    network::clear_node(paths, node);
    let conf = paths.conf();
    let name = node.to_string();
    let before = [
        "nsenter",
        &format!("--net=/run/netns/{}", paths.node_namespace(node)),
        "--",
    ]
    .into_iter()
    .chain([
        "unshare",
        "--mount",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
    ])
    .map(str::to_owned)
    .collect();
    let daemon = Daemon {
        name: &name,
        run: paths.run(),
        log: paths.log(),
        launcher: conf.join("launch.sh"),
        before,
        command: vec![conf.join("node-init.sh").display().to_string()],
        environment: environment(paths, node),
    };
    daemon.start().map(drop)
}

fn environment(paths: &Paths, node: NodeId) -> Vec<(&'static str, String)> {
    vec![
        ("NODE", node.to_string()),
        ("NUMBER", node.number().to_string()),
        ("STATE", paths.state().display().to_string()),
        ("BIN", paths.bin().display().to_string()),
    ]
}

/// The node's first process, if the node has power.
pub(crate) fn process(paths: &Paths, node: NodeId) -> Option<Process> {
    Process::read(&Daemon::record(&paths.run(), &node.to_string()))
        .filter(|process| process.alive())
}

/// Whether the node belongs to the cluster, with power or without.
pub(crate) fn exists(paths: &Paths, node: NodeId) -> bool {
    network::exists(&paths.node_namespace(node))
}

/// Takes its power away: everything on it ends at once, nothing is synced or told.
pub(crate) fn power_cut(paths: &Paths, node: NodeId) -> Result<(), ClusterError> {
    let process = process(paths, node).ok_or_else(|| ClusterError::NodeDown {
        node: node.to_string(),
    })?;
    process.kill(&paths.log())
}

/// Takes a node out of the cluster for good: power, cable and disk.
pub(crate) fn remove(paths: &Paths, node: NodeId) -> Result<(), ClusterError> {
    if let Some(process) = process(paths, node) {
        process.kill(&paths.log())?;
    }
    cgroups::clear_pods(paths, node);
    network::remove(&paths.node_namespace(node))?;
    crate::run::remove(&Daemon::record(&paths.run(), &node.to_string()))?;
    crate::run::remove(&paths.disk(node))
}

/// A command inside all of the node's namespaces.
pub(crate) fn inside(paths: &Paths, node: NodeId, words: &[&str]) -> Result<Command, ClusterError> {
    let process = process(paths, node).ok_or_else(|| ClusterError::NodeDown {
        node: node.to_string(),
    })?;
    let mut entered = command(
        "nsenter",
        &[
            "-t",
            &process.pid().to_string(),
            "-m",
            "-n",
            "-u",
            "-i",
            "-p",
            "--",
        ],
    );
    entered
        .args(words)
        .envs(environment(paths, node))
        .env("HOME", paths.disk(node).join("home"));
    entered.env(
        "PATH",
        format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            paths.bin().display()
        ),
    );
    Ok(entered)
}

/// Where a path of the node lies outside.
pub(crate) fn outside(paths: &Paths, node: NodeId, path: &Path) -> Result<PathBuf, ClusterError> {
    for (own, directory) in OWN {
        if let Ok(rest) = path.strip_prefix(own) {
            return Ok(paths.disk(node).join(directory).join(rest));
        }
    }
    Err(ClusterError::SharedPath {
        path: path.to_path_buf(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_directories_have_a_place_outside() {
        let paths = Paths::new("/home/a/state".into()).unwrap();
        let node = NodeId::parse("2").unwrap();
        let outside = |path: &str| super::outside(&paths, node, Path::new(path));
        assert_eq!(
            outside("/var/lib/modelcache/hub").unwrap(),
            Path::new("/home/a/state/nodes/node-2/varlib/modelcache/hub")
        );
        assert!(outside("/var/library").is_err());
        assert!(outside("/usr/bin").is_err());
    }
}
