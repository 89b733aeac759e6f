//! Everything that requests share.

use std::sync::{Arc, Mutex, RwLock};

use crate::admin::{CommitSpec, Counters, RepositorySpec, Settings, Token};
use crate::budget::Budgets;
use crate::connection::Switch;
use crate::counting::Counting;
use crate::fault::Faults;
use crate::file::build_files;
use crate::locks::{read, write};
use crate::repository::{Catalogue, ContentError};
use crate::signature::Signer;
use crate::throttle::Throttle;

/// Everything that requests share.
pub(crate) struct Shared {
    pub(crate) catalogue: RwLock<Catalogue>,
    pub(crate) tokens: RwLock<Vec<Token>>,
    pub(crate) settings: RwLock<Settings>,
    pub(crate) budgets: Budgets,
    pub(crate) faults: Faults,
    pub(crate) counting: Counting,
    pub(crate) signer: Signer,
    pub(crate) throttle: Arc<Throttle>,
    /// How clients reach the CDN.
    pub(crate) cdn_url: String,
    /// How clients reach the hub; without it, as the request says.
    pub(crate) hub_url: Option<String>,
    pub(crate) scheme: &'static str,
    pub(crate) hub: Switch,
    pub(crate) cdn: Switch,
    /// One change of the settings at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) requests: Mutex<u64>,
}

impl Shared {
    pub(crate) fn add_repository(&self, spec: &RepositorySpec) -> Result<String, ContentError> {
        let files = build_files(&spec.files)?;
        write(&self.catalogue).create(spec, files)
    }

    pub(crate) fn commit(&self, spec: &CommitSpec) -> Result<String, ContentError> {
        let files = build_files(&spec.files)?;
        write(&self.catalogue).commit(spec, files)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counting.counters(&read(&self.catalogue))
    }

    pub(crate) async fn set_settings(&self, settings: Settings) {
        let _one_at_a_time = self.changing.lock().await;
        let before = std::mem::replace(&mut *write(&self.settings), settings.clone());
        let budget =
            |settings: &Settings| (settings.window_seconds, settings.anonymous, settings.user);
        if budget(&before) != budget(&settings) {
            self.budgets.clear();
        }
        self.throttle.set(settings.bytes_per_second);
        self.hub.set(settings.hub).await;
        self.cdn.set(settings.cdn).await;
    }
}
