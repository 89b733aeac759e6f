//! Hashing a blob along its contiguous prefix while its parts arrive in any order.
//!
//! Bytes that are next in order are fed straight from memory, before anybody knows whether their segment will be
//! completed. So each writer's first byte leaves a mark to which the state returns when that writer gives up: what is
//! hashed is always what the file finally holds.

use serde::{Deserialize, Serialize};

use super::BlobHasher;
use crate::segment::BlobId;

/// Names one writer's claim on a range of bytes.
pub(crate) type ClaimId = u64;

/// The running hash of one blob.
pub(crate) struct Prefix {
    id: BlobId,
    size: u64,
    position: u64,
    hasher: Option<BlobHasher>,
    /// Counts the times that anything of this changed.
    epoch: u64,
    /// States before the first byte of each claim that is not durable yet, lowest position first.
    marks: Vec<Mark>,
    /// Where the latest checkpoint was.
    saved: u64,
}

struct Mark {
    claim: ClaimId,
    position: u64,
    hasher: Option<BlobHasher>,
}

/// How far a blob was hashed, of bytes that are durable: what a later start of the program goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Number of bytes hashed.
    pub(crate) position: u64,
    /// The state after them, in hexadecimal digits.
    state: String,
}

/// See [`Prefix::detach`].
pub(crate) struct Detached {
    epoch: u64,
    position: u64,
    hasher: BlobHasher,
}

impl Detached {
    /// Number of bytes hashed so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Hashes the next bytes.
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.position += data.len() as u64;
    }
}

impl Prefix {
    pub(crate) fn new(id: BlobId, size: u64) -> Self {
        Self {
            id,
            size,
            position: 0,
            hasher: None,
            epoch: 0,
            marks: Vec::new(),
            saved: 0,
        }
    }

    /// Goes on from a checkpoint; from the first byte if it is not one of such a blob.
    pub(crate) fn resume(id: BlobId, size: u64, from: &Checkpoint) -> Self {
        let mut prefix = Self::new(id, size);
        if matches!(id, BlobId::Sha256(_))
            && from.position <= size
            && let Some(hasher) = BlobHasher::resume(&from.state)
        {
            prefix.position = from.position;
            prefix.hasher = Some(hasher);
            prefix.saved = from.position;
        }
        prefix
    }

    /// How far the blob was hashed if the claim's bytes are durable now, when that is further than it was at the last
    /// call.
    pub(crate) fn checkpoint(&mut self, claim: ClaimId) -> Option<Checkpoint> {
        let others = self.marks.iter().find(|mark| mark.claim != claim);
        let (position, hasher) = match others {
            Some(mark) => (mark.position, &mark.hasher),
            None => (self.position, &self.hasher),
        };
        if position <= self.saved {
            return None;
        }
        let state = hasher.as_ref()?.save()?;
        self.saved = position;
        Some(Checkpoint { position, state })
    }

    /// Number of bytes hashed so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Hashes what of `data`, which lies at `offset` of the blob, is next in order. `claim` names the writer while the
    /// bytes are not durable.
    pub(crate) fn feed(&mut self, offset: u64, data: &[u8], claim: Option<ClaimId>) {
        let Some(skip) = self.position.checked_sub(offset) else {
            return;
        };
        let Some(next) = usize::try_from(skip).ok().and_then(|skip| data.get(skip..)) else {
            return;
        };
        if next.is_empty() {
            return;
        }
        if let Some(claim) = claim
            && self.marks.iter().all(|mark| mark.claim != claim)
        {
            self.marks.push(Mark {
                claim,
                position: self.position,
                hasher: self.hasher.clone(),
            });
        }
        let (id, size) = (&self.id, self.size);
        self.hasher
            .get_or_insert_with(|| BlobHasher::new(id, size))
            .update(next);
        self.position += next.len() as u64;
        self.epoch += 1;
    }

    /// A copy of the state that hashes durable bytes from disk while others go on feeding this one.
    pub(crate) fn detach(&self) -> Detached {
        Detached {
            epoch: self.epoch,
            position: self.position,
            hasher: self
                .hasher
                .clone()
                .unwrap_or_else(|| BlobHasher::new(&self.id, self.size)),
        }
    }

    /// Takes over what a copy hashed, unless anything changed here meanwhile.
    pub(crate) fn attach(&mut self, detached: Detached) {
        if detached.epoch == self.epoch {
            self.position = detached.position;
            self.hasher = Some(detached.hasher);
            self.epoch += 1;
        }
    }

    /// The claim's bytes are durable and will not change.
    pub(crate) fn settle(&mut self, claim: ClaimId) {
        self.marks.retain(|mark| mark.claim != claim);
    }

    /// The claim was given up: forget its bytes and everything after them.
    pub(crate) fn roll_back(&mut self, claim: ClaimId) {
        if let Some(index) = self.marks.iter().position(|mark| mark.claim == claim) {
            self.epoch += 1;
            let mut dropped = self.marks.drain(index..);
            if let Some(mark) = dropped.next() {
                self.position = mark.position;
                self.hasher = mark.hasher;
            }
        }
    }

    /// The claim's writer is about to change bytes from `offset` on: forget them if they were hashed already.
    pub(crate) fn overwrite(&mut self, claim: ClaimId, offset: u64) {
        if offset < self.position {
            self.roll_back(claim);
        }
    }

