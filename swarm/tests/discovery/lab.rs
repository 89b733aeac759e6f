//! Hosts as network namespaces on one switch, and what runs in them.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use modelcache_swarm::discovery::announcement::{ContentId, NodeName};
use modelcache_swarm::discovery::hali;
use modelcache_swarm::discovery::hali::packet::Seed;
use modelcache_swarm::discovery::hali::secret::HaliSecret;
use modelcache_swarm::discovery::hali::seeds::Seeds;
use modelcache_swarm::discovery::hali::service::HaliService;
use modelcache_swarm::discovery::interfaces::Choice;
use modelcache_swarm::discovery::lsd::service::LocalService;
use modelcache_swarm::discovery::refusal::Counters;
use modelcache_swarm::discovery::service::{Discovery, GROUP, Own, Peers, Settings};
use modelcache_swarm::discovery::timing::Intervals;
use modelcache_swarm::discovery::window::Tolerance;
use modelcache_swarm::secret::{Key, Keyring, Keys};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Where every host listens for peers.
pub const PORT: u16 = 9492;

/// Whom a node hears of those that speak hali's protocol, and what they seed.
pub type Heard = (Peers, Seeds);

/// A switch and some hosts around it; removed when dropped.
pub struct Lab {
    prefix: String,
    hosts: u8,
}

impl Lab {
    /// `None`, after saying so, where namespaces cannot be made.
    pub fn new(hosts: u8) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces can be made by root only");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lab = Self {
            prefix: format!("mcdisc{}-{number}", std::process::id()),
            hosts,
        };
        if let Err(said) = ip(&format!("netns add {}", lab.switch())) {
            eprintln!("SKIPPED: network namespaces cannot be made here: {said}");
            return None;
        }
        let switch = lab.switch();
        let run = |line: String| ip(&line).unwrap();
        run(format!(
            "-n {switch} link add br0 type bridge mcast_snooping 0"
        ));
        run(format!("-n {switch} link set br0 up"));
        for host in 1..=hosts {
            let name = lab.host(host);
            run(format!("netns add {name}"));
            run(format!(
                "-n {switch} link add port{host} type veth peer name eth0 netns {name}"
            ));
            run(format!("-n {switch} link set port{host} master br0 up"));
            run(format!("-n {name} link set lo up"));
            run(format!(
                "-n {name} addr add {}/16 brd + dev eth0",
                address(host)
            ));
            run(format!(
                "-n {name} addr add {}/64 dev eth0 nodad",
                address_v6(host)
            ));
            run(format!("-n {name} link set eth0 up"));
        }
        Some(lab)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn host(&self, host: u8) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A program that will run in a host.
    pub fn command(&self, host: u8, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(host)]);
        command.arg(program);
        command
    }

    /// The cable to a host carries no more than this.
    pub fn shape(&self, host: u8, rate: &str) {
        let output = Command::new("tc")
            .args(["-n", &self.switch(), "qdisc", "add", "dev"])
            .arg(format!("port{host}"))
            .args(["root", "tbf", "rate", rate])
            .args(["burst", "512k", "latency", "50ms"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Configures a host's network.
    pub fn ip(&self, host: u8, line: &str) {
        ip(&format!("-n {} {line}", self.host(host))).unwrap();
    }

    /// The switch carries multicast no longer.
    pub fn block_multicast(&self) {
        for host in 1..=self.hosts {
            let port = format!("port{host}");
            let switch = self.switch();
            ip(&format!(
                "-n {switch} link set {port} type bridge_slave mcast_flood off"
            ))
            .unwrap();
        }
    }

    /// Does something in a host, for example opens a socket, which then stays there.
    pub fn inside<T: Send>(&self, host: u8, act: impl FnOnce() -> T + Send) -> T {
        let name = self.host(host);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&name);
                act()
            });
            thread.join().unwrap()
        })
    }

    /// Starts a node named after its host.
    pub fn start(&self, host: u8, keys: Keyring, held: Vec<ContentId>) -> Node {
        let peers = Peers::default();
        let table = peers.clone();
        let (tell, told) = mpsc::channel();
        let end = self.run(host, move |stopped| async move {
            let (_keep, keys) = Keys::set_by_hand(keys);
            let discovery = Discovery::start(settings(host, keys), table).unwrap();
            discovery.hold(held);
            tell.send(discovery.counters()).unwrap();
            if stopped.await == Ok(Stop::Goodbye) {
                discovery.stop().await;
            }
        });
        let counters = told.recv().unwrap();
        Node {
            peers,
            counters,
            end,
        }
    }

    /// Starts a BitTorrent client that names these torrents, and says whom it hears.
    pub fn start_client(&self, host: u8, torrents: Vec<ContentId>) -> (Peers, End) {
        let peers = Peers::default();
        let table = peers.clone();
        let end = self.run(host, move |stopped| async move {
            let service = LocalService::start(1, Choice::default(), table).unwrap();
            service.name(PORT, torrents);
            let _ = stopped.await;
        });
        (peers, end)
    }

    /// Starts a node that tells machines with hali that it has these seeds, and says whom it hears.
    pub fn start_hali(
        &self,
        host: u8,
        secret: HaliSecret,
        seeds: Vec<Seed>,
    ) -> (Heard, Arc<Counters>, End) {
        let heard = Heard::default();
        let (table, said) = heard.clone();
        let (tell, told) = mpsc::channel();
        let end = self.run(host, move |stopped| async move {
            let settings = hali::service::Settings {
                secret,
                node: name(host).to_string(),
                interfaces: Choice::default(),
                intervals: intervals(),
                tolerance: tolerance(),
            };
            let service = HaliService::start(settings, table, said).unwrap();
            service.name(PORT, seeds);
            tell.send(service.counters()).unwrap();
            let _ = stopped.await;
        });
        (heard, told.recv().unwrap(), end)
    }

    /// Runs something in a host until it ends by itself, after it was asked to.
    fn run<F: Future<Output = ()>>(
        &self,
        host: u8,
        act: impl FnOnce(oneshot::Receiver<Stop>) -> F + Send + 'static,
    ) -> End {
        let namespace = self.host(host);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(act(stopped));
        });
        End { stop, thread }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in (1..=self.hosts)
            .map(|host| self.host(host))
            .chain([self.switch()])
        {
            // It may not have been made.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn intervals() -> Intervals {
    Intervals {
        start: Duration::from_millis(200),
        least: Duration::from_millis(300),
        most: Duration::from_millis(500),
        spacing: Duration::from_millis(100),
    }
}

