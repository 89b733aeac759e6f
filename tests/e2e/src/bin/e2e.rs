//! Runs the end-to-end scenarios one after the other on the cluster that the environment names.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use modelcache_e2e::scenarios::{self, Outcome, Scenario};
use modelcache_e2e::world::World;

/// Runs end-to-end scenarios against real operator and agents.
#[derive(Parser)]
struct Arguments {
    /// Name the scenarios and end.
    #[arg(long)]
    list: bool,
    /// The long runs too: more repetitions, more nodes.
    #[arg(long)]
    thorough: bool,
    /// Only these.
    names: Vec<String>,
}

/// No scenario takes longer, thorough runs apart; one that hangs shall not hang the run.
const LIMIT: Duration = Duration::from_mins(10);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let all = scenarios::all();
    if arguments.list {
        for scenario in &all {
            println!("{:<16} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    for name in &arguments.names {
        anyhow::ensure!(
            all.iter().any(|scenario| scenario.name == *name),
            "no scenario '{name}'; see --list"
        );
    }
    let world = World::connect().await?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for scenario in &all {
        if !arguments.names.is_empty() && !arguments.names.contains(&scenario.name.to_owned()) {
            continue;
        }
        print!("{:<16} ", scenario.name);
        std::io::stdout().flush()?;
        let began = Instant::now();
        let outcome = run(&world, scenario, arguments.thorough).await;
        let seconds = began.elapsed().as_secs();
        match outcome {
            Ok(Outcome::Done(notes)) => {
                passed += 1;
                println!("ok      {seconds:4} s  {}", notes.join("; "));
            }
            Ok(Outcome::Skipped(reason)) => {
                skipped += 1;
                println!("SKIPPED {seconds:4} s  {reason}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED  {seconds:4} s  {error:#}");
                println!("{}", world.describe_nodes().await.unwrap_or_default());
                println!("{}", world.recent_logs().await.unwrap_or_default());
            }
        }
        if let Err(error) = scenarios::clean(&world).await {
            println!("cannot clean up after {}: {error:#}", scenario.name);
            failed += 1;
            break;
        }
    }
    if let Err(error) = world.leave().await {
        println!("cannot leave the cluster as it was: {error:#}");
        failed += 1;
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    std::process::exit(i32::from(failed > 0));
}

async fn run(world: &World, scenario: &Scenario, thorough: bool) -> Result<Outcome> {
    let limit = if thorough { LIMIT * 4 } else { LIMIT };
    match tokio::time::timeout(limit, (scenario.run)(world, thorough)).await {
        Ok(outcome) => outcome,
        Err(_) => anyhow::bail!("not done after {} s", limit.as_secs()),
    }
}
