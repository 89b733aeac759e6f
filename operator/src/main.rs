//! The operator of ModelCache, as a program.

use std::process::ExitCode;

use clap::Parser as _;
use modelcache_operator::args::{Cli, Command};
use modelcache_operator::run;

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
