//! The valid keys at any time, for those who use them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Keyring, SecretError};

/// How often the files are looked at. The kubelet itself needs a minute or so to bring a changed Secret to a node.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A view of the keyring that follows its changes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keys(watch::Receiver<Arc<Keyring>>);

impl Keys {
    /// Loads the secret from `path` as [`Keyring::load`] does, and again whenever it changed, until the last clone is
    /// dropped. Must be called within a tokio runtime.
    ///
    /// A change that cannot be read is logged, and the keys stay as they were: a half-copied file must not end transfers.
    pub fn follow(path: PathBuf) -> Result<Self, SecretError> {
        let ring = Keyring::load(&path)?;
        tracing::info!(path = %path.display(), keys = ring.names(), "the cluster's secret is loaded");
        let (sender, keys) = Self::set_by_hand(ring);
        tokio::spawn(follow(path, sender));
        Ok(keys)
    }

    /// A view of what the owner of the sender puts in.
    #[must_use]
    pub fn set_by_hand(ring: Keyring) -> (watch::Sender<Arc<Keyring>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(ring));
        (sender, Self(receiver))
    }

    /// The keys that are valid now.
    #[must_use]
    pub fn now(&self) -> Arc<Keyring> {
        self.0.borrow().clone()
    }

    /// Waits until the keys are others than when this was last called; for ever when they no longer change.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn follow(path: PathBuf, sender: watch::Sender<Arc<Keyring>>) {
    let mut told = None;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let file = path.clone();
        let loaded = match tokio::task::spawn_blocking(move || Keyring::load(&file)).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(%error, "looking at the cluster's secret ended badly");
                continue;
            }
        };
        match loaded {
            Ok(ring) => {
                told = None;
                let changed = sender.send_if_modified(|known| {
                    let differ = !known
                        .iter()
                        .map(|key| key.id())
                        .eq(ring.iter().map(|key| key.id()));
                    if differ {
                        *known = Arc::new(ring);
                    }
                    differ
                });
                if changed {
                    let keys = sender.borrow().names();
                    tracing::info!(keys, "the cluster's secret changed");
                }
            }
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!(%error, "the cluster's secret changed but cannot be used; the keys stay as they were");
                    told = Some(text);
                }
            }
        }
    }
}
