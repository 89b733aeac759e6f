//! What is known of one other node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use modelcache_swarm::inventory::{Answer, MAX_WANTS, Segments};
use modelcache_swarm::segment::PieceHashes;

/// A node that did not answer so often in a row is thought to be dead, until it answers.
const SILENT: u32 = 2;
/// A node that did not give what it has is not asked to give for so long.
const REST: Duration = Duration::from_secs(30);
/// A node that fetches one segment for so long does not keep others from it any more.
const SLOW: Duration = Duration::from_mins(5);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) seed: u64,
    pub(super) address: SocketAddr,
    /// Whether the coordinator named it.
    pub(super) member: bool,
    /// Whether it was known when the time without a coordinator began: then the hub waits until it was asked.
    awaited: bool,
    /// When it was last asked.
    pub(super) asked: Option<Instant>,
    /// Piece hashes that it gave and nobody used yet.
    pub(super) pieces: BTreeMap<u32, PieceHashes>,
    /// What it is asked for at this moment.
    asking: Option<Vec<u32>>,
    silent: u32,
    heard: Option<Heard>,
    rests: Option<Instant>,
}

/// What it said last.
#[derive(Debug)]
struct Heard {
    held: Segments,
    /// Since when it is known to fetch what.
    fetching: BTreeMap<u32, Instant>,
    reaches_hub: bool,
    coordinated: bool,
}

impl Peer {
    pub(super) fn new(seed: u64, address: SocketAddr) -> Self {
        Self {
            seed,
            address,
            member: false,
            awaited: false,
            asked: None,
            pieces: BTreeMap::new(),
            asking: None,
            silent: 0,
            heard: None,
            rests: None,
        }
    }

    /// What was heard is long ago: it is to be asked anew.
    pub(super) fn await_anew(&mut self) {
        *self = Self {
            member: self.member,
            awaited: true,
            asking: self.asking.take(),
            ..Self::new(self.seed, self.address)
        };
    }

    pub(super) fn ask(&mut self, now: Instant, wants: &[u32]) {
        self.asked = Some(now);
        self.asking = Some(wants.to_vec());
    }

    pub(super) fn asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Takes note of an answer, or that there was none. Whether it has more than it had.
    pub(super) fn answered(&mut self, now: Instant, answer: Option<Answer>) -> bool {
        let wants = self.asking.take().unwrap_or_default();
        let Some(answer) = answer else {
            self.silent = self.silent.saturating_add(1);
            self.pieces.clear();
            return false;
        };
        self.silent = 0;
        let before = self.heard.take();
        let had = before.as_ref().map_or(0, |heard| heard.held.count());
        let since = |segment: &u32| {
            let heard = before.as_ref()?;
            heard.fetching.get(segment).copied()
        };
        let fetching = answer.fetching.iter().take(MAX_WANTS);
        self.heard = Some(Heard {
            fetching: fetching
                .map(|segment| (*segment, since(segment).unwrap_or(now)))
                .collect(),
            reaches_hub: answer.reaches_hub,
            coordinated: answer.coordinated,
            held: answer.held,
        });
        let asked_for = answer
            .pieces
            .into_iter()
            .filter(|held| wants.contains(&held.segment));
        let given: Vec<_> = asked_for.map(|held| (held.segment, held.pieces)).collect();
        if given.is_empty() && !wants.is_empty() {
            // It says that it has them and does not give them.
            self.rest(now);
        }
        self.pieces.extend(given);
        self.heard.as_ref().map_or(0, |heard| heard.held.count()) > had
    }

    /// Nothing is taken from it for a while.
    pub(super) fn rest(&mut self, now: Instant) {
        self.rests = Some(now + REST);
        self.pieces.clear();
    }

    /// Segments whose piece hashes it gave or is asked for.
    pub(super) fn promises(&self) -> impl Iterator<Item = u32> {
        let asked = self.asking.iter().flatten();
        asked.chain(self.pieces.keys()).copied()
    }

    /// Whether it may still say that it has what would be fetched: it neither answered nor had the time to do so. Those that
    /// are found later are not waited for, or there could always be one more.
    pub(super) fn to_be_awaited(&self) -> bool {
        self.awaited && self.heard.is_none() && self.silent == 0
    }

    pub(super) fn lives(&self) -> bool {
        self.silent < SILENT
    }

    /// Whether things can be taken from it.
    pub(super) fn gives(&self, now: Instant) -> bool {
        self.lives() && self.rests.is_none_or(|until| until <= now)
    }

    /// Whether a segment can be taken from it.
    pub(super) fn holds(&self, now: Instant, segment: u32) -> bool {
        self.gives(now)
            && self
                .heard
                .as_ref()
                .is_some_and(|one| one.held.contains(segment))
    }

    pub(super) fn fetches(&self, now: Instant, segment: u32) -> bool {
        let since = self
            .heard
            .as_ref()
            .and_then(|heard| heard.fetching.get(&segment));
        since.is_some_and(|since| now < *since + SLOW)
    }

    /// Whether it is thought to reach the hub: yes as long as it was not heard.
    pub(super) fn reaches_hub(&self) -> bool {
        self.heard.as_ref().is_none_or(|heard| heard.reaches_hub)
    }

    pub(super) fn coordinated(&self) -> bool {
        self.heard.as_ref().is_some_and(|heard| heard.coordinated)
    }
}
