//! Where other nodes are learnt from beside the coordinator: everything that fills the table of peers.

use std::net::SocketAddr;

use modelcache_swarm::discovery::named::{self, NamedPeer};
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::discovery::upkeep::Upkeep;
use modelcache_swarm::secret::Keys;
use modelcache_swarm::tracker::client::{ClientError, TrackerUrl};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::LanArgs;
use crate::lan::{Lan, LanError};
use crate::metrics::Metrics;
use crate::state::NodeState;
use crate::tracker::Tracked;

/// Why other nodes cannot be looked for.
#[derive(Debug, Error)]
pub enum SourcesError {
    /// The local network cannot be used.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// The tracker cannot be asked.
    #[error(transparent)]
    Tracker(#[from] ClientError),
}

/// The sources of this node, as the options ask for them.
#[derive(Debug)]
pub struct Sources {
    /// The table.
    pub peers: Peers,
    /// Peers that the options name.
    pub named: Vec<NamedPeer>,
    /// How the local network is used; absent: not at all.
    pub lan: Option<LanArgs>,
    /// The operator's tracker; absent: none is asked.
    pub tracker: Option<TrackerUrl>,
    /// How members of the cluster know each other.
    pub keys: Keys,
}

impl Sources {
    /// Starts them for a node that listens for peers at `here`, until `stop`.
    pub fn start(
        self,
        node: &str,
        here: SocketAddr,
        state: watch::Receiver<NodeState>,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Result<Vec<JoinHandle<()>>, SourcesError> {
        let Self {
            peers,
            named,
            lan,
            tracker,
            keys,
        } = self;
        metrics.show_peers(peers.clone());
        // First of all, so that the node never takes itself for another.
        let upkeep = Upkeep::start(peers.clone(), here);
        let mut tasks = Vec::new();
        if let Some(tracker) = tracker {
            let tracked = Tracked::start(tracker, keys.clone(), here, peers.clone(), metrics)?;
            tasks.push(tokio::spawn(tracked.run(state.clone(), stop.clone())));
        }
        if let Some(args) = lan {
            let lan = Lan::start(args, keys, node, here, peers.clone(), metrics)?;
            tasks.push(tokio::spawn(lan.run(state, stop.clone())));
        }
        tasks.push(tokio::spawn(upkeep.run(stop.clone())));
        tasks.push(tokio::spawn(named::follow(named, peers, stop.clone())));
        Ok(tasks)
    }
}
