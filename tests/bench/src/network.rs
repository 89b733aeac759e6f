//! Hosts as network namespaces around a switch, their cables shaped each way, and the counters of the cables.
//!
//! No namespace has a way out: there is no address, route or rule on the machine's own network. Everything carries one
//! prefix, so that what a crash left behind is found and removed at the next start: first the processes inside the
//! namespaces, which only the laboratory can have started, then the namespaces.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{inside, run, script};

/// The name of the laboratory that this program is.
static NAME: OnceLock<&str> = OnceLock::new();

/// Names the laboratory [default: `mcbench`]. Said once, before anything else: two laboratories on one machine must not take
/// each other's hosts for what a crash left behind.
pub fn name_laboratory(name: &'static str) {
    NAME.get_or_init(|| name);
}

fn prefix() -> String {
    format!("{}-", NAME.get_or_init(|| "mcbench"))
}

fn switch() -> String {
    format!("{}switch", prefix())
}

/// The kernel's default, whatever this machine has made it: which one is used changes times and processor time. Set with the
/// routes, because a namespace may not choose another default than the machine allows.
const CONGESTION: &str = "cubic";

/// How long a packet may wait in front of a cable before it is dropped, in milliseconds; longer where the links are slower,
/// so that as many bytes may wait.
const QUEUE: u32 = 50;

/// A cable between a host and one of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cable {
    /// Which network.
    pub net: Net,
    /// Rate each way in kbit/s, Ethernet headers included; none: not shaped.
    pub rate: Option<u32>,
}

/// The two networks; hosts reach each other on those they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Net {
    /// Between nodes.
    Lan,
    /// A way of its own to the hub.
    Egress,
}

impl Net {
    fn third(self) -> u8 {
        match self {
            Self::Lan => 91,
            Self::Egress => 92,
        }
    }

    fn bridge(self) -> &'static str {
        match self {
            Self::Lan => "br-lan",
            Self::Egress => "br-egress",
        }
    }

    fn device(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Egress => "egress",
        }
    }
}

/// A machine of the laboratory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// Where the origin is.
    Hub,
    /// Where the coordinator and the tracker are; its cable is never shaped.
    Control,
    /// A node.
    Node(u8),
}

impl Host {
    /// Its name, which is also its port's at the switch.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Hub => "hub".to_owned(),
            Self::Control => "control".to_owned(),
            Self::Node(number) => format!("node{number}"),
        }
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(self) -> String {
        format!("{}{}", prefix(), self.name())
    }

    /// Its address on a network.
    #[must_use]
    pub fn address(self, net: Net) -> Ipv4Addr {
        let last = match self {
            Self::Hub => 2,
            Self::Control => 3,
            Self::Node(number) => 10 + number,
        };
        Ipv4Addr::new(10, net.third(), 0, last)
    }

    fn port(self, net: Net) -> String {
        format!("{}-{}", net.device(), self.name())
    }
}

/// What went over a host's cables since they were plugged in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes that the host sent, Ethernet headers included.
    pub sent_bytes: u64,
    /// Packets that it sent; segmentation offload makes one of many.
    pub sent_packets: u64,
}

impl Traffic {
    /// TCP payload that the host sent, what it sent twice included: each packet is counted with one set of headers
    /// (Ethernet 14, IPv4 20, TCP 32 with time stamps).
    #[must_use]
    pub fn payload(self) -> u64 {
        self.sent_bytes.saturating_sub(66 * self.sent_packets)
    }

    /// What was sent since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
            sent_packets: self.sent_packets - earlier.sent_packets,
        }
    }
}

/// The namespaces of one run; removed when dropped.
#[derive(Debug)]
pub struct Network {
    hosts: BTreeMap<Host, Vec<Cable>>,
}

