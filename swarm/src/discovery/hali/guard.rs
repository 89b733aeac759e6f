//! Which packets of hali's are news. Pure, with time passed in.
//!
//! A packet bears its time in seconds and no number, and its sender's address is not signed. So one that was heard before
//! counts only from the address that it came from first, and nobody becomes another's peer by repeating its packets later.
//! What may have been heard before this process started, or was forgotten, is refused as by the other
//! [`guard`](crate::discovery::guard).

use std::net::IpAddr;
use std::time::Duration;

use super::packet::Packet;
use crate::discovery::clock::Now;
use crate::discovery::refusal::Refusal;
use crate::discovery::senders::Senders;
use crate::discovery::window::Tolerance;

/// How far clocks may differ for hali.
pub const TOLERANCE: Tolerance = Tolerance {
    past: Duration::from_secs(30),
    ahead: Duration::from_secs(5),
};

/// Most senders that are remembered, some 300 bytes each.
const MAX_NODES: usize = 1024;

/// Remembers what was heard: where the latest packet of each sender came from.
#[derive(Debug)]
pub struct Guard(Senders<String, IpAddr>);

impl Guard {
    /// Has heard nothing, and believes nothing that may have been heard before.
    #[must_use]
    pub fn new(tolerance: Tolerance, now: Now) -> Self {
        Self(Senders::new(tolerance, MAX_NODES, now))
    }

    /// Whether a packet, whose signature was checked, is news. If so it is remembered.
    pub fn accept(&mut self, packet: &Packet, source: IpAddr, now: Now) -> Result<(), Refusal> {
        let Packet { node, sent_at, .. } = packet;
        self.0.follow(now);
        if self.0.is_stale(*sent_at) {
            return Err(Refusal::Stale);
        }
        if let Some(known) = self.0.get(node) {
            // One announcement may take several packets.
            let again = *sent_at == known.latest && source != known.heard;
            if *sent_at < known.latest || again {
                return Err(Refusal::Replayed);
            }
        }
        if *sent_at <= self.0.floor(node) {
            return Err(Refusal::PossiblyReplayed);
        }
        self.0.note(node, *sent_at, source, |heard| *heard = source);
        Ok(())
    }

    /// Forgets senders whose packets would be too old anyway.
    pub fn forget_stale(&mut self, now: Now) {
        self.0.forget_stale(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::discovery::clock::UnixMillis;

    fn start() -> Now {
        Now {
            wall: UnixMillis(1_700_000_000_000),
            monotonic: Instant::now(),
        }
    }

    fn later(now: Now, seconds: u64) -> Now {
        now.plus(Duration::from_secs(seconds))
    }

    fn packet(node: &str, sent_at: Now) -> Packet {
        Packet {
            node: node.to_owned(),
            sent_at: sent_at.wall,
            port: 1,
            seeds: Vec::new(),
        }
    }

    fn host(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn old_future_and_repeated_packets_are_no_news() {
        let begin = start();
        let mut guard = Guard::new(TOLERANCE, begin);
        let at = |seconds| later(begin, seconds);
        let mut accept =
            |sent_at, source, now| guard.accept(&packet("n", at(sent_at)), host(source), at(now));
        assert_eq!(accept(69, 1, 100), Err(Refusal::Stale));
        assert_eq!(accept(106, 1, 100), Err(Refusal::Stale));
        assert_eq!(accept(100, 1, 100), Ok(()));
        // A second page, and the same again from elsewhere.
        assert_eq!(accept(100, 1, 101), Ok(()));
        assert_eq!(accept(100, 2, 101), Err(Refusal::Replayed));
        assert_eq!(accept(99, 1, 101), Err(Refusal::Replayed));
        // It may move.
        assert_eq!(accept(101, 2, 102), Ok(()));
        assert_eq!(accept(101, 3, 132), Err(Refusal::Stale));
        let long_ago = Packet {
            sent_at: UnixMillis(0),
            ..packet("n", begin)
        };
        assert_eq!(
            guard.accept(&long_ago, host(1), at(103)),
            Err(Refusal::Stale)
        );
    }

    #[test]
    fn what_may_have_been_heard_by_another_life_is_no_news() {
        let begin = start();
        let mut guard = Guard::new(TOLERANCE, begin);
        let first = packet("n", later(begin, 5));
        assert_eq!(
            guard.accept(&first, host(1), later(begin, 5)),
            Err(Refusal::PossiblyReplayed)
        );
        let next = packet("n", later(begin, 6));
        assert_eq!(guard.accept(&next, host(1), later(begin, 6)), Ok(()));
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nobody_for_long() {
        let begin = start();
        let mut guard = Guard::new(TOLERANCE, begin);
        let now = later(begin, 60);
        assert_eq!(guard.accept(&packet("n", now), host(1), now), Ok(()));
        let back = Now {
            wall: now.wall.minus(Duration::from_hours(1)),
            ..now
        };
        let heard = guard.accept(&packet("m", back), host(2), back);
        assert_eq!(heard, Err(Refusal::PossiblyReplayed));
        let soon = later(back, 6);
        assert_eq!(guard.accept(&packet("m", soon), host(2), soon), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_not_heard_again() {
        let begin = start();
        let mut guard = Guard::new(TOLERANCE, begin);
        let now = later(begin, 60);
        for number in 0..=MAX_NODES {
            let node = format!("{number:04}");
            // Each a little later, so that the first one is the oldest.
            let sent_at = now.plus(Duration::from_millis(number as u64));
            assert_eq!(guard.accept(&packet(&node, sent_at), host(1), now), Ok(()));
        }
        assert_eq!(guard.0.len(), MAX_NODES);
        let again = guard.accept(&packet("0000", now), host(2), now);
        assert_eq!(again, Err(Refusal::PossiblyReplayed));
        guard.forget_stale(later(now, 60));
        assert_eq!(guard.0.len(), 0);
    }
}
