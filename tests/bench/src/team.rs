//! The programs that do the work: ours, and the best of the others with what they need.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::case::{Case, Work};
use crate::command::{inside, run};
use crate::model::{Model, REPOSITORY};
use crate::network::{Host, Net};
use crate::process::Process;

/// How long anything may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long a coordinator waits after its start for agents that come back.
const COORDINATOR_GRACE: Duration = Duration::from_millis(6500);

/// Where the tracker listens.
const TRACKER: &str = "http://10.91.0.3:6969/announce";

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

    /// A node's own directory.
    fn home(&self, number: u8) -> PathBuf {
        self.directory.join(format!("node{number}"))
    }
}

/// A team that has taken up its positions: everything runs that runs before the start.
pub struct Players {
    team: Team,
    /// On the hub's host.
    pub hub: Vec<Process>,
    /// On the control host: the coordinator or the tracker.
    pub control: Vec<Process>,
    /// On the nodes, by number; none: not started yet.
    pub nodes: Vec<Option<Process>>,
    /// A path of each node that exists once it has everything.
    pub marks: Vec<PathBuf>,
    /// Where each node's files are then.
    pub data: Vec<PathBuf>,
    /// What is told to those that wait for the start.
    word: String,
    coordinator_told: bool,
}

impl Players {
    /// Starts everything; who is full at the beginning of the case is full afterwards.
    pub fn start(team: Team, field: &Field<'_>) -> Result<Self> {
        fs::create_dir_all(field.directory)?;
        for number in 0..field.case.hosts() {
            fs::create_dir_all(field.home(number))?;
        }
        match team {
            Team::Ours | Team::OneFile | Team::InClear => ours(team, field),
            Team::Libtorrent | Team::LibtorrentSuper => libtorrent(team, field),
            Team::Aria2 => aria2(team, field),
            Team::Nginx => nginx(team, field),
        }
    }

    /// Gives a node the word to start.
    pub fn go(&mut self, field: &Field<'_>, number: u8) -> Result<()> {
        let at = usize::from(number);
        match self.team {
            Team::Ours | Team::OneFile | Team::InClear => {
                if !std::mem::replace(&mut self.coordinator_told, true) {
                    self.control
                        .first_mut()
                        .context("no coordinator")?
                        .tell(&self.word)?;
                }
                let word = self.word.clone();
                self.node(at)?.tell(&word)
            }
            Team::Libtorrent | Team::LibtorrentSuper => self.node(at)?.tell("go"),
            Team::Aria2 => {
                let mark = self.marks.get(at).context("no such node")?.clone();
                let node = aria2_node(field, Host::Node(number), &field.home(number), &mark)?;
                *self.nodes.get_mut(at).context("no such node")? = Some(node);
                Ok(())
            }
            Team::Nginx => {
                let node = curl(field, number)?;
                *self.nodes.get_mut(at).context("no such node")? = Some(node);
                Ok(())
            }
        }
    }

    /// A node's program.
    pub fn node(&mut self, at: usize) -> Result<&mut Process> {
        let node = self.nodes.get_mut(at).and_then(Option::as_mut);
        node.context("this node has not been started")
    }

