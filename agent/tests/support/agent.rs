//! An agent's core in a runtime of its own, so that it can be killed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use modelcache_agent::core::{Core, LONGEST_SILENCE, Public, Settings};
use modelcache_agent::intent::Intent;
use modelcache_agent::metrics::Metrics;
use modelcache_agent::state::{NodeState, SnapshotState};
use modelcache_crds::model_cache_node::Phase;
use modelcache_daemon::health::Health;
use modelcache_swarm::discovery::hali::seeds::Seeds;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::secret::{Key, Keyring, Keys, Purpose};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::coordinator::Coordinator;

/// What all agents of the tests have.
fn security() -> Security {
    let key = Key::parse(&"0123456789abcdef".repeat(4)).unwrap();
    let (_, keys) = Keys::set_by_hand(Keyring::new(key, None));
    Security::new(keys, Purpose::PeerLink, Mode::Encrypted)
}

pub struct Agent {
    runtime: Option<Runtime>,
    pub intent: watch::Sender<Intent>,
    pub state: watch::Receiver<NodeState>,
    pub address: SocketAddr,
    pub peers: Peers,
    pub seeds: Seeds,
    pub public: watch::Receiver<Public>,
    pub metrics: Arc<Metrics>,
    stop: CancellationToken,
    done: Option<tokio::task::JoinHandle<()>>,
}

impl Agent {
    pub async fn start(
        name: &str,
        cache: &Path,
        coordinator: &Coordinator,
        intent: Intent,
    ) -> Self {
        Self::open(name, cache, Some(coordinator), intent).await
    }

    /// Starts one that never hears of a coordinator.
    pub async fn start_alone(name: &str, cache: &Path, intent: Intent) -> Self {
        Self::open(name, cache, None, intent).await
    }

    async fn open(
        name: &str,
        cache: &Path,
        coordinator: Option<&Coordinator>,
        intent: Intent,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let metrics = Arc::new(Metrics::new());
        let (peers, seeds) = (Peers::default(), Seeds::default());
        let settings = Settings {
            node: name.to_owned(),
            node_ip: "127.0.0.1".parse().unwrap(),
            peer_listen: "127.0.0.1:0".parse().unwrap(),
            cache_dir: cache.to_owned(),
            security: security(),
            peers: peers.clone(),
            seeds: seeds.clone(),
        };
        let open = Core::open(
            settings,
            metrics.clone(),
            Arc::new(Health::new(LONGEST_SILENCE)),
        );
        let core = runtime.spawn(open).await.unwrap().unwrap();
        let state = core.state();
        let public = core.public();
        let address = core.peer_address();
        let (outbox, orders) = match coordinator {
            Some(coordinator) => coordinator.connect(name, address).await,
            None => (mpsc::unbounded_channel().0, mpsc::channel(1).1),
        };
        let (intent, intents) = watch::channel(intent);
        let stop = CancellationToken::new();
        let done = runtime.spawn(core.run(outbox, orders, intents, stop.clone()));
        Self {
            runtime: Some(runtime),
            intent,
            state,
            address,
            peers,
            seeds,
            public,
            metrics,
            stop,
            done: Some(done),
        }
    }

    /// Waits for the first snapshot's state to be so.
    pub async fn until(
        &mut self,
        what: &str,
        test: impl Fn(&SnapshotState) -> bool,
    ) -> SnapshotState {
        let first = |state: &NodeState| state.snapshots.first().is_some_and(&test);
        let watched = self.state.clone();
        let wait = self.state.wait_for(first);
        match tokio::time::timeout(Duration::from_secs(60), wait).await {
            Ok(state) => state.unwrap().snapshots[0].clone(),
            Err(_) => panic!("not {what} within a minute: {:?}", *watched.borrow()),
        }
    }

    pub async fn until_ready(&mut self) -> SnapshotState {
        self.until("ready", |snapshot| snapshot.phase == Phase::Ready)
            .await
    }

    /// Stops it in good order.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.done.take().unwrap().await.unwrap();
    }
}

impl Drop for Agent {
    /// As abruptly as a runtime ends: no task gets another turn.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
