//! The sockets of one multicast group pair: IPv4 and, where the system has it, IPv6.
//!
//! One socket of each family receives, on all addresses, so that broadcast arrives too; it joins the group on each link.
//! Each link has a socket to send with, bound to the link's address. What a machine sends by multicast it does not hear,
//! unless it asks for that.
//! Several programs of one machine may listen at once.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::UdpSocket;

use super::interfaces::Link;

/// Room for a burst while the processor is busy elsewhere; the system may give less.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Where a group is, and how far datagrams to it travel.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The IPv4 group.
    pub v4: Ipv4Addr,
    /// The IPv6 group.
    pub v6: Ipv6Addr,
    /// The port of both.
    pub port: u16,
    /// Routers that a datagram may cross, plus one: 1 stays on the link.
    pub ttl: u8,
}

impl Group {
    /// The group of a host's family.
    pub(super) fn of(&self, host: IpAddr) -> IpAddr {
        match host {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }
}

/// Why nothing can be heard.
#[derive(Debug, Error)]
pub enum NetError {
    /// An address that is no group.
    #[error("{0} is no multicast group: choose one in 239.0.0.0/8 or ff00::/8")]
    NoGroup(IpAddr),
    /// The port cannot be had.
    #[error(
        "cannot listen on UDP port {port}: {source}; another program holds it alone: choose another port on all nodes"
    )]
    Listen {
        /// Which port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
}

/// The sockets, and the links that they serve.
#[derive(Debug)]
pub struct Sockets {
    group: Group,
    v4: UdpSocket,
    /// Missing where the system has no IPv6.
    v6: Option<UdpSocket>,
    links: BTreeMap<Link, UdpSocket>,
    /// Whether this machine hears what it sends by multicast.
    echo: bool,
}

impl Sockets {
    /// Listens, on no link yet. Must be called within a tokio runtime.
    pub fn open(group: Group) -> Result<Self, NetError> {
        for host in [group.v4.into(), group.v6.into()] {
            let host: IpAddr = host;
            if !host.is_multicast() {
                return Err(NetError::NoGroup(host));
            }
        }
        let v4 = receiver(Domain::IPV4, group.port).map_err(|source| NetError::Listen {
            port: group.port,
            source,
        })?;
        let v6 = receiver(Domain::IPV6, group.port)
            .inspect_err(|error| tracing::info!(%error, "peers are not looked for by IPv6"))
            .ok();
        Ok(Self {
            group,
            v4,
            v6,
            links: BTreeMap::new(),
            echo: false,
        })
    }

    /// The same, but this machine hears what is sent by multicast: to see whether its own rules let that pass.
    #[must_use]
    pub fn with_echo(self) -> Self {
        Self { echo: true, ..self }
    }

    /// Serves these links from now on. Says whether they are others than before. A link that cannot be served is left out
    /// until the next call.
    pub fn follow(&mut self, links: Vec<Link>) -> bool {
        let gone: Vec<Link> = self
            .links
            .keys()
            .filter(|link| !links.contains(link))
            .cloned()
            .collect();
        let mut changed = !gone.is_empty();
        for link in gone {
            tracing::info!(interface = link.name, address = %link.address, "peers are no longer looked for here");
            self.links.remove(&link);
            // Another link may be on the same interface: its address changed. It joins anew below.
            if let Err(error) = self.leave(&link) {
                tracing::debug!(interface = link.name, %error, "cannot leave the group; the interface is gone");
            }
        }
        for link in links {
            if self.links.contains_key(&link) {
                continue;
            }
            match self
                .join(&link)
                .and_then(|()| sender(&link, self.group.ttl, self.echo))
            {
                Ok(socket) => {
                    tracing::info!(interface = link.name, address = %link.address, "peers are looked for here");
                    self.links.insert(link, socket);
                    changed = true;
                }
                Err(error) => {
                    tracing::debug!(interface = link.name, address = %link.address, %error, "peers cannot be looked for here");
                }
            }
        }
        changed
    }