    /// Processor time of all nodes' programs so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.nodes.iter().flatten().map(Process::cpu_seconds).sum()
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

fn ours(team: Team, field: &Field<'_>) -> Result<Players> {
    let began = Instant::now();
    let program = field.program("modelcache-bench-coordinator");
    let key = key_file(field)?.display().to_string();
    let mut words = vec![program, "--listen".to_owned(), "0.0.0.0:9489".to_owned()];
    words.extend(["--key".to_owned(), key]);
    if let Some(fetches) = field.fetches {
        words.extend(["--fetches".to_owned(), fetches.to_string()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let coordinator = Process::start(Host::Control, "coordinator", field.logs, &words)?;
    let (hub, commit) = start_hub(field)?;
    let objects = field.directory.join("objects.json");
    fs::write(
        &objects,
        field.model.objects(&field.endpoint(), &commit).to_string(),
    )?;
    let mut players = Players {
        team,
        hub: vec![hub],
        control: vec![coordinator],
        nodes: Vec::new(),
        marks: Vec::new(),
        data: Vec::new(),
        word: objects.display().to_string(),
        coordinator_told: false,
    };
    for number in 0..field.case.hosts() {
        let root = field.home(number);
        players.nodes.push(Some(start_agent(team, field, number)?));
        let published = root.join("models/bench/model");
        players.data.push(published.join("files"));
        players.marks.push(published);
    }
    for node in players.nodes.iter_mut().flatten() {
        node.until_says("connected", START_PATIENCE)?;
    }
    std::thread::sleep(COORDINATOR_GRACE.saturating_sub(began.elapsed()));
    if field.case.work == Work::Grow {
        players.go(field, 0)?;
        players
            .node(0)?
            .until_says("Ready", Duration::from_mins(2))?;
        players.hub.clear();
    }
    Ok(players)
}

/// Starts a node's agent.
pub fn start_agent(team: Team, field: &Field<'_>, number: u8) -> Result<Process> {
    let host = Host::Node(number);
    let root = field.home(number);
    let token = field.directory.join(format!("{}.token", host.name()));
    fs::write(&token, host.name())?;
    Process::start(
        host,
        &host.name(),
        field.logs,
        &[
            &field.program("modelcache-bench-agent"),
            "--node",
            &host.name(),
            "--node-ip",
            &host.address(Net::Lan).to_string(),
            "--cache-dir",
            &root.display().to_string(),
            "--coordinator",
            "ws://10.91.0.3:9489/v1/coordinate",
            "--token-file",
            &token.display().to_string(),
            "--key",
            &key_file(field)?.display().to_string(),
            "--peer-links",
            if team == Team::InClear {
                "authenticated"
            } else {
                "encrypted"
            },
        ],
    )
}

/// The secret that the agents and the coordinator share; made when it is absent.
fn key_file(field: &Field<'_>) -> Result<PathBuf> {
    let path = field.directory.join("key");
    if !path.exists() {
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        // Nobody but the laboratory's own hosts reaches its networks.
        file.write_all(hex::encode(Sha256::digest("laboratory")).as_bytes())?;
    }
    Ok(path)
}

/// The stand-in hub with the model; gives its commit too.
fn start_hub(field: &Field<'_>) -> Result<(Process, String)> {
    let address = Host::Hub.address(field.case.hub_net());
    let mut hub = Process::start(
        Host::Hub,
        "hub",
        field.logs,
        &[
            &field.program("modelcache-hub"),
            "--listen-address",
            "0.0.0.0",
            "--cdn-url",
            &format!("http://{address}:8081"),
            "--load",
            &format!("{}={REPOSITORY}", field.model.directory.display()),
        ],
    )?;
    let ask = |words: &[&str]| {
        let mut command = inside(
            &Host::Hub.namespace(),
            &["curl", "-sSf", "--max-time", "20"],
        );
        run(command.args(words))
    };
    let began = Instant::now();
    let info = format!("http://127.0.0.1:8080/api/models/{REPOSITORY}/revision/main");
    let text = loop {
        hub.check()?;
        match ask(&[&info]) {
            Ok(text) => break text,
            Err(error) if began.elapsed() > START_PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let info: serde_json::Value = serde_json::from_str(&text)?;
    let commit = info["sha"].as_str().context("the hub names no commit")?;
    // The rate limit is another test's subject.
    let admin = "http://127.0.0.1:8082/settings";
    let mut settings: serde_json::Value = serde_json::from_str(&ask(&[admin])?)?;
    let plenty = 1_000_000_000;
    settings["anonymous"] =
        serde_json::json!({"api": plenty, "resolvers": plenty, "pages": plenty});
    let json = "content-type: application/json";
    ask(&[
        "-X",
        "PUT",
        "-H",
        json,
        "--data",
        &settings.to_string(),
        admin,
    ])?;
    Ok((hub, commit.to_owned()))
}

/// The torrent of the model; the programs put it below a directory of that name.
fn torrent(field: &Field<'_>, tracker: Option<&str>) -> Result<(PathBuf, String)> {
    let torrent = field.directory.join("model.torrent");
    let mut command = std::process::Command::new(PYTHON);
    command.arg(field.script("node.py")).arg("make");
    command.arg("--directory").arg(&field.model.directory);
    command.arg("--torrent").arg(&torrent);
    if let Some(tracker) = tracker {
        command.args(["--tracker", tracker]);
    }
    run(&mut command)?;
    let name = field.model.directory.file_name().context("no name")?;
    Ok((torrent, name.to_string_lossy().into_owned()))
}

fn libtorrent(team: Team, field: &Field<'_>) -> Result<Players> {
    let (torrent, name) = torrent(field, None)?;
    let above = field.model.directory.parent().context("no directory")?;
    let mut players = Players {
        team,
        hub: Vec::new(),
        control: Vec::new(),
        nodes: Vec::new(),
        marks: Vec::new(),
        data: Vec::new(),
        word: String::new(),
        coordinator_told: false,
    };
    let origin = field.case.origin();
    let mut hosts: Vec<Host> = (0..field.case.hosts()).map(Host::Node).collect();
    if origin == Host::Hub {
        hosts.push(origin);
    }
    for host in &hosts {
        let (script, torrent) = (field.script("node.py"), torrent.display().to_string());
        let mut words = vec![PYTHON.to_owned(), script, "run".to_owned()];
        words.extend(["--torrent".to_owned(), torrent, "--directory".to_owned()]);
        let mark = field.directory.join(format!("{}.mark", host.name()));
        if *host == origin {
            words.push(above.display().to_string());
            words.push("--seed".to_owned());
            if team == Team::LibtorrentSuper {
                words.push("--super".to_owned());
            }
        } else {
            let Host::Node(number) = *host else { continue };
            words.push(field.home(number).display().to_string());
            for other in hosts.iter().filter(|other| *other != host) {
                let net = match other {
                    Host::Hub => field.case.hub_net(),
                    _ => Net::Lan,
                };
                words.extend(["--peer".to_owned(), other.address(net).to_string()]);
            }
        }
        words.extend(["--mark".to_owned(), mark.display().to_string()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut process = Process::start(*host, &host.name(), field.logs, &words)?;
        process.until_says("up", START_PATIENCE)?;
        if *host == origin {
            process.tell("go")?;
        }
        if let Host::Node(number) = host {
            players.nodes.push(Some(process));
            players.marks.push(mark);
            players.data.push(field.home(*number).join(&name));
        } else {
            players.hub.push(process);
        }
    }
    Ok(players)
}

fn aria2(team: Team, field: &Field<'_>) -> Result<Players> {
    let (_, name) = torrent(field, Some(TRACKER))?;
    let script = field.script("tracker.py");
    let tracker = Process::start(
        Host::Control,
        "tracker",
        field.logs,
        &[PYTHON, &script, "6969"],
    )?;
    std::thread::sleep(Duration::from_millis(500));
    let above = field.model.directory.parent().context("no directory")?;
    let origin = field.case.origin();
    let mark = field.directory.join("origin.mark");
    let seed = aria2_node(field, origin, above, &mark)?;
    let began = Instant::now();
    // It has found its files whole, and the tracker knows it.
    while !mark.exists() {
        if began.elapsed() > START_PATIENCE {
            bail!("aria2 does not seed; see its log");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    let mut players = Players {
        team,
        hub: Vec::new(),
        control: vec![tracker],
        nodes: Vec::new(),
        marks: Vec::new(),
        data: Vec::new(),
        word: String::new(),
        coordinator_told: false,
    };
    let mut seed = Some(seed);
    for number in 0..field.case.hosts() {
        let host = Host::Node(number);
        players
            .nodes
            .push(if host == origin { seed.take() } else { None });
        players
            .marks
            .push(field.directory.join(format!("{}.mark", host.name())));
        players.data.push(field.home(number).join(&name));
    }
    players.hub.extend(seed);
    Ok(players)
}

fn aria2_node(field: &Field<'_>, host: Host, directory: &Path, mark: &Path) -> Result<Process> {
    Process::start(
        host,
        &host.name(),
        field.logs,
        &[
            "env",
            &format!("MARK={}", mark.display()),
            "aria2c",
            "--no-conf",
            &format!("--dir={}", directory.display()),
            "--enable-dht=false",
            "--enable-dht6=false",
            "--disable-ipv6=true",
            "--listen-port=6881",
            "--seed-ratio=0.0",
            "--check-integrity=true",
            "--file-allocation=none",
            "--summary-interval=0",
            "--bt-max-peers=0",
            "--bt-request-peer-speed-limit=1000M",
            "--bt-tracker-interval=3",
            &format!("--on-bt-download-complete={}", field.script("mark")),
            &field.directory.join("model.torrent").display().to_string(),
        ],
    )
}

fn nginx(team: Team, field: &Field<'_>) -> Result<Players> {
    let root = field.directory.display();
    let settings = field.directory.join("nginx.conf");
    fs::write(
        &settings,
        format!(
            "daemon off; master_process off; user root; pid {root}/nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {root}/t1;\n\
             proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4;\n\
             scgi_temp_path {root}/t5; server {{ listen 8080; root {}; }} }}\n",
            field.model.directory.display()
        ),
    )?;
    let words = ["nginx", "-c", &settings.display().to_string()];
    let server = Process::start(Host::Node(0), "nginx", field.logs, &words)?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(Players {
        team,
        hub: Vec::new(),
        control: Vec::new(),
        nodes: vec![Some(server), None],
        marks: vec![field.directory.join("none"), field.home(1).join("complete")],
        data: vec![field.home(0), field.home(1)],
        word: String::new(),
        coordinator_told: false,
    })
}

fn curl(field: &Field<'_>, number: u8) -> Result<Process> {
    let home = field.home(number);
    let mut words = vec!["curl".to_owned(), "-sSf".to_owned()];
    for file in &field.model.files {
        words.push("-o".to_owned());
        words.push(home.join(&file.path).display().to_string());
        words.push(format!(
            "http://{}:8080/{}",
            Host::Node(0).address(Net::Lan),
            file.path
        ));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Process::start(Host::Node(number), "curl", field.logs, &words)
}
