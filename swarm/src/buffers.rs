//! Buffers that are used again.
//!
//! Each segment takes several, of some hundred kilobytes. From the allocator they come as fresh memory again and again, which
//! costs a page fault and the clearing of a page for each 4 KiB.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that wait for their next use, at most.
const MAX_WAITING: usize = 32 << 20;
/// What is smaller the allocator has at hand.
const MIN_KEPT: usize = 16 << 10;
/// A buffer serves for what needs this part of it, not for less.
const MAX_WASTE: usize = 4;

static WAITING: Mutex<Waiting> = Mutex::new(Waiting {
    bytes: 0,
    memory: VecDeque::new(),
});

/// Memory that nobody uses, in the order in which it came.
struct Waiting {
    bytes: usize,
    memory: VecDeque<Vec<u8>>,
}

impl Waiting {
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let serves =
            |memory: &Vec<u8>| (len..=len.saturating_mul(MAX_WASTE)).contains(&memory.capacity());
        // What came last is most likely in the processor's cache.
        let place = self.memory.iter().rposition(serves)?;
        let memory = self.memory.remove(place)?;
        self.bytes -= memory.capacity();
        Some(memory)
    }

    /// Keeps memory; what has waited longest goes when it is too much.
    fn give(&mut self, memory: Vec<u8>) {
        self.bytes += memory.capacity();
        self.memory.push_back(memory);
        while self.bytes > MAX_WAITING
            && let Some(oldest) = self.memory.pop_front()
        {
            self.bytes -= oldest.capacity();
        }
    }
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes whose memory is used again when this is dropped. Empty, it has none.
#[derive(Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// A buffer of so many bytes, whatever they are.
    pub(crate) fn of(len: usize) -> Self {
        let used = if len < MIN_KEPT {
            None
        } else {
            waiting().take(len)
        };
        let mut memory = used.unwrap_or_default();
        memory.resize(len, 0);
        Self(memory)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= MIN_KEPT {
            waiting().give(std::mem::take(&mut self.0));
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Waiting {
        Waiting {
            bytes: 0,
            memory: VecDeque::new(),
        }
    }

    #[test]
    fn memory_is_used_again_for_what_needs_about_as_much() {
        let mut waiting = empty();
        for len in [1_000, 100_000, 2_000] {
            waiting.give(vec![1; len]);
        }
        assert_eq!(waiting.take(100_001), None);
        assert_eq!(waiting.take(3_000), None, "most of it would be wasted");
        assert_eq!(waiting.take(900), Some(vec![1; 2_000]), "the latest");
        assert_eq!(waiting.take(900), Some(vec![1; 1_000]));
        assert_eq!(waiting.take(100_000), Some(vec![1; 100_000]));
        assert_eq!(waiting.bytes, 0);
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes() {
        let mut waiting = empty();
        waiting.give(vec![1; 5]);
        for _ in 0..100 {
            waiting.give(vec![2; 1 << 20]);
        }
        assert!(waiting.bytes <= MAX_WAITING);
        assert_eq!(waiting.memory.len(), 32);
        waiting.give(vec![3; MAX_WAITING + 1]);
        assert_eq!((waiting.bytes, waiting.memory.len()), (0, 0));
    }

    #[test]
    fn a_buffer_has_the_length_that_was_asked_for() {
        for len in [0, 9, 777_777, 700_000, 777_777] {
            assert_eq!(Buffer::of(len).len(), len);
        }
        let mut shorter = Buffer::of(777_777);
        let place = shorter.as_ptr();
        shorter.clear();
        drop(shorter);
        // Nobody else in these tests takes one of such a size.
        let again = Buffer::of(777_777);
        assert_eq!((again.len(), again.as_ptr()), (777_777, place));
    }
}
