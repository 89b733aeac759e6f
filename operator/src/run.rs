//! Puts the parts together and keeps them running until the process is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use kube::api::ListParams;
use kube::{Api, Client};
use modelcache_crds::{ModelCache, ModelCacheNode, ModelSnapshot};
use modelcache_daemon::health::Health;
use modelcache_daemon::log::{self, LogFormat};
use modelcache_daemon::probes::{self, Wrong};
use modelcache_daemon::stop;
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::secret::{Keys, Purpose};
use modelcache_swarm::tracker::Admission;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agents::Agents;
use crate::args::RunArgs;
use crate::coordinator::metrics::Handshake;
use crate::coordinator::{Coordinator, TokenReviewer, server};
use crate::keys::{KeySecret, Policy};
use crate::metrics::Metrics;
use crate::reconcile::{self, Context, LONGEST_SILENCE};
use crate::resolve::LiveHub;
use crate::secrets::SecretReader;
use crate::tracker::{self, SharedTracker};

/// The definitions are looked for again after this time.
const CRD_RETRY: Duration = Duration::from_secs(3);
/// How long one look at the API server may take.
const CRD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to end after the signal to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// What the probes answer when something is wrong.
const WRONG: Wrong = Wrong {
    hangs: "the reconciler hangs",
    not_ready: "the cluster has not been seen yet",
};

/// Why the operator cannot run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The log directives mean nothing.
    #[error("--log {directives:?}: {source}; write for example info,modelcache_operator=debug")]
    Log {
        /// As given.
        directives: String,
        /// What is wrong.
        source: log::ParseError,
    },
    /// The TLS provider cannot be installed.
    #[error("another TLS provider is installed already")]
    Tls,
    /// There is no way to a cluster.
    #[error(
        "no cluster is known: {0}; run it in a pod with a service account, or point KUBECONFIG at a cluster"
    )]
    NoCluster(kube::config::InferConfigError),
    /// The way to the cluster cannot be used.
    #[error("the cluster's configuration cannot be used: {0}")]
    Client(kube::Error),
    /// A port cannot be had.
    #[error("cannot listen on {addr} for {purpose}: {source}; choose another with {flag}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The option that sets it.
        flag: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signal(std::io::Error),
    /// A part ended that should have run until the end.
    #[error("{part} ended: {message}")]
    Ended {
        /// Which.
        part: &'static str,
        /// Why.
        message: String,
    },
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    // Without `..`: an option that nothing uses does not compile.
    let RunArgs {
        hub_endpoint,
        coordinator_listen,
        metrics_listen,
        tracker_listen,
        tracker_public,
        agent_service_account,
        cache_dir,
        agent_node_selector,
        key_secret,
        key_rotation,
        key_overlap,
        namespace,
        log_format,
        log,
    } = args;
    let stop = start(&log, log_format)?;
    let config = kube::Config::infer().await.map_err(RunError::NoCluster)?;
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(RunError::Client)?;
    let agents = Agents {
        cache_dir,
        node_selector: agent_node_selector,
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace,
        %hub_endpoint,
        agents = agents.nodes(),
        %coordinator_listen,
        %metrics_listen,
        "starting"
    );

    let coordinator = Coordinator::new();
    // All ports are taken before anything else, so that a wrong one is known at once.
    let probes_listener = listen(metrics_listen, "metrics and probes", "--metrics-listen").await?;
    let coordination = listen(coordinator_listen, "coordination", "--coordinator-listen").await?;
    let tracking = tracker(tracker_listen, tracker_public).await?;
    let tracker = tracking.as_ref().map(|(tracker, _)| tracker.clone());
    let metrics = Metrics::new().with_coordinator(&coordinator);
    let metrics = Arc::new(metrics.with_tracker(tracker.as_ref()));
    let health = Arc::new(Health::new(LONGEST_SILENCE));

    let mut parts: JoinSet<Ended> = JoinSet::new();
    let shown = metrics.clone();
    let router = probes::router(health.clone(), WRONG, move || shown.encode());
    let served =
        axum::serve(probes_listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    parts.spawn(async { ("the server of metrics and probes", outcome(served.await)) });
    let reviewer = TokenReviewer::new(
        client.clone(),
        modelcache_crds::names::COORDINATOR_AUDIENCE,
        &namespace,
        &agent_service_account,
    );
    let keeper = KeySecret::new(
        client.clone(),
        &namespace,
        key_secret.clone(),
        Policy {
            every: key_rotation,
            overlap: key_overlap,
        },
    );
    let keys = keeper.keep(stop.clone()).shared();
    parts.spawn(coordinate(
        coordinator.clone(),
        coordination,
        keys.clone(),
        reviewer,
        stop.clone(),
    ));
    if let Some((tracker, listener)) = tracking {
        parts.spawn(track(tracker, listener, keys, stop.clone()));
    }
    let secrets = SecretReader::new(
        client.clone(),
        &namespace,
        &key_secret,
        hub_endpoint.clone(),
    );
    let context = Context {
        hub: Arc::new(LiveHub),
        secrets: Arc::new(secrets),
        client,
        default_endpoint: hub_endpoint.to_string(),
        agents,
        coordinator,
        tracker,
        metrics,
        health,
    };
    parts.spawn(reconcile(context, stop.clone()));

    if let Some(error) = until_one_ends(parts, &stop).await {
        return Err(error);
    }
    tracing::info!("stopped");
    Ok(())
}

