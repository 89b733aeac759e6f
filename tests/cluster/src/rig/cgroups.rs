//! The cgroups under which the nodes' pods run, for both versions of cgroups.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::ClusterError;
use crate::rig::paths::{NodeId, Paths};
use crate::run::{make_dir, write};

/// Every mounted hierarchy: its place, and whether it is of version 2.
fn hierarchies() -> Vec<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut found: Vec<(PathBuf, bool)> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(place), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        if kind.starts_with("cgroup")
            && place.starts_with("/sys/fs/cgroup")
            && !found.iter().any(|(known, _)| known == Path::new(place))
        {
            found.push((place.into(), kind == "cgroup2"));
        }
    }
    found
}

/// Makes the cgroup of a node in every hierarchy that the kubelet will use.
pub(crate) fn prepare(paths: &Paths, node: NodeId) -> Result<(), ClusterError> {
    let hierarchies = hierarchies();
    // Beside hierarchies of version 1 the unified one has no controllers, and the kubelet does not look at it.
    let only_two = hierarchies.iter().all(|(_, two)| *two);
    for (root, _) in hierarchies.iter().filter(|(_, two)| *two == only_two) {
        let mut parent = root.clone();
        for part in [paths.cgroup(), node.to_string()] {
            let child = parent.join(part);
            make_dir(&child)?;
            if only_two {
                pass_controllers(&parent);
            } else {
                inherit_cpuset(&parent, &child)?;
            }
            parent = child;
        }
    }
    Ok(())
}

/// Version 2: children have the controllers that their parent passes on. A controller that the machine lacks is not an error.
fn pass_controllers(parent: &Path) {
    for controller in ["+cpuset", "+cpu", "+io", "+memory", "+pids", "+hugetlb"] {
        let _ = fs::write(parent.join("cgroup.subtree_control"), controller);
    }
}

/// Version 1: a cpuset starts empty and takes no process before it has processors and memory.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<(), ClusterError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), child.join(file));
        if from.exists() {
            let value = fs::read_to_string(&from).map_err(ClusterError::io("read", &from))?;
            write(&to, value)?;
        }
    }
    Ok(())
}

/// Removes the cgroups that a node's pods left behind: a machine that boots has none.
pub(crate) fn clear_pods(paths: &Paths, node: NodeId) {
    for (root, _) in hierarchies() {
        remove_below(&root.join(paths.cgroup()).join(node.to_string()));
    }
}

/// Removes everything; what ended a moment ago may still hold a cgroup for an instant.
pub(crate) fn remove_all(paths: &Paths) {
    let start = Instant::now();
    for (root, _) in hierarchies() {
        let top = root.join(paths.cgroup());
        while top.exists() && start.elapsed() < Duration::from_secs(5) {
            remove_below(&top);
            if fs::remove_dir(&top).is_err() {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn remove_below(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for child in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        remove_below(&child.path());
        let _ = fs::remove_dir(child.path());
    }
}
