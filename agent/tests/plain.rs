//! Other BitTorrent clients take files from an agent: real ones, by torrent file and by magnet link. Those that are not
//! installed are skipped.
#![allow(clippy::unwrap_used, clippy::panic, clippy::duration_suboptimal_units)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use librqbit::{AddTorrent, AddTorrentOptions, Session, SessionOptions};
use modelcache_agent::metrics::Metrics;
use modelcache_agent::plain::{self, Heralds, Listed, Shelf};
use support::agent::Agent;
use support::coordinator::Coordinator;
use support::hub::Hub;
use support::model::{Model, bytes, intent};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The one for which the distribution has libtorrent.
const PYTHON: &str = "/usr/bin/python3";
const PORT: u16 = 9493;
const PATIENCE: Duration = Duration::from_secs(60);

/// A loopback address that nobody else uses, so that the port is free.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed), high, low.max(1))
}

/// An agent that holds a model of a large and a small file, and whose plain port is open.
struct Giving {
    agent: Agent,
    shelf: Arc<Shelf>,
    metrics: Arc<Metrics>,
    addr: SocketAddr,
    model: Model,
    cache: TempDir,
    _hub: Hub,
    _coordinator: Coordinator,
    stop: CancellationToken,
}

impl Giving {
    async fn start(allowed: bool) -> Self {
        let hub = Hub::start().await;
        let mut model = Model::default();
        model.add("gguf/tiny model.gguf", bytes(3, (5 << 20) + 7));
        model.add("config.json", bytes(4, 700));
        model.add("empty", Vec::new());
        hub.put("open", &model);
        let coordinator = Coordinator::start(hub.access());
        let mut wish = intent(&[model.snapshot("open")]);
        wish.snapshots[0].plain_bit_torrent = allowed;
        let cache = tempfile::tempdir().unwrap();
        let mut agent = Agent::start("node", cache.path(), &coordinator, wish).await;
        agent.until_ready().await;
        let metrics = Arc::new(Metrics::new());
        let addr = SocketAddr::new(own_address().into(), PORT);
        let shelf = Arc::new(Shelf::new(addr.ip(), PORT, metrics.clone()));
        let stop = CancellationToken::new();
        plain::start(
            addr,
            shelf.clone(),
            Heralds::default(),
            agent.public.clone(),
            stop.clone(),
        )
        .await
        .unwrap();
        Self {
            agent,
            shelf,
            metrics,
            addr,
            model,
            cache,
            _hub: hub,
            _coordinator: coordinator,
            stop,
        }
    }

