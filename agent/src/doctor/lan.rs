//! The local network: whether announcements arrive here by multicast and by broadcast.
//!
//! Others are heard when they speak, which is every 25 to 40 seconds. Nobody broadcasts while multicast is enough; so
//! this machine says goodbyes of a node that nobody knows, which name multicast as not heard. They teach nobody
//! anything, and whoever believes their signature broadcasts too for a while.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use modelcache_swarm::discovery::announcement::{
    Announcement, Body, Delivery, Listening, NodeName, NodeNameError,
};
use modelcache_swarm::discovery::clock::Now;
use modelcache_swarm::discovery::guard::Guard;
use modelcache_swarm::discovery::interfaces::{self, Link};
use modelcache_swarm::discovery::net::{NetError, Sockets};
use modelcache_swarm::discovery::refusal::Refusal;
use modelcache_swarm::discovery::service::Settings;
use modelcache_swarm::discovery::wire::{self, MAX_DATAGRAM};
use thiserror::Error;

pub use judge::judge;

/// How often interfaces are listed and something is said.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// Most nodes, and most addresses of strangers, that are remembered.
const MAX_REMEMBERED: usize = 1024;
/// A name for where a datagram comes from that crossed a router.
const ELSEWHERE: &str = "another network";

/// Why the network cannot be listened to.
#[derive(Debug, Error)]
pub enum LanError {
    /// No sockets.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No name to speak under.
    #[error(transparent)]
    Name(#[from] NodeNameError),
}

/// By which way a datagram came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Multicast,
    Broadcast,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
        }
    }
}

/// What was heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// Interfaces that were listened on, those without broadcast too.
    interfaces: BTreeSet<String>,
    /// Those that have a broadcast address.
    broadcasting: BTreeSet<String>,
    /// On which interfaces own datagrams came back.
    own: BTreeMap<Way, BTreeSet<String>>,
    /// Which other nodes were heard, on which interfaces.
    others: BTreeMap<Way, BTreeMap<NodeName, BTreeSet<String>>>,
    /// Where each node that was heard listens.
    listening: BTreeMap<NodeName, SocketAddr>,
    /// Datagrams that were refused.
    refused: BTreeMap<&'static str, (u64, Refusal)>,
    /// Who signs with a key that is unknown here.
    strangers: BTreeSet<IpAddr>,
}

impl Heard {
    /// The nodes that were heard, and where each is dialled.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, SocketAddr)> {
        self.listening
            .iter()
            .map(|(node, address)| (node, *address))
    }

    /// Who signs with a key that is unknown here.
    #[must_use]
    pub fn strangers(&self) -> &BTreeSet<IpAddr> {
        &self.strangers
    }

    fn refuse(&mut self, reason: Refusal, source: IpAddr) {
        self.refused.entry(reason.name()).or_insert((0, reason)).0 += 1;
        if reason == Refusal::UnknownKey && self.strangers.len() < MAX_REMEMBERED {
            self.strangers.insert(source);
        }
    }

    fn hear(&mut self, announcement: &Announcement, interface: &str, links: &[&Link]) {
        let node = &announcement.node;
        if self.listening.len() >= MAX_REMEMBERED && !self.listening.contains_key(node) {
            return;
        }
        let way = if announcement.delivery.broadcast {
            Way::Broadcast
        } else {
            Way::Multicast
        };
        let nodes = self.others.entry(way).or_default();
        let seen = nodes.entry(node.clone()).or_default();
        seen.insert(interface.to_owned());
        let addresses = announcement.listening.as_slice();
        let near = |address: &&SocketAddr| links.iter().any(|link| link.reaches(address.ip()));
        if let Some(address) = addresses.iter().find(near).or(addresses.first()) {
            self.listening.insert(node.clone(), *address);
        }
    }
}

/// Listens for so long, and speaks so that others broadcast and own datagrams may come back. `port` is where this node
/// listens for peers.
pub async fn listen(settings: Settings, port: u16, time: Duration) -> Result<Heard, LanError> {
    let ear = Ear {
        sockets: Sockets::open(settings.group)?.with_echo(),
        name: NodeName::new(&format!("doctor-{:016x}", any_number()))?,
        guard: Guard::new(settings.tolerance, Now::read()),
        boot: Now::read(),
        turn: 0,
        port,
        settings,
        heard: Heard::default(),
    };
    Ok(ear.listen(time).await)
}

