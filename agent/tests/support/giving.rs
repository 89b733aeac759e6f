//! An agent that gives files to other BitTorrent clients, and such clients.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use modelcache_agent::metrics::Metrics;
use modelcache_agent::plain::{self, Heralds, Listed, Shelf};
use modelcache_crds::model_cache::Peers;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use super::coordinator::Coordinator;
use super::hub::Hub;
use super::model::{Model, bytes, intent};

/// The one for which the distribution has libtorrent.
pub const PYTHON: &str = "/usr/bin/python3";
pub const PORT: u16 = 9493;
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Everybody may have it, and is told of nobody.
pub const PLAIN: Peers = Peers {
    plain_bit_torrent: true,
    pex: false,
    dht: false,
};

/// A loopback address that nobody else uses, so that the port is free.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed), high, low.max(1))
}

/// An agent that holds a model of a large and a small file, and whose plain port is open.
pub struct Giving {
    pub agent: Agent,
    pub shelf: Arc<Shelf>,
    pub metrics: Arc<Metrics>,
    pub addr: SocketAddr,
    model: Model,
    pub cache: TempDir,
    _hub: Hub,
    pub coordinator: Coordinator,
    stop: CancellationToken,
}

impl Giving {
    pub async fn start(peers: Peers) -> Self {
        let hub = Hub::start().await;
        let mut model = Model::default();
        model.add("gguf/tiny model.gguf", bytes(3, (5 << 20) + 7));
        model.add("config.json", bytes(4, 700));
        model.add("empty", Vec::new());
        hub.put("open", &model);
        let coordinator = Coordinator::start(hub.access());
        let mut wish = intent(&[model.snapshot("open")]);
        wish.snapshots[0].peers = peers;
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
            coordinator,
            stop,
        }
    }

    /// Waits until as many files can be taken.
    pub async fn until(&self, files: usize) -> Vec<Listed> {
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
    pub async fn large(&self) -> (Listed, [PathBuf; 2]) {
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
    pub fn assert_taken(&self, directory: &Path) {
        let taken = fs::read(directory.join("tiny model.gguf")).unwrap();
        assert!(taken == self.model.files["gguf/tiny model.gguf"]);
    }

    pub fn sent(&self) -> u64 {
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

/// Runs a program to its end; false when there is no such program.
pub async fn run(mut command: Command) -> bool {
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

/// Whether Python has libtorrent.
pub fn has_libtorrent() -> bool {
    let mut has = Command::new(PYTHON);
    has.args(["-c", "import libtorrent"]);
    let has = has.output().is_ok_and(|output| output.status.success());
    if !has {
        eprintln!("SKIPPED: {PYTHON} has no libtorrent; install the package python3-libtorrent");
    }
    has
}
