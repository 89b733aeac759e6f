//! The end-to-end scenarios.

use anyhow::Result;
use futures_util::future::LocalBoxFuture;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use modelcache_crds::ModelCache;
use std::time::Duration;

use crate::world::{APPS, World};

mod capture;
mod chart;
mod cold;
mod doctor;
mod gate;
mod input;
mod kills;
mod memory;
mod mirror;
mod odd;
mod privileges;
mod prometheus;
mod rotation;
mod rules;
mod survive;

/// One thing that must hold.
pub struct Scenario {
    /// Short name, as typed after `./test`.
    pub name: &'static str,
    /// What it proves.
    pub about: &'static str,
    /// Does it; the flag asks for the long form.
    pub run: for<'a> fn(&'a World, bool) -> LocalBoxFuture<'a, Result<Outcome>>,
}

/// How a scenario ended, when nothing is wrong.
pub enum Outcome {
    /// All of it was checked; notes with what was measured.
    Done(Vec<String>),
    /// It could not run here; why.
    Skipped(String),
}

/// All scenarios in their order.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "rules",
            about: "a real API server refuses wrong objects and says what to write instead",
            run: |world, _| Box::pin(rules::run(world)),
        },
        Scenario {
            name: "privileges",
            about: "a stolen agent's token and the operator's account can do what they must, and nothing else",
            run: |world, _| Box::pin(privileges::run(world)),
        },
        Scenario {
            name: "cold",
            about: "all nodes from cold at once: one copy leaves the hub, the counters of both sides agree",
            run: |world, _| Box::pin(cold::run(world)),
        },
        Scenario {
            name: "hub-off",
            about: "the hub goes away once the nodes together hold all: they complete; a node that joins does too",
            run: |world, _| Box::pin(cold::hub_off(world)),
        },
        Scenario {
            name: "odd",
            about: "odd models: empty, many, equal, oddly named files, shared contents; the caches pass the client's checks",
            run: |world, _| Box::pin(odd::run(world)),
        },
        Scenario {
            name: "input",
            about: "wrong input has a clear condition and Event, no effect on other models, and no token ever shows",
            run: |world, _| Box::pin(input::run(world)),
        },
        Scenario {
            name: "mirror",
            about: "a private repository of an HTTPS mirror whose certificate authority only the model's source names",
            run: |world, _| Box::pin(mirror::run(world)),
        },
        Scenario {
            name: "gate",
            about: "a pod that wants the claim waits for its node, cannot write, and outlives operator and agents",
            run: |world, thorough| Box::pin(gate::run(world, thorough)),
        },
        Scenario {
            name: "kills",
            about: "kill -9 of agents and operator, power cuts, at random moments: always whole, never a wrong byte shown",
            run: |world, thorough| Box::pin(kills::run(world, thorough)),
        },
        Scenario {
            name: "survive",
            about: "malformed objects, API server restarts, deleted and relabelled nodes",
            run: |world, _| Box::pin(survive::run(world)),
        },
        Scenario {
            name: "memory",
            about: "a 1 GB file: the memory of operator and agents stays in its bounds",
            run: |world, _| Box::pin(memory::run(world)),
        },
        Scenario {
            name: "rotation",
            about: "the cluster's key changes while 1 GB is on its way: nothing fails or comes twice, the old key is refused",
            run: |world, _| Box::pin(rotation::run(world)),
        },
        Scenario {
            name: "capture",
            about: "traffic of a gated model between two nodes has none of its bytes, nor has a file outside of the cache",
            run: |world, _| Box::pin(capture::run(world)),
        },
        Scenario {
            name: "prometheus",
            about: "a real Prometheus scrapes operator and agents; bytes by node and model come out of a query",
            run: |world, _| Box::pin(prometheus::run(world)),
        },
        Scenario {
            name: "chart",
            about: "upgrade, rollback and uninstall work and leave the models on disk",
            run: |world, _| Box::pin(chart::run(world)),
        },
        Scenario {
            name: "five",
            about: "five nodes from cold",
            run: |world, _| Box::pin(cold::five(world)),
        },
    ]
}

/// Removes what a scenario left behind: its ModelCaches, pods and claims.
pub async fn clean(world: &World) -> Result<()> {
    let caches = Api::<ModelCache>::all(world.client.clone())
        .list(&ListParams::default())
        .await;
    for cache in caches.map(|list| list.items).unwrap_or_default() {
        world.delete_cache(&cache.name_any()).await?;
    }
    world.kubectl(&[
        "-n",
        APPS,
        "delete",
        "daemonsets,deployments,pods",
        "--all",
        "--force",
        "--grace-period=0",
        "--ignore-not-found",
    ])?;
    world.no_snapshots(Duration::from_secs(30)).await
}
