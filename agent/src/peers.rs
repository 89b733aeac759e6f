//! Shows who announces itself on the local network, nodes and other BitTorrent clients, and why announcements are not
//! believed: `modelcache-agent peers`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use modelcache_swarm::discovery::lsd::service::LocalService;
use modelcache_swarm::discovery::net::NetError;
use modelcache_swarm::discovery::refusal::{Counters, Refusal};
use modelcache_swarm::discovery::service::{Discovery, Peers};
use modelcache_swarm::discovery::table::{Origin, Peer, PeerTable};
use modelcache_swarm::secret::{Keys, SecretError};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::args::PeersArgs;
use crate::lan;

/// How long a peer may take to answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Peers that are dialled at once.
const DIALS: usize = 64;

/// Why nothing can be shown.
#[derive(Debug, Error)]
pub enum PeersError {
    /// The sockets cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The cluster's secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Standard output is closed.
    #[error("cannot write the table: {0}")]
    Output(#[from] std::io::Error),
}

/// Listens, dials whom it heard, and prints the table.
pub async fn peers(args: PeersArgs) -> Result<(), PeersError> {
    let keys = Keys::follow(args.key.key)?;
    let peers = Peers::default();
    let settings = lan::settings(args.lan, keys, None);
    let (ttl, interfaces) = (settings.group.ttl, settings.interfaces.clone());
    let discovery = Discovery::start(settings, peers.clone())?;
    // Another client may hold its port alone; the nodes can be shown without it.
    let _clients = LocalService::start(ttl, interfaces, peers.clone())
        .inspect_err(|error| tracing::warn!(%error, "other BitTorrent clients are not shown"));
    eprintln!("listening for {} s", args.seconds);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let addresses = peers
        .lock()
        .peers(Instant::now())
        .into_iter()
        .map(|(address, _)| address)
        .collect();
    dial(addresses, &peers).await;
    let text = render(&peers.lock(), &discovery.counters(), Instant::now());
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes())?;
    discovery.stop().await;
    Ok(())
}

/// Tries a connection to each address and notes what came of it.
async fn dial(addresses: Vec<SocketAddr>, peers: &Peers) {
    let mut dials = JoinSet::new();
    let mut waiting = addresses.into_iter();
    loop {
        while dials.len() < DIALS
            && let Some(address) = waiting.next()
        {
            dials.spawn(async move {
                let connected = timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await;
                (address, matches!(connected, Ok(Ok(_))))
            });
        }
        match dials.join_next().await {
            Some(Ok((address, true))) => peers.lock().verified(address, Instant::now()),
            Some(Ok((address, false))) => peers.lock().failed(address, Instant::now()),
            Some(Err(error)) => tracing::warn!(%error, "a dial ended badly"),
            None => return,
        }
    }
}

/// The table as text, one address a line, and below it what was refused.
fn render(table: &PeerTable, counters: &Counters, now: Instant) -> String {
    let mut rows =
        vec![["NODE", "ADDRESS", "FROM", "SEEN", "REACHABLE", "HOLDS"].map(str::to_owned)];
    for (address, peer) in table.peers(now) {
        rows.push(row(table, address, peer, now));
    }
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths.entry(column).or_default();
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths.values()) {
            // Writing to a string does not fail.
            let _ = write!(line, "{cell:width$}   ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let accepted = counters.accepted();
    let _ = writeln!(text, "\n{accepted} announcements believed.");
    if accepted == 0 {
        text.push_str(
            "Nobody was heard: do agents run with --announce, and is their UDP port open on this network?\n",
        );
    }
    for reason in Refusal::ALL {
        let refused = counters.refused(reason);
        if refused > 0 {
            let _ = writeln!(text, "{refused} refused as {reason}: {}.", reason.advice());
        }
    }
    text
}

fn row(table: &PeerTable, address: SocketAddr, peer: &Peer, now: Instant) -> [String; 6] {
    let origins: Vec<&str> = peer.origins.keys().copied().map(Origin::name).collect();
    let age = now.saturating_duration_since(peer.last_seen);
    let node = peer.node.as_ref();
    let holds = match node {
        Some(node) => format!("snapshots: {}", table.holds(node).len()),
        None => format!("torrents: {}", peer.torrents()),
    };
    [
        node.map_or("-", |node| node.as_str()).to_owned(),
        address.to_string(),
        origins.join(","),
        format!("{} s ago", age.as_secs()),
        if peer.verified.is_some() { "yes" } else { "no" }.to_owned(),
        holds,
    ]
}

#[cfg(test)]
mod tests {
    use modelcache_swarm::discovery::announcement::{
        Announcement, Body, ContentId, Delivery, Listening, NodeName, Page,
    };
    use modelcache_swarm::discovery::clock::UnixMillis;
    use tokio::net::TcpListener;

    use super::*;

    fn announced(peers: &Peers, node: &str, address: SocketAddr) {
        let announcement = Announcement {
            node: NodeName::new(node).unwrap(),
            boot: UnixMillis(1),
            sequence: 1,
            sent_at: UnixMillis(1),
            listening: Listening::new([address]).unwrap(),
            delivery: Delivery::default(),
            body: Body::Page(Page::all(0, &[ContentId([1; 20])]).remove(0)),
        };
        peers.lock().announced(&announcement, Instant::now());
    }

    #[test]
    fn the_table_says_who_is_there_and_what_is_wrong() {
        let peers = Peers::default();
        let address = "10.0.0.7:9492".parse().unwrap();
        announced(&peers, "node-7", address);
        let counters = Counters::default();
        let now = Instant::now() + Duration::from_secs(3);
        let nobody = render(&PeerTable::default(), &counters, now);
        assert!(nobody.contains("Nobody was heard"), "{nobody}");
        counters.accept();
        counters.refuse(Refusal::UnknownKey);
        peers.lock().verified(address, now);
        assert_eq!(
            render(&peers.lock(), &counters, now),
            "NODE     ADDRESS         FROM           SEEN      REACHABLE   HOLDS\n\
             node-7   10.0.0.7:9492   announcement   3 s ago   yes         snapshots: 1\n\
             \n\
             1 announcements believed.\n\
             1 refused as unknown_key: a node uses another shared secret, or a rotation is half done.\n"
        );
    }

    #[tokio::test]
    async fn who_answers_is_reachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let shut = closed.local_addr().unwrap();
        drop(closed);
        let peers = Peers::default();
        let now = Instant::now();
        for address in [open, shut] {
            peers.lock().heard(address, Origin::Static, &[], now);
        }
        dial(vec![open, shut], &peers).await;
        let table = peers.lock();
        for (address, peer) in table.peers(Instant::now()) {
            assert_eq!(peer.verified.is_some(), address == open, "{address}");
        }
    }
}
