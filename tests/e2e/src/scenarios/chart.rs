//! The chart: upgrade, rollback, uninstall; models stay on disk.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Outcome, cold};
use crate::hub::{self, Hub};
use crate::world::{RELEASE, SYSTEM, World};

pub(super) async fn run(world: &World) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    let endpoint = format!("hub.endpoint={}", hub::URL);
    world.install(&[&endpoint]).await?;
    let repo = hub
        .add("org/chart", &cold::model(20_000_000, 9_000))
        .await?;
    world.apply(&cold::cache("chart", "org/chart")).await?;
    world.ready("chart", Duration::from_mins(1)).await?;
    let fetched = hub.content_bytes("org/chart").await?;

    // The test cluster's network does not know NetworkPolicies, but its API server does.
    let hub_port = "networkPolicy.egressPorts={443,6443,8081}";
    let changes = [
        &endpoint,
        "logLevel=debug",
        "networkPolicy.enabled=true",
        hub_port,
    ];
    world.install(&changes).await?;
    world.ready("chart", Duration::from_mins(1)).await?;
    world.helm(&[
        "rollback",
        RELEASE,
        "-n",
        SYSTEM,
        "--wait",
        "--timeout",
        "90s",
    ])?;
    world.agents_ready(Duration::from_mins(1)).await?;
    world.ready("chart", Duration::from_mins(1)).await?;

    world.helm(&[
        "uninstall",
        RELEASE,
        "-n",
        SYSTEM,
        "--wait",
        "--timeout",
        "90s",
    ])?;
    for node in world.ready_nodes().await? {
        world.check_node("chart", &node, &repo).await?;
    }
    // The CRDs are kept, and with them the ModelCache: installed again, it is ready again without the hub.
    hub.off().await?;
    world.install(&[&endpoint]).await?;
    world.ready("chart", Duration::from_secs(90)).await?;
    hub.on().await?;
    let again = hub.content_bytes("org/chart").await?;
    ensure!(
        again == fetched,
        "{} bytes were fetched again",
        again - fetched
    );
    Ok(Outcome::Done(vec![
        "upgrade, rollback, uninstall, install again without the hub".to_owned(),
    ]))
}
