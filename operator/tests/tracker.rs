//! The tracker on loopback: agents' clients find each other by it, and so do other BitTorrent programs.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use modelcache_operator::metrics::Metrics;
use modelcache_operator::tracker::{self, SharedTracker};
use modelcache_swarm::discovery::announcement::ContentId;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::discovery::table::Origin;
use modelcache_swarm::secret::{Key, Keyring, Keys};
use modelcache_swarm::tracker::Admission;
use modelcache_swarm::tracker::client::{Client, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Distribution's Python, which has the distribution's libtorrent.
const PYTHON: &str = "/usr/bin/python3";
const PIECE: usize = 16_384;
/// How long programs may take for a few hundred kilobytes on loopback, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_mins(1);

fn keys() -> Keys {
    let ring = Keyring::new(Key::parse(SECRET).unwrap(), None);
    Keys::set_by_hand(ring).1
}

async fn serve(tracker: &SharedTracker) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(tracker::serve(listener, tracker.clone(), keys(), stop));
    address
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn agents_find_each_other() {
    let tracker = SharedTracker::new(Admission::Private);
    tracker.register(["tiny-0123abcd"].into_iter());
    let metrics = Metrics::new().with_tracker(Some(&tracker));
    let address = serve(&tracker).await;
    let snapshot = ContentId::of_snapshot("tiny-0123abcd");
    let tables = [Peers::default(), Peers::default()];
    let mut clients = Vec::new();
    for (host, table) in [1, 2].into_iter().zip(&tables) {
        let settings = Settings {
            tracker: format!("http://{address}").parse().unwrap(),
            keys: keys(),
            address: SocketAddr::new([10, 0, 0, host].into(), 9492),
            count: Arc::new(drop),
        };
        let client = Client::start(settings, table.clone()).unwrap();
        client.announce([(snapshot, u64::from(host == 2))].into());
        clients.push(client);
    }
    // Their first announces may be repetitions of what an earlier tracker accepted; they ask again.
    let began = Instant::now();
    while tables.iter().all(|table| table.lock().is_empty()) {
        assert!(began.elapsed() < PATIENCE, "{}", metrics.encode());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for table in &tables {
        for (address, peer) in table.lock().peers(Instant::now()) {
            assert!(address.to_string().starts_with("10.0.0."), "{address}");
            assert!(peer.origins.contains_key(&Origin::Tracker));
        }
    }
    // Strangers learn nothing.
    let asked = get(address, "/announce?info_hash=x").await;
    assert!(
        asked.contains("failure reason") && asked.contains("signed"),
        "{asked}"
    );
    assert!(get(address, "/scrape").await.contains("failure reason"));
    for client in clients {
        client.stop().await;
    }
    let text = metrics.encode();
    for line in [
        "modelcache_tracker_announces_total{result=\"missing\"} 1",
        "modelcache_tracker_peers 0",
        "modelcache_tracker_torrents 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(!text.contains("_total{result=\"ok\"} 0\n"), "{text}");
}

/// A program that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    async fn ended(&mut self) -> bool {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            if began.elapsed() > PATIENCE {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn missing(program: &str, arguments: &[&str], package: &str) -> bool {
    let mut command = Command::new(program);
    let command = command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let missing = !command.status().is_ok_and(|status| status.success());
    if missing {
        eprintln!(
            "SKIPPED: {program} {arguments:?} does not run; install Debian's package {package}"
        );
    }
    missing
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A torrent of one file on this tracker, the file, and the info hash as it stands in a query.
fn torrent(directory: &Path, tracker: SocketAddr) -> (Vec<u8>, String) {
    let data: Vec<u8> = (0..20 * PIECE)
        .map(|at| u8::try_from(at * 7 % 251).unwrap())
        .collect();
    let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec();
    let pieces: Vec<u8> = data.chunks(PIECE).flat_map(sha1).collect();
    let head = format!(
        "d6:lengthi{}e4:name8:data.bin12:piece lengthi{PIECE}e6:pieces{}:",
        data.len(),
        pieces.len()
    );
    let info = [head.as_bytes(), &pieces, b"e"].concat();
    let announce = format!("http://{tracker}/announce");
    let head = format!("d8:announce{}:{announce}4:info", announce.len());
    fs::write(
        directory.join("data.torrent"),
        [head.as_bytes(), &info, b"e"].concat(),
    )
    .unwrap();
    let mut hash = String::new();
    for byte in sha1(&info) {
        hash.push('%');
        hash.push_str(&hex::encode([byte]));
    }
    (data, hash)
}

fn aria2(directory: &Path, torrent: &Path, seed: bool) -> Program {
    let mut command = Command::new("aria2c");
    command.args([
        "--no-conf",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
    ]);
    command.args([
        "--disable-ipv6=true",
        "--check-integrity=true",
        "--file-allocation=none",
        "--summary-interval=0",
    ]);
    command.arg(if seed {
        "--seed-ratio=0.0"
    } else {
        "--seed-time=0"
    });
    command.arg(format!("--listen-port={}", free_port()));
    command.arg(format!("--dir={}", directory.display()));
    Program::start(command.arg(torrent))
}

const LIBTORRENT: &str = r#"
import sys, time
import libtorrent as lt
torrent, directory, port = sys.argv[1:]
session = lt.session({
    "listen_interfaces": f"127.0.0.1:{port}",
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_outgoing_utp": False, "enable_incoming_utp": False, "allow_multiple_connections_per_ip": True,
})
added = lt.add_torrent_params()
added.ti = lt.torrent_info(torrent)
added.save_path = directory
handle = session.add_torrent(added)
while not handle.status().is_seeding:
    time.sleep(0.05)
while not any(tracker["verified"] for tracker in handle.trackers()):
    time.sleep(0.05)
"#;

/// Starts a seed that only the tracker knows of, and gives what others need to find it.
async fn seeded(directory: &Path) -> (Program, Vec<u8>, SharedTracker) {
    let tracker = SharedTracker::new(Admission::Public);
    let address = serve(&tracker).await;
    let (data, hash) = torrent(directory, address);
    let above = directory.join("seed");
    fs::create_dir(&above).unwrap();
    fs::write(above.join("data.bin"), &data).unwrap();
    let seed = aria2(&above, &directory.join("data.torrent"), true);
    let began = Instant::now();
    loop {
        let counts = get(address, &format!("/scrape?info_hash={hash}")).await;
        if counts.contains("8:completei1e") {
            return (seed, data, tracker);
        }
        assert!(began.elapsed() < PATIENCE, "{counts}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn aria2_gets_from_whom_the_tracker_names() {
    if missing("aria2c", &["--version"], "aria2") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_seed, data, _tracker) = seeded(directory.path()).await;
    let below = directory.path().join("leecher");
    let mut leecher = aria2(&below, &directory.path().join("data.torrent"), false);
    assert!(leecher.ended().await);
    assert!(fs::read(below.join("data.bin")).unwrap() == data);
}

#[tokio::test]
async fn libtorrent_gets_from_whom_the_tracker_names() {
    if missing("aria2c", &["--version"], "aria2")
        || missing(PYTHON, &["-c", "import libtorrent"], "python3-libtorrent")
    {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_seed, data, _tracker) = seeded(directory.path()).await;
    let below = directory.path().join("leecher");
    let mut command = Command::new(PYTHON);
    command.args(["-c", LIBTORRENT]);
    command
        .arg(directory.path().join("data.torrent"))
        .arg(&below)
        .arg(free_port().to_string());
    let mut leecher = Program::start(&mut command);
    assert!(leecher.ended().await);
    assert!(fs::read(below.join("data.bin")).unwrap() == data);
}
