//! On which interfaces of this machine peers are looked for.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use crate::origin::matches;

/// Names of interfaces that lead to containers, virtual machines or tunnels and not to a network of other machines.
const VIRTUAL: [&str; 36] = [
    "br-*",
    "cali*",
    "cbr*",
    "cilium*",
    "cni*",
    "docker*",
    "dummy*",
    "erspan*",
    "flannel*",
    "genev*",
    "gre*",
    "gretap*",
    "ifb*",
    "ip6_vti*",
    "ip6gre*",
    "ip6tnl*",
    "ip_vti*",
    "kube-*",
    "lxc*",
    "lxdbr*",
    "nerdctl*",
    "nodelocaldns*",
    "ovs-*",
    "podman*",
    "ppp*",
    "sit*",
    "tailscale*",
    "tap*",
    "tun*",
    "utun*",
    "veth*",
    "virbr*",
    "vnet*",
    "vxlan*",
    "weave*",
    "wg*",
];

/// Which interfaces are used, by patterns of their names (`*`, `?`, `[a-z]`).
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Only these, virtual ones too; without any, all that are not virtual.
    pub include: Vec<String>,
    /// Never these.
    pub exclude: Vec<String>,
}

/// Where an interface leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To this machine itself.
    Loopback,
    /// To one other machine: a tunnel.
    PointToPoint,
    /// To a network that carries multicast.
    Multicast,
    /// To a network that does not.
    Other,
}

impl From<InterfaceFlags> for Kind {
    fn from(flags: InterfaceFlags) -> Self {
        if flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            Self::Loopback
        } else if flags.contains(InterfaceFlags::IFF_POINTOPOINT) {
            Self::PointToPoint
        } else if flags.contains(InterfaceFlags::IFF_MULTICAST) {
            Self::Multicast
        } else {
            Self::Other
        }
    }
}

/// An interface as the system lists it.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number, by which groups are joined.
    pub index: u32,
    /// Whether it is switched on and has a carrier.
    pub running: bool,
    /// Where it leads.
    pub kind: Kind,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The host.
    pub ip: IpAddr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
    /// Where everybody in the network is reached.
    pub broadcast: Option<Ipv4Addr>,
}

/// A way to other machines: one interface with one address family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Name of the interface.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// What is sent comes from here.
    pub address: IpAddr,
    /// Where everybody is reached without multicast.
    pub broadcast: Option<Ipv4Addr>,
    /// The networks of this family on the interface: host address and length of the prefix.
    pub networks: Vec<(IpAddr, u8)>,
}

impl Link {
    /// Whether a host is in one of the link's networks.
    #[must_use]
    pub fn reaches(&self, host: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|(ip, prefix)| same_network(*ip, host, *prefix))
    }
}

fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let differ = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    differ >= u32::from(prefix)
}

impl Choice {
    /// Whether an interface is used.
    #[must_use]
    pub fn suits(&self, interface: &Interface) -> bool {
        if !interface.running || !matches(&self.include, &self.exclude, &interface.name) {
            return false;
        }
        if !self.include.is_empty() {
            return true;
        }
        let virtual_ = VIRTUAL.map(str::to_owned);
        interface.kind == Kind::Multicast && matches(&[], &virtual_, &interface.name)
    }

    /// The links of the interfaces that are used, sorted.
    #[must_use]
    pub fn links(&self, interfaces: &[Interface]) -> Vec<Link> {
        let mut links: Vec<Link> = interfaces
            .iter()
            .filter(|interface| self.suits(interface))
            .flat_map(|interface| [true, false].map(|v4| link(interface, v4)))
            .flatten()
            .collect();
        links.sort();
        links
    }
}

/// The link of one family, from an address that means the same host to everybody, or, where there is no other, a
/// link-local IPv4 address. A link-local IPv6 address cannot be told to others, so it makes no link.
fn link(interface: &Interface, v4: bool) -> Option<Link> {
    let family: Vec<&Address> = interface
        .addresses
        .iter()
        .filter(|address| address.ip.is_ipv4() == v4)
        .collect();
    let usable = |address: &&&Address| match address.ip {
        IpAddr::V4(ip) => !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_unspecified(),
    };
    let local = |address: &&&Address| matches!(address.ip, IpAddr::V4(ip) if ip.is_link_local());
    let source = family.iter().filter(usable).min_by_key(local)?;
    let mut networks: Vec<_> = family.iter().map(|a| (a.ip, a.prefix)).collect();
    networks.sort_unstable();
    Some(Link {
        name: interface.name.clone(),
        index: interface.index,
        address: source.ip,
        broadcast: source.broadcast,
        networks,
    })
}

