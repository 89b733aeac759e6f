//! The valid keys at any time, for those who use them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{KeyId, Keyring, SecretError};

/// How often the files are looked at. The kubelet itself needs a minute or so to bring a changed Secret to a node.
const LOOK_EVERY: Duration = if cfg!(test) {
    Duration::from_millis(5)
} else {
    Duration::from_secs(5)
};

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
        let (setter, keys) = Self::set_by_hand(ring);
        tokio::spawn(follow(path, setter));
        Ok(keys)
    }

    /// A view of what the owner of the setter puts in.
    #[must_use]
    pub fn set_by_hand(ring: Keyring) -> (KeySetter, Self) {
        let (sender, receiver) = watch::channel(Arc::new(ring));
        (KeySetter(sender), Self(receiver))
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

    /// Waits until the key of this name is not valid; for ever while it is.
    pub(crate) fn retired(&self, key: KeyId) -> impl Future<Output = ()> + Send + use<> {
        self.until(move |ring| ring.by_id(key).is_none())
    }

    /// Waits until the key to use is another one than at the time of the call.
    pub(crate) fn replaced(&self) -> impl Future<Output = ()> + Send + use<> {
        let key = self.now().current().id();
        self.until(move |ring| ring.current().id() != key)
    }

    fn until<F>(&self, mut so: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: FnMut(&Keyring) -> bool + Send,
    {
        let mut ring = self.0.clone();
        async move {
            let never = ring.wait_for(|ring| so(ring)).await.is_err();
            if never {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Changes what [`Keys`] show.
#[derive(Debug)]
pub struct KeySetter(watch::Sender<Arc<Keyring>>);

impl KeySetter {
    /// Shows these keys from now on.
    pub fn set(&self, ring: Keyring) {
        let keys = ring.names();
        let changed = self.0.send_if_modified(|known| {
            let ids = |ring: &Keyring| ring.keys().map(|key| key.id()).collect::<Vec<_>>();
            let differ = ids(known) != ids(&ring);
            if differ {
                *known = Arc::new(ring);
            }
            differ
        });
        if changed {
            tracing::info!(keys, "the cluster's secret changed");
        }
    }
}

async fn follow(path: PathBuf, setter: KeySetter) {
    let mut told = None;
    loop {
        tokio::select! {
            () = setter.0.closed() => return,
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
                setter.set(ring);
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
