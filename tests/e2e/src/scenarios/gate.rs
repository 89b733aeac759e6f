//! The gate: a pod that wants a model waits for a node that holds it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Node};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use modelcache_crds::names::ready_label;
use rand::RngExt;

use modelcache_test_hub::admin::FileSpec;

use super::{Outcome, cold};
use crate::hub::{self, Hub};
use crate::wait::{stays, until};
use crate::world::{APPS, RELEASE, SYSTEM, World, is_ready};

/// How long after a node holds the model a pod may take to run there.
const START: Duration = Duration::from_secs(5);
const BATCH: usize = 5;

pub(super) async fn run(world: &World, thorough: bool) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let tries = if thorough { 60 } else { 30 };
    let mut starts = Vec::new();
    for batch in 0..tries / BATCH {
        starts.extend(one_batch(world, &hub, batch).await?);
    }
    starts.sort_by_key(|start| start.after);
    let prompt = starts.iter().filter(|start| start.after <= START).count();
    let refused = starts.iter().filter(|start| start.refused).count();
    let slowest = starts.last().map_or(0.0, |start| start.after.as_secs_f64());
    let scheduling = starts.last().map_or(0.0, |start| start.bound.as_secs_f64());
    // The gate is open for those that Kubernetes itself refused at first, too; how long it then waits is not ours.
    let late = starts
        .iter()
        .filter(|start| start.after > START && !start.refused);
    ensure!(
        late.count() == 0 && refused * 5 <= tries,
        "only {prompt} of {tries} pods started within {} s after their node was ready, the slowest after {slowest:.1} s; \
         Kubernetes itself refused {refused} of them the claim at first",
        START.as_secs()
    );
    writing_is_refused(world)?;
    pods_outlive_us(world).await?;
    Ok(Outcome::Done(vec![format!(
        "{tries} tries, half of them started {:.1} s after the node was ready, {prompt} within {} s, the slowest after \
         {slowest:.1} s, {scheduling:.1} s of which the scheduler took ({refused} refused the claim by Kubernetes at first)",
        starts[tries / 2].after.as_secs_f64(),
        START.as_secs()
    )]))
}

/// How a pod started.
struct Start {
    /// How long after a node was labelled as ready for its model.
    after: Duration,
    /// How much of that the scheduler took.
    bound: Duration,
    /// Whether Kubernetes at first did not let the node have the claim.
    refused: bool,
}

/// A ModelCache with some models, a claim and a pod for each, at random moments.
async fn one_batch(world: &World, hub: &Hub<'_>, batch: usize) -> Result<Vec<Start>> {
    let name = format!("gate-{batch}");
    let mut models = String::new();
    let mut claims = String::new();
    for i in 0..BATCH {
        let repository = format!("org/gate-{batch}-{i}");
        let bytes = rand::rng().random_range(1_000_000..8_000_000);
        let seed = cold::fresh(1_000 + (batch * BATCH + i) as u64);
        hub.add(
            &repository,
            &[
                FileSpec::synthetic("model.safetensors", seed, bytes),
                FileSpec::text("config.json", "{}"),
            ],
        )
        .await?;
        _ = writeln!(
            models,
            "  - name: m{i}\n    source: {{huggingFace: {{repository: {repository}}}}}"
        );
        _ = writeln!(
            claims,
            "  - {{namespace: {APPS}, name: {name}-m{i}, model: m{i}}}"
        );
    }
    hub.rate(Some(rand::rng().random_range(4_000_000..20_000_000)))
        .await?;
    world
        .apply(&format!(
            "apiVersion: modelcache.io/v1alpha1\nkind: ModelCache\nmetadata: {{name: {name}}}\nspec:\n  models:\n{models}  volumeClaims:\n{claims}"
        ))
        .await?;
    for i in 0..BATCH {
        world.apply(&pod(world, &format!("{name}-m{i}"))).await?;
    }
    let starts = watch_batch(world, &name).await?;
    hub.rate(None).await?;
    // The first batch stays for the checks that follow.
    if batch > 0 {
        for i in 0..BATCH {
            world
                .delete(
                    &pod(world, &format!("{name}-m{i}")),
                    Duration::from_secs(30),
                )
                .await?;
        }
        world.delete_cache(&name).await?;
    }
    Ok(starts)
}

