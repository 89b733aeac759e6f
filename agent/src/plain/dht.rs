//! Announces files to the DHT (BEP 5), so that clients that know nothing but an info hash find this node.
//!
//! A node of the DHT runs only while there is something to announce. Nothing of it is written to disk, and nothing that it is told
//! is acted upon. It speaks IPv4 only, as its library does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use mainline::async_dht::AsyncDht;
use mainline::errors::PutQueryError;
use mainline::{Dht, ServerSettings};
use modelcache_swarm::discovery::named::NamedPeer;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Shelf;
use crate::args::Bootstrap;
use crate::metrics::Metrics;

type InfoHash = [u8; 20];

/// How often a file is announced: nodes of the DHT forget it after half an hour or so.
const EVERY: Duration = Duration::from_mins(15);
/// How soon again when that failed.
const RETRY: Duration = Duration::from_mins(1);
/// Between two files: an announcement is some hundred datagrams.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest that one announcement may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// What is kept for others, once the node can be reached: at most some 4 MiB.
const MAX_TORRENTS: usize = 500;
const MAX_PEERS: usize = 100;

/// How the DHT is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the node of the DHT listens (UDP).
    pub listen: SocketAddrV4,
    /// Nodes that are asked first.
    pub bootstrap: Bootstrap,
    /// Port at which files can be taken.
    pub plain_port: u16,
}

/// Why a file was not announced.
#[derive(Debug, Error)]
enum DhtError {
    #[error("none of the DHT's first nodes can be resolved: check --dht-bootstrap and the DNS")]
    Names,
    #[error("cannot listen on UDP {listen}: {source}; is the port taken?")]
    Listen {
        listen: SocketAddrV4,
        source: std::io::Error,
    },
    #[error(
        "no node of the DHT took it: {0}; check that UDP goes out and that --dht-bootstrap names nodes that are there"
    )]
    Refused(#[from] PutQueryError),
    #[error("no node of the DHT answered in time")]
    Late,
    #[error("the DHT's library failed: {0}")]
    Library(#[from] JoinError),
}

/// Announces those files on the shelf that may be, until `stop`.
pub fn start(
    settings: Settings,
    shelf: &Shelf,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let announcer = Announcer {
        settings,
        metrics,
        node: None,
    };
    let wanted = shelf.in_dht();
    tokio::spawn(async move {
        let _ = stop.run_until_cancelled(announcer.run(wanted)).await;
    })
}

struct Announcer {
    settings: Settings,
    metrics: Arc<Metrics>,
    /// Runs until it is dropped.
    node: Option<AsyncDht>,
}

impl Announcer {
    /// Ends when nobody can want anything any longer.
    async fn run(mut self, mut wanted: watch::Receiver<BTreeSet<InfoHash>>) {
        let mut due = BTreeMap::new();
        let mut free = Instant::now();
        loop {
            follow(&mut due, &wanted.borrow_and_update(), Instant::now());
            let Some((at, hash)) = due.iter().map(|(hash, at)| (*at, *hash)).min() else {
                self.node = None;
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep_until(at.max(free)) => {
                    let (again, pause) = if self.announce(hash).await {
                        (EVERY, PAUSE)
                    } else {
                        // What hinders one hinders all.
                        (RETRY, RETRY)
                    };
                    let now = Instant::now();
                    free = now + pause;
                    due.insert(hash, now + again);
                }
            }
        }
    }

    /// Announces one file. Whether it succeeded.
    async fn announce(&mut self, hash: InfoHash) -> bool {
        let announced = self.try_announce(hash).await;
        if let Err(error) = &announced {
            tracing::warn!(info_hash = hex::encode(hash), %error, "files are not announced to the DHT; tried again in a minute");
            if !matches!(error, DhtError::Refused(_)) {
                self.node = None;
            }
        }
        self.metrics.count_dht_announce(announced.is_ok());
        announced.is_ok()
    }

    async fn try_announce(&mut self, hash: InfoHash) -> Result<(), DhtError> {
        let node = match &self.node {
            Some(node) => node.clone(),
            None => self.node.insert(open(&self.settings).await?).clone(),
        };
        let port = self.settings.plain_port;
        // In a task, because the library panics when its thread has ended. It has the node until it ends.
        let announce = AbortOnDropHandle::new(tokio::spawn(async move {
            // Finds the nodes that are near, with their leave to announce; who else is announced there is of no interest.
            let mut peers = node.get_peers(hash.into());
            while peers.next().await.is_some() {}
            node.announce_peer(hash.into(), Some(port)).await
        }));
        timeout(PATIENCE, announce)
            .await
            .map_err(|_| DhtError::Late)???;
        Ok(())
    }
}

/// Makes `due` say when to announce what is wanted: at once what is new.
fn follow(due: &mut BTreeMap<InfoHash, Instant>, wanted: &BTreeSet<InfoHash>, now: Instant) {
    due.retain(|hash, _| wanted.contains(hash));
    for hash in wanted {
        due.entry(*hash).or_insert(now);
    }
}

/// A node of the DHT that knows the first ones.
async fn open(settings: &Settings) -> Result<AsyncDht, DhtError> {
    let listen = settings.listen;
    let bootstrap = resolve(&settings.bootstrap).await?;
    let open = move || {
        let servant = ServerSettings {
            max_info_hashes: MAX_TORRENTS,
            max_peers_per_info_hash: MAX_PEERS,
            // No more than must be: it stores no values (BEP 44) for others.
            max_immutable_values: 1,
            max_mutable_values: 1,
            ..ServerSettings::default()
        };
        Dht::builder()
            .bind_address(*listen.ip())
            .port(listen.port())
            .bootstrap(&bootstrap)
            .server_settings(servant)
            .build()
    };
    let opened = tokio::task::spawn_blocking(open).await?;
    let node = opened.map_err(|source| DhtError::Listen { listen, source })?;
    Ok(node.as_async())
}

/// The IPv4 addresses of the first nodes. Fails when there are names and none has one.
async fn resolve(bootstrap: &Bootstrap) -> Result<Vec<SocketAddrV4>, DhtError> {
    let mut addresses = Vec::new();
    for named in &bootstrap.0 {
        let found = match named {
            NamedPeer::Address(address) => vec![*address],
            NamedPeer::Name { host, port } => tokio::net::lookup_host((&**host, *port))
                .await
                .inspect_err(|error| tracing::debug!(host, %error, "not resolved"))
                .map(Iterator::collect)
                .unwrap_or_default(),
        };
        addresses.extend(found.into_iter().filter_map(|address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        }));
    }
    if addresses.is_empty() && !bootstrap.0.is_empty() {
        return Err(DhtError::Names);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_due_at_once_and_what_is_gone_never() {
        let now = Instant::now();
        let later = now + EVERY;
        let mut due = BTreeMap::from([([1; 20], later), ([2; 20], later)]);
        follow(&mut due, &BTreeSet::from([[2; 20], [3; 20]]), now);
        assert_eq!(due, BTreeMap::from([([2; 20], later), ([3; 20], now)]));
    }

    #[tokio::test]
    async fn only_addresses_of_ipv4_are_of_use() {
        let resolved = async |text: &str| resolve(&text.parse().unwrap()).await;
        let both = resolved("127.0.0.9:1,[::1]:2,127.0.0.8:3").await.unwrap();
        assert_eq!(
            both,
            ["127.0.0.9:1", "127.0.0.8:3"].map(|text| text.parse().unwrap())
        );
        assert!(resolved("").await.unwrap().is_empty());
        assert!(matches!(resolved("[::1]:2").await, Err(DhtError::Names)));
    }
}
