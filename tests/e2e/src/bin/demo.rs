//! The main job, end to end: a model on every node through the swarm, and a pod on each that uses it.
//!
//! Started by `./demo`, which has brought up the cluster and built the images.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use modelcache_crds::model_cache_node::{NodeSnapshotStatus, Phase};
use modelcache_e2e::hub::{self, Hub};
use modelcache_e2e::metrics::sum;
use modelcache_e2e::pods::{Reading, readers};
use modelcache_e2e::wait::until;
use modelcache_e2e::world::World;
use serde::Serialize;

/// The sample that the demo applies, as a user would.
const SAMPLE: &str = include_str!("../../../../deploy/samples/one-model.yaml");
const REPOSITORY: &str = "sentence-transformers/all-MiniLM-L6-v2";
const CACHE: &str = "minilm";
const CLAIM: &str = "minilm";
/// Where the sample makes the claim.
const NAMESPACE: &str = "default";

/// Puts a real model on every node of a cluster through the swarm and computes an embedding with it on each.
#[derive(Parser)]
struct Arguments {
    /// Base URL of the hub; without it a stand-in hub runs in the cluster.
    #[arg(long)]
    hub: Option<String>,
    /// File with what the reader printed for the model's original files.
    #[arg(long)]
    reference: PathBuf,
    /// Write the figures as JSON to this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Leave everything installed.
    #[arg(long)]
    keep: bool,
}

/// The figures of a run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    nodes: usize,
    model_bytes: i64,
    origin_bytes: i64,
    origin_copies: f64,
    seconds: f64,
    nodes_ready: usize,
    embeddings_equal: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match demo(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: &Arguments) -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let reference: Reading = serde_json::from_str(
        &std::fs::read_to_string(&arguments.reference)
            .context("cannot read the file given by --reference")?,
    )
    .context("the file given by --reference is not what the reader prints")?;
    let world = World::connect().await?;
    let report = run(&world, arguments, &reference).await;
    if !arguments.keep && !world.cluster.is_rig() {
        println!("\nRemoving what was installed.");
        world.delete(&format!("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: readers, namespace: {NAMESPACE}}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: reader-script, namespace: {NAMESPACE}}}\n"), Duration::from_mins(1)).await?;
        world.leave().await?;
    }
    let report = report?;
    if let Some(file) = &arguments.report {
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(
        report.embeddings_equal,
        "a node computed another embedding than the original files give"
    );
    ensure!(
        report.nodes_ready == report.nodes,
        "{} of {} nodes are ready",
        report.nodes_ready,
        report.nodes
    );
    Ok(())
}

async fn run(world: &World, arguments: &Arguments, reference: &Reading) -> Result<Report> {
    let nodes = world.ready_nodes().await?;
    let (hub, endpoint) = if let Some(url) = &arguments.hub {
        (None, url.clone())
    } else {
        println!("Starting a stand-in hub that holds {REPOSITORY} (91 MB).");
        let load = format!("/models/minilm={REPOSITORY}");
        let hub = Hub::start(world, &["--load", &load]).await?;
        (Some(hub), hub::URL.to_owned())
    };
    println!(
        "Installing the chart: operator, and an agent on each of {} nodes.",
        nodes.len()
    );
    world
        .install(&[&format!("hub.endpoint={endpoint}")])
        .await?;

    println!(
        "Applying deploy/samples/one-model.yaml and, at the same moment, a DaemonSet of pods that mount the model.\n"
    );
    let began = Instant::now();
    world.apply(SAMPLE).await?;
    world
        .apply(&readers(world, NAMESPACE, CLAIM, REPOSITORY))
        .await?;
    let held = until(
        "the scheduler to say why it keeps a pod",
        Duration::from_secs(30),
        || async {
            let pods = world.pods(NAMESPACE, "app=readers").await?;
            let pod = pods.first().context("no pod yet")?;
            let reason = world.pending_reason(pod).await?;
            // Before the claim is bound it says so; what counts is what it says after that.
            ensure!(reason.contains("node affinity"), "{reason}");
            Ok(reason)
        },
    );
    let (held, seconds) = tokio::join!(held, progress(world, nodes.len(), began));
    let seconds = seconds?;
    match held {
        Ok(reason) => println!(
            "\nUntil then the scheduler kept the pods: {}",
            reason.split('.').next().unwrap_or("")
        ),
        Err(_) => {
            println!("\nThe model was whole before the scheduler had said anything of the pods.");
        }
    }
    let readings = world
        .readings(NAMESPACE, nodes.len(), Duration::from_mins(2))
        .await?;
    let pods_seconds = began.elapsed().as_secs_f64();
    finish(
        world,
        hub.as_ref(),
        reference,
        &readings,
        &Timing {
            model: seconds,
            pods: pods_seconds,
        },
    )
    .await
}

