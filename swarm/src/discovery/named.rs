//! Peers that the settings name, by address or DNS name.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::service::Peers;
use super::table::Origin;

/// How often a name is resolved. Short of [`FRESH`](super::table::FRESH), so that what is still named stays fresh.
const RESOLVE_EVERY: Duration = Duration::from_mins(1);
/// How soon again when that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Addresses of one name that are taken: enough to find some that live, and no name fills the table.
const MOST_ADDRESSES: usize = 1024;

/// A text that names no peer.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "'{0}' is no peer: write HOST:PORT with a DNS name, an IPv4 address, or an IPv6 address in brackets as HOST"
)]
pub struct NamedPeerError(String);

/// A peer, or all that are behind one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedPeer {
    /// An address.
    Address(SocketAddr),
    /// A DNS name, which may stand for many addresses, others from time to time.
    Name {
        /// The name.
        host: String,
        /// The port at each address.
        port: u16,
    },
}

impl FromStr for NamedPeer {
    type Err = NamedPeerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NamedPeerError(text.chars().take(300).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0)
                .then_some(Self::Address(address))
                .ok_or_else(error);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let sound = (1..=253).contains(&host.len())
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            // Four numbers that are no address would only be asked for in vain.
            && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match port {
            Some(port) if sound => Ok(Self::Name {
                host: host.to_owned(),
                port,
            }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for NamedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Keeps the peers that the settings name in the table, until `stop`.
pub async fn follow(named: Vec<NamedPeer>, peers: Peers, stop: CancellationToken) {
    let mut followed = Followed::new(named, peers, Instant::now());
    let lookup = async |host: &str, port| {
        let found = tokio::net::lookup_host((host, port)).await?;
        Ok(found.collect())
    };
    let forever = async {
        while let Some(due) = followed.due() {
            tokio::time::sleep_until(due.into()).await;
            followed.resolve(Instant::now(), lookup).await;
        }
    };
    // Without any there is nothing to do.
    let _ = stop.run_until_cancelled(forever).await;
}

/// What is named, and when each is looked at next.
struct Followed {
    named: Vec<Named>,
    peers: Peers,
}

struct Named {
    peer: NamedPeer,
    due: Instant,
    /// Its last resolution failed.
    lost: bool,
}

impl Followed {
    fn new(named: Vec<NamedPeer>, peers: Peers, now: Instant) -> Self {
        let named = named.into_iter().map(|peer| Named {
            peer,
            due: now,
            lost: false,
        });
        Self {
            named: named.collect(),
            peers,
        }
    }

    /// When one is to be looked at.
    fn due(&self) -> Option<Instant> {
        self.named.iter().map(|named| named.due).min()
    }

    /// Looks at those that are due, one after the other: a name server that is away must not hold up the threads on which
    /// names are resolved, which others need too.
    async fn resolve(
        &mut self,
        now: Instant,
        lookup: impl AsyncFn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    ) {
        for named in self.named.iter_mut().filter(|named| named.due <= now) {
            let found = match &named.peer {
                NamedPeer::Address(address) => Ok(vec![*address]),
                NamedPeer::Name { host, port } => lookup(host, *port).await,
            };
            let wait = match found {
                Ok(addresses) => {
                    named.lost = false;
                    let mut table = self.peers.lock();
                    for address in addresses.into_iter().take(MOST_ADDRESSES) {
                        table.heard(address, Origin::Static, &[], now);
                    }
                    RESOLVE_EVERY
                }
                Err(error) => {
                    // The first failure is news, the following ones are not.
                    if !named.lost {
                        tracing::warn!(peer = %named.peer, %error, "the name of a peer cannot be resolved; trying again");
                    }
                    named.lost = true;
                    RETRY
                }
            };
            named.due = now + wait;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    fn named(text: &str) -> NamedPeer {
        text.parse().unwrap()
    }

    #[test]
    fn what_names_a_peer_and_what_does_not() {
        let address = |text: &str| NamedPeer::Address(text.parse().unwrap());
        for text in ["10.0.0.1:9492", "[fd00::1]:9492"] {
            assert_eq!(named(text), address(text));
            assert_eq!(named(text).to_string(), text);
        }
        let agents = "modelcache-agent.modelcache-system.svc:9492";
        let NamedPeer::Name { host, port } = named(agents) else {
            panic!("no name");
        };
        assert_eq!(
            (host.as_str(), port),
            ("modelcache-agent.modelcache-system.svc", 9492)
        );
        for bad in [
            "",
            ":9492",
            "node",
            "node:",
            "node:0",
            "10.0.0.1:0",
            "node:70000",
            "10.0.0:9492",
            "10.0.0.300:9492",
            "fd00::1:9492",
            "http://node:9492",
            "a b:9492",
        ] {
            let error = bad.parse::<NamedPeer>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_names_the_same(text in ".{0,30}|[a-z0-9.]{1,20}:[0-9]{1,5}") {
            if let Ok(peer) = text.parse::<NamedPeer>() {
                prop_assert_eq!(named(&peer.to_string()), peer);
            }
        }
    }

    fn known(peers: &Peers, now: Instant) -> Vec<(String, bool)> {
        let table = peers.lock();
        let known = table.peers(now).into_iter();
        known
            .map(|(address, peer)| {
                (
                    address.to_string(),
                    peer.origins.contains_key(&Origin::Static),
                )
            })
            .collect()
    }

    #[tokio::test]
    async fn names_are_resolved_again_and_again_and_soon_after_a_failure() {
        let peers = Peers::default();
        let start = Instant::now();
        let mut followed = Followed::new(
            vec![named("10.0.0.1:1"), named("agents:2")],
            peers.clone(),
            start,
        );
        let answers: RefCell<Vec<io::Result<Vec<&str>>>> = RefCell::default();
        let lookup = async |host: &str, port| {
            assert_eq!((host, port), ("agents", 2));
            let answer = answers.borrow_mut().pop().unwrap()?;
            Ok(answer
                .iter()
                .map(|address| address.parse().unwrap())
                .collect())
        };
        answers
            .borrow_mut()
            .push(Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(followed.due(), Some(start));
        followed.resolve(start, lookup).await;
        assert_eq!(known(&peers, start), [("10.0.0.1:1".to_owned(), true)]);
        let soon = start + RETRY;
        assert_eq!(followed.due(), Some(soon));
        answers
            .borrow_mut()
            .push(Ok(vec!["10.0.0.2:2", "[fd00::2]:2"]));
        followed.resolve(soon, lookup).await;
        assert_eq!(known(&peers, soon).len(), 3);
        // Only what is due is looked at; a name that is gone leaves what it said to grow old.
        assert_eq!(followed.due(), Some(start + RESOLVE_EVERY));
        followed.resolve(start + RESOLVE_EVERY, lookup).await;
        let later = soon + RESOLVE_EVERY;
        assert_eq!(followed.due(), Some(later));
        answers.borrow_mut().push(Ok(vec!["10.0.0.3:2"]));
        followed.resolve(later, lookup).await;
        assert_eq!(known(&peers, later).len(), 4);
        let gone = soon + super::super::table::USABLE + Duration::from_secs(1);
        assert_eq!(
            known(&peers, gone).len(),
            2,
            "one address, and one of the name"
        );
    }

    #[tokio::test]
    async fn a_name_with_very_many_addresses_does_not_fill_the_table() {
        let peers = Peers::default();
        let now = Instant::now();
        let mut followed = Followed::new(vec![named("agents:2")], peers.clone(), now);
        let all = async |_: &str, port| {
            let address = |number: u32| (std::net::Ipv4Addr::from_bits(number), port).into();
            Ok((0x0a00_0000..0x0a00_2000).map(address).collect())
        };
        followed.resolve(now, all).await;
        assert_eq!(peers.lock().len(), MOST_ADDRESSES);
    }

    #[tokio::test]
    async fn the_system_resolves_names() {
        let peers = Peers::default();
        let stop = CancellationToken::new();
        let following = tokio::spawn(follow(
            vec![named("localhost:4")],
            peers.clone(),
            stop.clone(),
        ));
        while peers.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(known(&peers, Instant::now())[0].0.ends_with(":4"));
        stop.cancel();
        following.await.unwrap();
    }
}
