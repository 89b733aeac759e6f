//! What is known of each content on this node, and the few files that are open at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};

use rustix::io::{ReadWriteFlags, preadv2};

use super::layout::Layout;
use super::ranges::Ranges;
use super::recovered::Recovered;
use super::{disk, locked};
use crate::segment::BlobId;
use crate::verify::Prefix;

/// Files open at a time, however many a snapshot has.
const OPEN_FILES: usize = 64;

/// What statfs(2) calls the file system in memory.
const TMPFS: u64 = 0x0102_1994;

/// One content, shared by all snapshots that have it.
pub(super) struct Blob {
    pub(super) id: BlobId,
    pub(super) size: u64,
    pub(super) state: Mutex<BlobState>,
    pub(super) prefix: Mutex<Prefix>,
}

pub(super) struct BlobState {
    /// Whole, right and in `blobs/`.
    pub(super) verified: bool,
    /// Durable ranges of the partial file, each in some journal.
    pub(super) durable: Ranges,
    /// Ranges of the partial file whose bytes count for nothing, because the blob was wrong, but may be right.
    pub(super) leftover: Ranges,
    /// How often bytes of it were thrown away: what was read before is not what lies here now.
    pub(super) generation: u64,
    /// What was wrong with it when it was last thrown away.
    pub(super) fault: Option<String>,
}

impl BlobState {
    fn may_have(&self, start: u64, end: u64) -> bool {
        let gaps = self.durable.gaps(start, end);
        self.verified || gaps.iter().all(|(s, e)| self.leftover.covers(*s, *e))
    }
}

impl Blob {
    pub(super) fn new(id: BlobId, size: u64, verified: bool, journalled: Recovered) -> Self {
        let prefix = match &journalled.hashed {
            Some(checkpoint) => Prefix::resume(id, size, checkpoint),
            None => Prefix::new(id, size),
        };
        Self {
            id,
            size,
            state: Mutex::new(BlobState {
                verified,
                durable: journalled.durable,
                leftover: Ranges::default(),
                generation: 0,
                fault: None,
            }),
            prefix: Mutex::new(prefix),
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        locked(&self.state).verified
    }

    /// Whether `start..end` is durable here.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        let state = locked(&self.state);
        state.verified || state.durable.covers(start, end)
    }

    /// Whether `start..end` lies here, counted or not.
    pub(super) fn may_have(&self, start: u64, end: u64) -> bool {
        locked(&self.state).may_have(start, end)
    }

    /// [`Blob::may_have`] without waiting: true also when somebody is changing what is known of the blob.
    pub(super) fn may_have_now(&self, start: u64, end: u64) -> bool {
        let state = self.state.try_lock();
        state.map_or(true, |state| state.may_have(start, end))
    }

    /// [`Blob::covers`] without waiting: false also when somebody is changing what is known of the blob.
    pub(super) fn covers_now(&self, start: u64, end: u64) -> bool {
        self.state
            .try_lock()
            .is_ok_and(|state| state.verified || state.durable.covers(start, end))
    }

    /// What of `start..end` is not durable here.
    pub(super) fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let state = locked(&self.state);
        if state.verified {
            return Vec::new();
        }
        state.durable.gaps(start, end)
    }

    /// Where the durable range that contains `start` ends.
    pub(super) fn durable_end(&self, start: u64) -> u64 {
        let state = locked(&self.state);
        if state.verified {
            self.size
        } else {
            state.durable.end_of(start)
        }
    }

    /// Number of durable bytes.
    pub(super) fn durable_bytes(&self) -> u64 {
        let state = locked(&self.state);
        if state.verified {
            self.size
        } else {
            state.durable.len()
        }
    }
}

/// Opens the files of blobs, and keeps the latest few open.
pub(super) struct Files {
    layout: Layout,
    /// The cache lies in memory, so that no read waits for a disk.
    in_memory: bool,
    open: Mutex<Cache>,
    /// Whether `partial/` has entries that were not synced.
    new_partials: Mutex<bool>,
}

