//! The program `modelcache-agent`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use modelcache_agent::args::{Cli, Command, LogFormat};
use modelcache_agent::{prepare, run};
use tracing_subscriber::EnvFilter;

/// Threads for calls that block. The runtime's own default of 512 would cost memory and bring nothing to a disk.
const BLOCKING_THREADS: usize = 32;

/// How long calls that block are waited for at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.log_format);
    match start(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Prepare(args) => Ok(prepare::prepare(&args.cache_dir, args.uid, args.gid)?),
        Command::Run(args) => {
            // Several libraries bring TLS; without a choice the first handshake would fail.
            rustls::crypto::aws_lc_rs::default_provider()
                .install_default()
                .map_err(|_| "another TLS provider is installed already")?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .build()?;
            let result = runtime.block_on(run::run(*args));
            // A thread that hashes a large file is not waited for.
            runtime.shutdown_timeout(STOP_PATIENCE);
            Ok(result?)
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    // What librqbit warns of, peers that went, is in our reports of takes; what the Kubernetes client calls an error is in
    // our warnings.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,librqbit=error,librqbit_core=error,kube_client=off")
    });
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
