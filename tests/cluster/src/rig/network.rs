//! The cluster's network: a bridge beside the control plane, a cable to each node, and everything that can go wrong with cables.
//!
//! The machine's own network gets no address, route or rule, and the control plane has no default route: nothing can leave.

use std::process::Command;

use crate::ClusterError;
use crate::rig::paths::{NodeId, Paths};
use crate::rig::processes::attempt;
use crate::run::{command, run};

/// The table whose rules keep partitioned nodes apart.
const PARTITIONS: &str = "modelcache_partitions";

/// A command inside a network namespace.
pub(crate) fn inside(namespace: &str, words: &[&str]) -> Command {
    let mut entered = command("nsenter", &[&format!("--net=/run/netns/{namespace}"), "--"]);
    entered.args(words);
    entered
}

/// Several `ip` commands at once, one a line.
fn ip_batch(namespace: &str, lines: &[String]) -> Result<(), ClusterError> {
    let script = lines
        .iter()
        .map(|line| format!("ip {line}"))
        .collect::<Vec<_>>()
        .join(" && ");
    run(&mut inside(namespace, &["sh", "-c", &script])).map(drop)
}

/// The control plane's namespace with its bridge.
pub(crate) fn create_control(paths: &Paths) -> Result<(), ClusterError> {
    let control = paths.control_namespace();
    run(&mut command("ip", &["netns", "add", &control]))?;
    ip_batch(
        &control,
        &[
            "link set lo up".to_owned(),
            "link add br0 type bridge mcast_snooping 0".to_owned(),
            "addr add 10.77.0.1/24 dev br0".to_owned(),
            "link set br0 up".to_owned(),
        ],
    )
}

/// Whether the control plane's namespace is there.
pub(crate) fn exists(namespace: &str) -> bool {
    std::path::Path::new("/run/netns").join(namespace).exists()
}

/// A node's namespace and cable.
pub(crate) fn create_node(paths: &Paths, node: NodeId) -> Result<(), ClusterError> {
    let (control, own, number) = (
        paths.control_namespace(),
        paths.node_namespace(node),
        node.number(),
    );
    run(&mut command("ip", &["netns", "add", &own]))?;
    let cable = cable(node);
    run(&mut command(
        "ip",
        &[
            "link", "add", &cable, "netns", &control, "type", "veth", "peer", "name", "eth0",
            "netns", &own,
        ],
    ))?;
    ip_batch(
        &control,
        &[
            format!("link set {cable} master br0 up"),
            format!(
                "route replace 10.88.{number}.0/24 via {} dev br0 onlink",
                node.address()
            ),
        ],
    )?;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("addr add {}/24 dev eth0", node.address()),
        "link set eth0 up".to_owned(),
        "route add default via 10.77.0.1".to_owned(),
    ];
    // Also to nodes that do not exist yet: one that joins later needs nothing done on the others.
    for other in NodeId::all().filter(|other| *other != node) {
        lines.push(format!(
            "route add 10.88.{}.0/24 via {}",
            other.number(),
            other.address()
        ));
    }
    ip_batch(&own, &lines)?;
    run(&mut inside(
        &own,
        &["sysctl", "-qw", "net.ipv4.ip_forward=1"],
    ))
    .map(drop)
}

/// What a power cut leaves behind in a node's namespace and a real boot would not find.
pub(crate) fn clear_node(paths: &Paths, node: NodeId) {
    let script = "for l in $(ip -o link | grep -oE '(cni0|veth[0-9a-f]{8})' | sort -u); do ip link del $l; done; nft flush ruleset";
    attempt(&mut inside(
        &paths.node_namespace(node),
        &["sh", "-c", script],
    ));
}

/// Removes every namespace of this rig.
pub(crate) fn remove_all(paths: &Paths) -> Result<(), ClusterError> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Ok(());
    };
    let prefix = paths.namespace_prefix();
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
    {
        remove(&name)?;
    }
    Ok(())
}

/// Removes one namespace, and with it the cables that end there.
pub(crate) fn remove(namespace: &str) -> Result<(), ClusterError> {
    run(&mut command("ip", &["netns", "del", namespace])).map(drop)
}

