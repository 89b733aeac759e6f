//! `kubectl-modelcache`, a plugin of kubectl: how the models of ModelCaches stand on the nodes.

mod args;
mod cluster;
mod follow;
mod steps;
mod table;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command, Output, StatusArgs};
use crate::follow::{End, Follow, FollowError};

/// The ModelCache does not get on by itself.
const FAILED: u8 = 3;
/// The time was up.
const TIME_UP: u8 = 4;
/// There is no such ModelCache.
const NO_SUCH: u8 = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Several libraries bring TLS; without a choice the first handshake would fail. Already chosen is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(&cli).await {
        Ok(code) => code,
        // Whoever reads our output has seen enough.
        Err(FollowError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kubectl-modelcache: {error}");
            match error {
                FollowError::NoSuchCache { .. } => ExitCode::from(NO_SUCH),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(cli: &Cli) -> Result<ExitCode, FollowError> {
    let client = cluster::connect(&cli.cluster).await?;
    match &cli.command {
        Command::Status(arguments) if !arguments.watch => status(&client, arguments).await,
        Command::Status(arguments) => {
            let follow = Follow {
                name: arguments.name.as_deref(),
                until_verdict: false,
                await_existence: false,
                output: Some(arguments.output),
                timeout: None,
            };
            follow.run(&client).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch(arguments) => {
            let follow = Follow {
                name: Some(&arguments.name),
                until_verdict: true,
                await_existence: false,
                output: Some(arguments.output),
                timeout: None,
            };
            let (last, end) = follow.run(&client).await?;
            if arguments.output == Output::Table
                && let Some(last) = last
            {
                eprintln!("{}", table::sentence(&last));
            }
            Ok(code(end))
        }
        Command::RotateSecret(arguments) => {
            let (namespace, secret) = (&arguments.namespace, &arguments.secret);
            cluster::ask_for_key(&client, namespace, secret).await?;
            println!(
                "The operator is asked for a new key in Secret {namespace}/{secret}; see its annotation {}.",
                modelcache_crds::names::ROTATED_AT_ANNOTATION
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Wait(arguments) => {
            let follow = Follow {
                name: Some(&arguments.name),
                until_verdict: true,
                await_existence: true,
                output: None,
                timeout: arguments.timeout,
            };
            let (last, end) = follow.run(&client).await?;
            match (&last, end) {
                (None, _) => {
                    let picture = cluster::picture(&client).await?;
                    return Err(follow::no_such(&picture, &arguments.name));
                }
                (Some(last), End::TimeUp) => eprintln!("The time is up. {}", table::sentence(last)),
                (Some(last), _) => println!("{}", table::sentence(last)),
            }
            Ok(code(end))
        }
    }
}

async fn status(client: &kube::Client, arguments: &StatusArgs) -> Result<ExitCode, FollowError> {
    let picture = cluster::picture(client).await?;
    let views = picture.views(arguments.name.as_deref());
    if let (Some(name), []) = (&arguments.name, views.as_slice()) {
        return Err(follow::no_such(&picture, name));
    }
    match arguments.output {
        Output::Table => print!("{}", table::render(&views)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&views)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn code(end: End) -> ExitCode {
    match end {
        End::Ready => ExitCode::SUCCESS,
        End::Failed => ExitCode::from(FAILED),
        End::TimeUp => ExitCode::from(TIME_UP),
    }
}
