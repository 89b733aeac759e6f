//! The node's cache on disk: crash-safe while it fills, right and whole when it is published.
//!
//! ```text
//! blobs/<etag>               verified contents (0444), hard-linked everywhere else
//! partial/<etag>             contents being filled, preallocated
//! journal/<snapshot>         durable records of held segments
//! pieces/<etag>              piece hashes of whole files that other BitTorrent clients may take
//! tmp/                       staging, and whole contents that nobody has proved yet; emptied at start
//! volumes/<snapshot>/hub/    one snapshot as a Hugging Face hub cache
//! volumes/<snapshot>/files/  the same snapshot as plain files
//! hub/                       hub cache with all snapshots of the node
//! models/<cache>/<model>     link to the volume that a PersistentVolume shows
//! lock                       held while an agent runs
//! ```
//!
//! What is written: data, synced; its record in the journal, synced; when a blob is complete, its hash; then the file
//! moves to `blobs/`; when all of a snapshot's blobs are there, it is staged in `tmp/`, synced, and appears by renames.
//! A crash at any point leaves a state from which the same steps go on. All calls block.

mod blob;
mod disk;
mod error;
mod examine;
mod file_hashes;
mod foreign;
mod io;
mod journal;
mod layout;
mod publish;
mod ranges;
mod recovered;
mod snapshot_store;
mod space;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::segment::BlobId;
use crate::snapshot::Snapshot;

use blob::{Blob, Files};
use io::Claims;
use journal::Journal;
use layout::Layout;
use recovered::{Recovered, recover};
use snapshot_store::Shared;

pub use error::StoreError;
pub use examine::{Disk, examine};
pub use foreign::{Foreign, Proof};
pub use snapshot_store::{Progress, SnapshotStore};
pub use space::Space;
pub use verdict::Verdict;

/// Where the bytes of a segment came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The hub.
    Origin,
    /// Another node.
    Peer,
}

/// A cache root, locked for this process. Clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    layout: Layout,
    _lock: File,
    files: Arc<Files>,
    blobs: Mutex<HashMap<BlobId, Arc<Blob>>>,
    /// What the journals say of blobs that no snapshot asked for yet.
    recovered: Mutex<HashMap<BlobId, Recovered>>,
    journals: Mutex<BTreeMap<String, Arc<Journal>>>,
    claims: Mutex<Claims>,
    /// Read while a record is appended and counted, written while records and what they stand for are thrown away.
    records: RwLock<()>,
    /// Blobs that each snapshot has reserved space for.
    reserved: Mutex<HashMap<String, Vec<Arc<Blob>>>>,
    /// Space is promised to one snapshot at a time.
    reserving: Mutex<()>,
    /// The node-wide hub cache has one writer at a time.
    publishing: Mutex<()>,
    snapshots: Mutex<HashMap<String, Weak<Shared>>>,
    /// How often something that was here was lost or thrown away: snapshots then look at all that they have.
    losses: AtomicU64,
}

/// A panic elsewhere does not make what a lock guards wrong: every state is valid between two statements.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens a cache root: makes its directories, takes its lock, empties `tmp/`, reads the journals.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        if !root.is_dir() {
            fs::create_dir_all(root).map_err(|error| StoreError::io("make", root, error))?;
        }
        let lock = take_lock(&layout)?;
        for directory in layout.directories() {
            disk::make_directory(&directory)?;
        }
        for name in entries(&layout.tmp())? {
            match disk::remove_tree(&layout.tmp().join(name)) {
                // What is held can be served all the same.
                Err(error) if error.is_read_only() => break,
                removed => removed?,
            }
        }
        disk::sync_directory(root)?;
        let mut journals = BTreeMap::new();
        let mut recovered: HashMap<BlobId, Recovered> = HashMap::new();
        for name in entries(&layout.journals())? {
            let (journal, records) = Journal::open(&layout.journals(), &layout.tmp(), &name)?;
            for (blob, said) in recover(&records) {
                recovered.entry(blob).or_default().merge(said);
            }
            journals.insert(name, Arc::new(journal));
        }
        Ok(Self(Arc::new(Inner {
            files: Arc::new(Files::new(layout.clone())),
            layout,
            _lock: lock,
            blobs: Mutex::default(),
            recovered: Mutex::new(recovered),
            journals: Mutex::new(journals),
            claims: Mutex::default(),
            records: RwLock::default(),
            reserved: Mutex::default(),
            reserving: Mutex::default(),
            publishing: Mutex::default(),
            snapshots: Mutex::default(),
            losses: AtomicU64::default(),
        })))
    }

    /// The part of the store that one snapshot sees: loads its journal and finds what is held already. Withdraws what
    /// was published when a content of it is no longer right.
    pub fn snapshot(&self, snapshot: Arc<Snapshot>) -> Result<SnapshotStore, StoreError> {
        layout::check_snapshot(&snapshot)?;
        let mut open = locked(&self.0.snapshots);
        if let Some(shared) = open.get(&snapshot.name).and_then(Weak::upgrade)
            && *shared.snapshot() == snapshot
        {
            return Ok(SnapshotStore::from(shared));
        }
        let name = snapshot.name.clone();
        let store = SnapshotStore::open(Arc::clone(&self.0), snapshot)?;
        open.retain(|_, shared| shared.strong_count() > 0);
        open.insert(name, store.downgrade());
        Ok(store)
    }

    /// Removes the links of models that are no longer asked for, and those that lead nowhere. Never removes data.
    /// Entries are (cache, model, snapshot).
    pub fn retain_models(&self, wanted: &[(String, String, String)]) -> Result<(), StoreError> {
        let models = self.0.layout.models();
        for cache in entries(&models)? {
            let directory = models.join(&cache);
            for model in entries(&directory)? {
                let link = directory.join(&model);
                let is_wanted = wanted.iter().any(|(c, m, _)| *c == cache && *m == model);
                if fs::symlink_metadata(&link).is_ok_and(|entry| entry.is_symlink())
                    && !(is_wanted && link.exists())
                {
                    disk::remove(&link)?;
                }
            }
            // Stays when it is not empty.
            let _ = fs::remove_dir(&directory);
        }
        Ok(())
    }
}