impl Network {
    /// Makes the hosts and their cables, nothing shaped yet.
    pub fn create(hosts: BTreeMap<Host, Vec<Cable>>) -> Result<Self> {
        sweep()?;
        let network = Self { hosts };
        run(Command::new("ip").args(["netns", "add", &switch()]))?;
        let mut lines = Vec::new();
        for net in [Net::Lan, Net::Egress] {
            let bridge = net.bridge();
            lines.push(format!("ip link add {bridge} type bridge mcast_snooping 0"));
            lines.push(format!("ip link set {bridge} up"));
        }
        for (host, cables) in &network.hosts {
            let namespace = host.namespace();
            run(Command::new("ip").args(["netns", "add", &namespace]))?;
            let mut own = vec!["ip link set lo up".to_owned()];
            for Cable { net, .. } in cables {
                let (port, device, bridge) = (host.port(*net), net.device(), net.bridge());
                lines.push(format!(
                    "ip link add {port} type veth peer name {device} netns {namespace}"
                ));
                lines.push(format!("ip link set {port} master {bridge} up"));
                own.push(format!(
                    "ip addr add {}/24 dev {device}",
                    host.address(*net)
                ));
                own.push(format!("ip link set {device} up"));
                own.push(format!(
                    "ip route replace 10.{}.0/24 dev {device} proto kernel scope link src {} congctl {CONGESTION}",
                    net.third(),
                    host.address(*net)
                ));
            }
            script(&switch(), &std::mem::take(&mut lines))?;
            script(&namespace, &own)?;
        }
        Ok(network)
    }

    /// Limits each cable in both directions to its rate.
    pub fn shape(&self, slower: u32) -> Result<()> {
        let queue = QUEUE * slower;
        let mut ports = Vec::new();
        for (host, cables) in &self.hosts {
            for Cable { net, rate } in cables {
                let Some(rate) = rate else { continue };
                // A hundredth of a second, and never less than one large packet of the virtual cables.
                let burst = (u64::from(*rate) * 1000 / 8 / 100).max(128 * 1024);
                let shaper = format!("root tbf rate {rate}kbit burst {burst} latency {queue}ms");
                ports.push(format!("tc qdisc add dev {} {shaper}", host.port(*net)));
                let device = net.device();
                script(
                    &host.namespace(),
                    &[format!("tc qdisc add dev {device} {shaper}")],
                )?;
            }
        }
        script(&switch(), &ports)
    }

    /// Pulls a cable out of the switch or plugs it in again; addresses and routes of the host stay.
    pub fn plug(&self, host: Host, net: Net, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        script(
            &switch(),
            &[format!("ip link set {} {state}", host.port(net))],
        )
    }

    /// The counters of all hosts, read at the switch.
    pub fn traffic(&self) -> Result<BTreeMap<Host, Traffic>> {
        let text = run(&mut inside(&switch(), &["ip", "-j", "-s", "link", "show"]))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let mut traffic = BTreeMap::new();
        for (host, cables) in &self.hosts {
            let mut sum = Traffic::default();
            for cable in cables {
                let port = host.port(cable.net);
                let mut links = links.as_array().into_iter().flatten();
                let link = links
                    .find(|link| link["ifname"] == port.as_str())
                    .with_context(|| format!("the switch has lost its port {port}"))?;
                // What the switch received is what the host sent.
                let count = |what: &str| link["stats64"]["rx"][what].as_u64();
                sum.sent_bytes += count("bytes").context("ip shows no bytes")?;
                sum.sent_packets += count("packets").context("ip shows no packets")?;
            }
            traffic.insert(*host, sum);
        }
        Ok(traffic)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = sweep() {
            eprintln!(
                "the laboratory's network is not removed, the next run tries again: {error:#}"
            );
        }
    }
}

/// Removes every namespace of the laboratory and ends what runs in it.
pub fn sweep() -> Result<()> {
    let listed = run(Command::new("ip").args(["netns", "list"]))?;
    let prefix = prefix();
    let names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(&prefix));
    for name in names {
        end_processes(name)?;
        run(Command::new("ip").args(["netns", "del", name]))?;
    }
    Ok(())
}

fn end_processes(namespace: &str) -> Result<()> {
    for _ in 0..100 {
        let listed = run(Command::new("ip").args(["netns", "pids", namespace]))?;
        let pids: Vec<Pid> = listed
            .lines()
            .filter_map(|line| Pid::from_raw(line.trim().parse().ok()?))
            .collect();
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            // It may be gone by itself in between.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("processes in {namespace} do not end")
}
