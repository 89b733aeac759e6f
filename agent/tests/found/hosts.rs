//! Hosts as network namespaces on one switch or around one router, and agents that run in them as the program itself.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use modelcache_operator::tracker::{SharedTracker, serve};
use modelcache_swarm::secret::Keys;
use modelcache_swarm::tracker::Admission;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const METRICS_PORT: u16 = 9491;
const TRACKER_PORT: u16 = 9488;
/// Longer than two announcements may be apart, and the patience with a coordinator that is away.
const LONGEST: Duration = Duration::from_mins(3);

/// What the switch carries beside what is sent to one host.
#[derive(Clone, Copy)]
pub struct Carries {
    pub multicast: bool,
    pub broadcast: bool,
}

/// What lies between the hosts.
#[derive(Clone, Copy)]
pub enum Network {
    /// One subnet.
    Switch(Carries),
    /// A subnet for each host, IPv4 and IPv6. The router forwards neither multicast nor broadcast. The agents use one family.
    Router {
        /// Whether that is IPv6.
        v6: bool,
    },
}

impl Network {
    /// The address of a host that its agent uses.
    pub fn address(self, host: u8) -> IpAddr {
        match self {
            Self::Switch(_) => Ipv4Addr::new(10, 85, 0, host).into(),
            Self::Router { v6: false } => Ipv4Addr::new(10, 85, host, 2).into(),
            Self::Router { v6: true } => beyond_router_v6(host, 2),
        }
    }
}

fn beyond_router_v6(subnet: u8, host: u16) -> IpAddr {
    Ipv6Addr::new(0xfd85, 0, 0, subnet.into(), 0, 0, 0, host).into()
}

/// Some hosts and what is between them; removed when dropped.
pub struct Hosts {
    prefix: String,
    count: u8,
    network: Network,
}

