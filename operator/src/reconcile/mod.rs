//! From what people want to what nodes hold: dereference → validate → plan → apply → report.
//!
//! One pass handles the whole cluster, because one node serves several ModelCaches. Passes are triggered by watches and
//! by answers of the hub, a short while after the first of them so that a burst is one pass, and by time. Nothing is
//! remembered from one pass to the next but what saves work; whatever a pass leaves undone, the next one finds again.

pub mod apply;
pub mod build;
mod dereference;
pub mod plan;
pub mod report;
pub mod validate;

#[cfg(test)]
pub(crate) mod fixtures;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use modelcache_daemon::health::Health;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::agents::Agents;
use crate::coordinator::Coordinator;
use crate::metrics::Metrics;
use crate::resolve::{Hub, Resolver};
use crate::secrets::{ReadSecret, TokenCache};
use crate::tracker::SharedTracker;

use self::apply::Applier;
use self::dereference::Mirrors;
use self::report::Reporter;

/// Changes come in bursts: an agent's status, the label, the next agent.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Without any change: repairs what was changed by others in ways that no watch shows, and reads Secrets again.
const PERIOD: Duration = Duration::from_mins(1);
/// A pass begins at least once a minute; after this time without one, the reconciler hangs.
pub const LONGEST_SILENCE: Duration = Duration::from_mins(10);
/// After a status could not be written.
const RETRY_REPORT: Duration = Duration::from_secs(5);

/// What the reconciler works with.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// The hub.
    pub hub: Arc<dyn Hub>,
    /// Access tokens.
    pub secrets: Arc<dyn ReadSecret>,
    /// The hub of models that name none.
    pub default_endpoint: String,
    /// How agents are installed.
    pub agents: Agents,
    /// Who is told which snapshots to bring to the nodes.
    pub coordinator: Coordinator,
    /// Who tells agents which of them have a snapshot, when that is asked for.
    pub tracker: Option<SharedTracker>,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// What the probes ask about.
    pub health: Arc<Health>,
}

/// Reconciles until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let wake = Arc::new(Notify::new());
    let mirrors = Mirrors::start(&context.client, &wake, &context.metrics, &stop);
    tokio::select! {
        () = mirrors.synced() => {}
        () = stop.cancelled() => return,
    }
    context.health.set_ready();
    tracing::info!("the cluster was seen; reconciling");
    let mut reconciler = Reconciler {
        resolver: Resolver::new(
            Arc::clone(&context.hub),
            Arc::clone(&context.secrets),
            Arc::clone(&context.metrics),
            Arc::clone(&wake),
        ),
        tokens: TokenCache::new(Arc::clone(&context.secrets)),
        applier: Applier::new(context.client.clone()),
        reporter: Reporter::new(context.client.clone()),
        mirrors,
        context,
    };
    loop {
        // Whatever happens from here on asks for another pass.
        let wait = reconciler.pass().await;
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(DEBOUNCE) => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Reconciler {
    context: Context,
    mirrors: Mirrors,
    resolver: Resolver,
    tokens: TokenCache,
    applier: Applier,
    reporter: Reporter,
}

impl Reconciler {
    /// One pass; says when the next one is due at the latest.
    async fn pass(&mut self) -> Duration {
        let begun = Instant::now();
        let metrics = &self.context.metrics;
        self.context.health.beat();
        let mut picture = dereference::picture(&self.mirrors, &self.resolver);
        let world = validate::validate(&picture, &self.context.default_endpoint);
        // Client required, for Secrets.
        picture.tokens = dereference::tokens(&picture, &world, &mut self.tokens).await;
        // No client required.
        let plan = plan::plan(&picture, &world, &self.context.agents);
        // None of them waits for anything.
        self.resolver.want(plan.requests.clone());
        if let Some(tracker) = &self.context.tracker {
            tracker.register(
                plan.coordinated
                    .iter()
                    .map(|snapshot| snapshot.name.as_str()),
            );
        }
        self.context
            .coordinator
            .set_snapshots(plan.coordinated.clone());
        // Client required.
        let steps = apply::actions(&picture, &plan);
        let applied = self.applier.apply(steps, metrics).await;
        let told = self
            .reporter
            .report(&picture, &world, &plan, &applied, metrics)
            .await;
        metrics.pass(begun.elapsed());
        let now = Instant::now();
        let mut wait = PERIOD;
        if !told {
            wait = wait.min(RETRY_REPORT);
        }
        if let Some(retry) = applied.retry {
            wait = wait.min(retry.saturating_duration_since(now));
        }
        // Missing Secrets are looked for again and again, at no great cost.
        if picture.tokens.values().any(Result::is_err) {
            wait = wait.min(RETRY_REPORT);
        }
        wait
    }
}
