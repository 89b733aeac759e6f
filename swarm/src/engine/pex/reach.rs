//! Which addresses are of use to whom.

use std::net::{IpAddr, SocketAddr};

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// From nowhere, or only by those who know the interface.
    Nowhere,
    Machine,
    Link,
    /// From networks that belong together.
    Site,
    World,
}

fn reach(ip: IpAddr) -> Reach {
    match ip.to_canonical() {
        ip if ip.is_unspecified() || ip.is_multicast() => Reach::Nowhere,
        ip if ip.is_loopback() => Reach::Machine,
        IpAddr::V4(ip) => match ip.octets() {
            [0, ..] | [255, 255, 255, 255] => Reach::Nowhere,
            [169, 254, ..] => Reach::Link,
            // The last one is for what stands behind a provider's address translation (RFC 6598).
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Site,
            _ => Reach::World,
        },
        // Who is told of it does not know on which link.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Reach::Nowhere,
        IpAddr::V6(ip) if ip.is_unique_local() => Reach::Site,
        IpAddr::V6(_) => Reach::World,
    }
}

/// Whether who comes from `client` may be able to dial that address. Nobody outside is told of addresses within.
pub(super) fn can_dial(client: IpAddr, address: SocketAddr) -> bool {
    let there = reach(address.ip());
    address.port() != 0
        && there != Reach::Nowhere
        && (there == Reach::World || there == reach(client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_to_those_who_can_dial_them() {
        let nowhere = [
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "ff02::1",
            "fe80::1",
        ];
        let groups = [
            &["127.0.0.1", "127.9.9.9", "::1"][..],
            &["169.254.0.7"],
            &[
                "10.0.0.1",
                "172.16.0.1",
                "172.31.9.9",
                "192.168.1.1",
                "100.64.0.1",
                "fd00::7",
            ],
            &[
                "172.32.0.1",
                "100.128.0.1",
                "192.0.0.9",
                "8.8.8.8",
                "2001:db8::1",
                "::ffff:8.8.8.8",
            ],
        ];
        let can = |client: &str, address: &str, port| {
            let address = SocketAddr::new(address.parse().unwrap(), port);
            can_dial(client.parse().unwrap(), address)
        };
        for (of, clients) in groups.iter().enumerate() {
            for client in *clients {
                for address in nowhere {
                    assert!(!can(client, address, 7), "{client} {address}");
                }
                for (at, addresses) in groups.iter().enumerate() {
                    for address in *addresses {
                        let expected = at == 3 || at == of;
                        assert_eq!(can(client, address, 7), expected, "{client} {address}");
                        assert!(!can(client, address, 0));
                    }
                }
            }
        }
    }
}
