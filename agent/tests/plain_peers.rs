//! Other BitTorrent clients learn of each other from an agent (BEP 11), and of the agent by the DHT (BEP 5): real ones, which
//! are given no other way. Without libtorrent these tests are skipped.
#![allow(clippy::unwrap_used, clippy::panic)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use modelcache_agent::intent::Intent;
use modelcache_agent::metrics::Metrics;
use modelcache_agent::plain::dht;
use modelcache_crds::model_cache::Peers;
use modelcache_swarm::coordination::AgentMessage;
use modelcache_swarm::engine::SegmentSource as _;
use support::giving::{Giving, PATIENCE, PLAIN, PORT, PYTHON, has_libtorrent, own_address, run};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UdpSocket;
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

/// What all clients have: nothing by which they find anybody.
const CLIENT: &str = r"
import sys, time
import libtorrent as lt
settings = {
    'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False,
    'allow_multiple_connections_per_ip': True, 'close_redundant_connections': False,
    'dht_bootstrap_nodes': '', 'dht_restrict_routing_ips': False, 'dht_restrict_search_ips': False,
    'dht_ignore_dark_internet': False, 'dht_prefer_verified_node_ids': False,
}
def wait(what):
    until = time.time() + 50
    while not what():
        assert time.time() < until, 'waited in vain'
        time.sleep(0.05)
";

/// A program of a client that goes on until it is dropped.
struct Client {
    // Killed with the drop.
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut python = Command::new(PYTHON);
        python.args(["-c", &format!("{CLIENT}{program}")]);
        python.args(arguments);
        python.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = python.kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            _child: child,
            lines,
        }
    }

    /// What it says next.
    async fn says(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line());
        line.await.unwrap().unwrap().unwrap()
    }
}

/// Runs a program of a client to its end.
async fn client(program: &str, arguments: &[&str]) {
    let mut python = std::process::Command::new(PYTHON);
    python.args(["-c", &format!("{CLIENT}{program}")]);
    python.args(arguments);
    assert!(run(python).await);
}

/// Takes a torrent file from the agent, and then stays connected. Says where it listens.
const SEEDER: &str = r"
torrent, host, port, directory, here = sys.argv[1:]
session = lt.session({**settings, 'listen_interfaces': here + ':0'})
handle = session.add_torrent({'ti': lt.torrent_info(torrent), 'save_path': directory})
handle.connect_peer((host, int(port)))
wait(lambda: handle.status().is_seeding)
assert len(handle.get_peer_info()) == 1
print(session.listen_port(), flush=True)
while True:
    time.sleep(1)
";

/// Knows the agent only, and takes so slowly that it goes on. Ends when it knows the other client by peer exchange.
const LEARNER: &str = r"
torrent, host, port, directory, here, other = sys.argv[1:]
session = lt.session({**settings, 'listen_interfaces': here + ':0'})
handle = session.add_torrent({'ti': lt.torrent_info(torrent), 'save_path': directory})
handle.set_download_limit(50_000)
handle.connect_peer((host, int(port)))
def learnt():
    peers = {'%s:%d' % peer.ip: peer.source for peer in handle.get_peer_info()}
    return peers.get(other, 0) & lt.peer_info.pex
wait(learnt)
";

