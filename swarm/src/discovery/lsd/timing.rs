//! When to say which torrent: pure, with time and chance passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::discovery::announcement::ContentId;

/// How often each torrent is named (BEP 14).
pub const INTERVAL: Duration = Duration::from_mins(5);
/// Never more often than this, whoever asks (BEP 14).
pub const SPACING: Duration = Duration::from_mins(1);
/// Torrents that become due together are spread over this time.
const SPREAD: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Entry {
    due: Instant,
    last: Option<Instant>,
}

/// What is due when.
#[derive(Debug)]
pub struct LsdSchedule {
    chance: StdRng,
    entries: BTreeMap<ContentId, Entry>,
}

impl LsdSchedule {
    /// Nothing to say; `seed` decides about chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            chance: StdRng::seed_from_u64(seed),
            entries: BTreeMap::new(),
        }
    }

    /// What there is to say from now on.
    pub fn set(&mut self, info_hashes: &[ContentId], now: Instant) {
        self.entries.retain(|hash, _| info_hashes.contains(hash));
        for hash in info_hashes {
            let due = now + self.chance.random_range(Duration::ZERO..=SPREAD);
            let entry = Entry { due, last: None };
            self.entries.entry(*hash).or_insert(entry);
        }
    }

    /// Somebody else named this torrent: if it is one of ours, that one wants to hear of us.
    pub fn heard(&mut self, info_hash: ContentId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&info_hash) {
            let soonest = entry.last.map_or(now, |last| now.max(last + SPACING));
            entry.due = entry.due.min(soonest);
        }
    }

    /// When something is due next, if there is anything to say.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.entries.values().map(|entry| entry.due).min()
    }

    /// One torrent that is due now; it counts as said.
    pub fn take(&mut self, now: Instant) -> Option<ContentId> {
        let (hash, entry) = self.entries.iter_mut().min_by_key(|(_, entry)| entry.due)?;
        if entry.due > now {
            return None;
        }
        entry.last = Some(now);
        entry.due = now + INTERVAL + self.chance.random_range(Duration::ZERO..=SPREAD);
        Some(*hash)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> ContentId {
        ContentId([number; 20])
    }

    #[test]
    fn a_question_is_answered_at_once_but_not_twice_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = LsdSchedule::new(1);
        assert_eq!(schedule.due(), None);
        schedule.set(&[id(1)], start);
        assert_eq!(schedule.take(at(5)), Some(id(1)));
        assert_eq!(schedule.take(at(5)), None);
        schedule.heard(id(2), at(20));
        schedule.heard(id(1), at(20));
        assert_eq!(schedule.due(), Some(at(65)));
        assert_eq!(schedule.take(at(64)), None);
        assert_eq!(schedule.take(at(65)), Some(id(1)));
        schedule.heard(id(1), at(200));
        assert_eq!(schedule.take(at(200)), Some(id(1)));
        assert!(schedule.due().unwrap() >= at(500));
        schedule.set(&[], at(201));
        assert_eq!(schedule.due(), None);
    }

    proptest! {
        #[test]
        fn no_torrent_is_named_more_often_than_allowed(seed: u64, steps in prop::collection::vec((0_u8..4, 0_u64..40), 0..200)) {
            let mut now = Instant::now();
            let mut schedule = LsdSchedule::new(seed);
            schedule.set(&[id(0), id(1), id(2)], now);
            let mut last = BTreeMap::new();
            for (which, after) in steps {
                now += Duration::from_secs(after);
                schedule.heard(id(which), now);
                while let Some(hash) = schedule.take(now) {
                    if let Some(before) = last.insert(hash, now) {
                        prop_assert!(now - before >= SPACING);
                    }
                }
                prop_assert!(schedule.due().unwrap() > now);
            }
        }
    }
}
