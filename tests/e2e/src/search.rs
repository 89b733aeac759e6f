//! Finds parts of known contents in anything that can be read: captured traffic, files of a node.

use std::collections::HashSet;
use std::io::{self, Read};

/// Length of the parts in bytes: short enough to be within one packet, long enough to be nothing else.
pub const WINDOW: usize = 64;

/// Base of the rolling hash; any odd number with bits all over does.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Parts of contents: each [`WINDOW`] of them that begins at a multiple of it. Who has 127 bytes of the contents in a row
/// has one of these.
#[derive(Clone, Debug, Default)]
pub struct Needles(HashSet<u64>);

impl Needles {
    /// The parts of these contents; an end that fills no window is left out.
    #[must_use]
    pub fn of(contents: &[u8]) -> Self {
        let (windows, _) = contents.as_chunks::<WINDOW>();
        let hash = |window: &[u8; WINDOW]| {
            let mut rolling = Rolling::default();
            for byte in window {
                rolling.push(*byte);
            }
            rolling.hash
        };
        Self(windows.iter().map(hash).collect())
    }

    /// How many different ones there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them stand in `hay`, at whatever place. Two different windows have the same hash once in 2⁶⁴ pairs.
    pub fn found_in(&self, mut hay: impl Read) -> io::Result<usize> {
        let mut found = HashSet::new();
        let mut rolling = Rolling::default();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let len = hay.read(&mut buffer)?;
            if len == 0 {
                return Ok(found.len());
            }
            for byte in &buffer[..len] {
                rolling.push(*byte);
                if rolling.full() && self.0.contains(&rolling.hash) {
                    found.insert(rolling.hash);
                }
            }
        }
    }
}

/// A polynomial of the last [`WINDOW`] bytes, modulo 2⁶⁴.
struct Rolling {
    hash: u64,
    last: [u8; WINDOW],
    seen: usize,
    /// What a byte counts when it leaves.
    weight: u64,
}

impl Default for Rolling {
    fn default() -> Self {
        Self {
            hash: 0,
            last: [0; WINDOW],
            seen: 0,
            weight: (0..WINDOW).fold(1, |weight: u64, _| weight.wrapping_mul(BASE)),
        }
    }
}

impl Rolling {
    fn push(&mut self, byte: u8) {
        let old = std::mem::replace(&mut self.last[self.seen % WINDOW], byte);
        self.seen += 1;
        // No byte counts nothing, or zeros of any number would be alike.
        let value = |byte: u8| u64::from(byte) + 1;
        let gone = if self.seen > WINDOW { value(old) } else { 0 };
        self.hash = self
            .hash
            .wrapping_mul(BASE)
            .wrapping_add(value(byte))
            .wrapping_sub(gone.wrapping_mul(self.weight));
    }

    fn full(&self) -> bool {
        self.seen >= WINDOW
    }
}

#[cfg(test)]
mod tests {
    use modelcache_test_hub::content::synthetic;

    use super::*;

    #[test]
    fn parts_are_found_at_any_place_and_nothing_else_is() {
        let contents = synthetic(7, 0, 10 * WINDOW + 5);
        let needles = Needles::of(&contents);
        assert_eq!(needles.len(), 10);
        assert_eq!(needles.found_in(&contents[..]).unwrap(), 10);
        let other = synthetic(8, 0, 3 << 20);
        assert_eq!(needles.found_in(&other[..]).unwrap(), 0);
        for before in [0, 1, 63, 64, 65, (1 << 20) - 30] {
            let mut hay = other[..before].to_vec();
            // Whatever part of so many bytes it is.
            hay.extend(&contents[7..7 + 2 * WINDOW - 1]);
            hay.extend(&other[..100]);
            assert_eq!(needles.found_in(&hay[..]).unwrap(), 1, "after {before}");
            let at = before + WINDOW;
            hay[at] ^= 1;
            assert_eq!(needles.found_in(&hay[..]).unwrap(), 0, "after {before}");
        }
        assert_eq!(needles.found_in(&contents[..WINDOW - 1]).unwrap(), 0);
    }
}
