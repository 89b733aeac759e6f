//! The program `modelcache-agent`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use modelcache_agent::args::{Cli, Command};
use modelcache_agent::{doctor, log, peers, prepare, run};
use tokio::runtime::Runtime;

/// Threads for calls that block. The runtime's own default of 512 would cost memory and bring nothing to a disk.
const BLOCKING_THREADS: usize = 32;

/// How long calls that block are waited for at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start(cli.log_format);
    match start(cli.command) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(%error, "cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Prepare(args) => prepare::prepare(&args.cache_dir, args.uid, args.gid)?,
        Command::Peers(args) => single_threaded()?.block_on(peers::peers(*args))?,
        Command::Doctor(args) => {
            choose_tls()?;
            if single_threaded()?.block_on(doctor::doctor(*args))? > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Run(args) => {
            choose_tls()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .build()?;
            let result = runtime.block_on(run::run(*args));
            // A thread that hashes a large file is not waited for.
            runtime.shutdown_timeout(STOP_PATIENCE);
            result?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn single_threaded() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Several libraries bring TLS; without a choice the first handshake would fail.
fn choose_tls() -> Result<(), &'static str> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| "another TLS provider is installed already")
}