/// What every part needs: a log, a TLS provider, and word of when to stop.
fn start(directives: &str, format: LogFormat) -> Result<CancellationToken, RunError> {
    let filter = log::filter(directives).map_err(|source| RunError::Log {
        directives: directives.to_owned(),
        source,
    })?;
    log::start(filter, format);
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| RunError::Tls)?;
    stop::on_signals().map_err(RunError::Signal)
}

/// Which part ended, and why.
type Ended = (&'static str, String);

/// The first part that ends takes the others with it: half an operator would only look as if it worked. Why it ended,
/// unless that was asked for.
async fn until_one_ends(mut parts: JoinSet<Ended>, stop: &CancellationToken) -> Option<RunError> {
    let first = parts.join_next().await;
    let ended = match first {
        _ if stop.is_cancelled() => None,
        Some(Ok((part, message))) => Some(RunError::Ended { part, message }),
        Some(Err(error)) => Some(RunError::Ended {
            part: "a part",
            message: error.to_string(),
        }),
        None => None,
    };
    stop.cancel();
    let rest = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, rest).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    ended
}

/// The tracker and its port, when one is asked for.
async fn tracker(
    listen_on: Option<SocketAddr>,
    public: bool,
) -> Result<Option<(SharedTracker, TcpListener)>, RunError> {
    let Some(addr) = listen_on else {
        return Ok(None);
    };
    let admission = if public {
        Admission::Public
    } else {
        Admission::Private
    };
    let listener = listen(addr, "the tracker", "--tracker-listen").await?;
    Ok(Some((SharedTracker::new(admission), listener)))
}

/// Reconciles once there is something to reconcile.
async fn reconcile(context: Context, stop: CancellationToken) -> Ended {
    if await_definitions(&context.client, &stop).await {
        reconcile::run(context, stop).await;
    }
    ("the reconciler", "no reason given".to_owned())
}

/// Serves agents once there are keys to know them by.
async fn coordinate(
    coordinator: Coordinator,
    listener: TcpListener,
    keys: impl Future<Output = Option<Keys>>,
    reviewer: TokenReviewer,
    stop: CancellationToken,
) -> Ended {
    let part = "the coordinator";
    let Some(keys) = keys.await else {
        return (part, "the operator stops".to_owned());
    };
    let handshakes = coordinator.metrics().handshakes.clone();
    let count = move |_, result| {
        handshakes.get_or_create(&Handshake { result }).inc();
    };
    let security =
        Security::new(keys, Purpose::Coordination, Mode::Encrypted).counted(Arc::new(count));
    let served = server::serve(coordinator, listener, security, Arc::new(reviewer), stop).await;
    (part, outcome(served))
}

/// The same for the tracker.
async fn track(
    tracker: SharedTracker,
    listener: TcpListener,
    keys: impl Future<Output = Option<Keys>>,
    stop: CancellationToken,
) -> Ended {
    let ended = match keys.await {
        Some(keys) => outcome(tracker::serve(listener, tracker, keys, stop).await),
        None => "the operator stops".to_owned(),
    };
    ("the tracker", ended)
}

fn outcome(result: std::io::Result<()>) -> String {
    match result {
        Ok(()) => "no reason given".to_owned(),
        Err(error) => error.to_string(),
    }
}

async fn listen(
    addr: SocketAddr,
    purpose: &'static str,
    flag: &'static str,
) -> Result<TcpListener, RunError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| RunError::Listen {
            addr,
            purpose,
            flag,
            source,
        })
}

/// Waits until the API server serves all three types. False when the process is to stop before.
async fn await_definitions(client: &Client, stop: &CancellationToken) -> bool {
    let one = ListParams::default().limit(1);
    let mut said = String::new();
    loop {
        let look = async {
            // Metadata are enough, and no object can be malformed in them.
            Api::<ModelCache>::all(client.clone())
                .list_metadata(&one)
                .await?;
            Api::<ModelSnapshot>::all(client.clone())
                .list_metadata(&one)
                .await?;
            Api::<ModelCacheNode>::all(client.clone())
                .list_metadata(&one)
                .await?;
            Ok::<(), kube::Error>(())
        };
        let problem = match tokio::time::timeout(CRD_TIMEOUT, look).await {
            Ok(Ok(())) => return true,
            // An API server that knows nothing of the group answers in plain text, without a reason.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                "the definitions of ModelCache, ModelSnapshot and ModelCacheNode are not established: install the Helm \
                 chart with crds.enabled, or kubectl apply --server-side -f deploy/crds.yaml"
                    .to_owned()
            }
            Ok(Err(error)) => format!("the API server cannot be asked: {error}"),
            Err(_) => "the API server does not answer".to_owned(),
        };
        // Once is enough while it stays the same.
        if problem != said {
            tracing::warn!(problem, "waiting");
            said = problem;
        }
        tokio::select! {
            () = tokio::time::sleep(CRD_RETRY) => {}
            () = stop.cancelled() => return false,
        }
    }
}
