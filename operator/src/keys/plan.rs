//! What is to be done with the Secret, as a pure function of what it says and of the time.

use jiff::{SignedDuration, Timestamp};

/// What a Secret says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whether the key before the current one is still valid.
    pub has_previous: bool,
    /// When the operator last changed the key; absent: somebody else made the Secret, and the operator has not yet.
    pub rotated_at: Option<Timestamp>,
    /// When the Secret was made.
    pub created_at: Timestamp,
    /// Whether somebody asks for a new key.
    pub requested: bool,
}

/// When keys change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// After this time a key is followed by the next; absent: only when asked for.
    pub every: Option<SignedDuration>,
    /// How long the old one stays valid beside the new one.
    pub overlap: SignedDuration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Make a new key; the current one becomes the previous one.
    Rotate,
    /// Remove the previous key.
    Retire,
}

/// The next step. Never more than two keys: a new one waits until the last overlap is over.
#[must_use]
pub fn next_step(stored: &Stored, policy: &Policy, now: Timestamp) -> Step {
    let age = now.duration_since(stored.rotated_at.unwrap_or(stored.created_at));
    if stored.has_previous {
        // A previous key that the operator did not put there is for somebody else to remove.
        return match stored.rotated_at {
            Some(_) if age >= policy.overlap => Step::Retire,
            _ => Step::Keep,
        };
    }
    if stored.requested || policy.every.is_some_and(|every| age >= every) {
        Step::Rotate
    } else {
        Step::Keep
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        every: Some(SignedDuration::from_hours(24)),
        overlap: SignedDuration::from_hours(1),
    };

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
    }

    fn stored(has_previous: bool, rotated_at: Option<i64>, requested: bool) -> Stored {
        Stored {
            has_previous,
            rotated_at: rotated_at.map(at),
            created_at: at(0),
            requested,
        }
    }

    #[test]
    fn a_key_is_followed_by_the_next_on_request_and_by_the_clock() {
        for (what, hour, step) in [
            (stored(false, Some(0), false), 23, Step::Keep),
            (stored(false, Some(0), false), 24, Step::Rotate),
            (stored(false, Some(20), false), 24, Step::Keep),
            (stored(false, Some(0), true), 0, Step::Rotate),
            // Somebody else's, from when it was made.
            (stored(false, None, false), 23, Step::Keep),
            (stored(false, None, false), 24, Step::Rotate),
            // The old one until the overlap is over, and no third.
            (stored(true, Some(24), false), 24, Step::Keep),
            (stored(true, Some(24), true), 24, Step::Keep),
            (stored(true, Some(24), true), 25, Step::Retire),
            (stored(false, Some(24), true), 25, Step::Rotate),
            // An old one that somebody else keeps.
            (stored(true, None, true), 1000, Step::Keep),
            // A clock that was ahead once.
            (stored(true, Some(30), false), 24, Step::Keep),
        ] {
            assert_eq!(
                next_step(&what, &POLICY, at(hour)),
                step,
                "{what:?} at {hour}"
            );
        }
        let asked = Policy {
            every: None,
            ..POLICY
        };
        assert_eq!(
            next_step(&stored(false, Some(0), false), &asked, at(9999)),
            Step::Keep
        );
        assert_eq!(
            next_step(&stored(false, Some(0), true), &asked, at(1)),
            Step::Rotate
        );
    }

    proptest! {
        /// However often it is looked and asked: an old key is valid for the overlap at least, and never for ever.
        #[test]
        fn an_old_key_outlives_its_successor_by_the_overlap(
            looks in prop::collection::vec((1_i64..5_000, any::<bool>()), 1..200),
            every in prop::option::of(3_600_i64..100_000),
            overlap in 1_i64..10_000,
        ) {
            let policy = Policy {
                every: every.map(SignedDuration::from_secs),
                overlap: SignedDuration::from_secs(overlap),
            };
            let mut secret = stored(false, Some(0), false);
            let mut now = at(0);
            for (seconds, asked) in looks {
                now += SignedDuration::from_secs(seconds);
                secret.requested |= asked;
                match next_step(&secret, &policy, now) {
                    Step::Keep => {
                        let age = now.duration_since(secret.rotated_at.unwrap());
                        prop_assert!(!secret.has_previous || age < policy.overlap);
                        prop_assert!(secret.has_previous || !secret.requested);
                    }
                    Step::Rotate => {
                        prop_assert!(!secret.has_previous);
                        secret = Stored { has_previous: true, rotated_at: Some(now), requested: false, ..secret };
                    }
                    Step::Retire => {
                        prop_assert!(secret.has_previous);
                        prop_assert!(now.duration_since(secret.rotated_at.unwrap()) >= policy.overlap);
                        secret.has_previous = false;
                    }
                }
            }
        }
    }
}
