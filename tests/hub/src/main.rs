//! `modelcache-hub`: the stand-in hub as a program.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use modelcache_test_hub::{Hub, HubOptions, Tls};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A stand-in for the Hugging Face hub, for tests and demonstrations. Content, faults and counters are reached through
/// the admin API.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The address that all three ports listen on.
    #[arg(long, default_value = "127.0.0.1")]
    listen_address: IpAddr,
    /// The hub's port.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The CDN's port.
    #[arg(long, default_value_t = 8081)]
    cdn_port: u16,
    /// The admin API's port.
    #[arg(long, default_value_t = 8082)]
    admin_port: u16,
    /// The hub's address in links [default: as the request says].
    #[arg(long)]
    url: Option<String>,
    /// The CDN's address in redirects; its host name should differ from the hub's [default: localhost and its port].
    #[arg(long)]
    cdn_url: Option<String>,
    /// Serve the files of a directory as a repository.
    #[arg(long, value_name = "DIRECTORY=NAME", value_parser = parse_load)]
    load: Vec<(PathBuf, String)>,
    /// Certificate chain (PEM) for HTTPS on the hub's and the CDN's port.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

fn parse_load(text: &str) -> Result<(PathBuf, String), String> {
    let (directory, name) = text
        .rsplit_once('=')
        .ok_or("write DIRECTORY=NAMESPACE/NAME")?;
    Ok((directory.into(), name.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let tls = match (arguments.tls_cert, arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: std::fs::read(certificate)?,
            key: std::fs::read(key)?,
        }),
        _ => None,
    };
    let hub = Hub::start(HubOptions {
        hub_listen: SocketAddr::new(arguments.listen_address, arguments.port),
        cdn_listen: SocketAddr::new(arguments.listen_address, arguments.cdn_port),
        admin_listen: SocketAddr::new(arguments.listen_address, arguments.admin_port),
        hub_url: arguments.url,
        cdn_url: arguments.cdn_url,
        tls,
        ..HubOptions::default()
    })
    .await?;
    for (directory, name) in arguments.load {
        let commit = hub.load_directory(&directory, &name)?;
        tracing::info!(directory = %directory.display(), name, commit, "loaded");
    }
    tracing::info!(
        hub = hub.url(),
        cdn = hub.cdn_url(),
        admin = hub.admin_url(),
        "serving"
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
