//! A set of byte ranges of one blob.

use std::collections::BTreeMap;

/// Disjoint, merged ranges `start..end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds `start..end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut from, mut to) = (start, end);
        while let Some((&s, &e)) = self.0.range(..=to).next_back()
            && e >= from
        {
            self.0.remove(&s);
            from = from.min(s);
            to = to.max(e);
        }
        self.0.insert(from, to);
    }

    /// Adds all of another set.
    pub(super) fn add(&mut self, other: &Self) {
        for (start, end) in &other.0 {
            self.insert(*start, *end);
        }
    }

    /// Takes `start..end` out.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..end).next_back()
            && e > start
        {
            self.0.remove(&s);
            if s < start {
                self.0.insert(s, start);
            }
            if e > end {
                self.0.insert(end, e);
            }
        }
    }

    /// Whether all of `start..end` is in the set.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        start >= end || self.end_of(start) >= end
    }

    /// Where the range that contains `start` ends; `start` itself when none does.
    pub(super) fn end_of(&self, start: u64) -> u64 {
        match self.0.range(..=start).next_back() {
            Some((_, &end)) if end > start => end,
            _ => start,
        }
    }

    /// What of `start..end` is not in the set.
    pub(super) fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut position = self.end_of(start);
        while position < end {
            let next = self
                .0
                .range(position..)
                .next()
                .map_or(end, |(&s, _)| s.min(end));
            gaps.push((position, next));
            position = self.end_of(next).max(next);
        }
        gaps
    }

    /// Number of bytes in the set.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ranges;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..30), 0..40),
            from in 0_u64..60, len in 0_u64..40,
        ) {
            let mut model = [false; 100];
            let mut ranges = Ranges::default();
            for (add, start, len) in steps {
                let end = start + len;
                for n in start..end {
                    model[usize::try_from(n).unwrap()] = add;
                }
                if add { ranges.insert(start, end) } else { ranges.remove(start, end) }
            }
            let is_in = |n: u64| model[usize::try_from(n).unwrap()];
            prop_assert_eq!(ranges.len(), model.iter().filter(|x| **x).count() as u64);
            prop_assert_eq!(ranges.covers(from, from + len), (from..from + len).all(is_in));
            let mut missing = Vec::new();
            for (start, end) in ranges.gaps(from, from + len) {
                prop_assert!(start < end);
                missing.extend(start..end);
            }
            let expected: Vec<u64> = (from..from + len).filter(|n| !is_in(*n)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(ranges.end_of(from), (from..100).find(|n| !is_in(*n)).unwrap_or(100));
        }
    }
}
