//! How much each source may send, in bounded memory whatever arrives.
//!
//! Checking a signature costs a few microseconds, so the limits come before it, and they go by the source's address, which
//! can be forged. Two things keep a flood from others' addresses from silencing everybody: sources that have sent something
//! sound are limited each by itself, apart from strangers; and all strangers together have one limit, so that neither the
//! processor's time nor the list of them grows with the number of addresses that a flood is sent from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A steady rate with bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time in which one more is allowed.
    pub every: Duration,
    /// How many may come at once, at least 1.
    pub burst: u32,
}

impl Rate {
    fn window(self) -> Duration {
        self.every * self.burst.saturating_sub(1)
    }
}

/// A token bucket, kept as the time at which it is full again.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let full_at = self.full_at.max(now);
        let allowed = full_at.saturating_duration_since(now) <= rate.window();
        if allowed {
            self.full_at = full_at + rate.every;
        }
        allowed
    }
}

/// What sources may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Each source.
    pub each: Rate,
    /// All strangers together.
    pub strangers: Rate,
    /// Most sources that are remembered: as many known ones, and as many strangers.
    pub sources: usize,
}

/// What each source has sent lately.
#[derive(Debug)]
pub struct Sources {
    limits: Limits,
    known: HashMap<IpAddr, Bucket>,
    strangers: HashMap<IpAddr, Bucket>,
    together: Bucket,
}

impl Sources {
    /// Nobody has sent anything.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            known: HashMap::new(),
            strangers: HashMap::new(),
            together: Bucket::new(now),
        }
    }

    /// Whether one more datagram of this source is looked at.
    pub fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        let Limits {
            each, strangers, ..
        } = self.limits;
        if let Some(bucket) = self.known.get_mut(&source) {
            return bucket.take(now, each);
        }
        // A source's own limit comes first where there is one already, so that one flood does not use up what all
        // strangers share.
        if let Some(bucket) = self.strangers.get_mut(&source) {
            return bucket.take(now, each) && self.together.take(now, strangers);
        }
        if !self.together.take(now, strangers) {
            return false;
        }
        let mut bucket = Bucket::new(now);
        let admitted = bucket.take(now, each);
        insert(&mut self.strangers, source, bucket, self.limits.sources);
        admitted
    }

    /// This source has sent something sound.
    pub fn know(&mut self, source: IpAddr, now: Instant) {
        if let Some(bucket) = self.strangers.remove(&source) {
            insert(&mut self.known, source, bucket, self.limits.sources);
        } else if !self.known.contains_key(&source) {
            insert(
                &mut self.known,
                source,
                Bucket::new(now),
                self.limits.sources,
            );
        }
    }

    /// How many sources are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len() + self.strangers.len()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Adds a source; when there are too many, the one whose bucket has been full for the longest time is forgotten, which
/// changes least.
fn insert(sources: &mut HashMap<IpAddr, Bucket>, source: IpAddr, bucket: Bucket, most: usize) {
    if sources.len() >= most {
        let quietest = sources.iter().min_by_key(|(_, bucket)| bucket.full_at);
        if let Some(quietest) = quietest.map(|(source, _)| *source) {
            sources.remove(&quietest);
        }
    }
    sources.insert(source, bucket);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        each: Rate {
            every: Duration::from_millis(100),
            burst: 5,
        },
        strangers: Rate {
            every: Duration::from_millis(10),
            burst: 20,
        },
        sources: 50,
    };

    fn ip(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mut taken = |after| bucket.take(start + Duration::from_millis(after), LIMITS.each);
        assert!((0..5).all(|_| taken(0)));
        assert!(!taken(0) && !taken(99));
        assert!(taken(100) && !taken(100));
        // A long rest fills it to the brim and not further.
        assert!((0..5).all(|_| taken(10_000)) && !taken(10_000));
    }

    #[test]
    fn a_flood_silences_its_own_source_only() {
        let start = Instant::now();
        let mut sources = Sources::new(LIMITS, start);
        let admitted = (0..1000).filter(|_| sources.admit(ip(1), start)).count();
        assert_eq!(admitted, 5);
        assert!(sources.admit(ip(2), start));
    }

    #[test]
    fn a_flood_from_many_addresses_leaves_known_sources_alone() {
        let start = Instant::now();
        let mut sources = Sources::new(LIMITS, start);
        assert!(sources.admit(ip(7), start));
        sources.know(ip(7), start);
        let admitted = (1000..50_000)
            .filter(|number| sources.admit(ip(*number), start))
            .count();
        assert_eq!(admitted, 19);
        assert!(
            !sources.admit(ip(8), start),
            "strangers have used up theirs"
        );
        assert!((0..4).all(|_| sources.admit(ip(7), start)));
        assert!(!sources.admit(ip(7), start), "known ones are limited too");
    }

    proptest! {
        #[test]
        fn memory_is_bounded(datagrams in prop::collection::vec((any::<u32>(), any::<bool>(), 0_u64..50), 0..500)) {
            let mut now = Instant::now();
            let mut sources = Sources::new(LIMITS, now);
            for (source, sound, after) in datagrams {
                now += Duration::from_millis(after);
                if sources.admit(ip(source), now) && sound {
                    sources.know(ip(source), now);
                }
                prop_assert!(sources.known.len() <= 50 && sources.strangers.len() <= 50);
            }
        }
    }
}
