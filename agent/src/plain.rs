//! Gives the files of models that everybody may have to BitTorrent clients that are no nodes of the cluster.
//!
//! Each file is a torrent of its own. Its piece hashes are read from the published file once, at the lowest priority, one file
//! after the other; from then on it can be taken from the plain port, and its magnet link is listed.

pub mod dht;
mod heralds;
mod shelf;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use modelcache_swarm::engine::{PlainListener, UploaderError};
use modelcache_swarm::metainfo::file::FileHashes;
use modelcache_swarm::store::SnapshotStore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::core::{Public, PublicSnapshot};
use crate::idle;

pub use heralds::Heralds;
pub use shelf::{Listed, Place, Shelf};

/// Listens on `addr` and gives what is on the shelf, which is filled with what is `public`, until `stop`. `heralds` name it
/// on the local network.
pub async fn start(
    addr: SocketAddr,
    shelf: Arc<Shelf>,
    heralds: Heralds,
    public: watch::Receiver<Public>,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, UploaderError> {
    let plain = Plain::bind(addr, shelf).await?;
    Ok(tokio::spawn(plain.run(public, heralds, stop)))
}

/// The listener, and what it gives.
struct Plain {
    listener: PlainListener,
    shelf: Arc<Shelf>,
}

impl Plain {
    async fn bind(addr: SocketAddr, shelf: Arc<Shelf>) -> Result<Self, UploaderError> {
        let counting = shelf.clone();
        let on_sent = Arc::new(move |hash, bytes| counting.sent(hash, bytes));
        Ok(Self {
            listener: PlainListener::bind(addr, shelf.clone(), on_sent).await?,
            shelf,
        })
    }

    /// Puts on the shelf what is `public`, and takes off what is not any longer.
    async fn run(
        self,
        mut public: watch::Receiver<Public>,
        heralds: Heralds,
        stop: CancellationToken,
    ) {
        let mut hashing: Option<Hashing> = None;
        // Tried again when what may be given changes.
        let mut failed = BTreeSet::new();
        loop {
            let wanted = public.borrow_and_update().clone();
            self.shelf.keep(&wanted);
            // What is not wanted any longer ends with the drop.
            hashing = hashing.filter(|one| {
                let wanted = wanted.get(&one.file.snapshot);
                wanted.is_some_and(|wanted| wanted.store == one.store)
            });
            hashing = hashing.or_else(|| self.next(&wanted, &failed).map(Hashing::start));
            heralds.name(self.listener.local_addr().port(), &self.shelf);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = public.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    failed.clear();
                }
                hashes = Hashing::end(&mut hashing) => {
                    let Some(Hashing { store, file, .. }) = hashing.take() else {
                        continue;
                    };
                    match hashes {
                        Some(hashes) => self.shelf.put(&store, file, hashes),
                        None => {
                            failed.insert(file);
                        }
                    }
                }
            }
        }
    }

    /// The next file that is wanted and not on the shelf.
    fn next(&self, wanted: &Public, failed: &BTreeSet<Place>) -> Option<(SnapshotStore, Place)> {
        wanted
            .iter()
            .find_map(|(name, PublicSnapshot { store, .. })| {
                let files = store.snapshot().files.iter().filter(|file| file.size > 0);
                let places = files.map(|file| Place {
                    snapshot: name.clone(),
                    path: file.path.clone(),
                    blob: file.blob,
                });
                let mut missing =
                    places.filter(|place| !failed.contains(place) && !self.shelf.has(place));
                Some((store.clone(), missing.next()?))
            })
    }
}

/// A file whose pieces are being hashed.
struct Hashing {
    store: SnapshotStore,
    file: Place,
    hashes: JoinHandle<Option<FileHashes>>,
    _cancel: DropGuard,
}

impl Hashing {
    fn start((store, file): (SnapshotStore, Place)) -> Self {
        let cancel = CancellationToken::new();
        let hashes = tokio::spawn(hash(store.clone(), file.clone(), cancel.clone()));
        Self {
            store,
            file,
            hashes,
            _cancel: cancel.drop_guard(),
        }
    }

    /// Waits for them, for ever if there is none to come.
    async fn end(hashing: &mut Option<Self>) -> Option<FileHashes> {
        match hashing {
            Some(hashing) => (&mut hashing.hashes).await.ok().flatten(),
            None => std::future::pending().await,
        }
    }
}

/// The hashes of a file's pieces, if it can be read.
async fn hash(store: SnapshotStore, file: Place, cancel: CancellationToken) -> Option<FileHashes> {
    let blob = file.blob;
    let hashes = idle::run(move || store.file_hashes(&blob, &cancel)).await?;
    match hashes {
        Ok(hashes) => hashes,
        Err(error) => {
            tracing::warn!(snapshot = file.snapshot, path = file.path, %error, "a file cannot be given to other BitTorrent clients");
            None
        }
    }
}