/// How a node on a host announces itself.
pub fn settings(host: u8, keys: Keys) -> Settings {
    Settings {
        own: Some(Own {
            node: name(host),
            port: PORT,
            hosts: Vec::new(),
        }),
        keys,
        group: GROUP,
        interfaces: Choice::default(),
        intervals: intervals(),
        tolerance: tolerance(),
    }
}

fn tolerance() -> Tolerance {
    Tolerance {
        ahead: Duration::from_secs(1),
        ..Tolerance::default()
    }
}

/// The name of the node on a host.
pub fn name(host: u8) -> NodeName {
    NodeName::new(&format!("host-{host}")).unwrap()
}

/// A host's address.
pub fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 83, 0, host).into()
}

/// A host's other address.
pub fn address_v6(host: u8) -> IpAddr {
    format!("fd00:83::{host:x}").parse().unwrap()
}

/// One of the secrets of the tests.
pub fn key(number: u8) -> Key {
    let mut secret = [7; 32];
    secret[0] = number;
    Key::parse(&hex::encode(secret)).unwrap()
}

/// A ring of one key.
pub fn ring(number: u8) -> Keyring {
    Keyring::new(key(number), None)
}

/// How something ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// With a goodbye.
    Goodbye,
    /// Without.
    Crash,
}

/// Ends what runs in a host.
pub struct End {
    stop: oneshot::Sender<Stop>,
    thread: JoinHandle<()>,
}

impl End {
    /// Ends it, and waits until it has.
    pub fn end(self, how: Stop) {
        let _ = self.stop.send(how);
        self.thread.join().unwrap();
    }
}

/// A running node.
pub struct Node {
    /// What it has heard.
    pub peers: Peers,
    /// What became of the datagrams.
    pub counters: Arc<Counters>,
    end: End,
}

impl Node {
    /// The addresses of a node that are not older than `age`.
    pub fn knows(&self, host: u8, age: Duration) -> Vec<IpAddr> {
        let now = Instant::now();
        let table = self.peers.lock();
        let peers = table.peers(now).into_iter();
        peers
            .filter(|(_, peer)| peer.node == Some(name(host)))
            .filter(|(_, peer)| now.saturating_duration_since(peer.last_seen) <= age)
            .map(|(address, _)| address.ip())
            .collect()
    }

    /// Ends it with a goodbye.
    pub fn leave(self) {
        self.end.end(Stop::Goodbye);
    }

    /// Ends it without.
    pub fn crash(self) {
        self.end.end(Stop::Crash);
    }
}

/// Waits for something that is to happen soon.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happened() {
        assert!(
            began.elapsed() < Duration::from_mins(1),
            "still not: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "ip {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}