/// No two doctors have the same name, so that neither's words pass for repetitions of the other's.
fn any_number() -> u64 {
    RandomState::new().hash_one(0)
}

struct Ear {
    settings: Settings,
    sockets: Sockets,
    name: NodeName,
    guard: Guard,
    boot: Now,
    /// Number of datagrams sent: what goes by multicast has an odd number, what goes by broadcast an even one.
    turn: u64,
    port: u16,
    heard: Heard,
}

impl Ear {
    async fn listen(mut self, time: Duration) -> Heard {
        let end = tokio::time::Instant::from_std(Instant::now() + time);
        let mut turns = tokio::time::interval(SAY_EVERY);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut buffer = [0; MAX_DATAGRAM + 1];
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return self.heard,
                _ = turns.tick() => {
                    self.follow();
                    self.speak().await;
                }
                received = self.sockets.receive(&mut buffer) => match received {
                    Ok((len, from)) => self.hear(buffer.get(..len).unwrap_or_default(), from.ip()),
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive announcements");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                },
            }
        }
    }

    fn follow(&mut self) {
        match interfaces::list() {
            Ok(listed) => {
                self.sockets.follow(self.settings.interfaces.links(&listed));
            }
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
        }
        for link in self.sockets.links() {
            self.heard.interfaces.insert(link.name.clone());
            if link.broadcast.is_some() {
                self.heard.broadcasting.insert(link.name.clone());
            }
        }
    }

    async fn speak(&mut self) {
        let links: Vec<Link> = self.sockets.links().cloned().collect();
        let ring = self.settings.keys.now();
        for link in &links {
            let address = SocketAddr::new(link.address, self.port);
            let Some(listening) = Listening::new([address]) else {
                continue;
            };
            for key in ring.keys() {
                for way in [Way::Multicast, Way::Broadcast] {
                    self.turn += 1;
                    let goodbye = Announcement {
                        node: self.name.clone(),
                        boot: self.boot.wall,
                        sequence: self.turn,
                        sent_at: Now::read().wall,
                        listening: listening.clone(),
                        // Named broadcast in any case, so that nobody takes it for multicast that arrives.
                        delivery: Delivery {
                            broadcast: true,
                            deaf: true,
                        },
                        body: Body::Goodbye,
                    };
                    let datagram = wire::encode(&goodbye, key);
                    let sent = match way {
                        Way::Multicast => self.sockets.multicast(link, &datagram).await,
                        Way::Broadcast => self.sockets.broadcast(link, &datagram).await,
                    };
                    if let Err(error) = sent {
                        tracing::warn!(interface = link.name, way = way.name(), %error, "cannot send");
                    }
                }
            }
        }
    }

    fn hear(&mut self, datagram: &[u8], source: IpAddr) {
        let announcement = match wire::decode(datagram, &self.settings.keys.now()) {
            Ok(announcement) => announcement,
            Err(reason) => return self.heard.refuse(reason, source),
        };
        let links: Vec<&Link> = self.sockets.links().collect();
        let interface = links.iter().find(|link| link.reaches(source));
        let interface = interface.map_or(ELSEWHERE, |link| link.name.as_str());
        if announcement.node == self.name && announcement.boot == self.boot.wall {
            let way = if announcement.sequence % 2 == 1 {
                Way::Multicast
            } else {
                Way::Broadcast
            };
            let back = self.heard.own.entry(way).or_default();
            back.insert(interface.to_owned());
            return;
        }
        // The agent of this machine, and other doctors, say nothing about the network.
        let own = links.iter().any(|link| link.address == source);
        match self.guard.accept(&announcement, source, Now::read()) {
            // What may be a repetition is signed, and that it arrives is all that counts here.
            Ok(()) | Err(Refusal::PossiblyReplayed) => {
                if !own && announcement.body != Body::Goodbye {
                    self.heard.hear(&announcement, interface, &links);
                }
            }
            Err(reason) => self.heard.refuse(reason, source),
        }
    }
}