impl Inner {
    /// The one state of each blob of a snapshot, found on disk when it is asked for first.
    fn blobs(&self, snapshot: &Snapshot) -> Result<BTreeMap<BlobId, Arc<Blob>>, StoreError> {
        let mut known = locked(&self.blobs);
        let mut recovered = locked(&self.recovered);
        let mut found = BTreeMap::new();
        let mut lost = Vec::new();
        for (id, size) in snapshot.blobs() {
            let verified = self.find_verified(&id, size)?;
            if let Some(blob) = known.get(&id) {
                if blob.size != size {
                    return Err(StoreError::SizeConflict {
                        snapshot: snapshot.name.clone(),
                        blob: id,
                        size,
                        other: blob.size,
                    });
                }
                if blob.is_verified() && !verified {
                    lost.push(Arc::clone(blob));
                }
                found.insert(id, Arc::clone(blob));
                continue;
            }
            let partial = self.layout.partial(&id);
            let usable = fs::metadata(&partial).is_ok_and(|f| f.is_file() && f.len() == size);
            let journalled = recovered.remove(&id).unwrap_or_default();
            if verified && usable {
                disk::remove(&partial)?;
            }
            let is_lost = !verified && !usable && journalled.durable.len() > 0;
            let journalled = if usable {
                journalled
            } else {
                Recovered::default()
            };
            let blob = Arc::new(Blob::new(id, size, verified, journalled));
            if is_lost {
                lost.push(Arc::clone(&blob));
            }
            found.insert(id, blob);
        }
        // What the journals say of a content that is gone must not be believed of its successor.
        let gone: Vec<_> = lost.into_iter().map(|blob| (blob, 0, u64::MAX)).collect();
        let _alone = self.records.write().unwrap_or_else(PoisonError::into_inner);
        self.forget(&gone)?;
        for (blob, _, _) in &gone {
            locked(&blob.state).verified = false;
            self.files.close(&blob.id);
        }
        self.count_losses(&gone);
        known.extend(found.iter().map(|(id, blob)| (*id, Arc::clone(blob))));
        Ok(found)
    }

    /// Whether `blobs/` has the content; a file there of another size is removed.
    fn find_verified(&self, id: &BlobId, size: u64) -> Result<bool, StoreError> {
        let path = self.layout.blob(id);
        match fs::symlink_metadata(&path) {
            Ok(file) if file.is_file() && file.len() == size => Ok(true),
            Ok(file) => {
                tracing::warn!(blob = %path.display(), expected = size, found = file.len(), "removing a content of the wrong size");
                disk::remove_tree(&path)?;
                disk::sync_directory(&self.layout.blobs())?;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("look at", &path, error)),
        }
    }

    /// The journal of a snapshot and what it says.
    fn journal(&self, snapshot: &str) -> Result<(Arc<Journal>, Vec<journal::Record>), StoreError> {
        let mut journals = locked(&self.journals);
        if let Some(journal) = journals.get(snapshot) {
            return Ok((Arc::clone(journal), journal.records()?));
        }
        let (journal, records) =
            Journal::open(&self.layout.journals(), &self.layout.tmp(), snapshot)?;
        let journal = Arc::new(journal);
        journals.insert(snapshot.to_owned(), Arc::clone(&journal));
        Ok((journal, records))
    }

    /// Forgets ranges of blobs: first in every journal, then in memory. The caller holds `records`.
    fn forget(&self, gone: &[(Arc<Blob>, u64, u64)]) -> Result<(), StoreError> {
        self.forget_on_disk(gone)?;
        self.forget_in_memory(gone);
        Ok(())
    }

    fn forget_on_disk(&self, gone: &[(Arc<Blob>, u64, u64)]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let ranges: Vec<_> = gone.iter().map(|(blob, s, e)| (blob.id, *s, *e)).collect();
        let journals: Vec<_> = locked(&self.journals).values().cloned().collect();
        for journal in journals {
            journal.drop_extents(&ranges)?;
        }
        Ok(())
    }

    fn forget_in_memory(&self, gone: &[(Arc<Blob>, u64, u64)]) {
        for (blob, start, end) in gone {
            let mut state = locked(&blob.state);
            state.durable.remove(*start, *end);
            state.generation += 1;
            drop(state);
            locked(&blob.prefix).forget_from(*start);
        }
        self.count_losses(gone);
    }

    /// After it is no longer here: who has seen the new number sees that too.
    fn count_losses(&self, gone: &[(Arc<Blob>, u64, u64)]) {
        let number = gone.len() as u64;
        self.losses.fetch_add(number, Ordering::AcqRel);
    }
}

fn take_lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let mut options = OpenOptions::new();
    let opened = match options.create(true).truncate(false).write(true).open(&path) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => File::open(&path),
        opened => opened,
    };
    let lock = opened.map_err(|error| StoreError::io("open", &path, error))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { path }),
        Err(errno) => Err(StoreError::io("lock", &path, errno.into())),
    }
}

/// Names in a directory; none when it is no directory. Names that are not UTF-8 are not ours and left out.
fn entries(directory: &Path) -> Result<Vec<String>, StoreError> {
    let fail = |error| StoreError::io("list", directory, error);
    let listing = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        listing => listing.map_err(fail)?,
    };
    let mut names = Vec::new();
    for entry in listing {
        if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
