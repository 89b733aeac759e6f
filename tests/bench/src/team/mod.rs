//! The programs that do the work: ours, and the best of the others with what they need.

mod aria2;
mod nginx;
mod ours;
mod torrent;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use self::ours::start_agent;
use crate::case::Case;
use crate::model::Model;
use crate::network::Host;
use crate::process::Process;

/// How long anything may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Distribution's Python, which has the distribution's libtorrent.
const PYTHON: &str = "/usr/bin/python3";

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Team {
    /// The agent's core and the operator's coordinator.
    Ours,
    /// The same with one file of the same size.
    OneFile,
    /// The same as ours, but what nodes give each other is not encrypted.
    InClear,
    /// libtorrent, a seed at the origin.
    Libtorrent,
    /// The same, the seed super-seeding.
    LibtorrentSuper,
    /// librqbit alone, a seed at the origin.
    Librqbit,
    /// aria2 over BitTorrent, a seed at the origin.
    Aria2,
    /// nginx to curl.
    Nginx,
}

impl Team {
    /// As in the tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "modelcache",
            Self::OneFile => "modelcache, one file",
            Self::InClear => "modelcache, not encrypted",
            Self::Libtorrent => "libtorrent",
            Self::LibtorrentSuper => "libtorrent, super-seeding",
            Self::Librqbit => "librqbit",
            Self::Aria2 => "aria2",
            Self::Nginx => "nginx → curl",
        }
    }

    /// Whether it proves each file by SHA-256 by itself.
    #[must_use]
    pub fn hashes(self) -> bool {
        matches!(self, Self::Ours | Self::OneFile | Self::InClear)
    }
}

/// What a team needs to know.
pub struct Field<'a> {
    /// The case.
    pub case: &'a Case,
    /// What is moved.
    pub model: &'a Model,
    /// An empty directory for everything that the team writes.
    pub directory: &'a Path,
    /// For logs.
    pub logs: &'a Path,
    /// Where our programs are.
    pub programs: &'a Path,
    /// Fetches from the hub at once, where they are not to be the operator's default.
    pub fetches: Option<u32>,
    /// How long other programs of the machine are waited for to be quiet before the start.
    pub patience: Duration,
    /// Where the scripts for the others are.
    pub scripts: &'a Path,
}

impl Field<'_> {
    fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    fn script(&self, name: &str) -> String {
        self.scripts.join(name).display().to_string()
    }

    fn endpoint(&self) -> String {
        format!("http://{}:8080", Host::Hub.address(self.case.hub_net()))
    }

    fn create_homes(&self) -> Result<()> {
        for number in 0..self.case.hosts() {
            fs::create_dir_all(self.home(number))?;
        }
        Ok(())
    }

    /// A node's own directory.
    #[must_use]
    pub fn home(&self, number: u8) -> PathBuf {
        self.directory.join(Host::Node(number).name())
    }
}

/// A team that has taken up its positions: everything runs that runs before the start.
pub struct Players {
    team: Team,
    /// On the hub's host.
    pub hub: Vec<Process>,
    /// On the control host: the coordinator or the tracker.
    pub control: Vec<Process>,
    /// On the nodes, by number; none: not started yet, or killed.
    pub nodes: Vec<Option<Process>>,
    /// A path of each node that exists once it has everything.
    pub marks: Vec<PathBuf>,
    /// Where each node's files are then.
    pub data: Vec<PathBuf>,
    /// What is told to those that wait for the start.
    word: String,
    coordinator_told: bool,
    /// Processor time of nodes' programs that have been killed.
    spent: f64,
}

impl Players {
    fn new(team: Team) -> Self {
        Self {
            team,
            hub: Vec::new(),
            control: Vec::new(),
            nodes: Vec::new(),
            marks: Vec::new(),
            data: Vec::new(),
            word: String::new(),
            coordinator_told: false,
            spent: 0.0,
        }
    }

    /// Starts everything; who is full at the beginning of the case is full afterwards.
    pub fn start(team: Team, field: &Field<'_>) -> Result<Self> {
        field.create_homes()?;
        match team {
            Team::Ours | Team::OneFile | Team::InClear => ours::start(team, field),
            Team::Libtorrent | Team::LibtorrentSuper | Team::Librqbit => {
                torrent::start(team, field)
            }
            Team::Aria2 => aria2::start(field),
            Team::Nginx => nginx::start(field),
        }
    }

    /// The same for ours, with these models under their names instead of the field's.
    pub fn start_with(team: Team, field: &Field<'_>, models: &[(String, Model)]) -> Result<Self> {
        field.create_homes()?;
        ours::start_with(team, field, models)
    }

    /// Gives a node the word to start.
    pub fn go(&mut self, field: &Field<'_>, number: u8) -> Result<()> {
        let at = usize::from(number);
        let started = match self.team {
            Team::Ours | Team::OneFile | Team::InClear => return ours::go(self, at),
            Team::Libtorrent | Team::LibtorrentSuper | Team::Librqbit => {
                return self.node(at)?.tell("go");
            }
            Team::Aria2 => {
                let mark = self.marks.get(at).context("no such node")?;
                aria2::node(field, Host::Node(number), &field.home(number), mark)?
            }
            Team::Nginx => nginx::curl(field, number)?,
        };
        *self.nodes.get_mut(at).context("no such node")? = Some(started);
        Ok(())
    }

    /// Kills a node's program as a power cut would.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        let node = self.nodes.get_mut(at).and_then(Option::take);
        let node = node.context("this node has not been started")?;
        self.spent += node.cpu_seconds()?;
        // Dropping kills and waits.
        drop(node);
        Ok(())
    }

    /// A node's program.
    pub fn node(&mut self, at: usize) -> Result<&mut Process> {
        let node = self.nodes.get_mut(at).and_then(Option::as_mut);
        node.context("this node has not been started")
    }

    /// Processor time of all nodes' programs so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let alive = self.nodes.iter().flatten().map(Process::cpu_seconds);
        Ok(self.spent + alive.sum::<Result<f64>>()?)
    }

    /// Processor time of all programs of the team so far.
    pub fn all_cpu_seconds(&self) -> Result<f64> {
        let others = self.hub.iter().chain(&self.control);
        let others: f64 = others.map(Process::cpu_seconds).sum::<Result<f64>>()?;
        Ok(others + self.cpu_seconds()?)
    }

    /// Whether a node has everything.
    pub fn has_all(&mut self, at: usize) -> Result<bool> {
        if self.marks.get(at).context("no such node")?.exists() {
            return Ok(true);
        }
        if self.team != Team::Nginx {
            self.node(at)?.check()?;
        }
        Ok(false)
    }
}
