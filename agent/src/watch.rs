//! Follows this node's `ModelCacheNode` and the `ModelSnapshot`s it names.
//!
//! What was last seen is kept on disk, so that an agent that starts while the API server is away goes on with it.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource as _, ResourceExt as _};
use modelcache_crds::{ModelCacheNode, ModelSnapshot, ModelSnapshotSpec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::intent::{Intent, Objects};
use crate::report::Target;
use crate::state_file;

/// The client repeats by itself for many minutes; better to see the object's changes in between.
const GET_TIMEOUT: Duration = Duration::from_secs(20);
/// How long after a snapshot object could not be read it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Follows the intent until `stop`.
pub struct Follow {
    /// Client of the API server.
    pub client: Client,
    /// Name of the node and of its object.
    pub node: String,
    /// Where the objects are kept.
    pub file: PathBuf,
    /// What was kept there at the start.
    pub objects: Objects,
    /// Where to tell the intent.
    pub intent: watch::Sender<Intent>,
    /// Where to tell the object.
    pub target: watch::Sender<Option<Target>>,
}

type Guarded = DeserializeGuard<ModelCacheNode>;

impl Follow {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let nodes: Api<Guarded> = Api::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.node));
        let events = watcher::watcher(nodes, config).default_backoff();
        pin_mut!(events);
        // Whether the list that is under way has the object.
        let mut listed = false;
        loop {
            let missing = !self.objects.missing().is_empty();
            let event = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY), if missing => {
                    self.complete().await;
                    continue;
                }
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Init)) => listed = false,
                Some(Ok(Event::InitApply(object))) => {
                    listed = true;
                    self.apply(object).await;
                }
                Some(Ok(Event::InitDone)) if !listed => self.gone(),
                Some(Ok(Event::InitDone)) => {}
                Some(Ok(Event::Apply(object))) => self.apply(object).await,
                Some(Ok(Event::Delete(_))) => self.gone(),
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot watch the ModelCacheNode; going on with what is known");
                }
                None => return,
            }
        }
    }

    async fn apply(&mut self, object: Guarded) {
        let target = Target { uid: object.uid() };
        let generation = object.meta().generation;
        let object = match object.0 {
            Ok(object) => object,
            Err(invalid) => {
                tracing::error!(
                    error = %invalid.error,
                    "the ModelCacheNode {} cannot be understood; going on with what it said before",
                    self.node
                );
                return;
            }
        };
        self.target.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&target);
            *old = Some(target);
            changed
        });
        if self.objects.generation == generation && self.objects.snapshots == object.spec.snapshots
        {
            // Our own write of the status.
            return;
        }
        self.objects.set_node(Some((generation, &object.spec)));
        self.complete().await;
    }

    fn gone(&mut self) {
        self.target.send_replace(None);
        self.objects.set_node(None);
        self.tell();
    }

    /// Reads the snapshot objects that are not known yet, as far as that is possible now.
    async fn complete(&mut self) {
        let api: Api<ModelSnapshot> = Api::all(self.client.clone());
        for name in self.objects.missing() {
            match get(&api, &name).await {
                Ok(spec) => {
                    self.objects.contents.insert(name, spec);
                }
                Err(error) => {
                    tracing::warn!(
                        snapshot = name,
                        error,
                        "cannot read a ModelSnapshot; trying again"
                    );
                }
            }
        }
        self.tell();
    }

    fn tell(&self) {
        let intent = self.objects.intent();
        let changed = self.intent.send_if_modified(|old| {
            let changed = *old != intent;
            *old = intent;
            changed
        });
        if changed && let Err(error) = state_file::save(&self.file, &self.objects) {
            tracing::warn!(%error, "cannot keep the intent; a restart without the API server would not know it");
        }
    }
}

async fn get(api: &Api<ModelSnapshot>, name: &str) -> Result<ModelSnapshotSpec, String> {
    match tokio::time::timeout(GET_TIMEOUT, api.get(name)).await {
        Ok(Ok(object)) => Ok(object.spec),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "the API server did not answer within {} s",
            GET_TIMEOUT.as_secs()
        )),
    }
}
