//! Who fetches what from the hub, and who takes what from whom.
//!
//! Every agent keeps one WebSocket to the operator ([`server`]), over an encrypted link ([`secure`]) and authenticated
//! by its service account token ([`authenticate`], [`token_review`]). One task ([`actor`]) owns the [`schedule`], a pure
//! state machine: it feeds it what agents report and what the reconciler wants, and sends out what it decides. All of
//! this state is soft: agents say everything anew when they connect.

mod actor;
pub mod authenticate;
pub mod metrics;
pub mod schedule;
pub mod secure;
pub mod server;
pub mod token_review;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use self::authenticate::{Authenticate, AuthenticateError};
pub use self::metrics::CoordinatorMetrics;
pub use self::schedule::{CoordinatedSnapshot, Settings, SourcePolicy};
pub use self::token_review::TokenReviewer;

/// Reports of agents that may wait for the schedule; when it is full the connections are read more slowly.
const EVENT_QUEUE: usize = 1024;

/// Handle of the task that owns the schedule. Cheap to clone; the task ends with the last handle and connection.
#[derive(Clone)]
pub struct Coordinator {
    snapshots: Arc<watch::Sender<Vec<CoordinatedSnapshot>>>,
    agents: watch::Receiver<BTreeSet<String>>,
    events: mpsc::Sender<actor::Event>,
    metrics: Arc<CoordinatorMetrics>,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self::new()
    }
}

impl Coordinator {
    /// Starts the task with the usual settings. Must be called within a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::with_settings(Settings::default())
    }

    /// Starts the task. Must be called within a tokio runtime.
    #[must_use]
    pub fn with_settings(settings: Settings) -> Self {
        let (snapshots, wanted) = watch::channel(Vec::new());
        let (connected, agents) = watch::channel(BTreeSet::new());
        let (events, inbox) = mpsc::channel(EVENT_QUEUE);
        let metrics = Arc::new(CoordinatorMetrics::default());
        tokio::spawn(actor::run(
            settings,
            inbox,
            wanted,
            connected,
            Arc::clone(&metrics),
        ));
        Self {
            snapshots: Arc::new(snapshots),
            agents,
            events,
            metrics,
        }
    }

    /// Says which snapshots the cluster wants, all of them each time, the most urgent first. Takes effect at once;
    /// giving the same list again costs nothing.
    pub fn set_snapshots(&self, snapshots: Vec<CoordinatedSnapshot>) {
        self.snapshots.send_if_modified(|current| {
            let changed = *current != snapshots;
            *current = snapshots;
            changed
        });
    }

    /// Names of the nodes whose agents are connected.
    #[must_use]
    pub fn connected_agents(&self) -> BTreeSet<String> {
        self.agents.borrow().clone()
    }

    /// The same, to be awaited: changes whenever an agent comes or goes.
    #[must_use]
    pub fn watch_agents(&self) -> watch::Receiver<BTreeSet<String>> {
        self.agents.clone()
    }

    /// Counters of what was given out and what failed.
    #[must_use]
    pub fn metrics(&self) -> &CoordinatorMetrics {
        &self.metrics
    }
}
