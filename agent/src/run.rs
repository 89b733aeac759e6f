//! Wires the parts together: the core, the API server, the coordinator, metrics and probes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;

use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::engine::UploaderError;
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::secret::{Keys, Purpose, SecretError};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::{DhtArgs, LanArgs, RunArgs, coordinator_url};
use crate::coordinator::{Link, LinkConfig};
use crate::core::{Core, CoreError, Settings};
use crate::http::{self, Health, HttpError};
use crate::intent::{self, Objects, StateFileError};
use crate::metrics::Metrics;
use crate::plain::{self, Shelf, dht};
use crate::report::Reports;
use crate::sources::{Sources, SourcesError};
use crate::watch::Follow;

/// Why the agent does not start.
#[derive(Debug, Error)]
pub enum RunError {
    /// Metrics and probes cannot be served.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The cache, the engine or the uploader does not start.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// Other BitTorrent clients cannot be served.
    #[error(transparent)]
    Plain(#[from] UploaderError),
    /// The DHT would lead others nowhere.
    #[error("--dht-port is set and --plain-port is not: set both, or neither")]
    DhtWithoutPort,
    /// The agent's own state cannot be read.
    #[error(transparent)]
    State(#[from] StateFileError),
    /// The cluster's secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Other nodes cannot be looked for.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// There is no way to reach the API server.
    #[error(
        "no configuration for the API server: {0}; run in a pod with a service account, or set KUBECONFIG"
    )]
    Client(#[from] kube::Error),
    /// The same, while the configuration is put together.
    #[error(
        "no configuration for the API server: {0}; run in a pod with a service account, or set KUBECONFIG"
    )]
    Config(#[from] kube::config::InferConfigError),
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    check(&args)?;
    let RunArgs {
        node_name,
        node_ip,
        cache_dir,
        coordinator,
        token_file,
        key,
        peer_links,
        peer_port,
        peer,
        plain_port,
        dht,
        announce,
        lan,
        tracker,
        metrics_listen,
    } = args;
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    tell_start(&node_name, &cache_dir);
    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::new());
    let shelf =
        (plain_port != 0).then(|| Arc::new(Shelf::new(node_ip, plain_port, metrics.clone())));
    let sources = http::Sources {
        metrics: metrics.clone(),
        health: health.clone(),
        shelf: shelf.clone(),
    };
    let server = http::serve(metrics_listen, sources, stop.clone()).await?;

    let keys = Keys::follow(key.key)?;
    let security = |purpose, mode, with| {
        Security::new(keys.clone(), purpose, mode).counted(metrics.count_handshakes(with))
    };
    let links = security(Purpose::PeerLink, peer_links.into(), "peer");
    let coordination = security(Purpose::Coordination, Mode::Encrypted, "coordinator");
    let file = intent::state_path(&cache_dir, "intent.json");
    let peers = Peers::default();
    let settings = Settings {
        node: node_name.clone(),
        node_ip,
        peer_listen: everywhere(node_ip, peer_port),
        cache_dir,
        security: links,
        peers: peers.clone(),
    };
    let opened = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = Core::open(settings, metrics.clone(), health) => opened,
    };
    let core = opened?;
    let objects = intent::load::<Objects>(&file)?.unwrap_or_default();
    let (intent, intents) = watch::channel(objects.intent());
    let (target, targets) = watch::channel(None);
    let client = kube::Client::try_from(kube::Config::infer().await?)?;
    let follow = Follow {
        client: client.clone(),
        node: node_name.clone(),
        file,
        objects,
        intent,
        target,
    };
    let here = core.peer_address();
    let lan = announce.then_some(lan);
    let mut tasks = vec![server];
    let plain = everywhere(node_ip, plain_port);
    tasks.extend(give(plain, dht, shelf, lan.as_ref(), &core, &metrics, &stop).await?);
    let sources = Sources {
        peers,
        named: peer,
        lan,
        tracker,
        keys,
    };
    tasks.extend(sources.start(&node_name, here, core.state(), &metrics, &stop)?);
    let reports = Reports {
        client,
        node: node_name.clone(),
        target: targets,
        state: core.state(),
        metrics,
    };
    let (link, orders) = Link::start(LinkConfig {
        url: coordinator_url(&coordinator),
        token_file,
        node: node_name,
        peer_address: here,
        security: coordination,
    });
    tasks.push(tokio::spawn(follow.run(stop.clone())));
    tasks.push(tokio::spawn(reports.run(stop.clone())));
    core.run(link, orders, intents, stop.clone()).await;

    // Also when the core ended by itself: the kubelet starts the agent anew.
    stop.cancel();
    end(tasks).await;
    tracing::info!("stopped");
    Ok(())
}

/// Whether the options go together.
fn check(args: &RunArgs) -> Result<(), RunError> {
    if args.dht.dht_port != 0 && args.plain_port == 0 {
        return Err(RunError::DhtWithoutPort);
    }
    Ok(())
}

/// Starts what gives files on the shelf to other BitTorrent clients at `plain`, and what leads them there.
async fn give(
    plain: SocketAddr,
    dht: DhtArgs,
    shelf: Option<Arc<Shelf>>,
    lan: Option<&LanArgs>,
    core: &Core,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<Vec<JoinHandle<()>>, RunError> {
    let mut tasks = Vec::new();
    let Some(shelf) = shelf else {
        return Ok(tasks);
    };
    if dht.dht_port != 0 {
        let settings = dht::Settings {
            listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dht.dht_port),
            bootstrap: dht.dht_bootstrap,
            plain_port: plain.port(),
        };
        tasks.push(dht::start(settings, &shelf, metrics.clone(), stop.clone()));
    }
    tasks.push(plain::start(plain, shelf, lan, core.public(), stop.clone()).await?);
    Ok(tasks)
}

fn tell_start(node: &str, cache_dir: &Path) {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, node, cache = %cache_dir.display(), "starting");
}

/// Waits for tasks that were told to stop.
async fn end(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task ended badly");
        }
    }
}

/// All addresses of the family in which the node is known.
fn everywhere(node_ip: IpAddr, port: u16) -> SocketAddr {
    let address = match node_ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, port)
}

fn stop_on_signal(stop: &CancellationToken) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
