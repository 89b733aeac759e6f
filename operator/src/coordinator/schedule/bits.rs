//! A set of segment indices of fixed size, with the few operations over whole words that the schedule needs.

/// A set of numbers below a fixed limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// The empty set of numbers below `limit`.
    pub(super) fn empty(limit: u32) -> Self {
        Self {
            words: vec![0; (limit as usize).div_ceil(64)],
        }
    }

    /// All numbers below `limit`.
    pub(super) fn full(limit: u32) -> Self {
        let mut all = Self {
            words: vec![u64::MAX; (limit as usize).div_ceil(64)],
        };
        let rest = limit % 64;
        if rest != 0
            && let Some(last) = all.words.last_mut()
        {
            *last = (1 << rest) - 1;
        }
        all
    }

    /// The words, lowest numbers first.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn has(&self, number: u32) -> bool {
        self.words[number as usize / 64] >> (number % 64) & 1 == 1
    }

    pub(super) fn set(&mut self, number: u32, present: bool) {
        let bit = 1 << (number % 64);
        let word = &mut self.words[number as usize / 64];
        if present {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// Adds the numbers of another set of the same limit.
    pub(super) fn add(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// Keeps only the numbers that another set of the same limit has too.
    pub(super) fn keep(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.words)
            .flat_map(|(at, word)| ones(at, *word))
    }
}

/// The numbers that `word` at position `at` stands for.
fn ones(at: u32, mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let number = at * 64 + word.trailing_zeros();
            word &= word - 1;
            number
        })
    })
}

/// The first number for which `word(position)` has a bit and `accept` agrees.
pub(super) fn first(
    words: usize,
    word: impl Fn(usize) -> u64,
    mut accept: impl FnMut(u32) -> bool,
) -> Option<u32> {
    (0..)
        .zip(0..words)
        .flat_map(|(number, at)| ones(number, word(at)))
        .find(|number| accept(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn full_holds_every_number_below_the_limit() {
        for limit in [0, 1, 63, 64, 65, 200] {
            let all: Vec<_> = Bits::full(limit).iter().collect();
            assert_eq!(all, (0..limit).collect::<Vec<_>>());
        }
    }

    proptest! {
        #![proptest_config(crate::properties::cases(256))]

        #[test]
        fn looking_for_the_first_meets_every_number_once_in_order(limit in 1_u32..300, skip in 1_usize..7) {
            let mut set = Bits::empty(limit);
            for number in (0..limit).step_by(skip) {
                set.set(number, true);
            }
            let mut met = Vec::new();
            let found = first(set.words().len(), |at| set.words()[at], |number| {
                met.push(number);
                false
            });
            prop_assert_eq!(found, None);
            let expected: Vec<_> = (0..limit).filter(|n| set.has(*n)).collect();
            prop_assert_eq!(met, expected);
        }
    }
}