/// Knows the agent only, takes the file, and has heard of nobody else then.
const LONER: &str = r"
torrent, host, port, directory, here = sys.argv[1:]
session = lt.session({**settings, 'listen_interfaces': here + ':0'})
handle = session.add_torrent({'ti': lt.torrent_info(torrent), 'save_path': directory})
handle.connect_peer((host, int(port)))
wait(lambda: handle.status().is_seeding)
assert handle.status().list_peers == 1, handle.status().list_peers
";

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_of_each_other_where_it_is_allowed() {
    if !has_libtorrent() {
        return;
    }
    for pex in [true, false] {
        let giving = Giving::start(Peers { pex, ..PLAIN }).await;
        let (_, [v1, _]) = giving.large().await;
        let (torrent, host, port) = (text(&v1), giving.addr.ip().to_string(), PORT.to_string());
        // From where clients dial on loopback, wherever they listen.
        let here = Ipv4Addr::LOCALHOST.to_string();
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [first, second] = [&one, &two].map(|directory| text(directory.path()));
        let mut seeder = Client::start(SEEDER, &[&torrent, &host, &port, &first, &here]);
        let other = format!("{here}:{}", seeder.says().await);
        let arguments = [&torrent, &host, &port, &second, &here, &other].map(|text| &**text);
        if pex {
            client(LEARNER, &arguments).await;
        } else {
            client(LONER, &arguments[..5]).await;
            giving.assert_taken(two.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_of_other_nodes_where_it_is_allowed() {
    let giving = Giving::start(PLAIN).await;
    let (listed, _) = giving.large().await;
    let mut hash = [0; 20];
    hex::decode_to_slice(&listed.info_hash, &mut hash).unwrap();
    assert_eq!(giving.shelf.exchange(hash), None);
    // Another node has a part in the snapshot. Its plain port is the same as this one's.
    let there = "127.0.0.9:9492".parse().unwrap();
    let (outbox, _orders) = giving.coordinator.connect("other", there).await;
    let track = AgentMessage::Track {
        snapshot: "open".to_owned(),
        segments: 1,
        held: Vec::new(),
    };
    outbox.send(track).unwrap();
    let allow = |peers| {
        let change = |intent: &mut Intent| intent.snapshots[0].peers = peers;
        giving.agent.intent.send_modify(change);
    };
    allow(Peers { pex: true, ..PLAIN });
    let plain = SocketAddr::new(there.ip(), PORT);
    until(|| giving.shelf.exchange(hash) == Some(vec![plain])).await;
    assert_eq!(giving.shelf.exchange([7; 20]), None);
    allow(PLAIN);
    until(|| giving.shelf.exchange(hash).is_none()).await;
}

/// A node of the DHT that knows nobody. Says its port.
const ROUTER: &str = r"
session = lt.session({**settings, 'listen_interfaces': sys.argv[1] + ':0', 'enable_dht': True})
wait(session.is_dht_running)
print(session.listen_port(), flush=True)
while True:
    time.sleep(1)
";

/// Knows an info hash and a node of the DHT, and takes the file.
const FINDER: &str = r"
router, port, here, info_hash, directory = sys.argv[1:]
session = lt.session({**settings, 'listen_interfaces': here + ':0', 'enable_dht': True, 'dht_announce_interval': 1})
session.add_dht_node((router, int(port)))
torrent = lt.parse_magnet_uri('magnet:?xt=urn:btih:' + info_hash)
torrent.save_path = directory
handle = session.add_torrent(torrent)
wait(lambda: handle.status().is_seeding)
";

/// Whether a node of the DHT knows of anybody who has a torrent.
async fn knows(node: SocketAddrV4, info_hash: &str) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let question = [
        &b"d1:ad2:id20:nobody-in-particular9:info_hash20:"[..],
        &hex::decode(info_hash).unwrap(),
        b"e1:q9:get_peers1:t2:aa1:y1:qe",
    ];
    socket.send_to(&question.concat(), node).await.unwrap();
    let mut answer = [0; 2000];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut answer));
    let len = received.await.unwrap().unwrap();
    let answer = &answer[..len];
    let says = |word: &[u8]| answer.windows(word.len()).any(|part| part == word);
    assert!(says(b"5:token"), "{}", answer.escape_ascii());
    says(b"6:values")
}

/// Waits until it is so.
async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_the_agent_by_the_dht_where_it_is_allowed() {
    if !has_libtorrent() {
        return;
    }
    let host = own_address();
    let mut first = Client::start(ROUTER, &[&host.to_string()]);
    let router_port = first.says().await;
    let router = SocketAddrV4::new(host, router_port.parse().unwrap());
    let giving = Giving::start(PLAIN).await;
    // Others take the address from which an announce comes for that of the plain port.
    let SocketAddr::V4(plain) = giving.addr else {
        panic!("not IPv4");
    };
    let here = SocketAddrV4::new(*plain.ip(), 6881);
    let settings = dht::Settings {
        listen: here,
        bootstrap: router.to_string().parse().unwrap(),
        plain_port: PORT,
    };
    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::new());
    let task = dht::start(settings, &giving.shelf, metrics.clone(), stop.clone());
    let (listed, _) = giving.large().await;
    let hashes = [&listed.info_hash, &listed.hybrid_info_hash];
    // Switched off there is no node of the DHT, and the others know nothing.
    let silent = || std::net::UdpSocket::bind(here).is_ok();
    assert!(silent());
    for info_hash in hashes {
        assert!(!knows(router, info_hash).await);
    }
    let allow = |dht| {
        let change = |intent: &mut Intent| intent.snapshots[0].peers.dht = dht;
        giving.agent.intent.send_modify(change);
    };
    allow(true);
    // Both torrents of the large file, and none of the small one.
    let announced = "modelcache_agent_dht_announces_total{result=\"ok\"} 2";
    until(|| metrics.encode().lines().any(|line| line == announced)).await;
    let small = giving.shelf.list().remove(0);
    assert!(!knows(router, &small.info_hash).await);
    for info_hash in hashes {
        let known = async {
            // libtorrent answers nobody who asks more than five times a second.
            while !knows(router, info_hash).await {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let finder = [
            &*host.to_string(),
            &*router_port,
            &*own_address().to_string(),
            &**info_hash,
            &*text(directory.path()),
        ];
        client(FINDER, &finder).await;
        giving.assert_taken(directory.path());
    }
    allow(false);
    until(silent).await;
    stop.cancel();
    task.await.unwrap();
}
