//! `modelcache-bench-librqbit`: librqbit alone on one node, whole torrents, nothing of ours around it.
//!
//! It says `up`, goes on when a line comes on standard input, makes the file `--mark` once everything is there, and ends
//! with its standard input.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use librqbit::{
    AddTorrent, AddTorrentOptions, ConnectionOptions, ListenerMode, ListenerOptions,
    PeerConnectionOptions, Session, SessionOptions,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Where each of them listens.
const PORT: u16 = 6881;

/// Blocks of 16 KiB that may be asked for at once, as in the agent's engine.
const REQUEST_WINDOW: usize = 1024;

#[derive(Debug, Parser)]
struct Arguments {
    /// The `.torrent`.
    #[arg(long)]
    torrent: PathBuf,
    /// Above the directory that the torrent names.
    #[arg(long)]
    directory: PathBuf,
    /// Exists once everything is there.
    #[arg(long)]
    mark: PathBuf,
    /// The files are there already.
    #[arg(long)]
    seed: bool,
    /// Another's address.
    #[arg(long)]
    peer: Vec<IpAddr>,
}

// One thread for everything: the hand-over between threads costs librqbit more than it gains with two processors.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let session = Session::new_with_opts(arguments.directory.clone(), options()).await?;
    let bytes = std::fs::read(&arguments.torrent)?;
    let name = librqbit::torrent_from_bytes(&bytes)?.info.data.name;
    let name = name.context("the torrent has no name")?;
    let name = String::from_utf8_lossy(name.as_ref()).into_owned();
    let peers = arguments.peer.iter();
    let added = session.add_torrent(
        AddTorrent::from_bytes(bytes),
        Some(AddTorrentOptions {
            paused: !arguments.seed,
            overwrite: true,
            initial_peers: Some(peers.map(|peer| SocketAddr::new(*peer, PORT)).collect()),
            output_folder: Some(arguments.directory.join(name).display().to_string()),
            ..AddTorrentOptions::default()
        }),
    );
    let torrent = added.await?.into_handle().context("not added")?;
    torrent.wait_until_initialized().await?;
    println!("up");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    if input.next_line().await?.is_none() {
        return Ok(());
    }
    if !arguments.seed {
        session.unpause(&torrent).await?;
    }
    torrent.wait_until_completed().await?;
    std::fs::write(&arguments.mark, "")?;
    // It seeds until nobody needs it.
    while input.next_line().await?.is_some() {}
    Ok(())
}

/// A session that talks to nobody but the peers it is given.
fn options() -> SessionOptions {
    SessionOptions {
        dht: None,
        disable_trackers: true,
        disable_local_service_discovery: true,
        persistence: None,
        listen: Some(ListenerOptions {
            mode: ListenerMode::TcpOnly,
            listen_addr: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT),
            announce_port: Some(PORT),
            ipv4_only: true,
            ..ListenerOptions::default()
        }),
        connect: Some(ConnectionOptions {
            peer_opts: Some(PeerConnectionOptions {
                max_request_window: Some(REQUEST_WINDOW),
                ..PeerConnectionOptions::default()
            }),
            ..ConnectionOptions::default()
        }),
        ..SessionOptions::default()
    }
}
