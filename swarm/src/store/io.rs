//! Reading and writing a segment where its extents lie, and who may write.
//!
//! A byte of a blob has at most one writer at a time, and a durable byte has none: two models that share a file can be
//! filled side by side, and what was hashed from memory is what lies on disk. A writer owns the gaps of its segment
//! through a claim. Writes to the rest of the segment go nowhere: those bytes are here already.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use super::blob::{Blob, Files};
use super::error::StoreError;
use super::locked;
use crate::segment::{BlobId, Segment, SegmentIo};
use crate::verify::ClaimId;

/// One extent of a segment.
pub(super) struct Part {
    /// Where it starts within the segment.
    start: u64,
    /// Where it starts within the blob.
    offset: u64,
    len: u64,
    blob: Arc<Blob>,
    /// What of the blob the writer fills, in order.
    gaps: Vec<(u64, u64)>,
    /// Up to where in the blob this writer's bytes may have been hashed.
    fed: AtomicU64,
}

/// A writer's exclusive right to the gaps of one segment.
pub(super) struct Claim {
    pub(super) id: ClaimId,
    snapshot: String,
    segment: u32,
    pub(super) blobs: Vec<Arc<Blob>>,
    ranges: HashMap<BlobId, Vec<(u64, u64)>>,
    phase: RwLock<Phase>,
    alive: Weak<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Its bytes are being made durable.
    Sealed,
    Ended,
}

impl Claim {
    fn set(&self, phase: Phase) -> Phase {
        let mut now = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut now, phase)
    }

    fn overlaps(&self, ranges: &HashMap<BlobId, Vec<(u64, u64)>>) -> bool {
        ranges.iter().any(|(blob, theirs)| {
            self.ranges.get(blob).is_some_and(|ours| {
                ours.iter()
                    .any(|(s, e)| theirs.iter().any(|(start, end)| s < end && start < e))
            })
        })
    }

    /// Whether all of `start..end` of the blob is durable or claimed here.
    pub(super) fn completes(&self, blob: &Blob, start: u64, end: u64) -> bool {
        let ours = self.ranges.get(&blob.id).map_or(&[][..], Vec::as_slice);
        blob.gaps(start, end)
            .iter()
            .all(|gap| ours.iter().any(|own| own.0 <= gap.0 && gap.1 <= own.1))
    }

    /// Whether somebody ended it.
    pub(super) fn has_ended(&self) -> bool {
        *self.phase.read().unwrap_or_else(PoisonError::into_inner) == Phase::Ended
    }

    /// Whether it covers every byte of its segment.
    pub(super) fn is_all_of(&self, segment: &Segment) -> bool {
        let claimed: u64 = self.ranges.values().flatten().map(|(s, e)| e - s).sum();
        claimed == segment.len()
    }

    /// The blobs that it does not fill alone.
    pub(super) fn partial(&self) -> impl Iterator<Item = &Arc<Blob>> {
        self.blobs.iter().filter(|blob| {
            let ranges = self.ranges.get(&blob.id).into_iter().flatten();
            ranges.map(|(start, end)| end - start).sum::<u64>() < blob.size
        })
    }

    /// Its gaps are durable now.
    fn cover(&self) {
        for blob in &self.blobs {
            let mut state = locked(&blob.state);
            for (start, end) in self.ranges.get(&blob.id).into_iter().flatten() {
                state.durable.insert(*start, *end);
            }
        }
        for blob in &self.blobs {
            locked(&blob.prefix).settle(self.id);
        }
    }
}

/// All claims of a store.
#[derive(Default)]
pub(super) struct Claims {
    next: ClaimId,
    open: Vec<Arc<Claim>>,
}