/// Looks at nodes and pods until every pod runs: a pod may be bound only to a node that is labelled for its model.
///
/// Kubernetes itself is late at times: the API server may not yet believe a kubelet that a pod which was just bound to it
/// uses the claim, and the kubelet asks again only after some ten seconds. Such a pod says so in an Event.
async fn watch_batch(world: &World, name: &str) -> Result<Vec<Start>> {
    let nodes: Api<Node> = Api::all(world.client.clone());
    let mut labelled: BTreeMap<String, Instant> = BTreeMap::new();
    let mut bound: BTreeMap<String, Duration> = BTreeMap::new();
    let mut running: BTreeMap<String, Duration> = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_mins(2);
    while running.len() < BATCH {
        ensure!(
            Instant::now() < deadline,
            "only {} of {BATCH} pods of {name} run",
            running.len()
        );
        // Pods before nodes: a label that is set in between is then seen, a pod bound in between is looked at next time.
        let pods = world.pods(APPS, &format!("gate={name}")).await?;
        let nodes = nodes.list(&ListParams::default()).await?;
        for i in 0..BATCH {
            let label = ready_label(name, &format!("m{i}"));
            if nodes.iter().any(|node| node.labels().contains_key(&label)) {
                labelled
                    .entry(format!("{name}-m{i}"))
                    .or_insert_with(Instant::now);
            }
        }
        for pod in &pods {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
                continue;
            };
            let claim = pod.name_any();
            let label = ready_label(name, claim.rsplit('-').next().unwrap_or_default());
            let there = nodes
                .iter()
                .any(|n| n.name_any() == node && n.labels().contains_key(&label));
            ensure!(
                there,
                "{claim} was bound to {node}, which does not have {label}"
            );
            let since = labelled
                .get(&claim)
                .context("bound, but no node was ever seen labelled")?
                .elapsed();
            bound.entry(claim.clone()).or_insert(since);
            if is_ready(pod) {
                running.entry(claim).or_insert(since);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut starts = Vec::new();
    for (claim, after) in running {
        let refused = refused_by_node_authorizer(world, &claim).await?;
        let bound = bound.remove(&claim).unwrap_or_default();
        starts.push(Start {
            after,
            bound,
            refused,
        });
    }
    Ok(starts)
}

async fn refused_by_node_authorizer(world: &World, pod: &str) -> Result<bool> {
    let events: Api<Event> = Api::namespaced(world.client.clone(), APPS);
    let found = events
        .list(
            &ListParams::default().fields(&format!("involvedObject.name={pod},reason=FailedMount")),
        )
        .await?;
    Ok(found.iter().any(|event| {
        event
            .message
            .as_ref()
            .is_some_and(|text| text.contains("no relationship found between node"))
    }))
}

/// A root pod that does not ask for read-only.
fn pod(world: &World, claim: &str) -> String {
    let batch = claim.rsplit_once('-').map_or(claim, |(batch, _)| batch);
    let image = world.images.name("reader");
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {claim}, namespace: {APPS}, labels: {{gate: {batch}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: reader
    image: {image}
    imagePullPolicy: IfNotPresent
    securityContext: {{runAsUser: 0}}
    command: [/bin/sh, -c, \"test -s /model/files/config.json && exec sleep 100000\"]
    volumeMounts: [{{name: model, mountPath: /model}}]
  volumes:
  - {{name: model, persistentVolumeClaim: {{claimName: {claim}}}}}
"
    )
}

fn writing_is_refused(world: &World) -> Result<()> {
    for script in [
        "echo x > /model/files/config.json",
        "touch /model/new",
        "rm /model/files/config.json",
        "chmod 777 /model",
    ] {
        match world.kubectl(&[
            "-n",
            APPS,
            "exec",
            "gate-0-m0",
            "--",
            "/bin/sh",
            "-c",
            script,
        ]) {
            Ok(_) => bail!("a root pod could do: {script}"),
            Err(error) => {
                let message = format!("{error:#}");
                ensure!(
                    message.contains("Read-only file system"),
                    "{script} failed for another reason: {message}"
                );
            }
        }
    }
    Ok(())
}

/// Operator and agents down: the pods go on, and read what they read before.
async fn pods_outlive_us(world: &World) -> Result<()> {
    let (operator, agent) = (
        format!("deployment/{RELEASE}-operator"),
        format!("daemonset/{RELEASE}-agent"),
    );
    world.kubectl(&["-n", SYSTEM, "scale", &operator, "--replicas=0"])?;
    let none = r#"{"spec":{"template":{"spec":{"nodeSelector":{"modelcache.io/none":"true"}}}}}"#;
    world.kubectl(&["-n", SYSTEM, "patch", &agent, "--type=merge", "-p", none])?;
    until(
        "operator and agents to be gone",
        Duration::from_mins(1),
        || async {
            match world.pods(SYSTEM, "").await?.len() {
                0 => Ok(()),
                n => bail!("{n} pods left"),
            }
        },
    )
    .await?;
    stays(
        "the pods run and can read",
        Duration::from_secs(5),
        || async {
            for pod in world.pods(APPS, "gate=gate-0").await? {
                ensure!(is_ready(&pod), "{} is not ready", pod.name_any());
                world.kubectl(&[
                    "-n",
                    APPS,
                    "exec",
                    &pod.name_any(),
                    "--",
                    "/bin/sh",
                    "-c",
                    "cat /model/files/config.json",
                ])?;
            }
            Ok(())
        },
    )
    .await?;
    // Bring both back by what installed them.
    let everywhere =
        r#"{"spec":{"template":{"spec":{"nodeSelector":{"modelcache.io/none":null}}}}}"#;
    world.kubectl(&[
        "-n",
        SYSTEM,
        "patch",
        &agent,
        "--type=merge",
        "-p",
        everywhere,
    ])?;
    world.kubectl(&["-n", SYSTEM, "scale", &operator, "--replicas=1"])?;
    world.agents_ready(Duration::from_mins(1)).await
}
