//! The task that tells machines with hali what this node seeds, and hears what they seed.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::guard::Guard;
use super::packet::{self, MAX_PACKET, Packet, Seed};
use super::secret::HaliSecret;
use super::seeds::Seeds;
use super::{GROUP, is_packet};
use crate::discovery::announcement::{ContentId, can_be_dialled};
use crate::discovery::clock::Now;
use crate::discovery::interfaces::{self, Choice, Link};
use crate::discovery::net::{NetError, Sockets};
use crate::discovery::rate::{Limits, Rate, Sources};
use crate::discovery::refusal::{Counters, Refusal};
use crate::discovery::service::Peers;
use crate::discovery::table::Origin;
use crate::discovery::timing::{Intervals, Schedule};
use crate::discovery::window::Tolerance;

/// Most torrents that are announced: some 13 packets.
const MAX_SEEDS: usize = 64;
/// Time between two packets. hali drops what comes faster than ten a second from one node, and hears each one twice.
const PACE: Duration = Duration::from_millis(150);
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

/// How machines with hali are spoken to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What packets are signed with and checked by.
    pub secret: HaliSecret,
    /// This node's name among them, 1 to 128 letters and digits; hali shows it.
    pub node: String,
    /// On which interfaces.
    pub interfaces: Choice,
    /// How often.
    pub intervals: Intervals,
    /// How far clocks may differ.
    pub tolerance: Tolerance,
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
    /// Listens, and tells nobody anything yet. Who is heard goes into `peers`, and what they seed into `seeds`.
    pub fn start(settings: Settings, peers: Peers, seeds: Seeds) -> Result<Self, NetError> {
        let counters = Arc::new(Counters::default());
        let (named, listener) = watch::channel(Named::default());
        let now = Now::read();
        let service = Service {
            sockets: Sockets::open(GROUP)?,
            guard: Guard::new(settings.tolerance, now),
            sources: Sources::new(LIMITS, now.monotonic),
            schedule: Schedule::new(settings.intervals, rand::random(), now.monotonic),
            queue: VecDeque::new(),
            peers,
            seeds,
            counters: counters.clone(),
            settings,
        };
        Ok(Self {
            counters,
            named,
            task: tokio::spawn(service.run(listener)),
        })
    }

    /// What this node seeds at `port` from now on: files that everybody may have. The first 64 are announced.
    pub fn name(&self, port: u16, mut seeds: Vec<Seed>) {
        seeds.truncate(MAX_SEEDS);
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

/// A packet that waits for its turn.
struct Turn {
    link: Link,
    broadcast: bool,
    packet: Arc<[u8]>,
}

struct Service {
    settings: Settings,
    sockets: Sockets,
    guard: Guard,
    sources: Sources,
    schedule: Schedule,
    queue: VecDeque<Turn>,
    peers: Peers,
    seeds: Seeds,
    counters: Arc<Counters>,
}

impl Service {
    async fn run(mut self, mut listener: watch::Receiver<Named>) {
        let delayed = tokio::time::MissedTickBehavior::Delay;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(delayed);
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(delayed);
        // One more than there can be, to see what is too long.
        let mut buffer = vec![0; MAX_PACKET + 1];
        // Before the first packet, which is not to wait for the next turn.
        self.look();
        loop {
            let due = tokio::time::Instant::from_std(self.schedule.due());
            tokio::select! {
                _ = looks.tick() => self.look(),
                Ok(()) = listener.changed() => self.schedule.changed(Instant::now()),
                () = tokio::time::sleep_until(due) => {
                    let named = listener.borrow_and_update().clone();
                    self.announce(&named);
                }
                _ = pace.tick(), if !self.queue.is_empty() => self.send().await,
                received = self.sockets.receive(&mut buffer) => match received {
                    Ok((len, from)) => {
                        let packet = buffer.get(..len).unwrap_or_default();
                        self.hear(packet, from, Now::read());
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
                if self.sockets.follow(links) && self.schedule.started() {
                    self.schedule.changed(Instant::now());
                }
            }
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
        }
        self.guard.forget_stale(Now::read());
    }

    /// Has what this node seeds said on each link, by multicast and broadcast, as hali does. What of the last time waits still
    /// is not said any more.
    fn announce(&mut self, named: &Named) {
        self.schedule.sent(Instant::now());
        let Settings { node, secret, .. } = &self.settings;
        let packets = packet::encode(node, Now::read().wall, named.port, &named.seeds, secret);
        self.queue.clear();
        for packet in packets.into_iter().map(Arc::<[u8]>::from) {
            for link in self.sockets.links() {
                self.queue.extend([false, true].map(|broadcast| Turn {
                    link: link.clone(),
                    broadcast,
                    packet: packet.clone(),
                }));
            }
        }
    }

    async fn send(&mut self) {
        let Some(Turn {
            link,
            broadcast,
            packet,
        }) = self.queue.pop_front()
        else {
            return;
        };
        let sent = if broadcast {
            self.sockets.broadcast(&link, &packet).await
        } else {
            self.sockets.multicast(&link, &packet).await
        };
        if let Err(error) = sent {
            tracing::debug!(interface = link.name, %error, "cannot reach machines with hali here");
        }
    }

    fn hear(&mut self, packet: &[u8], from: SocketAddr, now: Now) {
        match self.judge(packet, from.ip(), now) {
            Ok(Some(packet)) => {
                self.counters.accept();
                self.sources.know(from.ip(), now.monotonic);
                let address = SocketAddr::new(from.ip(), packet.port);
                if can_be_dialled(address) {
                    let seeds = packet.seeds.iter();
                    let contents: Vec<_> = seeds.map(|seed| ContentId(seed.info_hash())).collect();
                    self.peers
                        .lock()
                        .heard(address, Origin::Hali, &contents, now.monotonic);
                    self.seeds.heard(address, &packet.seeds, now.monotonic);
                }
            }
            Ok(None) => {}
            Err(reason) => {
                self.counters.refuse(reason);
                tracing::trace!(%from, %reason, "packet of hali refused");
            }
        }
    }

    /// What is news; `None` for what is none of hali's, or our own, which comes back by broadcast.
    fn judge(
        &mut self,
        packet: &[u8],
        source: IpAddr,
        now: Now,
    ) -> Result<Option<Packet>, Refusal> {
        // Nodes announce themselves to the same group and port.
        if !is_packet(packet) {
            return Ok(None);
        }
        if !self.sources.admit(source, now.monotonic) {
            return Err(Refusal::TooMany);
        }
        // Its packets cross no router, so who repeats one can at least lead to neighbours only.
        if !self.sockets.links().any(|link| link.reaches(source)) {
            return Err(Refusal::Elsewhere);
        }
        let packet = packet::decode(packet, &self.settings.secret)?;
        if packet.node == self.settings.node {
            return Ok(None);
        }
        self.guard.accept(&packet, source, now)?;
        Ok(Some(packet))
    }
}