impl Claims {
    /// A claim on what is missing of a segment, for the writer that `alive` stands for. Replaces an earlier one for
    /// the same segment of the same snapshot, and any whose writer is gone.
    fn open(
        &mut self,
        snapshot: &str,
        segment: u32,
        parts: &mut [Part],
        alive: Weak<()>,
    ) -> Result<Arc<Claim>, StoreError> {
        let mut ranges: HashMap<BlobId, Vec<(u64, u64)>> = HashMap::new();
        let mut blobs = Vec::new();
        for part in parts {
            part.gaps = part.blob.gaps(part.offset, part.offset + part.len);
            if !part.gaps.is_empty() {
                let claimed = ranges.entry(part.blob.id).or_default();
                if claimed.is_empty() {
                    blobs.push(Arc::clone(&part.blob));
                }
                claimed.extend(&part.gaps);
            }
        }
        let same = |claim: &Claim| claim.snapshot == snapshot && claim.segment == segment;
        let in_the_way = |claim: &&Arc<Claim>| same(claim) || claim.overlaps(&ranges);
        let mut replaced = Vec::new();
        for claim in self.open.iter().filter(in_the_way) {
            let phase = *claim.phase.read().unwrap_or_else(PoisonError::into_inner);
            let may_go = same(claim) || claim.alive.strong_count() == 0;
            if phase == Phase::Sealed || !may_go {
                return Err(StoreError::Busy {
                    snapshot: snapshot.to_owned(),
                    segment,
                    other: claim.snapshot.clone(),
                });
            }
            replaced.push(Arc::clone(claim));
        }
        for claim in replaced {
            self.revoke(&claim);
        }
        self.next += 1;
        let claim = Arc::new(Claim {
            id: self.next,
            snapshot: snapshot.to_owned(),
            segment,
            blobs,
            ranges,
            phase: RwLock::new(Phase::Open),
            alive,
        });
        self.open.push(Arc::clone(&claim));
        Ok(claim)
    }

    /// Ends a claim whose bytes do not count.
    pub(super) fn revoke(&mut self, claim: &Arc<Claim>) {
        claim.set(Phase::Ended);
        self.open.retain(|open| !Arc::ptr_eq(open, claim));
        for blob in &claim.blobs {
            locked(&blob.prefix).roll_back(claim.id);
        }
    }

    /// Ends every claim on a blob: what its writers bring does not count.
    pub(super) fn revoke_all(&mut self, blob: &BlobId) {
        let open = self.open.iter();
        let theirs: Vec<_> = open
            .filter(|claim| claim.ranges.contains_key(blob))
            .cloned()
            .collect();
        for claim in theirs {
            self.revoke(&claim);
        }
    }

    /// Ends a claim whose bytes are durable and journalled.
    pub(super) fn fulfil(&mut self, claim: &Arc<Claim>) {
        claim.cover();
        claim.set(Phase::Ended);
        self.open.retain(|open| !Arc::ptr_eq(open, claim));
    }

    /// Stops the writer of a segment, so that its bytes can be made durable.
    pub(super) fn seal(&mut self, snapshot: &str, segment: u32) -> Option<Arc<Claim>> {
        let claim = self
            .open
            .iter()
            .find(|claim| claim.snapshot == snapshot && claim.segment == segment)?;
        let mut phase = claim.phase.write().unwrap_or_else(PoisonError::into_inner);
        if *phase != Phase::Open {
            return None;
        }
        *phase = Phase::Sealed;
        Some(Arc::clone(claim))
    }
}

/// Where a segment's extents lie.
pub(super) fn parts(segment: &Segment, blobs: &BTreeMap<BlobId, Arc<Blob>>) -> Vec<Part> {
    let mut start = 0;
    let mut parts = Vec::new();
    for extent in &segment.extents {
        if let Some(blob) = blobs.get(&extent.blob) {
            parts.push(Part {
                start,
                offset: extent.offset,
                len: extent.len,
                blob: Arc::clone(blob),
                gaps: Vec::new(),
                fed: AtomicU64::new(0),
            });
        }
        start += extent.len;
    }
    parts
}

/// Reads a segment; writes it when it has a claim.
pub(super) struct PlacedSegment {
    size: u64,
    parts: Vec<Part>,
    files: Arc<Files>,
    claim: Option<(Arc<Claim>, Arc<()>)>,
}

/// A part of a call: the extent, where in its blob, which bytes of the buffer.
struct Slice<'a> {
    part: &'a Part,
    offset: u64,
    from: usize,
    to: usize,
}

impl PlacedSegment {
    pub(super) fn reader(segment: &Segment, parts: Vec<Part>, files: &Arc<Files>) -> Self {
        Self {
            size: segment.len(),
            parts,
            files: Arc::clone(files),
            claim: None,
        }
    }

