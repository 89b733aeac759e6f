//! The task that names this node's torrents to other BitTorrent clients and hears theirs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::timing::LsdSchedule;
use super::{GROUP, MAX_PACKET, decode, encode};
use crate::discovery::announcement::{ContentId, can_be_dialled};
use crate::discovery::interfaces::{self, Choice, Link};
use crate::discovery::net::{Group, NetError, Sockets};
use crate::discovery::rate::{Bucket, Limits, Rate, Sources};
use crate::discovery::service::Peers;
use crate::discovery::table::Origin;

/// Transmission drops whatever comes faster than ten packets a second.
const SENDING: Rate = Rate {
    every: Duration::from_millis(100),
    burst: 10,
};
/// The same for what is heard: nobody here is signed, so everybody is a stranger.
const LIMITS: Limits = Limits {
    each: Rate {
        every: Duration::from_millis(100),
        burst: 20,
    },
    strangers: Rate {
        every: Duration::from_millis(10),
        burst: 200,
    },
    sources: 1024,
};

const LOOK_EVERY: Duration = Duration::from_secs(5);
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// What became of the packets that arrived.
#[derive(Debug, Default)]
pub struct LsdCounters {
    /// Taken in.
    pub accepted: AtomicU64,
    /// Not as BEP 14 says, or from an address outside the interface's networks.
    pub malformed: AtomicU64,
    /// Their source has sent too much.
    pub too_many: AtomicU64,
}

/// What other clients are told.
#[derive(Clone, Debug, Default)]
struct Named {
    port: u16,
    torrents: Vec<ContentId>,
}

/// The running task. Dropping it ends it.
#[derive(Debug)]
pub struct LocalService {
    counters: Arc<LsdCounters>,
    named: watch::Sender<Named>,
    task: JoinHandle<()>,
}

impl LocalService {
    /// Listens on the interfaces chosen, and tells nobody anything yet. What is heard goes into `peers`. `ttl` is 1 where
    /// multicast shall stay on the link.
    pub fn start(ttl: u8, interfaces: Choice, peers: Peers) -> Result<Self, NetError> {
        let group = Group { ttl, ..GROUP };
        let counters = Arc::new(LsdCounters::default());
        let (named, listener) = watch::channel(Named::default());
        let now = Instant::now();
        let service = Service {
            port: 0,
            group,
            interfaces,
            peers,
            sockets: Sockets::open(group)?,
            sources: Sources::new(LIMITS, now),
            schedule: LsdSchedule::new(rand::random()),
            budget: Bucket::new(now),
            cookie: hex::encode(rand::random::<[u8; 8]>()),
            counters: counters.clone(),
        };
        Ok(Self {
            counters,
            named,
            task: tokio::spawn(service.run(listener)),
        })
    }

    /// Tells other clients from now on that this node has these torrents, by their v1 info hash or the first 160 bits of the
    /// v2 one, and listens on `port`. Private torrents must not be among them (BEP 27).
    pub fn name(&self, port: u16, torrents: Vec<ContentId>) {
        self.named.send_replace(Named { port, torrents });
    }

    /// What became of the packets that arrived.
    #[must_use]
    pub fn counters(&self) -> Arc<LsdCounters> {
        self.counters.clone()
    }
}

impl Drop for LocalService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    port: u16,
    group: Group,
    interfaces: Choice,
    peers: Peers,
    sockets: Sockets,
    sources: Sources,
    schedule: LsdSchedule,
    budget: Bucket,
    /// In each packet of ours: one that bears it came back to us.
    cookie: String,
    counters: Arc<LsdCounters>,
}

impl Service {
    async fn run(mut self, mut listener: watch::Receiver<Named>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut buffer = [0; MAX_PACKET + 1];
        loop {
            tokio::select! {
                _ = looks.tick() => self.look(),
                Ok(()) = listener.changed() => {
                    let named = listener.borrow_and_update().clone();
                    self.port = named.port;
                    self.schedule.set(&named.torrents, Instant::now());
                }
                () = until(self.schedule.due()) => self.say().await,
                received = self.sockets.receive(&mut buffer) => match received {
                    Ok((len, from)) => self.hear(buffer.get(..len).unwrap_or_default(), from, Instant::now()),
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive from other BitTorrent clients");
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                },
            }
        }
    }

    fn look(&mut self) {
        match interfaces::list() {
            Ok(listed) => {
                self.sockets.follow(self.interfaces.links(&listed));
            }
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
        }
    }

    /// Names one torrent on each link. What exceeds the rate is said at its next turn.
    async fn say(&mut self) {
        let now = Instant::now();
        let Some(torrent) = self.schedule.take(now) else {
            return;
        };
        let links: Vec<Link> = self.sockets.links().cloned().collect();
        for link in &links {
            while !self.budget.take(Instant::now(), SENDING) {
                tokio::time::sleep(SENDING.every).await;
            }
            let group = SocketAddr::new(self.group.of(link.address), self.group.port);
            let packet = encode(group, self.port, torrent, &self.cookie);
            if let Err(error) = self.sockets.multicast(link, &packet).await {
                tracing::debug!(interface = link.name, %error, "cannot reach other BitTorrent clients here");
            }
        }
    }

    fn hear(&mut self, packet: &[u8], from: SocketAddr, now: Instant) {
        if !self.sources.admit(from.ip(), now) {
            self.counters.too_many.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let heard = decode(packet).ok().filter(|_| self.is_near(from.ip()));
        let Some(search) = heard else {
            self.counters.malformed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if search.cookie.as_ref() == Some(&self.cookie) {
            return;
        }
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        for torrent in &search.info_hashes {
            self.schedule.heard(*torrent, now);
        }
        let address = SocketAddr::new(from.ip(), search.port);
        if can_be_dialled(address) {
            self.peers
                .lock()
                .heard(address, Origin::LocalService, &search.info_hashes, now);
        }
    }

    /// Only neighbours are local.
    fn is_near(&self, source: IpAddr) -> bool {
        self.sockets.links().any(|link| link.reaches(source))
    }
}

/// Waits until then; for ever without a time.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
