//! Under which names snapshots are to be visible, and since when they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use modelcache_swarm::store::{SnapshotStore, Store, StoreError};

use crate::intent::Intent;
use crate::state_file::{self, StateFileError};

/// One name: cache, model and the snapshot that it is.
type Name = (String, String, String);

/// The names that are wanted now. Links are made and removed one at a time and always by the latest wish, so that a slow
/// step never undoes a newer one.
pub(super) struct Names {
    wanted: Mutex<Vec<Name>>,
    turn: Mutex<()>,
    verified: Mutex<BTreeMap<String, Timestamp>>,
    file: PathBuf,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Names {
    /// With the times of earlier publications.
    pub(super) fn load(cache_dir: &Path) -> Result<Self, StateFileError> {
        let file = state_file::path(cache_dir, "verified.json");
        Ok(Self {
            wanted: Mutex::default(),
            turn: Mutex::default(),
            verified: Mutex::new(state_file::load(&file)?.unwrap_or_default()),
            file,
        })
    }

    /// Takes over the latest wish.
    pub(super) fn set(&self, intent: &Intent) {
        *locked(&self.wanted) = intent
            .snapshots
            .iter()
            .flat_map(|wanted| {
                wanted.models.iter().map(|model| {
                    (
                        model.cache.clone(),
                        model.model.clone(),
                        wanted.name.clone(),
                    )
                })
            })
            .collect();
    }

    /// Removes the links that nobody wants any more. Blocks.
    pub(super) fn retain(&self, store: &Store) -> Result<(), StoreError> {
        let _turn = locked(&self.turn);
        let wanted = locked(&self.wanted).clone();
        store.retain_models(&wanted)
    }

    /// Makes a snapshot visible under the names it is wanted under now. Blocks. Says when it was verified.
    pub(super) fn publish(&self, store: &SnapshotStore) -> Result<Timestamp, StoreError> {
        let _turn = locked(&self.turn);
        let name = &store.snapshot().name;
        let models: Vec<(String, String)> = locked(&self.wanted)
            .iter()
            .filter(|(_, _, snapshot)| snapshot == name)
            .map(|(cache, model, _)| (cache.clone(), model.clone()))
            .collect();
        let news = !store.published();
        store.publish(&models)?;
        let mut verified = locked(&self.verified);
        if let Some(at) = verified.get(name).filter(|_| !news) {
            return Ok(*at);
        }
        let at = Timestamp::now();
        verified.insert(name.clone(), at);
        if let Err(error) = state_file::save(&self.file, &*verified) {
            // Only the time would be lost.
            tracing::warn!(%error, "cannot keep the time of verification");
        }
        Ok(at)
    }
}