    pub(super) fn writer(
        snapshot: &str,
        segment: &Segment,
        mut parts: Vec<Part>,
        files: &Arc<Files>,
        claims: &Mutex<Claims>,
    ) -> Result<Self, StoreError> {
        let alive = Arc::new(());
        let claim =
            locked(claims).open(snapshot, segment.index, &mut parts, Arc::downgrade(&alive))?;
        Ok(Self {
            size: segment.len(),
            parts,
            files: Arc::clone(files),
            claim: Some((claim, alive)),
        })
    }

    /// Reads on behalf of a claim whose bytes are not counted as held yet.
    pub(super) fn with_claim(mut self, claim: &Arc<Claim>) -> Self {
        self.claim = Some((Arc::clone(claim), Arc::default()));
        self
    }

    /// The extents that `len` bytes from `offset` of the segment fall into.
    fn slices(&self, offset: u64, len: usize) -> io::Result<Vec<Slice<'_>>> {
        let end = offset
            .checked_add(len as u64)
            .filter(|end| *end <= self.size)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "{len} bytes at {offset} are not within a segment of {} bytes",
                        self.size
                    ),
                )
            })?;
        let first = self
            .parts
            .partition_point(|part| part.start + part.len <= offset);
        let mut slices = Vec::new();
        for part in self.parts.iter().skip(first) {
            if part.start >= end {
                break;
            }
            let from = part.start.max(offset);
            let to = (part.start + part.len).min(end);
            slices.push(Slice {
                part,
                offset: part.offset + (from - part.start),
                from: index(from - offset)?,
                to: index(to - offset)?,
            });
        }
        Ok(slices)
    }

    /// Calls `each` with the claimed pieces of `data`: extent, offset in the blob, bytes.
    fn claimed(
        &self,
        offset: u64,
        data: &[u8],
        mut each: impl FnMut(&Claim, &Part, u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((claim, _)) = &self.claim else {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "this segment is held already and was opened for reading",
            ));
        };
        // Held while bytes are written: whoever ends the claim waits for them.
        let phase = claim.phase.read().unwrap_or_else(PoisonError::into_inner);
        if *phase != Phase::Open {
            return Err(io::Error::other(
                "this segment was completed or given to another writer meanwhile",
            ));
        }
        for slice in self.slices(offset, data.len())? {
            let end = slice.offset + (slice.to - slice.from) as u64;
            for (start, stop) in &slice.part.gaps {
                let (start, stop) = ((*start).max(slice.offset), (*stop).min(end));
                if start < stop {
                    let from = slice.from + index(start - slice.offset)?;
                    let to = slice.from + index(stop - slice.offset)?;
                    let bytes = data.get(from..to).unwrap_or_default();
                    each(claim, slice.part, start, bytes)?;
                }
            }
        }
        Ok(())
    }
}

fn index(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(io::Error::other)
}

impl SegmentIo for PlacedSegment {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.claimed(offset, data, |claim, part, offset, bytes| {
            if offset < part.fed.load(Ordering::Acquire) {
                locked(&part.blob.prefix).overwrite(claim.id, offset);
            }
            self.files.write(&part.blob, offset, bytes)
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for slice in self.slices(offset, buffer.len())? {
            let end = slice.offset + (slice.to - slice.from) as u64;
            if self.claim.is_none() && !slice.part.blob.covers(slice.offset, end) {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{} was thrown away meanwhile", slice.part.blob.id),
                ));
            }
            let bytes = buffer.get_mut(slice.from..slice.to).unwrap_or_default();
            self.files.read(&slice.part.blob, slice.offset, bytes)?;
        }
        Ok(())
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let Ok(slices) = self.slices(offset, buffer.len()) else {
            return false;
        };
        slices.iter().all(|slice| {
            let end = slice.offset + (slice.to - slice.from) as u64;
            let bytes = buffer.get_mut(slice.from..slice.to).unwrap_or_default();
            slice.part.blob.covers_now(slice.offset, end)
                && self
                    .files
                    .read_now(&slice.part.blob.id, slice.offset, bytes)
        })
    }

    fn checked(&self, offset: u64, data: &[u8]) {
        // What cannot be hashed now is read again later.
        let _ = self.claimed(offset, data, |claim, part, offset, bytes| {
            if let Ok(mut prefix) = part.blob.prefix.try_lock() {
                prefix.feed(offset, bytes, Some(claim.id));
                part.fed.store(prefix.position(), Ordering::Release);
            }
            Ok(())
        });
    }
}