impl Hosts {
    /// `None`, after saying so, where namespaces cannot be made.
    pub fn new(count: u8, network: Network) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces can be made by root only");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("mcfound{}-{number}", std::process::id());
        let lab = Self {
            prefix,
            count,
            network,
        };
        if let Err(said) = ip(&format!("netns add {}", lab.middle())) {
            eprintln!("SKIPPED: network namespaces cannot be made here: {said}");
            return None;
        }
        for host in 1..=count {
            run(&format!("netns add {}", lab.name(host)));
            run(&format!("-n {} link set lo up", lab.name(host)));
        }
        match network {
            Network::Switch(carries) => lab.wire_switch(carries),
            Network::Router { .. } => lab.wire_router(),
        }
        Some(lab)
    }

    fn wire_switch(&self, carries: Carries) {
        let switch = self.middle();
        let address = |host| self.network.address(host);
        run(&format!(
            "-n {switch} link add br0 type bridge mcast_snooping 0"
        ));
        run(&format!("-n {switch} link set br0 up"));
        for host in 1..=self.count {
            let name = self.name(host);
            run(&format!(
                "-n {switch} link add port{host} type veth peer name eth0 address {} netns {name}",
                hardware(host)
            ));
            run(&format!("-n {switch} link set port{host} master br0 up"));
            let flood = |on| if on { "on" } else { "off" };
            run(&format!(
                "-n {switch} link set port{host} type bridge_slave mcast_flood {} bcast_flood {}",
                flood(carries.multicast),
                flood(carries.broadcast)
            ));
            run(&format!(
                "-n {name} addr add {}/24 brd + dev eth0",
                address(host)
            ));
            run(&format!("-n {name} link set eth0 up"));
            // Addresses are not resolved by broadcast where there is none.
            for other in (1..=self.count).filter(|other| *other != host) {
                run(&format!(
                    "-n {name} neigh add {} lladdr {} dev eth0 nud permanent",
                    address(other),
                    hardware(other)
                ));
            }
        }
    }

    fn wire_router(&self) {
        let router = self.middle();
        within(&router, || {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
            }
        })
        .join()
        .unwrap();
        for host in 1..=self.count {
            let name = self.name(host);
            run(&format!(
                "-n {router} link add port{host} type veth peer name eth0 netns {name}"
            ));
            for (namespace, link, last) in [
                (&router, format!("port{host}"), 1),
                (&name, "eth0".to_owned(), 2),
            ] {
                let v6 = beyond_router_v6(host, last);
                run(&format!(
                    "-n {namespace} addr add 10.85.{host}.{last}/24 brd + dev {link}"
                ));
                run(&format!("-n {namespace} addr add {v6}/64 dev {link} nodad"));
                run(&format!("-n {namespace} link set {link} up"));
            }
            run(&format!("-n {name} route add default via 10.85.{host}.1"));
            run(&format!(
                "-n {name} route add default via {}",
                beyond_router_v6(host, 1)
            ));
        }
    }

    /// Serves the operator's tracker on a host, about this snapshot.
    pub fn track(&self, host: u8, settings: &Path, snapshot: &'static str) -> Tracker {
        let key = settings.join("key");
        let address = SocketAddr::new(self.network.address(host), TRACKER_PORT);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let served = within(&self.name(host), move || {
            Runtime::new().unwrap().block_on(async {
                let tracker = SharedTracker::new(Admission::Private);
                tracker.register([snapshot].into_iter());
                let listener = TcpListener::bind(address).await.unwrap();
                let keys = Keys::follow(key).unwrap();
                serve(listener, tracker, keys, stopped).await.unwrap();
            });
        });
        Tracker {
            url: format!("http://{address}"),
            stop,
            served: Some(served),
        }
    }

    fn middle(&self) -> String {
        format!("{}-middle", self.prefix)
    }

    fn name(&self, host: u8) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A program that will run in a host.
    pub fn command(&self, host: u8, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host), program]);
        command
    }

    /// Starts the agent of a host, without API server and coordinator. It knows what lies in `cache`, and nothing else.
    pub fn start(&self, host: u8, cache: &Path, settings: &Path, more: &[String]) -> Agent {
        let log = settings.join(format!("{}.log", self.name(host)));
        let file = File::create(&log).unwrap();
        let address = self.network.address(host);
        let metrics = SocketAddr::new(address, METRICS_PORT);
        let child = self
            .command(host, env!("CARGO_BIN_EXE_modelcache-agent"))
            .args(["run", "--announce"])
            .arg(format!("--node-name=node-{host}"))
            .arg(format!("--node-ip={address}"))
            .arg(format!("--metrics-listen={metrics}"))
            .arg(format!("--cache-dir={}", cache.display()))
            .arg(format!("--key={}", settings.join("key").display()))
            .args(["--coordinator=ws://127.0.0.1:1", "--token-file=/nowhere"])
            .args(more)
            .env("KUBECONFIG", settings.join("kubeconfig"))
            .env("RUST_LOG", "info,modelcache_agent=debug")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Agent {
            child,
            namespace: self.name(host),
            metrics,
            log,
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in (1..=self.count)
            .map(|host| self.name(host))
            .chain([self.middle()])
        {
            // It may not have been made.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// A running tracker; ended when dropped.
pub struct Tracker {
    pub url: String,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            // What it says of itself is on standard error.
            let _ = served.join();
        }
    }
}

/// A running agent; killed when dropped.
pub struct Agent {
    child: Child,
    namespace: String,
    metrics: SocketAddr,
    log: PathBuf,
}

impl Agent {
    /// What it tells Prometheus, as soon as it does.
    pub fn metrics(&self) -> Option<String> {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        let read = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let mut stream = TcpStream::connect(self.metrics).ok()?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        };
        thread::scope(|scope| scope.spawn(read).join().unwrap())
    }

    /// Waits until its metrics have this line.
    pub fn wait_for(&mut self, line: &str) -> String {
        self.wait(line, |metrics| metrics.lines().any(|one| one == line))
    }

    /// Waits until its metrics are as wanted.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let metrics = self.metrics();
            if let Some(metrics) = &metrics
                && wanted(metrics)
            {
                return metrics.clone();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                began.elapsed() < LONGEST && ended.is_none(),
                "still not {what}; {ended:?}\n{}\n{}",
                metrics.unwrap_or_default(),
                std::fs::read_to_string(&self.log).unwrap()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hardware(host: u8) -> String {
    format!("02:00:00:00:85:{host:02x}")
}

/// Does something in a namespace in a thread of its own.
fn within<T: Send + 'static>(
    namespace: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    })
}

fn run(line: &str) {
    ip(line).unwrap();
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("ip {line}: {said}"))
    }
}
