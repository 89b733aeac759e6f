//! The task that announces this node and hears the others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::announcement::{Announcement, Body, ContentId, Delivery, Listening, NodeName, Page};
use super::clock::Now;
use super::guard::Guard;
use super::interfaces::{self, Choice, Interface, Link};
use super::net::{Group, NetError, Sockets};
use super::rate::{Limits, Rate, Sources};
use super::refusal::{Counters, Refusal};
use super::table::PeerTable;
use super::timing::{Intervals, Reach, Schedule};
use super::window::Tolerance;
use super::wire::{self, MAX_DATAGRAM};
use crate::secret::Keys;

/// The group that nodes announce themselves to unless another is chosen. The IPv6 group is transient and of link-local scope
/// (RFC 4291), so that it stays where IPv4 with a TTL of 1 stays; its last 32 bits are the IPv4 group.
pub const GROUP: Group = Group {
    v4: std::net::Ipv4Addr::new(239, 192, 42, 1),
    v6: std::net::Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xefc0, 0x2a01),
    port: 4269,
    ttl: 1,
};

/// A node with eight pages, four links, two keys and broadcast sends 128 datagrams at once, every 25 s or so.
const LIMITS: Limits = Limits {
    each: Rate {
        every: Duration::from_millis(100),
        burst: 160,
    },
    strangers: Rate {
        every: Duration::from_millis(2),
        burst: 1000,
    },
    sources: 4096,
};

/// How often interfaces are listed and what was heard is forgotten.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After an error of the network, which repeats at once more often than not.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// What a node says about itself.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its name.
    pub node: NodeName,
    /// Where it listens for peers, on each of its links.
    pub port: u16,
    /// Addresses to name besides those of its links.
    pub hosts: Vec<IpAddr>,
}

/// How peers are looked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is announced; without it the node only listens.
    pub own: Option<Own>,
    /// Who is believed, and what is signed with.
    pub keys: Keys,
    /// Where announcements go and are heard.
    pub group: Group,
    /// On which interfaces.
    pub interfaces: Choice,
    /// How often.
    pub intervals: Intervals,
    /// How far clocks may differ.
    pub tolerance: Tolerance,
}

/// The table, shared between those who fill it and those who read it.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<PeerTable>>);