    /// Waits until as many files can be taken.
    async fn until(&self, files: usize) -> Vec<Listed> {
        let wait = async {
            loop {
                let list = self.shelf.list();
                if list.len() == files {
                    return list;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    /// The large file, with its torrents on disk.
    async fn large(&self) -> (Listed, [PathBuf; 2]) {
        let listed = self.until(2).await.remove(1);
        assert_eq!(listed.path, "gguf/tiny model.gguf");
        let on_disk = [&listed.info_hash, &listed.hybrid_info_hash].map(|hash| {
            let torrent = self.shelf.torrent(hash).unwrap();
            let path = self.cache.path().join(format!("{hash}.torrent"));
            fs::write(&path, torrent).unwrap();
            path
        });
        (listed, on_disk)
    }

    /// Whether the large file lies in the directory, whole and right.
    fn assert_taken(&self, directory: &Path) {
        let taken = fs::read(directory.join("tiny model.gguf")).unwrap();
        assert!(taken == self.model.files["gguf/tiny model.gguf"]);
    }

    fn sent(&self) -> u64 {
        let text = self.metrics.encode();
        let start = "modelcache_agent_plain_sent_bytes_total{model=\"acme/open\"} ";
        let value = text.lines().find_map(|line| line.strip_prefix(start));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A tracker that names one peer to everybody.
async fn tracker(peer: SocketAddr) -> String {
    let SocketAddr::V4(peer) = peer else {
        panic!("not IPv4");
    };
    let compact = [&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat();
    let answer = [&b"d8:intervali60e5:peers6:"[..], &compact, b"e"].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = Router::new().route("/announce", get(move || async move { answer.clone() }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{addr}/announce")
}

/// Runs a program to its end; false when there is no such program.
async fn run(mut command: Command) -> bool {
    let name = format!("{}", command.get_program().display());
    command.stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    match tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            let complained = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}\n{complained}");
            true
        }
        Err(error) => {
            eprintln!("SKIPPED: {name} cannot be run ({error}); install it");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn librqbit_takes_a_file() {
    let giving = Giving::start(true).await;
    let (listed, [v1, hybrid]) = giving.large().await;
    for add in [
        AddTorrent::from_bytes(fs::read(v1).unwrap()),
        AddTorrent::from_url(&listed.magnet),
        AddTorrent::from_bytes(fs::read(hybrid).unwrap()),
        AddTorrent::from_url(&listed.hybrid_magnet),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let options = SessionOptions {
            dht: None,
            disable_local_service_discovery: true,
            ..SessionOptions::default()
        };
        let session = Session::new_with_opts(directory.path().to_owned(), options)
            .await
            .unwrap();
        let options = AddTorrentOptions {
            initial_peers: Some(vec![giving.addr]),
            output_folder: Some(directory.path().display().to_string()),
            ..AddTorrentOptions::default()
        };
        let take = async {
            let added = session.add_torrent(add, Some(options)).await.unwrap();
            let torrent = added.into_handle().unwrap();
            torrent.wait_until_completed().await.unwrap();
        };
        tokio::time::timeout(PATIENCE, take).await.unwrap();
        giving.assert_taken(directory.path());
        session.stop().await;
    }
    assert!(giving.sent() >= 4 * listed.size_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn aria2_takes_a_file() {
    let giving = Giving::start(true).await;
    let (listed, [v1, _]) = giving.large().await;
    let tracker = tracker(giving.addr).await;
    for what in [v1.display().to_string(), listed.magnet] {
        let directory = tempfile::tempdir().unwrap();
        let mut aria2 = Command::new("aria2c");
        aria2.args([
            "--no-conf",
            "--enable-dht=false",
            "--enable-dht6=false",
            "--seed-time=0",
            "--check-integrity=true",
            "--bt-stop-timeout=50",
            "--file-allocation=none",
        ]);
        aria2.arg(format!("--bt-tracker={tracker}"));
        aria2.arg(format!("--dir={}", directory.path().display()));
        aria2.arg(what);
        if !run(aria2).await {
            return;
        }
        giving.assert_taken(directory.path());
    }
}

/// What takes a torrent by libtorrent: a torrent file or magnet link, the peer, where to.
const LIBTORRENT: &str = r"
import sys, time
import libtorrent as lt
what, host, port, directory = sys.argv[1:]
session = lt.session({'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False})
if what.startswith('magnet:'):
    torrent = lt.parse_magnet_uri(what)
else:
    torrent = lt.add_torrent_params()
    torrent.ti = lt.torrent_info(what)
torrent.save_path = directory
handle = session.add_torrent(torrent)
if not what.startswith('magnet:'):
    handle.connect_peer((host, int(port)))
until = time.time() + 50
while not handle.status().is_seeding:
    assert time.time() < until, handle.status().progress
    time.sleep(0.05)
";

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_takes_a_file() {
    let mut has = Command::new(PYTHON);
    has.args(["-c", "import libtorrent"]);
    if !has.output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: {PYTHON} has no libtorrent; install the package python3-libtorrent");
        return;
    }
    let giving = Giving::start(true).await;
    let (listed, on_disk) = giving.large().await;
    let on_disk = on_disk.map(|path| path.display().to_string());
    for what in on_disk
        .into_iter()
        .chain([listed.magnet, listed.hybrid_magnet])
    {
        let directory = tempfile::tempdir().unwrap();
        let mut python = Command::new(PYTHON);
        python.args(["-c", LIBTORRENT, &what]);
        python.args([giving.addr.ip().to_string(), PORT.to_string()]);
        python.arg(directory.path());
        assert!(run(python).await);
        giving.assert_taken(directory.path());
    }
}

/// What the agent answers to the handshake of a client that asks for a torrent.
async fn greeted(addr: SocketAddr, info_hash: &str) -> (TcpStream, usize) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    hello.extend(hex::decode(info_hash).unwrap());
    hello.extend([b'x'; 20]);
    stream.write_all(&hello).await.unwrap();
    let mut answer = [0; 68];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer));
    let len = read.await.unwrap().unwrap_or(0);
    (stream, len)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_not_given() {
    let mut giving = Giving::start(true).await;
    let (listed, _) = giving.large().await;
    let (mut open, len) = greeted(giving.addr, &listed.info_hash).await;
    assert!(len > 0);
    // Taken back: what is connected gets no more, who comes gets nothing, until it is allowed again.
    let allow = |giving: &Giving, allowed| {
        giving.agent.intent.send_modify(|intent| {
            intent.snapshots[0].plain_bit_torrent = allowed;
        });
    };
    allow(&giving, false);
    giving.until(0).await;
    for hash in [&listed.info_hash, &listed.hybrid_info_hash] {
        assert_eq!(giving.shelf.torrent(hash), None);
    }
    open.write_all(&[0, 0, 0, 13, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0])
        .await
        .unwrap();
    let mut rest = Vec::new();
    let read = open.read_to_end(&mut rest);
    let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
    assert!(rest.len() < 1000, "{} bytes", rest.len());
    assert_eq!(greeted(giving.addr, &listed.info_hash).await.1, 0);
    allow(&giving, true);
    let again = giving.until(2).await;
    assert_eq!(again[1], listed);
    assert!(greeted(giving.addr, &listed.info_hash).await.1 > 0);
    let kept = giving.cache.path().join("pieces");
    assert_eq!(fs::read_dir(kept).unwrap().count(), 2);
    giving.agent.until_ready().await;

    let closed = Giving::start(false).await;
    assert_eq!(greeted(closed.addr, &listed.info_hash).await.1, 0);
    assert!(closed.shelf.list().is_empty());
    assert!(!closed.cache.path().join("pieces").exists());
}
