//! The task that tells machines with hali what this node seeds, and hears what they seed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::guard::Guard;
use super::packet::{self, MAX_PACKET, Seed};
use super::secret::HaliSecret;
use crate::discovery::announcement::{ContentId, can_be_dialled};
use crate::discovery::interfaces::{self, Choice, Link};
use crate::discovery::net::{NetError, Sockets};
use crate::discovery::rate::{Bucket, Limits, Rate, Sources};
use crate::discovery::refusal::{Counters, Refusal};
use crate::discovery::service::{GROUP, Peers};
use crate::discovery::table::Origin;
use crate::discovery::timing::{Intervals, Schedule};

/// Most torrents that are announced.
const MAX_SEEDS: usize = 64;
/// hali drops what comes faster than ten packets a second from one node.
const SENDING: Rate = Rate {
    every: Duration::from_millis(125),
    burst: 4,
};
/// What is heard: a machine sends each packet once for each of its networks, and again as broadcast.
const LIMITS: Limits = Limits {
    each: Rate {
        every: Duration::from_millis(100),
        burst: 40,
    },
    strangers: Rate {
        every: Duration::from_millis(10),
        burst: 200,
    },
    sources: 1024,
};
const LOOK_EVERY: Duration = Duration::from_secs(5);
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// How hali's machines are spoken to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What packets are signed with and checked by.
    pub secret: HaliSecret,
    /// This node's name among them, 1 to 128 characters; hali shows it.
    pub node: String,
    /// On which interfaces.
    pub interfaces: Choice,
    /// How often.
    pub intervals: Intervals,
}

/// What the others are told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Named {
    port: u16,
    seeds: Vec<Seed>,
}

/// The running task. Dropping it ends it; the protocol knows no goodbye.
#[derive(Debug)]
pub struct HaliService {
    counters: Arc<Counters>,
    named: watch::Sender<Named>,
    task: JoinHandle<()>,
}

impl HaliService {
    /// Listens, and tells nobody anything yet. Who seeds the same as this node goes into `peers`.
    pub fn start(settings: Settings, peers: Peers) -> Result<Self, NetError> {
        let counters = Arc::new(Counters::default());
        let (named, listener) = watch::channel(Named::default());
        let now = Instant::now();
        let service = Service {
            sockets: Sockets::open(GROUP)?,
            guard: Guard::default(),
            sources: Sources::new(LIMITS, now),
            schedule: Schedule::new(settings.intervals, rand::random(), now),
            budget: Bucket::new(now),
            peers,
            counters: counters.clone(),
            named: Named::default(),
            known: BTreeSet::new(),
            settings,
        };
        Ok(Self {
            counters,
            named,
            task: tokio::spawn(service.run(listener)),
        })
    }

    /// What this node seeds at `port` from now on: files that everybody may have. The first 64 are announced.
    pub fn name(&self, port: u16, seeds: Vec<Seed>) {
        let new = Named { port, seeds };
        self.named.send_if_modified(|named| {
            let changed = *named != new;
            *named = new;
            changed
        });
    }

    /// What became of the packets that arrived.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}

impl Drop for HaliService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    settings: Settings,
    sockets: Sockets,
    guard: Guard,
    sources: Sources,
    schedule: Schedule,
    budget: Bucket,
    peers: Peers,
    counters: Arc<Counters>,
    named: Named,
    /// The info hashes of what is named.
    known: BTreeSet<[u8; 20]>,
}

impl Service {
    async fn run(mut self, mut listener: watch::Receiver<Named>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut buffer = vec![0; MAX_PACKET + 1];
        loop {
            let due = tokio::time::Instant::from_std(self.schedule.due());
            tokio::select! {
                _ = looks.tick() => self.look(),
                () = tokio::time::sleep_until(due) => self.announce().await,
                Ok(()) = listener.changed() => {
                    self.named = listener.borrow_and_update().clone();
                    self.known = self.named.seeds.iter().map(Seed::info_hash).collect();
                    self.schedule.changed(Instant::now());
                }
                received = self.sockets.receive(&mut buffer) => match received {
                    Ok((len, from)) => {
                        let packet = buffer.get(..len).unwrap_or_default();
                        self.hear(packet, from, Instant::now(), unix_seconds());
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive packets of hali");
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                },
            }
        }
    }

    fn look(&mut self) {
        match interfaces::list() {
            Ok(listed) => {
                let mut links = self.settings.interfaces.links(&listed);
                links.retain(|link| link.address.is_ipv4());
                self.sockets.follow(links);
            }
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
        }
        self.guard.forget_stale(unix_seconds());
        self.peers.lock().expire(Instant::now());
    }

    /// Says what this node seeds, on each link, by multicast and broadcast, as hali does.
    async fn announce(&mut self) {
        self.schedule.sent(Instant::now());
        let Named { port, seeds } = &self.named;
        let seeds = seeds.get(..MAX_SEEDS).unwrap_or(seeds);
        let Settings { node, secret, .. } = &self.settings;
        let packets = packet::encode(node, unix_seconds(), *port, seeds, secret);
        let links: Vec<Link> = self.sockets.links().cloned().collect();
        for packet in &packets {
            for link in &links {
                for broadcast in [false, true] {
                    while !self.budget.take(Instant::now(), SENDING) {
                        tokio::time::sleep(SENDING.every).await;
                    }
                    let sent = if broadcast {
                        self.sockets.broadcast(link, packet).await
                    } else {
                        self.sockets.multicast(link, packet).await
                    };
                    if let Err(error) = sent {
                        tracing::debug!(interface = link.name, %error, "cannot reach hali here");
                    }
                }
            }
        }
    }

    fn hear(&mut self, packet: &[u8], from: SocketAddr, now: Instant, unix: i64) {
        match self.judge(packet, from.ip(), now, unix) {
            Ok(Some((port, contents))) => {
                self.counters.accept();
                self.sources.know(from.ip(), now);
                let address = SocketAddr::new(from.ip(), port);
                if !contents.is_empty() && can_be_dialled(address) {
                    let mut peers = self.peers.lock();
                    peers.heard(address, Origin::Hali, &contents, now);
                }
            }
            Ok(None) => {}
            Err(reason) => {
                self.counters.refuse(reason);
                tracing::trace!(%from, %reason, "packet of hali refused");
            }
        }
    }

    /// Where the sender listens, and what of that which this node knows it seeds; `None` for what is none of hali's, or our
    /// own.
    fn judge(
        &mut self,
        packet: &[u8],
        source: IpAddr,
        now: Instant,
        unix: i64,
    ) -> Result<Option<(u16, Vec<ContentId>)>, Refusal> {
        // Announcements of nodes come to the same port, and are none of ours here.
        if !packet.starts_with(b"{") {
            return Ok(None);
        }
        if !self.sources.admit(source, now) {
            return Err(Refusal::TooMany);
        }
        let packet = packet::decode(packet, &self.settings.secret)?;
        if packet.node == self.settings.node {
            return Ok(None);
        }
        self.guard.accept(&packet, source, unix)?;
        let hashes = packet.seeds.iter().map(Seed::info_hash);
        let known = hashes.filter(|hash| self.known.contains(hash));
        Ok(Some((packet.port, known.map(ContentId).collect())))
    }
}

/// Seconds since 1970; 0 before.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
