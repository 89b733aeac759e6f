//! This node at the operator's tracker: announces what it holds and wants, for as long as the agent runs. What the tracker
//! says of others goes into the table of peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use modelcache_crds::model_cache_node::Phase;
use modelcache_swarm::discovery::announcement::ContentId;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::secret::Keys;
use modelcache_swarm::tracker::client::{Client, ClientError, Settings, TrackerUrl};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::state::NodeState;

/// The running client of the tracker.
#[derive(Debug)]
pub struct Tracked {
    client: Client,
}

impl Tracked {
    /// Starts it for a node that listens for peers at `here`. What the tracker says goes into `peers`.
    pub fn start(
        tracker: TrackerUrl,
        keys: Keys,
        here: SocketAddr,
        peers: Peers,
        metrics: &Metrics,
    ) -> Result<Self, ClientError> {
        let settings = Settings {
            tracker,
            keys,
            address: here,
            count: metrics.count_tracker_announces(),
        };
        let client = Client::start(settings, peers)?;
        Ok(Self { client })
    }

    /// Tells what the node holds and wants, whenever that changes, until `stop`; then that it leaves.
    pub async fn run(self, mut state: watch::Receiver<NodeState>, stop: CancellationToken) {
        loop {
            let wanted = wanted(&state.borrow_and_update());
            self.client.announce(wanted);
            tokio::select! {
                () = stop.cancelled() => break,
                changed = state.changed() => if changed.is_err() {
                    break;
                },
            }
        }
        self.client.stop().await;
    }
}

/// Every snapshot of the intent, with the bytes that are missing: none only of one that is verified and published.
fn wanted(state: &NodeState) -> BTreeMap<ContentId, u64> {
    let snapshots = state.snapshots.iter().map(|snapshot| {
        let left = match snapshot.phase {
            Phase::Ready => 0,
            _ => snapshot
                .size_bytes
                .saturating_sub(snapshot.held_bytes)
                .max(1),
        };
        (ContentId::of_snapshot(&snapshot.name), left)
    });
    snapshots.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SnapshotState;

    #[test]
    fn only_what_is_verified_lacks_nothing() {
        let snapshot = |name: &str, phase, size_bytes, held_bytes| SnapshotState {
            name: name.to_owned(),
            repository: None,
            models: Vec::new(),
            phase,
            size_bytes,
            held_bytes,
            origin_bytes: 0,
            peer_bytes: 0,
            problem: None,
            verified_at: None,
            fresh: false,
        };
        let state = NodeState {
            snapshots: vec![
                snapshot("whole", Phase::Ready, 10, 10),
                snapshot("unknown", Phase::Pending, 0, 0),
                snapshot("half", Phase::Downloading, 10, 4),
                snapshot("unverified", Phase::Verifying, 10, 10),
            ],
            ..NodeState::default()
        };
        let left = [("whole", 0), ("unknown", 1), ("half", 6), ("unverified", 1)];
        let expected = left.map(|(name, left)| (ContentId::of_snapshot(name), left));
        assert_eq!(wanted(&state), BTreeMap::from(expected));
    }
}
