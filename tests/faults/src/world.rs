//! The hosts, programs and disks of one run, and how each fault is done to them and mended.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use modelcache_bench::command::{inside, run};
use modelcache_bench::key;
use modelcache_bench::model::SNAPSHOT;
use modelcache_bench::network::{Cable, Host, Net, Network};
use modelcache_bench::process::Process;
use rustix::process::Signal;

use crate::disk::Disk;
use crate::schedule::Trouble;
use crate::service::Service;
use crate::{Setup, clock, hub};

/// Rate of a node's cable in kbit/s: the model passes in about 3 seconds.
const NODE_RATE: u32 = 24_000;
/// How long the coordinator waits for agents that come back, in milliseconds: shorter than the operator's, so that a run is
/// not mostly waiting. What must hold does not depend on it.
const GRACE: u64 = 1_000;
/// Where uploaders listen.
const UPLOADER: &str = "9492";
/// Where their liars do.
const LIAR: &str = "9493";

/// One run's world. Programs end before their disks and hosts go.
pub struct World<'a> {
    setup: &'a Setup,
    services: BTreeMap<Host, Service>,
    liars: BTreeMap<u8, Process>,
    disks: Vec<Disk>,
    network: Network,
    commit: String,
}

impl<'a> World<'a> {
    /// Makes hosts and disks and starts the hub and the coordinator.
    pub fn prepare(setup: &'a Setup, nodes: u8, hub_rate: u32) -> Result<Self> {
        let lan = |rate| {
            vec![Cable {
                net: Net::Lan,
                rate,
            }]
        };
        let mut hosts =
            BTreeMap::from([(Host::Hub, lan(Some(hub_rate))), (Host::Control, lan(None))]);
        hosts.extend((0..nodes).map(|node| (Host::Node(node), lan(Some(NODE_RATE)))));
        let network = Network::create(hosts)?;
        network.shape(1)?;
        let mut disks = Vec::new();
        for node in 0..nodes {
            disks.push(Disk::mount(&setup.directory.join(Host::Node(node).name()))?);
        }
        clock::set(setup, Host::Hub, 0)?;
        let (hub, commit) = hub::start(setup, clock::words(setup, Host::Hub))?;
        let mut world = Self {
            setup,
            services: BTreeMap::from([(Host::Hub, hub)]),
            liars: BTreeMap::new(),
            disks,
            network,
            commit,
        };
        let endpoint = format!("http://{}:8080", Host::Hub.address(Net::Lan));
        let objects = setup.model.objects(&endpoint, &world.commit);
        fs::write(world.objects(), objects.to_string())?;
        world.serve(
            Host::Control,
            [
                setup.program("modelcache-bench-coordinator"),
                "--listen".to_owned(),
                "0.0.0.0:9489".to_owned(),
                "--grace".to_owned(),
                GRACE.to_string(),
                "--key".to_owned(),
                key::file(&setup.directory)?.display().to_string(),
            ],
        )?;
        Ok(world)
    }

    /// Starts the agents and tells them what is wanted.
    pub fn start(&mut self) -> Result<()> {
        for node in self.nodes() {
            self.start_agent(node)?;
        }
        Ok(())
    }

    fn start_agent(&mut self, node: u8) -> Result<()> {
        let host = Host::Node(node);
        let token = self.setup.directory.join(format!("{}.token", host.name()));
        fs::write(&token, host.name())?;
        self.serve(
            host,
            [
                self.setup.program("modelcache-bench-agent"),
                "--node".to_owned(),
                host.name(),
                "--node-ip".to_owned(),
                host.address(Net::Lan).to_string(),
                "--cache-dir".to_owned(),
                self.root(node)?.display().to_string(),
                "--coordinator".to_owned(),
                format!(
                    "ws://{}:9489/v1/coordinate",
                    Host::Control.address(Net::Lan)
                ),
                "--token-file".to_owned(),
                token.display().to_string(),
                "--key".to_owned(),
                key::file(&self.setup.directory)?.display().to_string(),
                "--peer-links".to_owned(),
                self.links().to_owned(),
            ],
        )
    }

