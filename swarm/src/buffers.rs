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
const MAX_WASTE: usize = 2;

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
    /// The memory that serves with the least waste. Of several the last that came: it is most likely in the processor's cache.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let serves = len..=len.saturating_mul(MAX_WASTE);
        let places = self.memory.iter().map(Vec::capacity).enumerate().rev();
        let found = places.filter(|(_, capacity)| serves.contains(capacity));
        let (place, capacity) = found.min_by_key(|(_, capacity)| *capacity)?;
        self.bytes -= capacity;
        self.memory.remove(place)
    }

    /// Keeps memory. Returns what has waited longest when it is too much.
    fn give(&mut self, memory: Vec<u8>) -> Vec<Vec<u8>> {
        self.bytes += memory.capacity();
        self.memory.push_back(memory);
        let mut gone = Vec::new();
        while self.bytes > MAX_WAITING
            && let Some(oldest) = self.memory.pop_front()
        {
            self.bytes -= oldest.capacity();
            gone.push(oldest);
        }
        gone
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
        // New memory is taken cleared: pages that are never used then need not be there.
        let mut memory = used.unwrap_or_else(|| vec![0; len]);
        memory.resize(len, 0);
        Self(memory)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= MIN_KEPT {
            let gone = waiting().give(std::mem::take(&mut self.0));
            // Not under the lock: large memory goes back to the kernel.
            drop(gone);
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
        for (mark, len) in [(1, 1_000), (2, 100_000), (3, 1_500), (4, 1_000)] {
            waiting.give(vec![mark; len]);
        }
        assert_eq!(waiting.take(100_001), None);
        assert_eq!(waiting.take(3_000), None, "most of it would be wasted");
        assert_eq!(waiting.take(900), Some(vec![4; 1_000]), "the latest");
        assert_eq!(waiting.take(900), Some(vec![1; 1_000]), "the smallest");
        assert_eq!(waiting.take(900), Some(vec![3; 1_500]));
        assert_eq!(waiting.take(100_000), Some(vec![2; 100_000]));
        assert_eq!(waiting.bytes, 0);
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes() {
        let mut waiting = empty();
        waiting.give(vec![1; 5]);
        let gone: Vec<_> = (0..100)
            .flat_map(|_| waiting.give(vec![2; 1 << 20]))
            .collect();
        assert_eq!(gone.first(), Some(&vec![1; 5]));
        assert_eq!((waiting.bytes, waiting.memory.len()), (MAX_WAITING, 32));
        assert_eq!(waiting.give(vec![3; MAX_WAITING + 1]).len(), 33);
        assert_eq!((waiting.bytes, waiting.memory.len()), (0, 0));
    }

    #[test]
    fn a_buffer_has_the_length_that_was_asked_for() {
        for len in [0, 9, 777_777, 700_000, 777_777] {
            assert_eq!(Buffer::of(len).len(), len);
        }
    }

    #[test]
    fn the_memory_of_a_buffer_is_used_again() {
        // Other tests may take or displace it in between, but not each time.
        let again = (0..1_000).any(|_| {
            Buffer::of(20_000_003).fill(7);
            Buffer::of(20_000_003).first() == Some(&7)
        });
        assert!(again);
    }
}
