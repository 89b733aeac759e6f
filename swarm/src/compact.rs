//! Addresses in their compact form (BEP 5, 7, 11 and 23).

use std::net::{IpAddr, SocketAddr};

/// Those of IPv4 and those of IPv6, each kind one behind the other: address, then port.
pub(crate) fn compact(addresses: impl IntoIterator<Item = SocketAddr>) -> [Vec<u8>; 2] {
    let [mut v4, mut v6] = [const { Vec::new() }; 2];
    for address in addresses {
        let port = address.port().to_be_bytes();
        match address.ip() {
            IpAddr::V4(ip) => v4.extend(ip.octets().into_iter().chain(port)),
            IpAddr::V6(ip) => v6.extend(ip.octets().into_iter().chain(port)),
        }
    }
    [v4, v6]
}
