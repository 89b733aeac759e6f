//! The local network: whether announcements arrive here by multicast and by broadcast.
//!
//! Others are heard when they speak, which is every 25 to 40 seconds. Nobody broadcasts while multicast is enough; so
//! this machine says goodbyes of a node that nobody knows, which name multicast as not heard. They teach nobody
//! anything, and whoever believes their signature broadcasts too for a while.

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

use super::finding::Finding;

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

/// What it means.
#[must_use]
pub fn judge(heard: &Heard, port: u16) -> Vec<Finding> {
    if heard.interfaces.is_empty() {
        let why = "no interface to a network of other machines: a pod network? The coordinator finds peers there";
        return ["multicast", "broadcast", "announcements"]
            .map(|check| Finding::skipped(check, why))
            .into();
    }
    vec![
        multicast(heard, port),
        broadcast(heard, port),
        refused(heard),
    ]
}

fn names(set: Option<&BTreeSet<String>>) -> String {
    let names: Vec<&str> = set.into_iter().flatten().map(String::as_str).collect();
    names.join(", ")
}

/// Where own datagrams came back, in words, and whether they did anywhere.
fn own(heard: &Heard, way: Way) -> (String, bool) {
    let back = heard.own.get(&way);
    let back = back.filter(|interfaces| !interfaces.is_empty());
    match back {
        Some(_) => (format!("own datagrams come back on {}", names(back)), true),
        None => ("own datagrams do not come back".to_owned(), false),
    }
}

/// Who was heard, in words.
fn others(heard: &Heard, way: Way) -> Option<String> {
    let nodes = heard.others.get(&way).filter(|nodes| !nodes.is_empty())?;
    let some = nodes.iter().take(8);
    let mut words: Vec<String> = some
        .map(|(node, interfaces)| format!("{} on {}", node.as_str(), names(Some(interfaces))))
        .collect();
    if nodes.len() > words.len() {
        words.push(format!("{} more", nodes.len() - words.len()));
    }
    Some(format!("heard {}", words.join(", ")))
}

fn multicast(heard: &Heard, port: u16) -> Finding {
    let check = "multicast";
    let (own, back) = own(heard, Way::Multicast);
    let listened = format!("on {}", names(Some(&heard.interfaces)));
    match others(heard, Way::Multicast) {
        Some(others) if back => Finding::ok(check, format!("{others}; {own}")),
        Some(others) => Finding::warn(
            check,
            format!("{others}; {own}"),
            "this machine's own rules drop what it sends; others may not hear it",
        ),
        None if others(heard, Way::Broadcast).is_some() => Finding::fail(
            check,
            format!("nobody {listened}, though others are there and broadcast; {own}"),
            "the network drops multicast between machines: on switches, IGMP snooping wants a querier; broadcast is used instead",
        ),
        None if back => Finding::warn(
            check,
            format!("nobody {listened}; {own}, which shows this machine only"),
            "do other nodes run with --announce? Then the network drops multicast and broadcast",
        ),
        None => Finding::fail(
            check,
            format!("nobody {listened}; {own}"),
            &format!("this machine's firewall drops UDP port {port}: open it"),
        ),
    }
}

fn broadcast(heard: &Heard, port: u16) -> Finding {
    let check = "broadcast";
    if heard.broadcasting.is_empty() {
        return Finding::skipped(check, "no interface has a broadcast address");
    }
    let (own, back) = own(heard, Way::Broadcast);
    if let Some(others) = others(heard, Way::Broadcast) {
        return Finding::ok(check, format!("{others}; {own}"));
    }
    if others(heard, Way::Multicast).is_some() {
        return Finding::warn(
            check,
            format!("nobody broadcasts, though asked to; {own}"),
            "multicast is enough, and there is nothing to fall back on; listen for longer to be sure",
        );
    }
    if back {
        return Finding::warn(
            check,
            format!("nobody; {own}, which shows this machine only"),
            "do other nodes run with --announce? Then the network drops broadcast",
        );
    }
    Finding::fail(
        check,
        format!("nobody; {own}"),
        &format!("this machine's firewall drops UDP port {port}: open it"),
    )
}

fn refused(heard: &Heard) -> Finding {
    let check = "announcements";
    let counted: Vec<_> = heard.refused.values().collect();
    if counted.is_empty() {
        return Finding::ok(check, "none refused");
    }
    let seen = counted
        .iter()
        .map(|(count, reason)| format!("{count} {reason}"));
    let advice = counted
        .iter()
        .map(|(_, reason)| format!("{reason}: {}", reason.advice()));
    Finding::warn(
        check,
        format!("refused: {}", seen.collect::<Vec<_>>().join(", ")),
        &advice.collect::<Vec<_>>().join("; "),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn heard(own: &[Way], others: &[Way]) -> Heard {
        let eth0 = || BTreeSet::from(["eth0".to_owned()]);
        let node = NodeName::new("node-b").unwrap();
        Heard {
            interfaces: eth0(),
            broadcasting: eth0(),
            own: own.iter().map(|way| (*way, eth0())).collect(),
            others: others
                .iter()
                .map(|way| (*way, BTreeMap::from([(node.clone(), eth0())])))
                .collect(),
            ..Heard::default()
        }
    }

    /// One letter a check: multicast, broadcast, announcements.
    fn verdicts(heard: &Heard) -> String {
        let findings = judge(heard, 4269);
        let letter = |finding: &Finding| match finding.verdict {
            Verdict::Ok => 'o',
            Verdict::Warn(_) => 'w',
            Verdict::Fail(_) => 'f',
            Verdict::Skipped => 's',
        };
        findings.iter().map(letter).collect()
    }

    #[test]
    fn hearing_oneself_is_not_enough() {
        let both = [Way::Multicast, Way::Broadcast];
        assert_eq!(verdicts(&heard(&both, &both)), "ooo");
        assert_eq!(verdicts(&heard(&both, &[])), "wwo");
        assert_eq!(verdicts(&heard(&[], &[])), "ffo");
        assert_eq!(verdicts(&heard(&both, &[Way::Broadcast])), "foo");
        assert_eq!(verdicts(&heard(&both, &[Way::Multicast])), "owo");
        assert_eq!(verdicts(&heard(&[], &both)), "woo");
        assert_eq!(verdicts(&Heard::default()), "sss");
    }

    #[test]
    fn who_is_heard_where_is_said() {
        let heard = heard(&[Way::Multicast], &[Way::Multicast]);
        let seen = &judge(&heard, 4269)[0].seen;
        assert_eq!(
            seen,
            "heard node-b on eth0; own datagrams come back on eth0"
        );
    }

    #[test]
    fn strangers_are_remembered_up_to_a_number() {
        let mut heard = heard(&[], &[]);
        for host in 0..u32::try_from(2 * MAX_REMEMBERED).unwrap() {
            heard.refuse(
                Refusal::UnknownKey,
                std::net::Ipv4Addr::from_bits(host).into(),
            );
        }
        assert_eq!(heard.strangers().len(), MAX_REMEMBERED);
        assert_eq!(verdicts(&heard), "ffw");
    }
}
