//! Which packets of hali's are news. Pure, with time passed in.
//!
//! A packet bears its time in seconds and no number, and its sender's address is not signed. So one that was heard before
//! counts only from the address that it came from first, and nobody becomes another's peer by repeating its packets later.

use std::collections::HashMap;
use std::net::IpAddr;

use super::packet::Packet;
use crate::discovery::refusal::Refusal;

/// Oldest packet that hali takes, in seconds.
const OLDEST: i64 = 30;
/// How far a sender's clock may be ahead, in seconds.
const AHEAD: i64 = 5;
/// Senders that are remembered; no more are heard within half a minute.
const MAX_NODES: usize = 1024;

/// The latest packet of each sender: its time, and where it came from.
#[derive(Debug, Default)]
pub struct Guard {
    latest: HashMap<String, (i64, IpAddr)>,
}

impl Guard {
    /// Whether a packet is news; `now` in seconds since 1970.
    pub fn accept(&mut self, packet: &Packet, source: IpAddr, now: i64) -> Result<(), Refusal> {
        let sent_at = packet.sent_at;
        if sent_at < now.saturating_sub(OLDEST) || sent_at > now.saturating_add(AHEAD) {
            return Err(Refusal::Stale);
        }
        match self.latest.get(&packet.node) {
            Some((latest, _)) if sent_at < *latest => return Err(Refusal::Replayed),
            // One announcement may take several packets.
            Some((latest, from)) if sent_at == *latest && source != *from => {
                return Err(Refusal::Replayed);
            }
            Some(_) => {}
            None => {
                if self.latest.len() >= MAX_NODES {
                    self.forget_stale(now);
                }
                if self.latest.len() >= MAX_NODES {
                    return Err(Refusal::TooMany);
                }
            }
        }
        self.latest.insert(packet.node.clone(), (sent_at, source));
        Ok(())
    }

    /// Forgets senders whose packets would be too old anyway.
    pub fn forget_stale(&mut self, now: i64) {
        let oldest = now.saturating_sub(OLDEST);
        self.latest.retain(|_, (sent_at, _)| *sent_at >= oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(node: &str, sent_at: i64) -> Packet {
        Packet {
            node: node.to_owned(),
            sent_at,
            port: 1,
            seeds: Vec::new(),
        }
    }

    fn host(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn old_future_and_repeated_packets_are_no_news() {
        let mut guard = Guard::default();
        let mut accept =
            |sent_at, source, now| guard.accept(&packet("n", sent_at), host(source), now);
        for (sent_at, now) in [
            (0, 1000),
            (969, 1000),
            (1006, 1000),
            (i64::MAX, 1000),
            (i64::MIN, i64::MIN + 31),
        ] {
            assert_eq!(accept(sent_at, 1, now), Err(Refusal::Stale), "{sent_at}");
        }
        assert_eq!(accept(1000, 1, 1000), Ok(()));
        // A second page, and the same again from elsewhere.
        assert_eq!(accept(1000, 1, 1001), Ok(()));
        assert_eq!(accept(1000, 2, 1001), Err(Refusal::Replayed));
        assert_eq!(accept(999, 1, 1001), Err(Refusal::Replayed));
        // It may move.
        assert_eq!(accept(1001, 2, 1002), Ok(()));
        // When it is forgotten, its packets are too old.
        assert_eq!(accept(1001, 3, 1032), Err(Refusal::Stale));
    }

    #[test]
    fn memory_is_bounded() {
        let mut guard = Guard::default();
        for number in 0..MAX_NODES {
            let one = packet(&number.to_string(), 1000);
            assert_eq!(guard.accept(&one, host(1), 1000), Ok(()));
        }
        let more = packet("more", 1001);
        assert_eq!(guard.accept(&more, host(1), 1001), Err(Refusal::TooMany));
        let known = packet("0", 1001);
        assert_eq!(guard.accept(&known, host(1), 1001), Ok(()));
        let later = packet("later", 1031);
        assert_eq!(guard.accept(&later, host(1), 1031), Ok(()));
        assert_eq!(guard.latest.len(), 2);
    }
}