#[derive(Default)]
struct Cache {
    clock: u64,
    files: HashMap<BlobId, (u64, Arc<File>)>,
}

impl Cache {
    fn get(&mut self, id: &BlobId) -> Option<Arc<File>> {
        self.clock += 1;
        let clock = self.clock;
        let (used, file) = self.files.get_mut(id)?;
        *used = clock;
        Some(Arc::clone(file))
    }

    fn put(&mut self, id: BlobId, file: &Arc<File>) {
        if self.files.len() >= OPEN_FILES
            && let Some(oldest) = self.files.iter().min_by_key(|(_, (used, _))| *used)
        {
            let oldest = *oldest.0;
            self.files.remove(&oldest);
        }
        self.clock += 1;
        self.files.insert(id, (self.clock, Arc::clone(file)));
    }
}

impl Files {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            in_memory: rustix::fs::statfs(layout.root())
                .is_ok_and(|filesystem| u64::try_from(filesystem.f_type) == Ok(TMPFS)),
            layout,
            open: Mutex::default(),
            new_partials: Mutex::new(false),
        }
    }

    /// The file of a blob. A partial file that is not there is made when `create`.
    fn get(&self, blob: &Blob, create: bool) -> io::Result<Arc<File>> {
        // Under the blob's lock, so that the file is never opened between two places.
        let state = locked(&blob.state);
        if let Some(file) = locked(&self.open).get(&blob.id) {
            return Ok(file);
        }
        let file = if state.verified {
            File::open(self.layout.blob(&blob.id))?
        } else {
            let path = self.layout.partial(&blob.id);
            if !create && !path.exists() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{} is not on this node any more", blob.id),
                ));
            }
            let (file, created) = disk::open_sized(&path, blob.size)?;
            if created {
                *locked(&self.new_partials) = true;
            }
            file
        };
        let file = Arc::new(file);
        locked(&self.open).put(blob.id, &file);
        Ok(file)
    }

    /// The partial file of a blob, made when absent.
    pub(super) fn partial(&self, blob: &Blob) -> io::Result<Arc<File>> {
        self.get(blob, true)
    }

    /// Fills `buffer` from `offset` of the blob.
    pub(super) fn read(&self, blob: &Blob, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.get(blob, false)?.read_exact_at(buffer, offset)
    }

    /// Fills `buffer` from `offset` of the blob if its file is open and its bytes are in memory.
    pub(super) fn read_now(&self, id: &BlobId, offset: u64, buffer: &mut [u8]) -> bool {
        let Some(file) = locked(&self.open).get(id) else {
            return false;
        };
        if self.in_memory {
            return file.read_exact_at(buffer, offset).is_ok();
        }
        let len = buffer.len();
        let slices = &mut [IoSliceMut::new(buffer)];
        // Not all that is there, or a file system that cannot tell: the caller waits for it.
        preadv2(&*file, slices, offset, ReadWriteFlags::NOWAIT).is_ok_and(|read| read == len)
    }

    /// Writes at `offset` of the partial file.
    pub(super) fn write(&self, blob: &Blob, offset: u64, data: &[u8]) -> io::Result<()> {
        let file = self.get(blob, true)?;
        disk::write_at(&file, &self.layout.partial(&blob.id), offset, data)
    }

    /// Forgets the open file: it is about to move or to go.
    pub(super) fn close(&self, id: &BlobId) {
        locked(&self.open).files.remove(id);
    }

    /// Makes the names of all partial files durable.
    pub(super) fn sync_names(&self) -> Result<(), super::StoreError> {
        let mut new = locked(&self.new_partials);
        if *new {
            disk::sync_directory(&self.layout.partials())?;
            *new = false;
        }
        Ok(())
    }

    /// Bytes of the blob that have blocks on disk already.
    pub(super) fn allocated(&self, blob: &Blob) -> u64 {
        if blob.is_verified() {
            return blob.size;
        }
        fs::metadata(self.layout.partial(&blob.id))
            .map_or(0, |file| (file.blocks() * 512).min(blob.size))
    }
}
