//! The cluster's key changes while a large model is on its way.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use modelcache_crds::conditions::reasons;
use modelcache_crds::names::{ROTATE_ANNOTATION, ROTATED_AT_ANNOTATION};
use modelcache_swarm::link::{LinkError, Mode, Security};
use modelcache_swarm::secret::{CURRENT, Key, Keyring, Keys, PREVIOUS, Purpose};
use modelcache_test_hub::admin::FileSpec;
use tokio::net::TcpStream;

use super::{Outcome, cold};
use crate::hub::{self, Hub};
use crate::metrics::sum;
use crate::wait::until;
use crate::world::{RELEASE, SYSTEM, World};

const BYTES: u64 = 1_000_000_000;
/// What the hub sends until the keys have changed: enough to have not sent all by then.
const SLOW: u64 = 12_000_000;
/// How long a step may take: the operator looks every ten seconds, an agent every five.
const STEP: Duration = Duration::from_secs(45);

pub(super) async fn run(world: &World) -> Result<Outcome> {
    if !world.cluster.is_rig() {
        return Ok(Outcome::Skipped(
            "this cluster's nodes cannot be dialled from here".to_owned(),
        ));
    }
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let secret = KeySecret::of(world);
    let old = secret.entry(CURRENT).await?.context("there is no key")?;
    let doors = doors(world).await?;
    for door in &doors {
        door.open_to(&old).await?;
    }
    let failures = failures(world).await?;

    let repository = "org/rotation";
    let file = FileSpec::synthetic("model.safetensors", cold::fresh(12_000), BYTES);
    let repo = hub.add(repository, &[file]).await?;
    hub.rate(Some(SLOW)).await?;
    world.apply(&cold::cache("rotation", repository)).await?;
    until("the download", STEP, || async {
        let sent = hub.content_bytes(repository).await?;
        ensure!(sent > BYTES / 20, "{sent} bytes left the hub");
        Ok(())
    })
    .await?;

    secret.annotate(ROTATE_ANNOTATION, "now")?;
    let new = until("a new key", STEP, || async {
        ensure!(secret.entry(PREVIOUS).await?.is_some(), "no second key yet");
        secret.entry(CURRENT).await?.context("no key")
    })
    .await?;
    ensure!(new != old, "the new key is the old one");
    deliver(world, "rotated")?;
    for door in &doors {
        until(format!("the new key at {}", door.name), STEP, || {
            door.open_to(&new)
        })
        .await?;
        // The overlap.
        door.open_to(&old).await?;
    }

    // The overlap ends now instead of in an hour.
    secret.annotate(ROTATED_AT_ANNOTATION, "2000-01-01T00:00:00Z")?;
    until("the old key to go", STEP, || async {
        ensure!(secret.entry(PREVIOUS).await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    deliver(world, "retired")?;
    for door in &doors {
        until(format!("{} to refuse the old key", door.name), STEP, || {
            door.shut_to(&old)
        })
        .await?;
        door.open_to(&new).await?;
    }
    let sent = hub.content_bytes(repository).await?;
    ensure!(sent < BYTES, "the download was over before the old key was");

    hub.rate(None).await?;
    world.ready("rotation", Duration::from_mins(2)).await?;
    let fetched = hub.content_bytes(repository).await?;
    // The operator looks at one byte of a file, whether it may read.
    ensure!(
        (BYTES..=BYTES + 1_000).contains(&fetched),
        "{fetched} bytes left the hub"
    );
    for (node, status) in world.node_statuses("rotation").await? {
        let received = status.origin_bytes + status.peer_bytes;
        ensure!(
            received == status.size_bytes,
            "{node} received {received} of {} bytes",
            status.size_bytes
        );
    }
    let failed = self::failures(world).await? - failures;
    ensure!(failed == 0.0, "{failed} transfers failed");
    let node = world.ready_nodes().await?.remove(0);
    world.check_node("rotation", &node, &repo).await?;
    secret.events([&old, &new]).await?;
    Ok(Outcome::Done(vec![format!(
        "keys changed while {} to {} % of the model were there; {} ports refuse the old one; {fetched} bytes left the hub",
        5,
        sent * 100 / BYTES,
        doors.len()
    )]))
}

/// The Secret with the keys.
struct KeySecret<'a> {
    world: &'a World,
    api: Api<Secret>,
    name: String,
}

impl<'a> KeySecret<'a> {
    fn of(world: &'a World) -> Self {
        Self {
            world,
            api: Api::namespaced(world.client.clone(), SYSTEM),
            name: format!("{RELEASE}-key"),
        }
    }

    async fn entry(&self, name: &str) -> Result<Option<String>> {
        let data = self.api.get(&self.name).await?.data.unwrap_or_default();
        let entry = data.get(name).map(|bytes| bytes.0.clone());
        Ok(entry.map(String::from_utf8).transpose()?)
    }

    fn annotate(&self, annotation: &str, value: &str) -> Result<()> {
        let assignment = format!("{annotation}={value}");
        let words = ["annotate", "--overwrite", "secret", &self.name, &assignment];
        self.world
            .kubectl(&[&["-n", SYSTEM][..], &words].concat())?;
        Ok(())
    }

    /// Both changes are told, and no key with them.
    async fn events(&self, keys: [&String; 2]) -> Result<()> {
        let api: Api<Event> = Api::namespaced(self.world.client.clone(), SYSTEM);
        let about = format!(
            "involvedObject.kind=Secret,involvedObject.name={}",
            self.name
        );
        let about = ListParams::default().fields(&about);
        until("the Events of the Secret", STEP, || async {
            let events = api.list(&about).await?.items;
            for reason in [reasons::KEY_ROTATED, reasons::KEY_RETIRED] {
                let there = events
                    .iter()
                    .any(|one| one.reason.as_deref() == Some(reason));
                ensure!(there, "no Event {reason}");
            }
            let text = format!("{events:?}");
            ensure!(
                !keys.iter().any(|key| text.contains(*key)),
                "an Event has a key in it"
            );
            Ok(())
        })
        .await
    }
}

/// A port that members of the cluster only may use.
struct Door {
    name: String,
    address: SocketAddr,
    purpose: Purpose,
}

/// Those of all agents and of the operator.
async fn doors(world: &World) -> Result<Vec<Door>> {
    let mut doors = Vec::new();
    for (component, port, purpose) in [
        ("agent", 9492, Purpose::PeerLink),
        ("operator", 9489, Purpose::Coordination),
    ] {
        let selector = format!("app.kubernetes.io/component={component}");
        for pod in world.pods(SYSTEM, &selector).await? {
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            let ip = ip.with_context(|| format!("{} has no address", pod.name_any()))?;
            doors.push(Door {
                name: pod.name_any(),
                address: SocketAddr::new(ip.parse()?, port),
                purpose,
            });
        }
    }
    ensure!(doors.len() > 2, "only {} ports were found", doors.len());
    Ok(doors)
}

impl Door {
    /// Dials with this key and no other.
    async fn knock(&self, key: &str) -> Result<Result<(), LinkError>> {
        let keys = Keys::set_by_hand(Keyring::new(Key::parse(key)?, None)).1;
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("{} cannot be reached", self.name))?;
        let security = Security::new(keys, self.purpose, Mode::Encrypted);
        Ok(security.dial(stream).await.map(drop))
    }

    async fn open_to(&self, key: &str) -> Result<()> {
        self.knock(key)
            .await?
            .with_context(|| format!("{} refuses a key", self.name))
    }

    async fn shut_to(&self, key: &str) -> Result<()> {
        match self.knock(key).await? {
            Err(LinkError::UnknownKey) => Ok(()),
            Err(error) => bail!("{} refuses a key, but with: {error}", self.name),
            Ok(()) => bail!("{} accepts the key", self.name),
        }
    }
}

/// Has the kubelets bring the Secret as it is now: they look when a pod changes, else once a minute.
fn deliver(world: &World, why: &str) -> Result<()> {
    let annotation = format!("modelcache.io/test={why}");
    let agents = "app.kubernetes.io/component=agent";
    let words = ["annotate", "--overwrite", "pods", "-l", agents, &annotation];
    world.kubectl(&[&["-n", SYSTEM][..], &words].concat())?;
    Ok(())
}

/// Transfers and verifications that failed on any node so far.
async fn failures(world: &World) -> Result<f64> {
    let metrics = world.agent_metrics().await?;
    let of = |samples| {
        sum(
            samples,
            "modelcache_agent_segments_total",
            &[("result", "failed")],
        ) + sum(samples, "modelcache_agent_verify_failures_total", &[])
    };
    Ok(metrics.values().map(|samples| of(samples)).sum())
}
