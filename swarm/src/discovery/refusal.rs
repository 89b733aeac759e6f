//! Why datagrams are not believed, and how many there were.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a datagram was dropped. Nothing is learned from it, whatever the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It is not what the protocol says: foreign, cut off, too long, or with an address that nobody can dial.
    Malformed,
    /// It is of a version of the protocol that is not spoken here.
    Version,
    /// It bears no signature, and signatures are wanted.
    Missing,
    /// Its signature does not fit its bytes.
    Wrong,
    /// It is signed with a key that is not known here.
    UnknownKey,
    /// Its time is too far from this machine's, in the past or in the future.
    Stale,
    /// It was heard before.
    Replayed,
    /// It may have been heard before this process started, or before its sender was forgotten.
    PossiblyReplayed,
    /// It comes from an address that it does not name as its sender's, or, where it names none, that is in no network of
    /// this machine.
    Elsewhere,
    /// Its source has sent too much.
    TooMany,
    /// It is of hali, which uses the same group and port.
    Hali,
}

impl Refusal {
    /// Every reason, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Version,
        Self::Missing,
        Self::Wrong,
        Self::UnknownKey,
        Self::Stale,
        Self::Replayed,
        Self::PossiblyReplayed,
        Self::Elsewhere,
        Self::TooMany,
        Self::Hali,
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::UnknownKey => "unknown_key",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::PossiblyReplayed => "possibly_replayed",
            Self::Elsewhere => "elsewhere",
            Self::TooMany => "too_many",
            Self::Hali => "hali",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Malformed => "another program uses this group and port: choose others",
            Self::Version => "nodes run different releases: update them",
            Self::Missing => "a node announces itself unsigned: give it the shared secret",
            Self::Wrong => "somebody forges announcements, or two secrets bear the same key id",
            Self::UnknownKey => "a node uses another shared secret, or a rotation is half done",
            Self::Stale => "clocks differ by more than the tolerance: run NTP on all nodes",
            Self::Replayed => "somebody repeats announcements, or two machines use one node name",
            Self::PossiblyReplayed => "normal in the first seconds after the start",
            Self::Elsewhere => {
                "somebody relays announcements, or an address translator is in between"
            }
            Self::TooMany => "somebody floods this network",
            Self::Hali => {
                "normal where machines run hali; with --hali-secret-file they and nodes know of each other"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of the datagrams that arrived. Shared by reference; counting never waits.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Counters {
    /// Counts one datagram that was believed.
    pub fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one datagram that was dropped.
    pub fn refuse(&self, reason: Refusal) {
        self.of(reason).fetch_add(1, Ordering::Relaxed);
    }

    /// Datagrams that were believed.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Datagrams that were dropped for this reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.of(reason).load(Ordering::Relaxed)
    }

    fn of(&self, reason: Refusal) -> &AtomicU64 {
        // The reasons are numbered from 0 in the order of `ALL`; see the test.
        &self.refused[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        let counters = Counters::default();
        for (number, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            for _ in 0..=number {
                counters.refuse(reason);
            }
        }
        counters.accept();
        for (number, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(counters.refused(reason), number as u64 + 1);
            assert!(!reason.advice().is_empty());
        }
        assert_eq!(counters.accepted(), 1);
        let names: std::collections::BTreeSet<_> = Refusal::ALL.map(Refusal::name).into();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