/// The control plane's end of a node's cable.
fn cable(node: NodeId) -> String {
    format!("cable{}", node.number())
}

/// Plugs a node's cable in or pulls it out.
pub(crate) fn plug(paths: &Paths, node: NodeId, plugged: bool) -> Result<(), ClusterError> {
    let state = if plugged { "up" } else { "down" };
    run(&mut inside(
        &paths.control_namespace(),
        &["ip", "link", "set", &cable(node), state],
    ))
    .map(drop)
}

/// Writes what passes a node's cable to standard output, as tcpdump does, until it is interrupted.
pub(crate) fn capture(paths: &Paths, node: NodeId) -> Command {
    // Whole packets, each written at once, and a buffer of 64 MiB (in KiB) for those that come meanwhile.
    let words = [
        "tcpdump",
        "-i",
        &cable(node),
        "-s",
        "0",
        "-B",
        "65536",
        "-n",
        "-U",
        "-w",
        "-",
    ];
    inside(&paths.control_namespace(), &words)
}

/// Lets nothing pass between two nodes, in either direction.
pub(crate) fn partition(paths: &Paths, one: NodeId, other: NodeId) -> Result<(), ClusterError> {
    let (a, b) = (cable(one), cable(other));
    let rules = format!(
        "add table bridge {PARTITIONS}\n\
         add chain bridge {PARTITIONS} forward {{ type filter hook forward priority 0; }}\n\
         add rule bridge {PARTITIONS} forward iifname {a} oifname {b} drop\n\
         add rule bridge {PARTITIONS} forward iifname {b} oifname {a} drop\n"
    );
    run(&mut inside(&paths.control_namespace(), &["nft", &rules])).map(drop)
}

/// Ends all partitions.
pub(crate) fn heal(paths: &Paths) -> Result<(), ClusterError> {
    let rules = format!("add table bridge {PARTITIONS}\ndelete table bridge {PARTITIONS}\n");
    run(&mut inside(&paths.control_namespace(), &["nft", &rules])).map(drop)
}

/// Limits a node's cable in both directions; no rate lifts the limit.
pub(crate) fn shape(paths: &Paths, node: NodeId, rate: Option<&str>) -> Result<(), ClusterError> {
    let ends = [
        (paths.control_namespace(), cable(node)),
        (paths.node_namespace(node), "eth0".to_owned()),
    ];
    for (namespace, device) in ends {
        match rate {
            Some(rate) => {
                let burst = burst(rate)?.to_string();
                let words = [
                    "tc", "qdisc", "replace", "dev", &device, "root", "tbf", "rate", rate, "burst",
                    &burst, "latency", "100ms",
                ];
                run(&mut inside(&namespace, &words))?;
            }
            None => attempt(&mut inside(
                &namespace,
                &["tc", "qdisc", "del", "dev", &device, "root"],
            )),
        }
    }
    Ok(())
}

/// Bytes that may pass at once: a hundredth of a second's worth, and never less than one large packet of the virtual cables.
fn burst(rate: &str) -> Result<u64, ClusterError> {
    let wrong = || ClusterError::Argument {
        what: format!("{rate:?} is not a rate: write for example 20mbit, 1gbit or 500kbit, or off"),
    };
    let end = rate.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = rate[..end].parse().map_err(|_| wrong())?;
    let bits = match rate[end..].to_ascii_lowercase().as_str() {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes_per_second = number
        .checked_mul(bits)
        .filter(|product| *product > 0)
        .ok_or_else(wrong)?
        / 8;
    Ok((bytes_per_second / 100).max(128 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_follow_the_rate_but_let_a_large_packet_pass() {
        assert_eq!(burst("8mbit").unwrap(), 131_072);
        assert_eq!(burst("1gbit").unwrap(), 1_250_000);
        for wrong in ["", "fast", "10", "0mbit", "10mbyte", "-1mbit"] {
            assert!(burst(wrong).is_err(), "{wrong:?}");
        }
    }
}
