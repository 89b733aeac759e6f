//! The program `modelcache-agent`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use modelcache_agent::args::{Cli, Command};
use modelcache_agent::{log, peers, prepare, run};

/// Threads for calls that block. The runtime's own default of 512 would cost memory and bring nothing to a disk.
const BLOCKING_THREADS: usize = 32;

/// How long calls that block are waited for at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start(cli.log_format);
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
        Command::Peers(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(peers::peers(*args))?)
        }
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
