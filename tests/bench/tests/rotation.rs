//! The cluster's key changes while agents fetch and take: coordinator, agents and hub in one process, real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use modelcache_agent::coordinator::{Link, LinkConfig};
use modelcache_agent::core::{Core, LONGEST_SILENCE, Settings};
use modelcache_agent::intent::{Intent, Objects};
use modelcache_agent::metrics::{self, Metrics, Origin, Outcome, Transfer};
use modelcache_agent::state::NodeState;
use modelcache_bench::model::{Model, REPOSITORY, SNAPSHOT};
use modelcache_crds::model_cache_node::Phase;
use modelcache_daemon::health::Health;
use modelcache_operator::coordinator::{
    Authenticate, AuthenticateError, CoordinatedSnapshot, Coordinator, SourcePolicy, server,
};
use modelcache_swarm::coordination::OriginAccess;
use modelcache_swarm::discovery::hali::seeds::Seeds;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::link::{LinkError, Mode, Security};
use modelcache_swarm::plan;
use modelcache_swarm::secret::{Key, KeySetter, Keyring, Keys, Purpose};
use modelcache_test_hub::admin::Settings as HubSettings;
use modelcache_test_hub::{Hub, HubOptions};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const AGENTS: usize = 3;
const FILES: [u64; 2] = [24_000_000, 17_000_001];
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn key(number: u8) -> Key {
    Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap()
}

fn old() -> Keyring {
    Keyring::new(key(1), None)
}

fn both() -> Keyring {
    Keyring::new(key(2), Some(key(1)))
}

fn new() -> Keyring {
    Keyring::new(key(2), None)
}

/// A token is the name of the node.
struct TokenIsName;

impl Authenticate for TokenIsName {
    fn node_of<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<String, AuthenticateError>> {
        Box::pin(async move { Ok(token.to_owned()) })
    }
}

struct Agent {
    keys: KeySetter,
    state: watch::Receiver<NodeState>,
    metrics: Arc<Metrics>,
    peer_address: SocketAddr,
    /// While it is there, the agent wants the model.
    _intent: watch::Sender<Intent>,
}

async fn agent(number: usize, directory: &Path, coordinator: SocketAddr, intent: Intent) -> Agent {
    let node = format!("node-{number}");
    let cache_dir = directory.join(&node);
    std::fs::create_dir(&cache_dir).unwrap();
    let token_file = directory.join(format!("{node}.token"));
    std::fs::write(&token_file, &node).unwrap();
    let (setter, keys) = Keys::set_by_hand(old());
    let security = |purpose| Security::new(keys.clone(), purpose, Mode::Encrypted);
    let metrics = Arc::new(Metrics::new());
    let settings = Settings {
        node: node.clone(),
        node_ip: [127, 0, 0, 1].into(),
        peer_listen: ([127, 0, 0, 1], 0).into(),
        cache_dir,
        security: security(Purpose::PeerLink),
        peers: Peers::default(),
        seeds: Seeds::default(),
    };
    let core = Core::open(
        settings,
        metrics.clone(),
        Arc::new(Health::new(LONGEST_SILENCE)),
    )
    .await;
    let core = core.unwrap();
    let (state, peer_address) = (core.state(), core.peer_address());
    let (link, orders) = Link::start(LinkConfig {
        url: format!("ws://{coordinator}{}", server::PATH),
        token_file,
        node,
        peer_address,
        security: security(Purpose::Coordination),
    });
    let (intent, intents) = watch::channel(intent);
    tokio::spawn(core.run(link, orders, intents, CancellationToken::new()));
    Agent {
        keys: setter,
        state,
        metrics,
        peer_address,
        _intent: intent,
    }
}

impl Agent {
    fn received(&self, from: Origin) -> u64 {
        let label = metrics::Model {
            model: REPOSITORY.to_owned(),
        };
        let family = match from {
            Origin::Hub => &self.metrics.origin_received,
            Origin::Peer => &self.metrics.peer_received,
            Origin::Disk => return 0,
        };
        family.get_or_create(&label).get()
    }

    fn failed(&self, source: Origin) -> u64 {
        let result = Outcome::Failed;
        let failed = Transfer { source, result };
        self.metrics.segments.get_or_create(&failed).get()
    }
}

