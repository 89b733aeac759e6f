//! Hosts as network namespaces on one switch, and agents that run in them as the program itself.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const METRICS_PORT: u16 = 9491;
/// Longer than two announcements may be apart, and the patience with a coordinator that is away.
const LONGEST: Duration = Duration::from_mins(3);

/// What the switch carries beside what is sent to one host.
#[derive(Clone, Copy)]
pub struct Carries {
    pub multicast: bool,
    pub broadcast: bool,
}

/// A switch and some hosts around it; removed when dropped.
pub struct Hosts {
    prefix: String,
    hosts: u8,
}

impl Hosts {
    /// `None`, after saying so, where namespaces cannot be made.
    pub fn new(hosts: u8, carries: Carries) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces can be made by root only");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("mcfound{}-{number}", std::process::id());
        let lab = Self { prefix, hosts };
        if let Err(said) = ip(&format!("netns add {}", lab.switch())) {
            eprintln!("SKIPPED: network namespaces cannot be made here: {said}");
            return None;
        }
        let run = |line: String| ip(&line).unwrap();
        let switch = lab.switch();
        run(format!(
            "-n {switch} link add br0 type bridge mcast_snooping 0"
        ));
        run(format!("-n {switch} link set br0 up"));
        for host in 1..=hosts {
            let name = lab.name(host);
            run(format!("netns add {name}"));
            run(format!("-n {name} link set lo up"));
            run(format!(
                "-n {switch} link add port{host} type veth peer name eth0 address {} netns {name}",
                hardware(host)
            ));
            run(format!("-n {switch} link set port{host} master br0 up"));
            let flood = |on| if on { "on" } else { "off" };
            run(format!(
                "-n {switch} link set port{host} type bridge_slave mcast_flood {} bcast_flood {}",
                flood(carries.multicast),
                flood(carries.broadcast)
            ));
            run(format!(
                "-n {name} addr add {}/24 brd + dev eth0",
                address(host)
            ));
            run(format!("-n {name} link set eth0 up"));
            // Addresses are not resolved by broadcast where there is none.
            for other in (1..=hosts).filter(|other| *other != host) {
                run(format!(
                    "-n {name} neigh add {} lladdr {} dev eth0 nud permanent",
                    address(other),
                    hardware(other)
                ));
            }
        }
        Some(lab)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
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
        let child = self
            .command(host, env!("CARGO_BIN_EXE_modelcache-agent"))
            .args(["run", "--announce"])
            .arg(format!("--node-name=node-{host}"))
            .arg(format!("--node-ip={}", address(host)))
            .arg(format!("--metrics-listen={}:{METRICS_PORT}", address(host)))
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
            metrics: (address(host), METRICS_PORT).into(),
            log,
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in (1..=self.hosts)
            .map(|host| self.name(host))
            .chain([self.switch()])
        {
            // It may not have been made.
            let _ = ip(&format!("netns del {name}"));
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
        std::thread::scope(|scope| scope.spawn(read).join().unwrap())
    }

    /// Waits until its metrics say this.
    pub fn wait_for(&mut self, line: &str) -> String {
        let began = Instant::now();
        loop {
            let metrics = self.metrics();
            if let Some(metrics) = &metrics
                && metrics.lines().any(|one| one == line)
            {
                return metrics.clone();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                began.elapsed() < LONGEST && ended.is_none(),
                "still not {line}; {ended:?}\n{}\n{}",
                metrics.unwrap_or_default(),
                std::fs::read_to_string(&self.log).unwrap()
            );
            std::thread::sleep(Duration::from_millis(100));
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

/// A host's address.
pub fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 85, 0, host).into()
}

fn hardware(host: u8) -> String {
    format!("02:00:00:00:85:{host:02x}")
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
