//! A real Prometheus scrapes operator and agents through what the chart installs.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Outcome, cold};
use crate::forward::Forward;
use crate::hub::{self, Hub};
use crate::nodes::Scratch;
use crate::wait::until;
use crate::world::{SYSTEM, World};

const LISTEN: &str = "127.0.0.1:9390";

pub(super) async fn run(world: &World) -> Result<Outcome> {
    if Command::new("prometheus")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        return Ok(Outcome::Skipped(
            "no prometheus on this machine: apt-get install prometheus".to_owned(),
        ));
    }
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let directory = Scratch::new("prometheus")?;
    // The pods of another cluster are reached through its API server.
    let through = if world.cluster.is_rig() {
        None
    } else {
        Some(Forward::api(world)?)
    };
    let targets = targets(world, through.as_ref().map(Forward::address)).await?;
    let _server = Prometheus::start(directory.path(), &targets)?;
    // The agents' counters go on from one run to the next.
    let repository = format!("org/prometheus-{}", cold::fresh(0));
    let repo = hub
        .add(&repository, &cold::model(30_000_000, 9_100))
        .await?;
    world.apply(&cold::cache("prometheus", &repository)).await?;
    world.ready("prometheus", Duration::from_mins(1)).await?;

    let nodes = world.ready_nodes().await?.len();
    let total = repo.content_bytes();
    let query = &format!(
        "sum by (node, model) (modelcache_agent_origin_received_bytes_total{{model=\"{repository}\"}})"
    );
    until(
        "Prometheus to know every byte from the hub",
        Duration::from_secs(40),
        || async {
            let rows = Prometheus::query(query)?;
            ensure!(rows.len() == nodes, "{} of {nodes} nodes", rows.len());
            ensure!(
                rows.iter().all(|(labels, _)| labels["node"].is_string()),
                "rows without a node"
            );
            let sum: f64 = rows.iter().map(|(_, value)| value).sum();
            #[expect(
                clippy::cast_precision_loss,
                reason = "byte counts stay far below 2^53"
            )]
            let ratio = sum / total as f64;
            ensure!((0.99..=1.10).contains(&ratio), "{sum} bytes of {total}");
            Ok(())
        },
    )
    .await?;
    let peers = Prometheus::query(&format!(
        "sum by (node) (modelcache_agent_peer_received_bytes_total{{model=\"{repository}\"}})"
    ))?;
    let sum: f64 = peers.iter().map(|(_, value)| value).sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "byte counts stay far below 2^53"
    )]
    let expected = (total * (nodes as u64 - 1)) as f64;
    ensure!(
        (sum / expected - 1.0).abs() < 0.1,
        "{sum} bytes from peers, expected about {expected}"
    );
    until(
        "Prometheus to know the operator, and all targets to be up",
        Duration::from_secs(20),
        || async {
            let passes = Prometheus::query("modelcache_operator_reconcile_passes_total")?;
            ensure!(!passes.is_empty(), "the operator is not scraped");
            let down = Prometheus::query("up == 0")?;
            ensure!(down.is_empty(), "down: {down:?}");
            Ok(())
        },
    )
    .await?;

    for pod in world.pods(SYSTEM, "").await? {
        let port = if pod.name_any().contains("operator") {
            9490
        } else {
            9491
        };
        promtool(&world.metrics_text(&pod.name_any(), port).await?)
            .with_context(|| pod.name_any())?;
    }
    Ok(Outcome::Done(vec![
        "promtool is content with both".to_owned(),
    ]))
}

/// What Prometheus' own discovery makes of the pods' annotations; Debian builds Prometheus without that of Kubernetes.
async fn targets(world: &World, through: Option<&str>) -> Result<Value> {
    let mut targets = Vec::new();
    for pod in world.pods(SYSTEM, "").await? {
        let annotations = pod.annotations();
        if annotations.get("prometheus.io/scrape").map(String::as_str) != Some("true") {
            continue;
        }
        let port = annotations
            .get("prometheus.io/port")
            .context("a pod without prometheus.io/port")?;
        let ip = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.clone())
            .context("a pod without an address")?;
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .context("a pod without a node")?;
        let name = pod.name_any();
        targets.push(match through {
            None => json!({"targets": [format!("{ip}:{port}")], "labels": {"node": node, "pod": name}}),
            Some(proxy) => {
                let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:{port}/proxy/metrics");
                json!({"targets": [proxy], "labels": {"node": node, "pod": name, "__metrics_path__": path}})
            }
        });
    }
    Ok(Value::Array(targets))
}

/// `promtool check metrics` has nothing to say.
fn promtool(text: &str) -> Result<()> {
    use std::io::Write;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool")?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
    Ok(())
}

/// A Prometheus that scrapes the pods whose annotations, as the chart sets them, ask for it.
struct Prometheus {
    child: Child,
}

impl Prometheus {
    fn start(directory: &std::path::Path, targets: &Value) -> Result<Self> {
        std::fs::write(directory.join("targets.json"), targets.to_string())?;
        let configuration = "global: {scrape_interval: 1s}
scrape_configs:
- job_name: pods
  file_sd_configs: [{files: [targets.json]}]
";
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, configuration)?;
        let log = std::fs::File::create(directory.join("log"))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={LISTEN}"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start prometheus")?;
        Ok(Self { child })
    }

    /// An instant query: labels and value of each row.
    fn query(query: &str) -> Result<Vec<(Value, f64)>> {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--get",
                &format!("http://{LISTEN}/api/v1/query"),
                "--data-urlencode",
                &format!("query={query}"),
            ])
            .output()
            .context("cannot start curl")?;
        let answer: Value =
            serde_json::from_slice(&output.stdout).context("Prometheus does not answer yet")?;
        if answer["status"] != "success" {
            bail!("Prometheus: {answer}");
        }
        let rows = answer["data"]["result"].as_array().context("no result")?;
        rows.iter()
            .map(|row| {
                let value = row["value"][1].as_str().context("no value")?.parse()?;
                Ok((row["metric"].clone(), value))
            })
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