    /// How bytes travel between nodes. Where they are encrypted a liar only breaks connections, so swarms of four do without, and
    /// what it says reaches the pieces' hashes.
    fn links(&self) -> &'static str {
        if self.disks.len() == 4 {
            "authenticated"
        } else {
            "encrypted"
        }
    }

    fn serve(&mut self, host: Host, program: impl IntoIterator<Item = String>) -> Result<()> {
        clock::set(self.setup, host, 0)?;
        let mut words = clock::words(self.setup, host);
        words.extend(program);
        let word = self.objects().display().to_string();
        let service = Service::start(host, words, word, &self.setup.logs())?;
        self.services.insert(host, service);
        Ok(())
    }

    /// The model's commit at the hub.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The numbers of the nodes.
    #[must_use]
    pub fn nodes(&self) -> Range<u8> {
        0..u8::try_from(self.disks.len()).unwrap_or(u8::MAX)
    }

    /// The root of a node's cache.
    pub fn root(&self, node: u8) -> Result<PathBuf> {
        Ok(self.disk(node)?.path().to_owned())
    }

    /// A node's disk.
    pub fn disk(&self, node: u8) -> Result<&Disk> {
        self.disks.get(usize::from(node)).context("no such node")
    }

    /// A host's program.
    pub fn service(&mut self, host: Host) -> Result<&mut Service> {
        self.services.get_mut(&host).context("no such host")
    }

    /// Whether a node says that it is Ready.
    pub fn is_ready(&mut self, node: u8) -> Result<bool> {
        let said = self.service(Host::Node(node))?.said()?;
        let suffix = format!(" {SNAPSHOT}");
        let mut lines = said.lines().rev();
        Ok(lines.find_map(|line| line.strip_suffix(&suffix)) == Some("Ready"))
    }

    /// What a node says it waits for: reason and message.
    pub fn problem(&mut self, node: u8) -> Result<Option<String>> {
        let said = self.service(Host::Node(node))?.said()?;
        let prefix = format!("problem of {SNAPSHOT}: ");
        let mut lines = said.lines().rev();
        let problem = lines.find_map(|line| line.strip_prefix(&prefix));
        Ok(problem
            .filter(|problem| *problem != "none")
            .map(str::to_owned))
    }

    /// Starts again what has ended by itself. Who did, with its last words.
    pub fn supervise(&mut self) -> Result<Vec<String>> {
        let mut ends = Vec::new();
        for service in self.services.values_mut() {
            ends.extend(service.supervise()?);
        }
        Ok(ends)
    }

    /// Breaks something.
    pub fn begin(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Killed(host) => self.service(host)?.kill(),
            Trouble::Stopped(host) => self.service(host)?.signal(Signal::STOP)?,
            Trouble::Unplugged(host) => self.network.plug(host, Net::Lan, false)?,
            Trouble::Deaf { host, to } => {
                let address = to.address(Net::Lan);
                filter(
                    host,
                    &format!(
                        "add table ip deaf-{0}; \
                         add chain ip deaf-{0} input {{ type filter hook input priority 0; }}; \
                         add rule ip deaf-{0} input ip saddr {address} drop",
                        to.name()
                    ),
                )?;
            }
            Trouble::Lying(node) => self.lie(node)?,
            Trouble::Hub(trouble) => hub::answer(Some(trouble))?,
            Trouble::Clock { host, forward } => {
                clock::set(self.setup, host, if forward { 3600 } else { -3600 })?;
            }
            Trouble::Full { node, left } => self.disk(node)?.fill(left)?,
            Trouble::ReadOnly(node) => self.disk(node)?.protect()?,
        }
        Ok(())
    }

    /// Mends what [`World::begin`] broke.
    pub fn end(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Killed(host) => self.service(host)?.revive()?,
            Trouble::Stopped(host) => self.service(host)?.signal(Signal::CONT)?,
            Trouble::Unplugged(host) => self.network.plug(host, Net::Lan, true)?,
            Trouble::Deaf { host, to } => {
                filter(host, &format!("delete table ip deaf-{}", to.name()))?;
            }
            Trouble::Lying(node) => {
                filter(Host::Node(node), "delete table ip lies")?;
                self.liars.remove(&node);
            }
            Trouble::Hub(_) => hub::answer(None)?,
            Trouble::Clock { host, .. } => clock::set(self.setup, host, 0)?,
            Trouble::Full { node, .. } => self.disk(node)?.empty()?,
            Trouble::ReadOnly(node) => self.disk(node)?.unprotect()?,
        }
        Ok(())
    }

    /// New connections to the node's uploader go through a program that changes bytes.
    fn lie(&mut self, node: u8) -> Result<()> {
        let host = Host::Node(node);
        let liar = self.setup.program("modelcache-faults-liar");
        let words = [&liar, "--listen", LIAR, "--uploader", UPLOADER];
        let name = format!("liar-of-{}", host.name());
        let liar = Process::start(host, &name, &self.setup.logs(), &words)?;
        self.liars.insert(node, liar);
        filter(
            host,
            &format!(
                "add table ip lies; \
                 add chain ip lies prerouting {{ type nat hook prerouting priority dstnat; }}; \
                 add rule ip lies prerouting tcp dport {UPLOADER} redirect to :{LIAR}"
            ),
        )
    }

    fn objects(&self) -> PathBuf {
        self.setup.directory.join("objects.json")
    }
}

/// A change of a host's packet filter.
fn filter(host: Host, rules: &str) -> Result<()> {
    run(&mut inside(&host.namespace(), &["nft", rules])).map(drop)
}
