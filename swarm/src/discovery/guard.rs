//! Which announcements are news: not too old, not heard before.
//!
//! # Replays
//!
//! Whoever listens on the network can record a datagram and send it again. Three things are remembered against that:
//!
//! * **The window of time.** A datagram whose time is more than [`Tolerance::past`] behind this machine's clock, or more
//!   than [`Tolerance::ahead`] before it, is stale. So only what was sent within their sum needs to be remembered at all.
//! * **Per node, what was heard.** A sender's lives are ordered by when they began (its boot id), the datagrams of one life
//!   by a sequence number. An earlier life is refused; within a life a datagram is accepted once, and up to 64 numbers
//!   behind the highest one, because two interfaces may deliver out of order. This goes by the signed name of the node and
//!   not by the source's address, which the one who repeats it chooses.
//! * **The floor.** A datagram must be later than everything that may have been heard of its node and forgotten: what was
//!   heard before this process started, and before the node was dropped to keep memory bounded. That goes for a node that
//!   has become known again too, or the numbers just behind its first new one could be repeated.
//!
//! The floor at the start is the start plus [`Tolerance::ahead`]: before it, nothing with a later time was acceptable. That
//! needs no file that would have to be written for each datagram and could be lost. The price is that a receiver is
//! deaf to nodes with exact clocks for `ahead` after its start (10 s, less than the interval of announcements), and
//! longer to those whose clock is behind. A sender whose clock is set back while it restarts looks like a replay until its
//! last datagram is stale, 40 s at most. When the receiver's own clock is set back, the floor is brought along: it
//! would else be deaf until the old time comes again.
//!
//! # Relays
//!
//! A datagram that one network has not heard yet can be carried there from another. The source's address must be among
//! the signed ones, so that this takes forging it as well; and all that would be learned is where the node really is.

use std::net::IpAddr;

use super::announcement::{Announcement, NodeName};
use super::clock::{Now, UnixMillis};
use super::refusal::Refusal;
use super::senders::Senders;
use super::window::Tolerance;

/// Most nodes that are remembered, some 300 bytes each.
pub const MAX_NODES: usize = 4096;

/// What was heard of one node.
#[derive(Debug)]
struct Heard {
    boot: UnixMillis,
    /// Highest sequence number.
    highest: u64,
    /// Bit n: `highest - n` was heard.
    recent: u64,
}

impl Heard {
    fn first(announcement: &Announcement) -> Self {
        Self {
            boot: announcement.boot,
            highest: announcement.sequence,
            recent: 1,
        }
    }

    /// Whether this is heard for the first time.
    fn is_news(&self, announcement: &Announcement) -> bool {
        let Announcement { boot, sequence, .. } = *announcement;
        if boot != self.boot {
            return boot > self.boot;
        }
        match self.highest.checked_sub(sequence) {
            None => true,
            Some(behind) => self.recent & bit(behind) == 0 && bit(behind) != 0,
        }
    }

    /// Remembers what is news.
    fn note(&mut self, announcement: &Announcement) {
        let Announcement { boot, sequence, .. } = *announcement;
        if boot != self.boot {
            *self = Self::first(announcement);
        } else if let Some(behind) = self.highest.checked_sub(sequence) {
            self.recent |= bit(behind);
        } else {
            let up = u32::try_from(sequence - self.highest).unwrap_or(u32::MAX);
            self.recent = self.recent.checked_shl(up).unwrap_or(0) | 1;
            self.highest = sequence;
        }
    }
}

/// The bit of the datagram so many numbers behind the highest; none when that is too far back.
fn bit(behind: u64) -> u64 {
    let behind = u32::try_from(behind).unwrap_or(u32::MAX);
    1_u64.checked_shl(behind).unwrap_or(0)
}

/// Remembers what was heard.
#[derive(Debug)]
pub struct Guard(Senders<NodeName, Heard>);

impl Guard {
    /// Has heard nothing, and believes nothing that may have been heard before.
    #[must_use]
    pub fn new(tolerance: Tolerance, now: Now) -> Self {
        Self(Senders::new(tolerance, MAX_NODES, now))
    }

    /// Whether an announcement, whose signature was checked, is news. If so it is remembered.
    pub fn accept(
        &mut self,
        announcement: &Announcement,
        source: IpAddr,
        now: Now,
    ) -> Result<(), Refusal> {
        let Announcement { node, sent_at, .. } = announcement;
        self.0.follow(now);
        if self.0.is_stale(*sent_at) {
            return Err(Refusal::Stale);
        }
        let known = self.0.get(node);
        if known.is_some_and(|known| !known.heard.is_news(announcement)) {
            return Err(Refusal::Replayed);
        }
        if *sent_at <= self.0.floor(node) {
            return Err(Refusal::PossiblyReplayed);
        }
        if !announcement.listening.names(source) {
            return Err(Refusal::Elsewhere);
        }
        let first = Heard::first(announcement);
        self.0
            .note(node, *sent_at, first, |heard| heard.note(announcement));
        Ok(())
    }

    /// Forgets the nodes of which everything that was heard is stale by now.
    pub fn forget_stale(&mut self, now: Now) {
        self.0.forget_stale(now);
    }

    /// How many nodes are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no node is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
