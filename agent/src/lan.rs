//! This node on the local network: announces what it holds, and hears the others, for as long as the agent runs.

use std::net::SocketAddr;

use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::discovery::announcement::{ContentId, NodeName, NodeNameError};
use modelcache_swarm::discovery::interfaces::Choice;
use modelcache_swarm::discovery::net::{Group, NetError};
use modelcache_swarm::discovery::service::{Discovery, Own, Peers, Settings};
use modelcache_swarm::discovery::timing::Intervals;
use modelcache_swarm::discovery::window::Tolerance;
use modelcache_swarm::secret::Keys;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::LanArgs;
use crate::metrics::Metrics;
use crate::state::NodeState;

/// Why the local network is not used.
#[derive(Debug, Error)]
pub enum LanError {
    /// Its sockets cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// This node has a name that cannot be announced.
    #[error(transparent)]
    Name(#[from] NodeNameError),
}

/// What the options ask for.
#[must_use]
pub fn settings(args: LanArgs, keys: Keys, own: Option<Own>) -> Settings {
    Settings {
        own,
        keys,
        group: Group {
            v4: args.lan_group,
            v6: args.lan_group_v6,
            port: args.lan_port,
            ttl: args.lan_ttl,
        },
        interfaces: Choice {
            include: args.lan_interfaces,
            exclude: args.lan_exclude,
        },
        intervals: Intervals::default(),
        tolerance: Tolerance::default(),
    }
}

/// The running discovery of this node.
#[derive(Debug)]
pub struct Lan {
    discovery: Discovery,
}

impl Lan {
    /// Starts to announce that this node listens for peers at `here`. What is heard goes into `peers`.
    pub fn start(
        args: LanArgs,
        keys: Keys,
        node: &str,
        here: SocketAddr,
        peers: Peers,
        metrics: &Metrics,
    ) -> Result<Self, LanError> {
        let own = Own {
            node: NodeName::new(node)?,
            port: here.port(),
            hosts: vec![here.ip()],
        };
        let discovery = Discovery::start(settings(args, keys, Some(own)), peers)?;
        metrics.show_announcements(discovery.counters());
        Ok(Self { discovery })
    }

    /// Tells what the node holds, whenever that changes, until `stop`; then says goodbye.
    pub async fn run(self, mut state: watch::Receiver<NodeState>, stop: CancellationToken) {
        loop {
            let held = held(&state.borrow_and_update());
            self.discovery.hold(held);
            tokio::select! {
                () = stop.cancelled() => break,
                changed = state.changed() => if changed.is_err() {
                    break;
                },
            }
        }
        self.discovery.stop().await;
    }
}

/// The snapshots of which something is here: who wants to know how much asks.
fn held(state: &NodeState) -> Vec<ContentId> {
    let held = state
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.phase == Phase::Ready || snapshot.held_bytes > 0);
    held.map(|snapshot| ContentId::of_snapshot(&snapshot.name))
        .collect()
}
