//! Telling clients of each other (peer exchange, BEP 11). What they tell is not heard: nothing is taken from them.

mod reach;
mod roster;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::bencode::Bencode;
use crate::compact::compact;
use reach::can_dial;
pub(super) use roster::Roster;
use roster::Seat;

/// Most addresses that one message adds, and most that it takes back.
const MAX_TOLD: usize = 50;
/// A client is told at most once in so long.
const INTERVAL: Duration = Duration::from_mins(1);

/// What one client is told about one torrent.
#[derive(Debug)]
pub(super) struct Exchange {
    roster: Roster,
    info_hash: [u8; 20],
    client: IpAddr,
    /// What the client calls `ut_pex`, once it has said so.
    their_id: Option<u8>,
    /// Its place among those of whom others are told, if it can be dialled.
    seat: Option<Seat>,
    told: BTreeSet<SocketAddr>,
    next: Instant,
}

impl Exchange {
    /// With a client that comes from this address.
    pub(super) fn new(roster: Roster, info_hash: [u8; 20], client: IpAddr) -> Self {
        Self {
            roster,
            info_hash,
            client: client.to_canonical(),
            their_id: None,
            seat: None,
            told: BTreeSet::new(),
            next: Instant::now(),
        }
    }

    pub(super) fn info_hash(&self) -> [u8; 20] {
        self.info_hash
    }

    /// The client says what it calls `ut_pex`; 0: that it does not want it any longer.
    pub(super) fn named(&mut self, id: i64) {
        self.their_id = u8::try_from(id).ok().filter(|id| *id != 0);
    }

    /// The client says at which port it listens.
    pub(super) fn listens(&mut self, port: i64) {
        self.seat = None;
        if let Ok(port) = u16::try_from(port)
            && port != 0
        {
            let address = SocketAddr::new(self.client, port);
            self.seat = Some(self.roster.enter(self.info_hash, address));
        }
    }

    /// When the client may be told next, if it wants to be told at all.
    pub(super) fn due(&self) -> Option<Instant> {
        self.their_id.map(|_| self.next)
    }

    /// The next message, as it follows the byte 20, if it is time and there is news. Besides the other clients the torrent
    /// can be had `elsewhere`; `None`: nobody is to be told of anybody any longer.
    pub(super) fn message(
        &mut self,
        now: Instant,
        elsewhere: impl FnOnce() -> Option<Vec<SocketAddr>>,
    ) -> Option<Vec<u8>> {
        let id = self.their_id?;
        if now < self.next {
            return None;
        }
        self.next = now + INTERVAL;
        let own = self.seat.as_ref().map(Seat::address);
        let others = self.roster.all(self.info_hash);
        let known: BTreeSet<SocketAddr> = elsewhere()?
            .into_iter()
            .chain(others)
            .filter(|address| Some(*address) != own && can_dial(self.client, *address))
            .collect();
        let news = |of: &BTreeSet<SocketAddr>, than: &BTreeSet<SocketAddr>| -> Vec<SocketAddr> {
            of.difference(than).take(MAX_TOLD).copied().collect()
        };
        let added = news(&known, &self.told);
        let dropped = news(&self.told, &known);
        if added.is_empty() && dropped.is_empty() {
            return None;
        }
        self.told.retain(|address| !dropped.contains(address));
        self.told.extend(&added);
        Some([&[id], &encode(&added, &dropped)[..]].concat())
    }
}

/// The dictionary of a message. Of nobody it is said that it is a seed, encrypts or can be reached: that is not known.
fn encode(added: &[SocketAddr], dropped: &[SocketAddr]) -> Vec<u8> {
    let [added, added6] = compact(added.iter().copied());
    let [dropped, dropped6] = compact(dropped.iter().copied());
    let flags = |addresses: &[u8], len| Bencode::Bytes(vec![0; addresses.len() / len]);
    Bencode::dictionary([
        ("added.f", flags(&added, 6)),
        ("added6.f", flags(&added6, 18)),
        ("added", Bencode::Bytes(added)),
        ("added6", Bencode::Bytes(added6)),
        ("dropped", Bencode::Bytes(dropped)),
        ("dropped6", Bencode::Bytes(dropped6)),
    ])
    .encode()
}

#[cfg(test)]
mod tests;
