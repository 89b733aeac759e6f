//! Puts the picture of the cluster together: what the watches hold, what the hub said, and the tokens that models need.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, Client};
use modelcache_crds::conditions::reasons;
use modelcache_crds::names::CACHE_LABEL;
use modelcache_crds::{ModelCache, ModelCacheNode, ModelSnapshot};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::picture::{
    self, CacheSeen, ClaimSeen, IntentSeen, NodeSeen, Picture, SnapshotSeen, VolumeSeen,
};
use crate::reconcile::validate::{Model, World};
use crate::resolve::Resolver;
use crate::secrets::{TokenCache, Tokens};

/// One watch a kind.
pub struct Mirrors {
    caches: Mirror<CacheSeen>,
    nodes: Mirror<NodeSeen>,
    snapshots: Mirror<SnapshotSeen>,
    intents: Mirror<IntentSeen>,
    volumes: Mirror<VolumeSeen>,
    claims: Mirror<ClaimSeen>,
}

impl Mirrors {
    /// Begins to watch. `wake` is notified of each change that matters.
    #[must_use]
    pub fn start(
        client: &Client,
        wake: &Arc<Notify>,
        metrics: &Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Self {
        let all = watcher::Config::default;
        let ours = || watcher::Config::default().labels(CACHE_LABEL);
        let failed = |kind: &'static str| {
            let metrics = Arc::clone(metrics);
            move || metrics.watch_failure(kind)
        };
        Self {
            caches: Mirror::start(
                Api::<DeserializeGuard<ModelCache>>::all(client.clone()),
                all(),
                picture::cache,
                Arc::clone(wake),
                failed("ModelCache"),
                stop.clone(),
            ),
            nodes: Mirror::start(
                Api::<Node>::all(client.clone()),
                all(),
                picture::node,
                Arc::clone(wake),
                failed("Node"),
                stop.clone(),
            ),
            snapshots: Mirror::start(
                Api::<DeserializeGuard<ModelSnapshot>>::all(client.clone()),
                // Each may be more than a megabyte.
                all().page_size(20),
                picture::snapshot,
                Arc::clone(wake),
                failed("ModelSnapshot"),
                stop.clone(),
            ),
            intents: Mirror::start(
                Api::<DeserializeGuard<ModelCacheNode>>::all(client.clone()),
                all(),
                picture::intent,
                Arc::clone(wake),
                failed("ModelCacheNode"),
                stop.clone(),
            ),
            volumes: Mirror::start(
                Api::<PersistentVolume>::all(client.clone()),
                ours(),
                picture::volume,
                Arc::clone(wake),
                failed("PersistentVolume"),
                stop.clone(),
            ),
            claims: Mirror::start(
                Api::<PersistentVolumeClaim>::all(client.clone()),
                ours(),
                picture::claim,
                Arc::clone(wake),
                failed("PersistentVolumeClaim"),
                stop.clone(),
            ),
        }
    }

    /// Waits until everything was seen once. A plan made before would take what it does not see for gone.
    pub async fn synced(&self) {
        tokio::join!(
            self.caches.synced(),
            self.nodes.synced(),
            self.snapshots.synced(),
            self.intents.synced(),
            self.volumes.synced(),
            self.claims.synced(),
        );
    }
}

/// The picture as it is now, but for the tokens.
pub fn picture(mirrors: &Mirrors, resolver: &Resolver) -> Picture {
    Picture {
        caches: mirrors.caches.objects(),
        nodes: mirrors.nodes.objects(),
        snapshots: mirrors.snapshots.objects(),
        intents: mirrors.intents.objects(),
        volumes: mirrors.volumes.objects(),
        claims: mirrors.claims.objects(),
        resolutions: resolver.results(),
        tokens: Tokens::new(),
    }
}

/// The tokens that models need. Client required.
pub async fn tokens(picture: &Picture, world: &World, known: &mut TokenCache) -> Tokens {
    let models = world.caches.iter().flat_map(|cache| &cache.models);
    let wanted: BTreeSet<_> = models.filter_map(Model::token).collect();
    let doubted = if is_access_refused(picture) {
        wanted.clone()
    } else {
        BTreeSet::new()
    };
    known.get(&wanted, &doubted).await
}

/// Whether a node says that the hub refuses it: then a token may have been replaced.
fn is_access_refused(picture: &Picture) -> bool {
    let refusals = [reasons::UNAUTHORIZED, reasons::GATED];
    let snapshots = picture
        .intents
        .values()
        .flat_map(|seen| &seen.status.snapshots);
    snapshots
        .filter_map(|snapshot| snapshot.reason.as_deref())
        .any(|reason| refusals.contains(&reason))
}
