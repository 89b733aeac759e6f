//! The HTTP tracker (BEP 3): says who else is in a swarm. Pure: queries and times come in, answers go out.
//!
//! Agents announce each snapshot that they hold or want under its [`ContentId`], so the tracker answers which nodes have it.
//! It crosses routers, where multicast does not. What it says are hints about addresses: what peers send is checked against
//! the snapshot.
//!
//! A torrent that is [registered](Tracker::register), which is what the wanted snapshots are, is for members of the cluster
//! only: their announces and the answers are signed (`proof`). About another torrent a [private](Admission::Private)
//! tracker says nothing; a [public](Admission::Public) one serves it to any BitTorrent client. Members and strangers are kept
//! apart, so that a flood of these takes no room from those.
//!
//! A peer's address is that of the connection. `ip`, by which a client can name another, is believed of members only: it is
//! signed, and an address translator may stand between a pod and the tracker; with it a stranger could send clients to a
//! third party. `key`, by which a client shows that it is the same at another address, is not needed: the old address expires.

pub mod answer;
pub mod client;
mod proof;
mod query;
pub mod refusal;
mod replay;
mod schedule;
mod swarms;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::answer::{Answer, MAX_PEERS};
use self::proof::Proof;
use self::query::{Announce, Event, MAX_QUERY, QueryError};
use self::refusal::Refusal;
use self::replay::{MAX_REQUESTS, Replays};
use self::swarms::{Limits, Member, Swarms};
use crate::crowd;
use crate::discovery::announcement::{ContentId, can_be_dialled};
use crate::discovery::clock::Now;
use crate::discovery::rate::{self, Rate, Sources};
use crate::discovery::window::Tolerance;
use crate::secret::Keyring;

/// How often clients are to announce: often enough for the table of peers to stay fresh.
pub const INTERVAL: Duration = Duration::from_mins(2);
/// How soon they may announce again without anything having happened.
pub const MIN_INTERVAL: Duration = Duration::from_secs(30);
/// Who has missed two announces is gone.
const EXPIRY: Duration = Duration::from_mins(4);
/// Peers in an answer to a client that does not say how many it wants.
const NUMWANT: usize = 50;
/// How often those who are gone are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Some 100 bytes a peer. A node is at most once in each swarm.
const MEMBERS: Limits = Limits {
    torrents: 4_096,
    peers: 4_096,
    per_host: 4_096,
    // Nodes of a cluster often share a network.
    host: |address| address,
    all: 65_536,
    expiry: EXPIRY,
};
const STRANGERS: Limits = Limits {
    torrents: 1_024,
    peers: 512,
    per_host: 64,
    host: crowd::source,
    all: 8_192,
    expiry: EXPIRY,
};
/// A node announces each of its snapshots when it starts; behind an address translator there may be many nodes.
const RATES: rate::Limits = rate::Limits {
    each: Rate {
        every: Duration::from_millis(5),
        burst: 1_000,
    },
    strangers: Rate {
        every: Duration::from_millis(2),
        burst: 2_000,
    },
    sources: 4_096,
};

/// Whom the tracker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Members of the cluster, about what is registered.
    Private,
    /// Besides, any client about anything else.
    Public,
}

/// All that the tracker knows.
#[derive(Debug)]
pub struct Tracker {
    admission: Admission,
    registered: BTreeSet<ContentId>,
    members: Swarms,
    strangers: Swarms,
    replays: Replays,
    sources: Sources,
    chance: StdRng,
    swept: Instant,
}

impl Tracker {
    /// Knows nobody. Which peers are named follows from `seed`.
    #[must_use]
    pub fn new(admission: Admission, seed: u64, now: Now) -> Self {
        Self {
            admission,
            registered: BTreeSet::new(),
            members: Swarms::new(MEMBERS),
            strangers: Swarms::new(STRANGERS),
            replays: Replays::new(Tolerance::default(), MAX_REQUESTS, now),
            sources: Sources::new(RATES, now.monotonic),
            chance: StdRng::seed_from_u64(seed),
            swept: now.monotonic,
        }
    }

    /// From now on these torrents are for members, and no others. Who was known of those that are left out is forgotten.
    pub fn register(&mut self, torrents: BTreeSet<ContentId>) {
        if torrents != self.registered {
            self.members.retain(|torrent| torrents.contains(torrent));
            self.strangers.retain(|torrent| !torrents.contains(torrent));
            self.registered = torrents;
        }
    }

