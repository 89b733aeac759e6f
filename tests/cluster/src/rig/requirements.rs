//! What a machine must have before the rig can run on it.

use std::fs;
use std::path::Path;

use crate::ClusterError;
use crate::rig::paths::Paths;
use crate::run::{command, make_dir, output, remove};

/// Programs that come from the distribution.
const PROGRAMS: [&str; 14] = [
    "bash",
    "busybox",
    "conntrack",
    "flock",
    "ip",
    "iptables",
    "nft",
    "nsenter",
    "openssl",
    "python3",
    "runc",
    "setsid",
    "tc",
    "unshare",
];

/// Refuses a machine on which the cluster would fail later and less clearly.
pub(crate) fn check(paths: &Paths) -> Result<(), ClusterError> {
    if !rustix::process::geteuid().is_root() {
        return Err(unsuitable(
            "the cluster makes network namespaces and mounts, which needs root",
            "run it as root, for example with sudo",
        ));
    }
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|program| !installed(program))
        .collect();
    if !missing.is_empty() {
        return Err(unsuitable(
            &format!("these programs are missing: {}", missing.join(", ")),
            "run tests/cluster/packages",
        ));
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == "overlay")
        && !installed("modprobe")
    {
        return Err(unsuitable(
            "the kernel has no overlay file system",
            "load the module overlay, or use another kernel",
        ));
    }
    overlay(paths)?;
    network()
}

/// The nodes' `/etc` and containerd's snapshots are overlays whose upper layer lies in the state directory.
fn overlay(paths: &Paths) -> Result<(), ClusterError> {
    let probe = paths.state().join("probe");
    for part in ["lower", "upper", "work", "merged"] {
        make_dir(&probe.join(part))?;
    }
    let script = r#"mount -t overlay overlay -o "lowerdir=$0/lower,upperdir=$0/upper,workdir=$0/work" "$0/merged" && touch "$0/merged/x""#;
    let result = output(
        command(
            "unshare",
            &["--mount", "--propagation", "private", "sh", "-c", script],
        )
        .arg(&probe),
    )?;
    remove(&probe)?;
    if result.status.success() {
        return Ok(());
    }
    Err(unsuitable(
        &format!(
            "overlay mounts do not work in {}: {}",
            paths.state().display(),
            String::from_utf8_lossy(&result.stderr).trim()
        ),
        "CAP_SYS_ADMIN is needed, and a file system such as ext4 or xfs there (XDG_CACHE_HOME chooses the place)",
    ))
}

/// Bridges, cables, rate limits and the filters that partitions and Services are made of, tried in a namespace that goes away at once.
fn network() -> Result<(), ClusterError> {
    let steps = [
        ("a bridge", "ip link add probe type bridge"),
        (
            "a virtual cable with a rate limit",
            "ip link add probe type veth peer name other && tc qdisc add dev probe root tbf rate 10mbit burst 64k latency 50ms",
        ),
        ("nftables", "nft add table inet probe"),
        (
            "nftables for bridges",
            "nft 'add table bridge probe; add chain bridge probe c { type filter hook forward priority 0; }'",
        ),
        (
            "nftables for address translation",
            "nft 'add table ip probe; add chain ip probe c { type nat hook prerouting priority -100; }'",
        ),
        ("process namespaces", "unshare --pid --fork true"),
    ];
    for (what, step) in steps {
        let result = output(&mut command("unshare", &["--net", "sh", "-c", step]))?;
        if !result.status.success() {
            let said = String::from_utf8_lossy(&result.stderr).trim().to_owned();
            return Err(unsuitable(
                &format!("the kernel does not offer {what}: {said}"),
                "load the module, or use another kernel",
            ));
        }
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(|line| {
        line.split(' ')
            .nth(2)
            .is_some_and(|kind| kind.starts_with("cgroup"))
    }) {
        return Ok(());
    }
    Err(unsuitable(
        "no cgroups are mounted",
        "mount them at /sys/fs/cgroup",
    ))
}

fn unsuitable(what: &str, remedy: &str) -> ClusterError {
    ClusterError::Unsuitable {
        what: what.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// Whether a program can be found.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|dir| Path::new(dir).join(program).is_file())
}