struct Timing {
    model: f64,
    pods: f64,
}

async fn finish(
    world: &World,
    hub: Option<&Hub<'_>>,
    reference: &Reading,
    readings: &[Reading],
    timing: &Timing,
) -> Result<Report> {
    let status = world.status(CACHE).await?;
    let model = status
        .models
        .first()
        .context("the ModelCache reports no model")?;
    let from_metrics: f64 = world
        .agent_metrics()
        .await?
        .values()
        .map(|samples| {
            sum(
                samples,
                "modelcache_agent_origin_received_bytes_total",
                &[("model", REPOSITORY)],
            )
        })
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "byte counts stay far below 2^53"
    )]
    let origin_bytes = match hub {
        Some(hub) => i64::try_from(hub.content_bytes(REPOSITORY).await?)?,
        None => from_metrics as i64,
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "byte counts stay far below 2^53"
    )]
    let copies = origin_bytes as f64 / model.size_bytes as f64;
    let statuses = world.node_statuses(CACHE).await?;
    let equal = readings
        .iter()
        .all(|reading| reading.agrees_with(reference));

    println!(
        "\n  {:<12} {:>12} {:>12}  {:<8} embedding equal",
        "NODE", "FROM HUB", "FROM PEERS", "PHASE"
    );
    for (node, snapshot) in &statuses {
        let same = readings
            .iter()
            .any(|reading| reading.node == *node && reading.agrees_with(reference));
        println!(
            "  {node:<12} {:>9.1} MB {:>9.1} MB  {:<8} {}",
            megabytes(snapshot.origin_bytes),
            megabytes(snapshot.peer_bytes),
            format!("{:?}", snapshot.phase),
            if same { "yes" } else { "NO" }
        );
    }
    println!("\n  model whole on every node   {:>8.1} s", timing.model);
    println!("  pods running and answering  {:>8.1} s", timing.pods);
    println!(
        "  copies that left the hub    {copies:>8.2}   ({:.1} MB of {:.1} MB)",
        megabytes(origin_bytes),
        megabytes(model.size_bytes)
    );
    println!(
        "  embedding equal everywhere  {:>8}",
        if equal { "yes" } else { "NO" }
    );
    Ok(Report {
        nodes: world.ready_nodes().await?.len(),
        model_bytes: model.size_bytes,
        origin_bytes,
        origin_copies: copies,
        seconds: timing.model,
        nodes_ready: statuses
            .iter()
            .filter(|(_, snapshot)| snapshot.phase == Phase::Ready)
            .count(),
        embeddings_equal: equal,
    })
}

/// Shows how every node gets on until all are ready; the seconds it took.
async fn progress(world: &World, nodes: usize, began: Instant) -> Result<f64> {
    let redraw = std::io::stdout().is_terminal();
    let mut drawn = 0;
    let mut last = String::new();
    loop {
        let mut lines: Vec<String> = Vec::new();
        let statuses = world.node_statuses(CACHE).await.unwrap_or_default();
        for (node, snapshot) in &statuses {
            lines.push(bar(node, snapshot));
        }
        if lines.is_empty() {
            lines.push("  resolving the model at the hub …".to_owned());
        }
        let text = lines.join("\n");
        if redraw {
            if drawn > 0 {
                print!("\x1b[{drawn}A\x1b[J");
            }
            println!("{text}");
            drawn = lines.len();
        } else if text != last {
            println!("{:6.1} s\n{text}", began.elapsed().as_secs_f64());
        }
        std::io::stdout().flush()?;
        last = text;
        if statuses.len() == nodes
            && statuses
                .iter()
                .all(|(_, snapshot)| snapshot.phase == Phase::Ready)
        {
            return Ok(began.elapsed().as_secs_f64());
        }
        if began.elapsed() > Duration::from_mins(15) {
            bail!(
                "not every node was ready after 15 minutes:\n{}",
                world.describe_nodes().await?
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn bar(node: &str, snapshot: &NodeSnapshotStatus) -> String {
    let percent = if snapshot.size_bytes > 0 {
        snapshot.held_bytes * 100 / snapshot.size_bytes
    } else {
        0
    };
    let filled = usize::try_from(percent / 4).unwrap_or(0).min(25);
    format!(
        "  {node:<12} [{}{}] {percent:>3} %  hub {:>6.1} MB  peers {:>6.1} MB  {:?}{}",
        "#".repeat(filled),
        " ".repeat(25 - filled),
        megabytes(snapshot.origin_bytes),
        megabytes(snapshot.peer_bytes),
        snapshot.phase,
        snapshot
            .message
            .as_ref()
            .map(|message| format!(": {message}"))
            .unwrap_or_default()
    )
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: i64) -> f64 {
    bytes as f64 / 1e6
}