/// The machine's interfaces now.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs()? {
        let name = entry.interface_name;
        if !interfaces.contains_key(&name) {
            // It may be gone since it was listed.
            let Ok(index) = if_nametoindex(name.as_str()) else {
                continue;
            };
            let interface = Interface {
                name: name.clone(),
                index,
                running: entry
                    .flags
                    .contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
                kind: entry.flags.into(),
                addresses: Vec::new(),
            };
            interfaces.insert(name.clone(), interface);
        }
        let v4 = |storage: Option<nix::sys::socket::SockaddrStorage>| -> Option<Ipv4Addr> {
            Some(storage?.as_sockaddr_in()?.ip())
        };
        let v6 = |storage: Option<nix::sys::socket::SockaddrStorage>| -> Option<Ipv6Addr> {
            Some(storage?.as_sockaddr_in6()?.ip())
        };
        let (ip, mask): (IpAddr, u32) = if let Some(ip) = v4(entry.address) {
            let mask = v4(entry.netmask).map_or(32, |mask| mask.to_bits().leading_ones());
            (ip.into(), mask)
        } else if let Some(ip) = v6(entry.address) {
            let mask = v6(entry.netmask).map_or(128, |mask| mask.to_bits().leading_ones());
            (ip.into(), mask)
        } else {
            continue;
        };
        if let Some(interface) = interfaces.get_mut(&name) {
            interface.addresses.push(Address {
                ip,
                prefix: u8::try_from(mask).unwrap_or(u8::MAX),
                broadcast: v4(entry.broadcast),
            });
        }
    }
    Ok(interfaces.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            index: 7,
            running: true,
            kind: Kind::Multicast,
            addresses: addresses
                .iter()
                .map(|text| {
                    let (ip, prefix) = text.split_once('/').unwrap();
                    Address {
                        ip: ip.parse().unwrap(),
                        prefix: prefix.parse().unwrap(),
                        broadcast: ip
                            .parse::<Ipv4Addr>()
                            .ok()
                            .map(|ip| Ipv4Addr::from_bits(ip.to_bits() | 0xff)),
                    }
                })
                .collect(),
        }
    }

    fn patterns(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|&pattern| pattern.to_owned()).collect()
    }

    #[test]
    fn virtual_interfaces_are_left_out_unless_they_are_asked_for() {
        let choice = Choice::default();
        for name in [
            "docker0",
            "br-1a2b3c",
            "veth12ab",
            "cni0",
            "cali123",
            "flannel.1",
            "cilium_host",
            "lxc1",
            "tun0",
            "tap1",
            "wg0",
            "virbr0",
            "vxlan.calico",
            "kube-ipvs0",
            "tailscale0",
            "dummy0",
            "sit0",
        ] {
            assert!(!choice.suits(&interface(name, &[])), "{name}");
        }
        for name in [
            "eth0", "enp3s0", "ens192", "eno1", "bond0", "br0", "wlan0", "ib0", "eth0.100", "en0",
        ] {
            assert!(choice.suits(&interface(name, &[])), "{name}");
        }
        let chosen = Choice {
            include: patterns(&["docker*", "eth*"]),
            exclude: patterns(&["eth1"]),
        };
        assert!(chosen.suits(&interface("docker0", &[])));
        assert!(chosen.suits(&interface("eth0", &[])));
        assert!(!chosen.suits(&interface("eth1", &[])));
        assert!(!chosen.suits(&interface("enp3s0", &[])));
        let all_but = Choice {
            include: Vec::new(),
            exclude: patterns(&["wl*"]),
        };
        assert!(all_but.suits(&interface("eth0", &[])) && !all_but.suits(&interface("wlan0", &[])));
    }

    #[test]
    fn what_leads_to_no_network_is_left_out() {
        let choice = Choice::default();
        let sound = interface("eth0", &[]);
        for broken in [
            Interface {
                running: false,
                ..sound.clone()
            },
            Interface {
                kind: Kind::Loopback,
                ..sound.clone()
            },
            Interface {
                kind: Kind::PointToPoint,
                ..sound.clone()
            },
            Interface {
                kind: Kind::Other,
                ..sound.clone()
            },
        ] {
            assert!(!choice.suits(&broken), "{broken:?}");
        }
        assert!(choice.suits(&sound));
    }

    #[test]
    fn each_family_of_an_interface_is_a_link() {
        let eth0 = interface(
            "eth0",
            &[
                "169.254.3.4/16",
                "10.1.2.3/24",
                "10.9.0.1/16",
                "fe80::1/64",
                "fd00::3/64",
            ],
        );
        let links = Choice::default().links(&[interface("eth1", &["fe80::2/64"]), eth0]);
        let addresses: Vec<_> = links.iter().map(|link| link.address.to_string()).collect();
        assert_eq!(addresses, ["10.1.2.3", "fd00::3"]);
        assert_eq!(links[0].broadcast, Some(Ipv4Addr::new(10, 1, 2, 255)));
        for (host, reached) in [
            ("10.1.2.200", true),
            ("10.9.200.1", true),
            ("169.254.9.9", true),
            ("10.1.3.1", false),
            ("fd00::9", false),
        ] {
            assert_eq!(links[0].reaches(host.parse().unwrap()), reached, "{host}");
        }
        assert!(links[1].reaches("fd00::9".parse().unwrap()));
        assert!(links[1].reaches("fe80::9".parse().unwrap()));
        assert!(!links[1].reaches("fd01::9".parse().unwrap()));
    }

    #[test]
    fn prefixes_of_any_length_are_compared() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(same_network(ip("10.0.0.1"), ip("192.0.2.1"), 0));
        assert!(same_network(ip("10.0.0.1"), ip("10.0.0.1"), 32));
        assert!(!same_network(ip("10.0.0.1"), ip("10.0.0.0"), 32));
        assert!(same_network(ip("10.0.0.1"), ip("10.0.0.0"), 31));
        assert!(!same_network(ip("10.0.0.1"), ip("10.0.0.1"), 255));
    }

    #[test]
    fn the_system_lists_its_loopback() {
        let listed = list().unwrap();
        let loopback = listed
            .iter()
            .find(|interface| interface.kind == Kind::Loopback)
            .unwrap();
        assert!(loopback.index > 0);
        let local = loopback
            .addresses
            .iter()
            .find(|address| address.ip.is_ipv4());
        assert!(local.is_none_or(|address| address.prefix == 8));
        assert!(!Choice::default().suits(loopback));
    }
}
