//! What Prometheus reads.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::coordinator::Coordinator;
use crate::tracker::SharedTracker;

/// A step of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading tokens and what the hub said.
    Dereference,
    /// Writing objects.
    Apply,
    /// Writing statuses and Events.
    Report,
}

/// What came of asking the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubOutcome {
    /// The source is resolved.
    Resolved,
    /// It is not, for one of the documented reasons.
    Failed(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
}

/// One condition of the ModelCaches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct ConditionLabel {
    /// Type of the condition.
    pub condition: String,
    /// True, False or Unknown.
    pub status: String,
}

/// One model of a ModelCache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct ModelLabel {
    /// Name of the ModelCache.
    pub cache: String,
    /// Name of the model in it.
    pub model: String,
}

/// How one model stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelNumbers {
    /// Nodes that should hold it.
    pub desired: i64,
    /// Nodes that hold it, verified.
    pub ready: i64,
    /// Nodes that report an error.
    pub failed: i64,
    /// Its size; 0 while it is not resolved.
    pub size_bytes: i64,
}

/// All metrics of the operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Of the tracker, when there is one.
    tracker: Option<Registry>,
    passes: Counter,
    failures: Family<StageLabel, Counter>,
    duration: Histogram,
    hub_requests: Family<OutcomeLabel, Counter>,
    watch_failures: Family<KindLabel, Counter>,
    writes: Family<KindLabel, Counter>,
    caches: Family<ConditionLabel, Gauge>,
    desired: Family<ModelLabel, Gauge>,
    ready: Family<ModelLabel, Gauge>,
    failed: Family<ModelLabel, Gauge>,
    size: Family<ModelLabel, Gauge>,
    /// What has gauges, so that those of what is gone can be removed.
    told: Mutex<(BTreeSet<ConditionLabel>, BTreeSet<ModelLabel>)>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let build = Family::<BuildLabel, Gauge>::default();
        build
            .get_or_create(&BuildLabel {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        let mut metrics = Self {
            registry: Registry::with_prefix("modelcache_operator"),
            tracker: None,
            passes: Counter::default(),
            failures: Family::default(),
            // A pass that has nothing to write takes less than a millisecond; each write takes a few.
            duration: Histogram::new([0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0, 16.0, 64.0]),
            hub_requests: Family::default(),
            watch_failures: Family::default(),
            writes: Family::default(),
            caches: Family::default(),
            desired: Family::default(),
            ready: Family::default(),
            failed: Family::default(),
            size: Family::default(),
            told: Mutex::default(),
        };
        // The library adds the full stop to each help text and `_total` to each counter.
        let registry = &mut metrics.registry;
        registry.register(
            "build_info",
            "Always 1; the version of the operator is in the label",
            build,
        );
        registry.register(
            "reconcile_passes",
            "Passes of the reconciler, each over the whole cluster",
            metrics.passes.clone(),
        );
        registry.register(
            "reconcile_failures",
            "Steps of a pass that failed and are tried again, by stage",
            metrics.failures.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "Time that one pass of the reconciler took",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "hub_requests",
            "Attempts to resolve a model at its hub, by what came of them: Resolved or the reason of the failure",
            metrics.hub_requests.clone(),
        );
        registry.register(
            "watch_failures",
            "Failures of the watch of one kind of object; each is taken up again",
            metrics.watch_failures.clone(),
        );
        registry.register(
            "writes",
            "Writes to the API server that succeeded, by kind of object",
            metrics.writes.clone(),
        );
        registry.register(
            "model_caches",
            "ModelCaches by condition and its status",
            metrics.caches.clone(),
        );
        registry.register(
            "model_nodes_desired",
            "Nodes that should hold the model",
            metrics.desired.clone(),
        );
        registry.register(
            "model_nodes_ready",
            "Nodes that hold the model whole and verified",
            metrics.ready.clone(),
        );
        registry.register(
            "model_nodes_failed",
            "Nodes whose agent reports an error for the model",
            metrics.failed.clone(),
        );
        registry.register(
            "model_size_bytes",
            "Size of the model; 0 while it is not resolved",
            metrics.size.clone(),
        );
        metrics
    }

    /// Adds the counters of the coordinator. To be called once.
    #[must_use]
    pub fn with_coordinator(mut self, coordinator: &Coordinator) -> Self {
        coordinator.metrics().register(&mut self.registry);
        self
    }

    /// With those of the tracker, when there is one.
    #[must_use]
    pub fn with_tracker(mut self, tracker: Option<&SharedTracker>) -> Self {
        self.tracker = tracker.map(SharedTracker::registry);
        self
    }

    /// A pass ended.
    pub fn pass(&self, took: Duration) {
        self.passes.inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A step of a pass failed.
    pub fn failure(&self, stage: Stage) {
        let stage = match stage {
            Stage::Dereference => "dereference",
            Stage::Apply => "apply",
            Stage::Report => "report",
        };
        self.failures.get_or_create(&StageLabel { stage }).inc();
    }

    /// The hub was asked.
    pub fn hub_request(&self, outcome: HubOutcome) {
        let outcome = match outcome {
            HubOutcome::Resolved => "Resolved",
            HubOutcome::Failed(reason) => reason,
        };
        self.hub_requests
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
    }

    /// A watch failed.
    pub fn watch_failure(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&KindLabel { kind }).inc();
    }

    /// An object was written.
    pub fn write(&self, kind: &'static str) {
        self.writes.get_or_create(&KindLabel { kind }).inc();
    }

    /// Sets the gauges that say how caches and models stand.
    pub fn show(&self, caches: &[ConditionLabel], models: &[(ModelLabel, ModelNumbers)]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in &told.0 {
            self.caches.get_or_create(gone).set(0);
        }
        for label in caches {
            self.caches.get_or_create(label).inc();
        }
        told.0.extend(caches.iter().cloned());
        for (label, numbers) in models {
            self.desired.get_or_create(label).set(numbers.desired);
            self.ready.get_or_create(label).set(numbers.ready);
            self.failed.get_or_create(label).set(numbers.failed);
            self.size.get_or_create(label).set(numbers.size_bytes);
        }
        let now: BTreeSet<ModelLabel> = models.iter().map(|(label, _)| label.clone()).collect();
        for gone in told.1.difference(&now) {
            self.desired.remove(gone);
            self.ready.remove(gone);
            self.failed.remove(gone);
            self.size.remove(gone);
        }
        told.1 = now;
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn encode(&self) -> String {
        modelcache_daemon::metrics::encode([&self.registry].into_iter().chain(&self.tracker))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use modelcache_swarm::tracker::Admission;

    use super::*;

    fn label(model: &str) -> ModelLabel {
        ModelLabel {
            cache: "embedders".to_owned(),
            model: model.to_owned(),
        }
    }

    fn filled() -> Metrics {
        let tracker = SharedTracker::new(Admission::Private);
        let metrics = Metrics::new().with_tracker(Some(&tracker));
        metrics.pass(Duration::from_millis(3));
        metrics.failure(Stage::Apply);
        metrics.hub_request(HubOutcome::Failed("RateLimited"));
        metrics.watch_failure("Node");
        metrics.write("ModelCacheNode");
        let condition = |status: &str| ConditionLabel {
            condition: "Ready".to_owned(),
            status: status.to_owned(),
        };
        metrics.show(
            &[condition("True"), condition("True"), condition("False")],
            &[(
                label("minilm"),
                ModelNumbers {
                    desired: 3,
                    ready: 2,
                    failed: 1,
                    size_bytes: 7,
                },
            )],
        );
        metrics
    }

    #[test]
    fn gauges_follow_what_is_there() {
        let metrics = filled();
        let text = metrics.encode();
        for line in [
            "modelcache_operator_model_nodes_ready{cache=\"embedders\",model=\"minilm\"} 2",
            "modelcache_operator_model_caches{condition=\"Ready\",status=\"True\"} 2",
            "modelcache_operator_hub_requests_total{outcome=\"RateLimited\"} 1",
            "modelcache_operator_reconcile_passes_total 1",
            "modelcache_tracker_announces_total{result=\"unknown_key\"} 0",
            "modelcache_tracker_peers 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| line.starts_with("# HELP ")) {
            assert!(line.ends_with('.') && !line.ends_with(".."), "{line}");
        }
        metrics.show(&[], &[]);
        let text = metrics.encode();
        assert!(!text.contains("minilm"));
        assert!(text.contains("model_caches{condition=\"Ready\",status=\"True\"} 0"));
    }

    #[test]
    fn promtool_finds_nothing_to_complain_about() {
        let mut promtool = match Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        {
            Ok(promtool) => promtool,
            Err(error) => {
                eprintln!(
                    "SKIPPED: promtool cannot be run ({error}); install Debian's package prometheus"
                );
                return;
            }
        };
        let text = filled().encode();
        promtool
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