    /// Bytes from `offset` on are gone: start again if they were hashed.
    pub(crate) fn forget_from(&mut self, offset: u64) {
        self.epoch += 1;
        if offset < self.saved {
            self.saved = 0;
        }
        if offset < self.position {
            self.position = 0;
            self.hasher = None;
            self.marks.clear();
        }
    }

    /// The blob's real name, when every byte was hashed and is durable.
    pub(crate) fn finished(&self) -> Option<BlobId> {
        if self.position < self.size || !self.marks.is_empty() {
            return None;
        }
        let hasher = self.hasher.clone();
        Some(
            hasher
                .unwrap_or_else(|| BlobHasher::new(&self.id, self.size))
                .finish(),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Prefix;
    use crate::segment::BlobId;
    use crate::verify::BlobHasher;

    const ANY: BlobId = BlobId::Sha256([0; 32]);

    fn name(data: &[u8]) -> BlobId {
        let mut hasher = BlobHasher::new(&ANY, data.len() as u64);
        hasher.update(data);
        hasher.finish()
    }

    #[test]
    fn a_writer_that_gives_up_leaves_no_trace() {
        let good = [7_u8; 100];
        let mut prefix = Prefix::new(ANY, 100);
        prefix.feed(0, &[1; 30], Some(1));
        prefix.feed(30, &[2; 30], Some(2));
        assert_eq!(prefix.position(), 60);
        prefix.roll_back(1);
        assert_eq!(prefix.position(), 0);
        prefix.feed(0, &good[..50], Some(3));
        prefix.overwrite(3, 20);
        assert_eq!(prefix.position(), 0);
        prefix.feed(0, &good, Some(3));
        assert_eq!(prefix.finished(), None);
        prefix.settle(3);
        assert_eq!(prefix.finished(), Some(name(&good)));
    }

    /// As after a start of the program.
    fn resumed(checkpoint: &super::Checkpoint, size: u64) -> Prefix {
        let text = serde_json::to_string(checkpoint).unwrap();
        Prefix::resume(ANY, size, &serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_checkpoint_has_nothing_that_is_not_durable() {
        let data: Vec<u8> = (0..200).collect();
        let mut prefix = Prefix::new(ANY, 200);
        prefix.feed(0, &data[..30], Some(1));
        prefix.feed(30, &data[30..70], Some(2));
        prefix.feed(70, &data[70..100], Some(1));
        assert_eq!(prefix.checkpoint(2), None);
        let first = prefix.checkpoint(1).unwrap();
        assert_eq!(first.position, 30);
        prefix.settle(1);
        assert_eq!(prefix.checkpoint(9), None);
        assert_eq!(prefix.checkpoint(2).unwrap().position, 100);
        prefix.settle(2);
        prefix.forget_from(50);
        prefix.feed(0, &data[..30], None);
        assert_eq!(prefix.checkpoint(9), Some(first));
    }

    #[test]
    fn what_is_no_state_is_begun_anew() {
        let mut prefix = Prefix::new(ANY, 64);
        prefix.feed(0, &[1; 20], None);
        let good = prefix.checkpoint(1).unwrap();
        assert_eq!(resumed(&good, 64).position(), 20);
        assert_eq!(resumed(&good, 19).position(), 0);
        assert_eq!(
            Prefix::resume(BlobId::Git([0; 20]), 64, &good).position(),
            0
        );
        let mut bad = good.clone();
        bad.state.truncate(9);
        assert_eq!(resumed(&bad, 64).position(), 0);
        let mut git = Prefix::new(BlobId::Git([0; 20]), 64);
        git.feed(0, &[1; 20], None);
        assert_eq!(git.checkpoint(1), None);
    }

    #[test]
    fn a_copy_counts_only_when_nothing_changed() {
        let data = [3_u8; 90];
        let mut prefix = Prefix::new(ANY, 90);
        let mut early = prefix.detach();
        early.update(&data[..40]);
        let mut late = prefix.detach();
        late.update(&[9; 10]);
        prefix.attach(early);
        assert_eq!(prefix.position(), 40);
        prefix.attach(late);
        assert_eq!(prefix.position(), 40);
        let mut stale = prefix.detach();
        stale.update(&[9; 50]);
        prefix.forget_from(40);
        prefix.attach(stale);
        prefix.feed(40, &data[40..], None);
        assert_eq!(prefix.finished(), Some(name(&data)));
    }

    proptest! {
        #[test]
        fn any_order_of_chunks_gives_the_same_name(
            data in prop::collection::vec(any::<u8>(), 0..300),
            order in prop::collection::vec((0_usize..300, 1_usize..80), 0..60),
            kills in prop::collection::vec(any::<bool>(), 60),
        ) {
            let mut prefix = Prefix::new(ANY, data.len() as u64);
            for ((start, len), kill) in order.into_iter().zip(kills) {
                let start = start.min(data.len());
                let end = (start + len).min(data.len());
                prefix.feed(start as u64, &data[start..end], Some(start as u64));
                if kill && let Some(checkpoint) = prefix.checkpoint(start as u64) {
                    prefix = resumed(&checkpoint, data.len() as u64);
                }
            }
            let position = usize::try_from(prefix.position()).unwrap();
            prefix.feed(position as u64, &data[position..], None);
            for claim in 0..300 {
                prefix.settle(claim);
            }
            prop_assert_eq!(prefix.finished(), Some(name(&data)));
        }
    }
}
