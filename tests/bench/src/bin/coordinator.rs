//! `modelcache-bench-coordinator`: the operator's coordinator and its listener, without Kubernetes.
//!
//! What the cluster wants comes as lines on standard input, each the path of a file with the same objects that the
//! agents get. It ends with its standard input.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser;
use futures_util::future::BoxFuture;
use modelcache_agent::intent::{self, Objects};
use modelcache_agent::log;
use modelcache_agent::state_file;
use modelcache_daemon::log::LogFormat;
use modelcache_operator::coordinator::{
    Authenticate, AuthenticateError, CoordinatedSnapshot, Coordinator, Settings, SourcePolicy,
    server,
};
use modelcache_swarm::coordination::OriginAccess;
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::plan;
use modelcache_swarm::secret::{Keys, Purpose};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Arguments {
    /// Where agents connect.
    #[arg(long)]
    listen: SocketAddr,
    /// File with the secret that all share.
    #[arg(long)]
    key: PathBuf,
    /// Fetches from the hub under way in the whole cluster [default: the operator's].
    #[arg(long)]
    fetches: Option<u32>,
    /// How long agents that come back are waited for, in milliseconds [default: the operator's].
    #[arg(long)]
    grace: Option<u64>,
}

/// The laboratory has no API server that could review a token: the token is the node's name.
struct TokenIsName;

impl Authenticate for TokenIsName {
    fn node_of<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<String, AuthenticateError>> {
        Box::pin(async move { Ok(token.to_owned()) })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    log::start(LogFormat::Text);
    let mut settings = Settings::default();
    settings.fetches = arguments.fetches.unwrap_or(settings.fetches);
    settings.grace = arguments.grace.unwrap_or(settings.grace);
    let coordinator = Coordinator::with_settings(settings);
    let stop = CancellationToken::new();
    std::thread::spawn({
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        move || {
            listen(&coordinator);
            stop.cancel();
        }
    });
    let listener = TcpListener::bind(arguments.listen).await?;
    let keys = Keys::follow(arguments.key)?;
    let security = Security::new(keys, Purpose::Coordination, Mode::Encrypted);
    server::serve(coordinator, listener, security, Arc::new(TokenIsName), stop).await?;
    Ok(())
}

fn listen(coordinator: &Coordinator) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match wanted(Path::new(&line)) {
            Ok(snapshots) => coordinator.set_snapshots(snapshots),
            Err(error) => tracing::error!(%error, line, "no objects there"),
        }
    }
}

fn wanted(file: &Path) -> Result<Vec<CoordinatedSnapshot>> {
    let objects =
        state_file::load::<Objects>(file)?.context("the file is absent or no JSON of objects")?;
    let mut snapshots = Vec::new();
    for (name, spec) in &objects.contents {
        let segments = plan::cut(&intent::convert(name, spec)?).len();
        snapshots.push(CoordinatedSnapshot {
            name: name.clone(),
            segments: u32::try_from(segments)?,
            policy: SourcePolicy::PeersFirst,
            access: OriginAccess {
                endpoint: spec.endpoint.clone(),
                token: None,
                ca_bundle: None,
            },
        });
    }
    Ok(snapshots)
}
