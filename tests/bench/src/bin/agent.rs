//! `modelcache-bench-agent`: the agent's core and its link to the coordinator, without Kubernetes.
//!
//! What the node is to hold comes as lines on standard input, each the path of a file with the objects (the form in
//! which the agent keeps them on disk). Each change of a snapshot's phase, and of why it does not get on, is a line on
//! standard output. It ends with its standard input, so that it cannot outlive the laboratory.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use modelcache_agent::args::PeerLinks;
use modelcache_agent::coordinator::{Link, LinkConfig};
use modelcache_agent::core::{Core, LONGEST_SILENCE, Settings};
use modelcache_agent::intent::{Intent, Objects};
use modelcache_agent::log;
use modelcache_agent::metrics::Metrics;
use modelcache_agent::state::NodeState;
use modelcache_agent::state_file;
use modelcache_daemon::health::Health;
use modelcache_daemon::log::LogFormat;
use modelcache_swarm::discovery::hali::seeds::Seeds;
use modelcache_swarm::discovery::service::Peers;
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::secret::{Keys, Purpose};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// As many as the agent itself has.
const BLOCKING_THREADS: usize = 32;

/// As the agent itself waits.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
struct Arguments {
    /// Name of the node.
    #[arg(long)]
    node: String,
    /// Address under which other agents reach this one.
    #[arg(long)]
    node_ip: IpAddr,
    /// Root of the cache.
    #[arg(long)]
    cache_dir: PathBuf,
    /// `ws://host:port/v1/coordinate`.
    #[arg(long)]
    coordinator: String,
    /// File whose content names the node to the laboratory's coordinator.
    #[arg(long)]
    token_file: PathBuf,
    /// File with the secret that all share.
    #[arg(long)]
    key: PathBuf,
    /// How bytes travel between nodes.
    #[arg(long, value_enum, default_value_t = PeerLinks::Encrypted)]
    peer_links: PeerLinks,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    log::start(LogFormat::Text);
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let result = runtime.block_on(run(arguments));
    runtime.shutdown_timeout(STOP_PATIENCE);
    result
}

async fn run(arguments: Arguments) -> Result<()> {
    let stop = CancellationToken::new();
    let (intent, intents) = watch::channel(Intent::default());
    // Blocks in reading, so it is a thread that nobody waits for.
    std::thread::spawn({
        let stop = stop.clone();
        move || {
            listen(&intent);
            stop.cancel();
        }
    });
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            terminate.recv().await;
            stop.cancel();
        }
    });
    let keys = Keys::follow(arguments.key)?;
    let links = Mode::from(arguments.peer_links);
    let core = Core::open(
        Settings {
            node: arguments.node.clone(),
            node_ip: arguments.node_ip,
            peer_listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 9492),
            cache_dir: arguments.cache_dir,
            security: Security::new(keys.clone(), Purpose::PeerLink, links),
            peers: Peers::default(),
            seeds: Seeds::default(),
        },
        Arc::new(Metrics::new()),
        Arc::new(Health::new(LONGEST_SILENCE)),
    )
    .await?;
    let (link, orders) = Link::start(LinkConfig {
        url: arguments.coordinator,
        token_file: arguments.token_file,
        node: arguments.node,
        peer_address: core.peer_address(),
        security: Security::new(keys, Purpose::Coordination, Mode::Encrypted),
    });
    tokio::spawn(tell(core.state()));
    core.run(link, orders, intents, stop).await;
    Ok(())
}

/// Follows standard input to its end.
fn listen(intent: &watch::Sender<Intent>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match read(Path::new(&line)) {
            Ok(objects) => drop(intent.send_replace(objects.intent())),
            Err(error) => tracing::error!(%error, line, "no objects there"),
        }
    }
}

fn read(file: &Path) -> Result<Objects> {
    state_file::load::<Objects>(file)?.context("the file is absent or no JSON of objects")
}

/// Says on standard output when a phase, a problem or the connection changes.
async fn tell(mut state: watch::Receiver<NodeState>) {
    let mut told = BTreeMap::new();
    let mut told_problems = BTreeMap::new();
    let mut connected = false;
    loop {
        {
            let state = state.borrow_and_update();
            let mut out = std::io::stdout().lock();
            if state.connected && !connected {
                // Nobody who reads: the laboratory is gone, and standard input ends too.
                let _ = writeln!(out, "connected");
            }
            connected = state.connected;
            for snapshot in &state.snapshots {
                let phase = snapshot.phase;
                if told.insert(snapshot.name.clone(), phase) != Some(phase) {
                    let _ = writeln!(out, "{phase:?} {}", snapshot.name);
                }
                let problem = snapshot.problem.as_ref().map_or_else(
                    || "none".to_owned(),
                    |problem| format!("{}: {}", problem.reason, problem.message),
                );
                if told_problems.get(&snapshot.name) != Some(&problem) {
                    let _ = writeln!(out, "problem of {}: {problem}", snapshot.name);
                    told_problems.insert(snapshot.name.clone(), problem);
                }
            }
            let _ = out.flush();
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