    /// The links that are served.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.keys()
    }

    /// Waits for a datagram. One that is longer than the buffer is cut off.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let socket = tokio::select! {
                ready = self.v4.readable() => ready.map(|()| &self.v4)?,
                ready = readable(self.v6.as_ref()) => ready?,
            };
            match socket.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    /// Sends to the group on one link.
    pub async fn multicast(&self, link: &Link, datagram: &[u8]) -> io::Result<()> {
        let to = SocketAddr::new(self.group.of(link.address), self.group.port);
        self.send(link, to, datagram).await
    }

    /// Sends to everybody in a link's network; does nothing where there is no such address.
    pub async fn broadcast(&self, link: &Link, datagram: &[u8]) -> io::Result<()> {
        match link.broadcast {
            Some(host) => {
                let to = SocketAddr::new(host.into(), self.group.port);
                self.send(link, to, datagram).await
            }
            None => Ok(()),
        }
    }

    async fn send(&self, link: &Link, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        match self.links.get(link) {
            Some(socket) => socket.send_to(datagram, to).await.map(|_| ()),
            None => Ok(()),
        }
    }

    fn join(&self, link: &Link) -> io::Result<()> {
        let joined = match (link.address, &self.v6) {
            (IpAddr::V4(_), _) => socket2::SockRef::from(&self.v4)
                .join_multicast_v4_n(&self.group.v4, &InterfaceIndexOrAddress::Index(link.index)),
            (IpAddr::V6(_), Some(v6)) => v6.join_multicast_v6(&self.group.v6, link.index),
            (IpAddr::V6(_), None) => Err(io::ErrorKind::Unsupported.into()),
        };
        match joined {
            // Joined before: by a link of which only another address changed.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
            joined => joined,
        }
    }

    fn leave(&self, link: &Link) -> io::Result<()> {
        match (link.address, &self.v6) {
            (IpAddr::V4(_), _) => socket2::SockRef::from(&self.v4)
                .leave_multicast_v4_n(&self.group.v4, &InterfaceIndexOrAddress::Index(link.index)),
            (IpAddr::V6(_), Some(v6)) => v6.leave_multicast_v6(&self.group.v6, link.index),
            (IpAddr::V6(_), None) => Ok(()),
        }
    }
}

/// Waits until a datagram is there; for ever where there is no socket.
async fn readable(socket: Option<&UdpSocket>) -> io::Result<&UdpSocket> {
    match socket {
        Some(socket) => socket.readable().await.map(|()| socket),
        None => std::future::pending().await,
    }
}

fn receiver(family: Domain, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(family, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Less is no reason not to start.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let any: SocketAddr = if family == Domain::IPV4 {
        // Only groups that this socket joined, not those of other programs.
        socket.set_multicast_all_v4(false)?;
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()
    } else {
        socket.set_only_v6(true)?;
        socket.set_multicast_all_v6(false)?;
        SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into()
    };
    socket.bind(&any.into())?;
    UdpSocket::from_std(socket.into())
}

fn sender(link: &Link, ttl: u8, echo: bool) -> io::Result<UdpSocket> {
    let family = Domain::for_address(SocketAddr::new(link.address, 0));
    let socket = Socket::new(family, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    match link.address {
        IpAddr::V4(address) => {
            socket.set_multicast_if_v4(&address)?;
            socket.set_multicast_ttl_v4(ttl.into())?;
            socket.set_multicast_loop_v4(echo)?;
            socket.set_broadcast(true)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(link.index)?;
            socket.set_multicast_hops_v6(ttl.into())?;
            socket.set_multicast_loop_v6(echo)?;
        }
    }
    socket.bind(&SocketAddr::new(link.address, 0).into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_must_be_one() {
        let group = Group {
            v4: Ipv4Addr::new(10, 0, 0, 1),
            v6: Ipv6Addr::UNSPECIFIED,
            port: 0,
            ttl: 1,
        };
        assert!(matches!(Sockets::open(group), Err(NetError::NoGroup(_))));
    }
}