    /// Answers the query of an announce that came from `source`.
    pub fn announce(
        &mut self,
        query: &str,
        source: IpAddr,
        ring: &Keyring,
        now: Now,
    ) -> Result<Vec<u8>, Refusal> {
        let source = self.admit(query, source, now)?;
        let proof = Proof::find(query)?;
        let signed = match &proof {
            Some(proof) => {
                let key = proof.check(ring)?;
                self.replays.accept(proof.sent_at, proof.mac, now)?;
                Some(key)
            }
            None if self.admission == Admission::Private => return Err(Refusal::Missing),
            None => None,
        };
        let announce = Announce::parse(query)?;
        let torrent = announce.info_hash;
        let registered = self.registered.contains(&torrent);
        // A stranger does not learn whether the cluster has it, and a member is told of members only: it believes what is signed.
        if registered != signed.is_some() {
            return Err(Refusal::Unregistered);
        }
        let host = announce.ip.filter(|_| signed.is_some()).unwrap_or(source);
        let member = Member {
            address: SocketAddr::new(host, announce.port.get()),
            id: announce.peer_id,
            whole: announce.left == 0,
        };
        if registered && !can_be_dialled(member.address) {
            return Err(Refusal::Unsound);
        }
        let answer = self.take(&announce, member, registered, now.monotonic)?;
        if signed.is_some() {
            self.sources.know(crowd::source(source), now.monotonic);
        }
        let mut bytes = answer.encode(announce.form);
        if let Some(key) = signed {
            key.sign(&mut bytes);
        }
        Ok(bytes)
    }

    /// Answers the query of a scrape. It is about torrents that are not registered: nobody needs it for the others, which
    /// are shown as if nobody had them.
    pub fn scrape(&mut self, query: &str, source: IpAddr, now: Now) -> Result<Vec<u8>, Refusal> {
        self.admit(query, source, now)?;
        if self.admission == Admission::Private {
            return Err(Refusal::Missing);
        }
        let torrents = query::parse_scrape(query)?.into_iter();
        let counted = torrents.filter_map(|torrent| {
            let counts = self.strangers.counts(torrent, now.monotonic)?;
            Some((torrent, counts))
        });
        Ok(answer::scrape(&counted.collect::<BTreeMap<_, _>>()))
    }

    /// How many swarms there are, and how many peers in all of them.
    pub fn numbers(&mut self, now: Instant) -> (usize, usize) {
        self.sweep(now);
        let (members, strangers) = (self.members.numbers(), self.strangers.numbers());
        (members.0 + strangers.0, members.1 + strangers.1)
    }

    /// What comes before anything that costs time. Gives the source as it is without IPv6's clothes.
    fn admit(&mut self, query: &str, source: IpAddr, now: Now) -> Result<IpAddr, Refusal> {
        let source = source.to_canonical();
        if !self.sources.admit(crowd::source(source), now.monotonic) {
            return Err(Refusal::TooMany);
        }
        if query.len() > MAX_QUERY {
            return Err(QueryError::TooLong.into());
        }
        if now.monotonic.saturating_duration_since(self.swept) >= SWEEP_EVERY {
            self.sweep(now.monotonic);
        }
        Ok(source)
    }

    fn sweep(&mut self, now: Instant) {
        self.members.expire(now);
        self.strangers.expire(now);
        self.swept = now;
    }

    /// Notes what the client says, and tells it of others.
    fn take(
        &mut self,
        announce: &Announce,
        member: Member,
        registered: bool,
        now: Instant,
    ) -> Result<Answer, Refusal> {
        let torrent = announce.info_hash;
        let swarms = if registered {
            &mut self.members
        } else {
            &mut self.strangers
        };
        let mut wanted = announce
            .numwant
            .map_or(NUMWANT, |wanted| {
                usize::try_from(wanted).unwrap_or(MAX_PEERS)
            })
            .min(MAX_PEERS);
        if announce.event == Some(Event::Stopped) {
            swarms.leave(torrent, member.address);
            wanted = 0;
        } else if !swarms.join(torrent, member, now) {
            return Err(Refusal::Full);
        }
        if announce.event == Some(Event::Completed) {
            swarms.completed(torrent);
        }
        let counts = swarms.counts(torrent, now).unwrap_or_default();
        Ok(Answer {
            interval: INTERVAL,
            min_interval: MIN_INTERVAL,
            complete: counts.complete,
            incomplete: counts.incomplete,
            peers: swarms.others(torrent, &member, wanted, &mut self.chance, now),
        })
    }
}

#[cfg(test)]
mod tests;
