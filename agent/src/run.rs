//! Wires the parts together: the core, the API server, the coordinator, metrics and probes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use modelcache_daemon::health::Health;
use modelcache_daemon::stop;
use modelcache_swarm::discovery::hali::secret::HaliSecret;
use modelcache_swarm::discovery::hali::seeds::Seeds;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::engine::UploaderError;
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::secret::{Keys, Purpose, SecretError};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::{DhtArgs, PlainArgs, RunArgs, coordinator_url};
use crate::coordinator::{Link, LinkConfig};
use crate::core::{Core, CoreError, LONGEST_SILENCE, Settings};
use crate::http::{self, HttpError};
use crate::intent::{Intent, Objects};
use crate::metrics::Metrics;
use crate::plain::{self, Heralds, Shelf, dht};
use crate::report::Reports;
use crate::sources::{Sources, SourcesError};
use crate::state::NodeState;
use crate::state_file::{self, StateFileError};
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
    /// Machines with hali could not be told, or of nothing.
    #[error(
        "--hali-secret-file needs --announce and --plain-port, because hali is told on the local network what it can take from that port: set both, or leave it out"
    )]
    HaliAlone,
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
        plain,
        announce,
        lan,
        tracker,
        metrics_listen,
    } = args;
    let hali = secret_of_hali(&plain, announce)?;
    let stop = stop::on_signals().map_err(RunError::Signals)?;
    tell_start(&node_name, &cache_dir);
    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::new(LONGEST_SILENCE));
    let port = plain.plain_port;
    let shelf = (port != 0).then(|| Arc::new(Shelf::new(node_ip, port, metrics.clone())));
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
    let file = state_file::path(&cache_dir, "intent.json");
    let (peers, seeds) = (Peers::default(), Seeds::default());
    let settings = Settings {
        node: node_name.clone(),
        node_ip,
        peer_listen: everywhere(node_ip, peer_port),
        cache_dir,
        security: links,
        peers: peers.clone(),
        seeds: seeds.clone(),
    };
    let opened = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = Core::open(settings, metrics.clone(), health) => opened,
    };
    let core = opened?;
    let here = core.peer_address();
    let lan = announce.then_some(lan);
    let mut tasks = vec![server];
    if let Some(shelf) = shelf {
        let heralds = Heralds::start(lan.as_ref(), hali, &node_name, (&peers, &seeds), &metrics);
        let addr = everywhere(node_ip, port);
        tasks.extend(give(addr, plain.dht, shelf, heralds, &core, &metrics, &stop).await?);
    }
    let sources = Sources {
        peers,
        named: peer,
        lan,
        tracker,
        keys,
    };
    tasks.extend(sources.start(&node_name, here, core.state(), &metrics, &stop)?);
    let api = Api {
        node: node_name.clone(),
        file,
        state: core.state(),
        metrics,
    };
    let (intents, of_api) = api.start(&stop).await?;
    tasks.extend(of_api);
    let (link, orders) = Link::start(LinkConfig {
        url: coordinator_url(&coordinator),
        token_file,
        node: node_name,
        peer_address: here,
        security: coordination,
    });
    core.run(link, orders, intents, stop.clone()).await;

    // Also when the core ended by itself: the kubelet starts the agent anew.
    stop.cancel();
    end(tasks).await;
    Ok(())
}

/// What is between this node and the API server.
struct Api {
    node: String,
    /// Where what the node should hold is kept.
    file: PathBuf,
    state: watch::Receiver<NodeState>,
    metrics: Arc<Metrics>,
}

impl Api {
    /// Follows from now on what the node should hold, beginning with what was kept, and tells how it stands.
    async fn start(
        self,
        stop: &CancellationToken,
    ) -> Result<(watch::Receiver<Intent>, [JoinHandle<()>; 2]), RunError> {
        let Self {
            node,
            file,
            state,
            metrics,
        } = self;
        let objects = state_file::load::<Objects>(&file)?.unwrap_or_default();
        let (intent, intents) = watch::channel(objects.intent());
        let (target, targets) = watch::channel(None);
        let client = kube::Client::try_from(kube::Config::infer().await?)?;
        let follow = Follow {
            client: client.clone(),
            node: node.clone(),
            file,
            objects,
            intent,
            target,
        };
        let reports = Reports {
            client,
            node,
            target: targets,
            state,
            metrics,
        };
        let tasks = [
            tokio::spawn(follow.run(stop.clone())),
            tokio::spawn(reports.run(stop.clone())),
        ];
        Ok((intents, tasks))
    }
}

/// hali's secret, where machines with hali are told what they can take.
fn secret_of_hali(plain: &PlainArgs, announce: bool) -> Result<Option<HaliSecret>, RunError> {
    let Some(path) = &plain.hali_secret_file else {
        return Ok(None);
    };
    if !announce || plain.plain_port == 0 {
        return Err(RunError::HaliAlone);
    }
    Ok(Some(HaliSecret::load(path)?))
}

/// Whether the options go together.
fn check(args: &RunArgs) -> Result<(), RunError> {
    if args.plain.dht.dht_port != 0 && args.plain.plain_port == 0 {
        return Err(RunError::DhtWithoutPort);
    }
    Ok(())
}

/// Starts what gives files on the shelf to other BitTorrent clients at `addr`, and what leads them there.
async fn give(
    addr: SocketAddr,
    dht: DhtArgs,
    shelf: Arc<Shelf>,
    heralds: Heralds,
    core: &Core,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<Vec<JoinHandle<()>>, RunError> {
    let mut tasks = Vec::new();
    if dht.dht_port != 0 {
        let settings = dht::Settings {
            listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dht.dht_port),
            bootstrap: dht.dht_bootstrap,
            plain_port: addr.port(),
        };
        tasks.push(dht::start(settings, &shelf, metrics.clone(), stop.clone()));
    }
    tasks.push(plain::start(addr, shelf, heralds, core.public(), stop.clone()).await?);
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
    tracing::info!("stopped");
}

/// All addresses of the family in which the node is known.
fn everywhere(node_ip: IpAddr, port: u16) -> SocketAddr {
    let address = match node_ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, port)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[tokio::test]
    async fn hali_is_not_told_by_halves() {
        for set in [&["--announce"][..], &["--plain-port=9493"], &[]] {
            let fixed = [
                "agent",
                "run",
                "--node-name=a",
                "--node-ip=10.0.0.1",
                "--coordinator=ws://operator:9489",
                "--hali-secret-file=/nowhere",
            ];
            let cli = Cli::parse_from(fixed.into_iter().chain(set.iter().copied()));
            let Command::Run(args) = cli.command else {
                panic!("another command");
            };
            let refused = run(*args).await.unwrap_err().to_string();
            assert!(refused.contains("--announce and --plain-port"), "{refused}");
        }
    }
}