impl Peers {
    /// Access to the table; to be held for a moment only.
    pub fn lock(&self) -> MutexGuard<'_, PeerTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running task. Dropping it ends it without a goodbye.
#[derive(Debug)]
pub struct Discovery {
    counters: Arc<Counters>,
    contents: watch::Sender<Vec<ContentId>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Discovery {
    /// Starts to listen and, after a while, to announce. What is heard goes into `peers`.
    pub fn start(settings: Settings, peers: Peers) -> Result<Self, NetError> {
        let now = Now::read();
        let counters = Arc::new(Counters::default());
        let (contents, held) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let service = Service {
            sockets: Sockets::open(settings.group)?,
            guard: Guard::new(settings.tolerance, now),
            sources: Sources::new(LIMITS, now.monotonic),
            schedule: Schedule::new(settings.intervals, rand::random(), now.monotonic),
            reach: BTreeMap::new(),
            peers,
            counters: counters.clone(),
            held,
            generation: 0,
            boot: now,
            sequence: 0,
            settings,
        };
        let task = tokio::spawn(service.run(stop.clone()));
        Ok(Self {
            counters,
            contents,
            stop,
            task: Some(task),
        })
    }

    /// What became of the datagrams that arrived.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// What this node holds from now on; announced at once when it changed.
    pub fn hold(&self, mut contents: Vec<ContentId>) {
        contents.sort_unstable();
        contents.dedup();
        self.contents.send_if_modified(|known| {
            let changed = *known != contents;
            *known = contents;
            changed
        });
    }

    /// Says goodbye and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "looking for peers ended badly");
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

struct Service {
    settings: Settings,
    sockets: Sockets,
    guard: Guard,
    sources: Sources,
    schedule: Schedule,
    reach: BTreeMap<Link, Reach>,
    peers: Peers,
    counters: Arc<Counters>,
    held: watch::Receiver<Vec<ContentId>>,
    generation: u32,
    boot: Now,
    sequence: u64,
}

impl Service {
    async fn run(mut self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut keys = self.settings.keys.clone();
        let mut held = self.held.clone();
        // One more than is allowed, to see what is too long.
        let mut buffer = [0; MAX_DATAGRAM + 1];
        loop {
            let due = tokio::time::Instant::from_std(self.schedule.due());
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => self.look(),
                () = tokio::time::sleep_until(due) => self.announce(false).await,
                Ok(()) = held.changed() => {
                    self.generation = self.generation.wrapping_add(1);
                    self.schedule.changed(Instant::now());
                }
                () = keys.changed() => self.schedule.changed(Instant::now()),
                received = self.sockets.receive(&mut buffer) => match received {
                    Ok((len, from)) => self.hear(buffer.get(..len).unwrap_or_default(), from, Now::read()),
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive announcements");
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                },
            }
        }
        self.announce(true).await;
    }

    /// Looks at what changes by itself: interfaces, and the age of what was heard.
    fn look(&mut self) {
        let now = Now::read();
        match interfaces::list() {
            Ok(listed) => self.follow(&listed, now.monotonic),
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
        }
        self.guard.forget_stale(now);
    }

    fn follow(&mut self, listed: &[Interface], now: Instant) {
        if !self.sockets.follow(self.settings.interfaces.links(listed)) {
            return;
        }
        let mut before = std::mem::take(&mut self.reach);
        for link in self.sockets.links() {
            let reach = before.remove(link);
            let reach = reach.unwrap_or_else(|| Reach::new(&self.settings.intervals));
            self.reach.insert(link.clone(), reach);
        }
        // Others must hear of new addresses; but the first ones wait for the start, or all nodes would speak at once.
        if self.schedule.started() {
            self.schedule.changed(now);
        }
    }

    /// Takes in what arrived.
    fn hear(&mut self, datagram: &[u8], from: SocketAddr, now: Now) {
        match self.judge(datagram, from.ip(), now) {
            Ok(Some(announcement)) => {
                self.counters.accept();
                self.sources.know(from.ip(), now.monotonic);
                for (link, reach) in &mut self.reach {
                    if link.reaches(from.ip()) {
                        reach.heard(announcement.delivery, now.monotonic);
                    }
                }
                self.peers.lock().announced(&announcement, now.monotonic);
            }
            Ok(None) => {}
            Err(reason) => {
                self.counters.refuse(reason);
                tracing::trace!(%from, %reason, "announcement refused");
            }
        }
    }

    /// What is news; `None` for what this node sent itself, which comes back by broadcast.
    fn judge(
        &mut self,
        datagram: &[u8],
        source: IpAddr,
        now: Now,
    ) -> Result<Option<Announcement>, Refusal> {
        if !self.sources.admit(source, now.monotonic) {
            return Err(Refusal::TooMany);
        }
        let announcement = wire::decode(datagram, &self.settings.keys.now())?;
        let own = self.settings.own.as_ref();
        if announcement.boot == self.boot.wall
            && own.is_some_and(|own| own.node == announcement.node)
        {
            return Ok(None);
        }
        self.guard.accept(&announcement, source, now)?;
        Ok(Some(announcement))
    }

    /// Says where this node is and what it holds, or that it leaves, on each link.
    async fn announce(&mut self, leaving: bool) {
        self.schedule.sent(Instant::now());
        let Some(own) = self.settings.own.clone() else {
            return;
        };
        let bodies: Vec<Body> = if leaving {
            vec![Body::Goodbye]
        } else {
            let held = self.held.borrow();
            let pages = Page::all(self.generation, &held);
            pages.into_iter().map(Body::Page).collect()
        };
        let links: Vec<Link> = self.sockets.links().cloned().collect();
        for link in &links {
            let hosts = [link.address].into_iter();
            let hosts = hosts.chain(own.hosts.iter().copied());
            let hosts = hosts.chain(links.iter().map(|link| link.address));
            let addresses = hosts.map(|host| SocketAddr::new(host, own.port));
            let Some(listening) = Listening::new(addresses) else {
                continue;
            };
            for body in &bodies {
                self.announce_on(link, &own.node, &listening, body).await;
            }
        }
    }

    async fn announce_on(
        &mut self,
        link: &Link,
        node: &NodeName,
        listening: &Listening,
        body: &Body,
    ) {
        let now = Instant::now();
        let reach = self.reach.get(link);
        let deaf = reach.is_none_or(|reach| reach.deaf(now));
        let both = reach.is_none_or(|reach| reach.broadcast(now));
        let ring = self.settings.keys.now();
        for broadcast in [false, true] {
            if broadcast && !both {
                continue;
            }
            // One datagram each: while keys change, some nodes know only the one and some only the other.
            for key in ring.keys() {
                self.sequence += 1;
                let announcement = Announcement {
                    node: node.clone(),
                    boot: self.boot.wall,
                    sequence: self.sequence,
                    sent_at: Now::read().wall,
                    listening: listening.clone(),
                    delivery: Delivery { broadcast, deaf },
                    body: body.clone(),
                };
                let datagram = wire::encode(&announcement, key);
                let sent = if broadcast {
                    self.sockets.broadcast(link, &datagram).await
                } else {
                    self.sockets.multicast(link, &datagram).await
                };
                if let Err(error) = sent {
                    tracing::debug!(interface = link.name, %error, "cannot announce this node here");
                }
            }
        }
    }
}
