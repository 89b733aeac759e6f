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
use std::net::SocketAddr;
use std::process::Command;

use axum::Router;
use axum::routing::get;
use librqbit::{AddTorrent, AddTorrentOptions, Session, SessionOptions};
use modelcache_crds::model_cache::Peers;
use support::giving::{Giving, PATIENCE, PLAIN, PORT, PYTHON, has_libtorrent, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

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

#[tokio::test(flavor = "multi_thread")]
async fn librqbit_takes_a_file() {
    let giving = Giving::start(PLAIN).await;
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
    let giving = Giving::start(PLAIN).await;
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
    if !has_libtorrent() {
        return;
    }
    let giving = Giving::start(PLAIN).await;
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
    let mut giving = Giving::start(PLAIN).await;
    let (listed, _) = giving.large().await;
    let (mut open, len) = greeted(giving.addr, &listed.info_hash).await;
    assert!(len > 0);
    // Taken back: what is connected gets no more, who comes gets nothing, until it is allowed again.
    let allow = |giving: &Giving, allowed| {
        giving.agent.intent.send_modify(|intent| {
            intent.snapshots[0].peers.plain_bit_torrent = allowed;
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

    let closed = Giving::start(Peers::default()).await;
    assert_eq!(greeted(closed.addr, &listed.info_hash).await.1, 0);
    assert!(closed.shelf.list().is_empty());
    assert!(!closed.cache.path().join("pieces").exists());
}
