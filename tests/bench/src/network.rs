//! Hosts as network namespaces around a switch, their cables shaped each way, and the counters of the cables.
//!
//! No namespace has a way out: there is no address, route or rule on the machine's own network. Everything carries one
//! prefix, so that what a crash left behind is found and removed at the next start: first the processes inside the
//! namespaces, which only the laboratory can have started, then the namespaces.
//!
//! Every host knows the hardware address of every other from the start: a swarm of 64 asks for more neighbours than the
//! table that all namespaces share holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cable::{self, Far};
use crate::command::{inside, run, script};
use crate::process::Process;

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

/// The namespace in the middle.
pub(crate) fn switch() -> String {
    format!("{}switch", prefix())
}

/// The kernel's default, whatever this machine has made it: which one is used changes times and processor time. Set with the
/// routes, because a namespace may not choose another default than the machine allows.
const CONGESTION: &str = "cubic";

/// How long a packet may wait in front of a cable before it is dropped, in milliseconds, beside what a burst may hold; longer
/// where the links are slower, so that as many bytes may wait.
const QUEUE: u32 = 50;

/// How many TCP segments a packet of a virtual cable carries at least, if there are as many to send: the kernel cuts what a slow
/// connection sends into packets of two. No card takes work off it here, so each packet costs processor time at both ends and in the
/// switch, which for 64 hosts on two processors is most of what there is.
const SEGMENTS: u32 = 4;

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

    pub(crate) fn port(self, net: Net) -> String {
        format!("{}-{}", net.device(), self.name())
    }

    /// Locally administered, made of its address.
    fn hardware(self, net: Net) -> String {
        let [a, b, c, d] = self.address(net).octets();
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }
}

/// What went over a host's cables since they were plugged in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes that the host sent, Ethernet headers included.
    pub sent_bytes: u64,
    /// Packets that it sent; segmentation offload makes one of many.
    pub sent_packets: u64,
    /// Bytes that were sent to it.
    pub received_bytes: u64,
    /// Packets that were sent to it.
    pub received_packets: u64,
}

/// Headers that are counted with each packet: Ethernet 14, IPv4 20, TCP 32 with time stamps.
const HEADERS: u64 = 66;

impl Traffic {
    /// TCP payload that the host sent, what it sent twice included.
    #[must_use]
    pub fn payload(self) -> u64 {
        self.sent_bytes.saturating_sub(HEADERS * self.sent_packets)
    }

    /// TCP payload that was sent to the host.
    #[must_use]
    pub fn received_payload(self) -> u64 {
        self.received_bytes
            .saturating_sub(HEADERS * self.received_packets)
    }

    /// What went over them since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
            sent_packets: self.sent_packets - earlier.sent_packets,
            received_bytes: self.received_bytes - earlier.received_bytes,
            received_packets: self.received_packets - earlier.received_packets,
        }
    }
}

/// The namespaces of one run; removed when dropped.
#[derive(Debug)]
pub struct Network {
    hosts: BTreeMap<Host, Vec<Cable>>,
    /// The programs that are the cables, where those are long.
    carriers: Vec<Process>,
}

impl Network {
    /// Makes the hosts and their cables, nothing shaped yet.
    pub fn create(hosts: BTreeMap<Host, Vec<Cable>>) -> Result<Self> {
        Self::create_far(hosts, None)
    }

    /// The same with long cables, on which packets take their time and are lost.
    pub fn create_far(hosts: BTreeMap<Host, Vec<Cable>>, far: Option<&Far<'_>>) -> Result<Self> {
        sweep()?;
        let mut network = Self {
            hosts,
            carriers: Vec::new(),
        };
        run(Command::new("ip").args(["netns", "add", &switch()]))?;
        // Or each packet asks the firewall too, in the time of the program that sends it: a switch has none.
        let mut bridges = vec![
            "for call in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $call ] || echo 0 >$call; done"
                .to_owned(),
        ];
        for bridge in [Net::Lan, Net::Egress].map(Net::bridge) {
            bridges.push(format!("ip link add {bridge} type bridge mcast_snooping 0"));
            bridges.push(format!("ip link set {bridge} up"));
        }
        script(&switch(), &bridges)?;
        for (host, cables) in &network.hosts {
            let namespace = host.namespace();
            run(Command::new("ip").args(["netns", "add", &namespace]))?;
            let packets = format!("echo {SEGMENTS} >/proc/sys/net/ipv4/tcp_min_tso_segs");
            script(&namespace, &["ip link set lo up".to_owned(), packets])?;
            for Cable { net, .. } in cables {
                if let Some(far) = far {
                    network.carriers.push(cable::lay(far, *host, *net)?);
                }
                let plug = plug(*host, *net, far.is_some());
                script(&switch(), &plug)?;
                script(&namespace, &network.configure(*host, *net))?;
            }
        }
        Ok(network)
    }

    /// What a host does with its end of a cable.
    fn configure(&self, host: Host, net: Net) -> Vec<String> {
        let (address, device) = (host.address(net), net.device());
        let mut neighbours = String::from("ip -batch - <<END\n");
        for (other, cables) in &self.hosts {
            if *other != host && cables.iter().any(|cable| cable.net == net) {
                let (address, hardware) = (other.address(net), other.hardware(net));
                // Writing to a string cannot fail.
                let _ = writeln!(
                    neighbours,
                    "neigh add {address} lladdr {hardware} dev {device} nud permanent"
                );
            }
        }
        neighbours.push_str("END");
        vec![
            format!("ip link set {device} address {}", host.hardware(net)),
            format!("ip addr add {address}/24 dev {device}"),
            format!("ip link set {device} up"),
            format!(
                "ip route replace 10.{}.0/24 dev {device} proto kernel scope link src {address} congctl {CONGESTION}",
                net.third(),
            ),
            neighbours,
        ]
    }

    /// Processor time of the programs that are the cables.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.carriers.iter().map(Process::cpu_seconds).sum()
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
                let count = |way: &str, what: &str| {
                    let count = link["stats64"][way][what].as_u64();
                    count.with_context(|| format!("ip shows no {what}"))
                };
                // What the switch received is what the host sent.
                sum.sent_bytes += count("rx", "bytes")?;
                sum.sent_packets += count("rx", "packets")?;
                sum.received_bytes += count("tx", "bytes")?;
                sum.received_packets += count("tx", "packets")?;
            }
            traffic.insert(*host, sum);
        }
        Ok(traffic)
    }
}

/// What the switch does with its end of a cable: a pair of virtual ends that it makes, or the two that are there.
fn plug(host: Host, net: Net, laid: bool) -> Vec<String> {
    let (port, device) = (host.port(net), net.device());
    let namespace = host.namespace();
    let pair = if laid {
        let end = cable::end(host, net);
        format!("ip link set {end} netns {namespace} name {device}")
    } else {
        format!("ip link add {port} type veth peer name {device} netns {namespace}")
    };
    vec![
        pair,
        format!("ip link set {port} master {} up", net.bridge()),
    ]
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