/// A handshake with nothing but the old key.
async fn knock(
    address: SocketAddr,
    purpose: Purpose,
) -> Result<modelcache_swarm::link::Link<TcpStream>, LinkError> {
    let keys = Keys::set_by_hand(old()).1;
    let stream = TcpStream::connect(address).await.unwrap();
    Security::new(keys, purpose, Mode::Encrypted)
        .dial(stream)
        .await
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "not {what} within {PATIENCE:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_does_not_notice_that_the_key_changes() {
    let directory = tempfile::tempdir().unwrap();
    let model = Model::create(&directory.path().join("model"), &FILES).unwrap();
    let hub = Hub::start(HubOptions {
        settings: HubSettings {
            // Three seconds for one copy: there is time for the keys to change.
            bytes_per_second: Some(model.bytes() / 3),
            ..HubSettings::default()
        },
        ..HubOptions::default()
    })
    .await
    .unwrap();
    let commit = hub.load_directory(&model.directory, REPOSITORY).unwrap();
    let objects: Objects = serde_json::from_value(model.objects(&hub.url(), &commit)).unwrap();

    let coordinator = Coordinator::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (operator, keys) = Keys::set_by_hand(old());
    tokio::spawn(server::serve(
        coordinator.clone(),
        listener,
        Security::new(keys, Purpose::Coordination, Mode::Encrypted),
        Arc::new(TokenIsName),
        CancellationToken::new(),
    ));
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        agents.push(agent(number, directory.path(), address, objects.intent()).await);
    }
    until("connected", || {
        coordinator.connected_agents().len() == AGENTS
    })
    .await;
    let mut stranger = knock(address, Purpose::Coordination).await.unwrap();
    let snapshot = &objects.intent().snapshots[0];
    let segments = plan::cut(snapshot.content.as_ref().unwrap()).len();
    coordinator.set_snapshots(vec![CoordinatedSnapshot {
        name: SNAPSHOT.to_owned(),
        segments: u32::try_from(segments).unwrap(),
        policy: SourcePolicy::PeersFirst,
        access: OriginAccess {
            endpoint: hub.url(),
            token: None,
            ca_bundle: None,
        },
    }]);
    let sent = || hub.counters().repository_bytes(REPOSITORY);

    // As it comes to pass: the operator first, each agent when its kubelet gets to it.
    for (part, agent) in (1..).zip(&agents) {
        until("on its way", || sent() >= model.bytes() * part / 8).await;
        operator.set(both());
        agent.keys.set(both());
    }
    until("on its way", || sent() >= model.bytes() / 2).await;
    operator.set(new());
    let said = stranger.read(&mut [0]).await;
    assert!(
        matches!(said, Err(_) | Ok(0)),
        "a link of the old key stands"
    );
    let told = knock(address, Purpose::Coordination).await;
    assert!(matches!(told, Err(LinkError::UnknownKey)));
    for agent in &agents {
        agent.keys.set(new());
        let told = knock(agent.peer_address, Purpose::PeerLink).await;
        assert!(matches!(told, Err(LinkError::UnknownKey)));
    }
    assert!(sent() < model.bytes(), "all of it came before the end");

    for agent in &mut agents {
        let ready = |state: &NodeState| {
            let mut snapshots = state.snapshots.iter();
            snapshots.any(|one| one.phase == Phase::Ready)
        };
        let ready = tokio::time::timeout(PATIENCE, agent.state.wait_for(ready)).await;
        assert_eq!(ready.unwrap().unwrap().snapshots[0].problem, None);
    }
    assert_eq!(sent(), model.bytes(), "one copy leaves the hub");
    for (number, agent) in agents.iter().enumerate() {
        let bytes = [Origin::Hub, Origin::Peer].map(|from| agent.received(from));
        assert_eq!(bytes[0] + bytes[1], model.bytes(), "node-{number}");
        assert_eq!(
            [Origin::Hub, Origin::Peer].map(|from| agent.failed(from)),
            [0, 0]
        );
        let files = format!("node-{number}/volumes/{SNAPSHOT}/files");
        model.check(&directory.path().join(files)).unwrap();
    }
    assert_eq!(coordinator.connected_agents().len(), AGENTS);
    let metrics = coordinator.metrics();
    assert_eq!(metrics.refused.get(), 0);
    assert_eq!(
        metrics.take_failures.get() + metrics.fetch_failures.get(),
        0
    );
}
