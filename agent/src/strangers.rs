//! When a file of a snapshot is taken from a machine with hali, and from which: decisions without effects.
//!
//! The hub and the nodes of the cluster come first. Only when nothing has come from either for a while, and this node's own
//! fetches fail or it has no way to the hub, a machine is asked that says that it seeds something of the repository. Each file
//! puts the nodes into an order of its own (as in [`crate::alone`]): the first one asks at once and the others later, so that a
//! file crosses the network once and then travels between nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use modelcache_swarm::discovery::hali::name::model_name;
use modelcache_swarm::discovery::hali::packet::Seed;
use modelcache_swarm::discovery::hali::seeds::Place;
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::{Snapshot, SnapshotFile};

use crate::alone::Precedence;

/// How long nothing must have come from hub and nodes.
const PATIENCE: Duration = Duration::from_mins(1);
/// How much longer each next node in the order of a file waits at least…
const TURN: Duration = Duration::from_mins(5);
/// …and for so many bytes a second longer: the first one gives nothing before it has all of the file…
const EXPECTED_BYTES_PER_SECOND: u64 = 16 << 20;
/// …and no node for more turns than this.
const MOST_TURNS: u32 = 2;
/// A machine that did not give what it said is left alone for so long…
const REST: Duration = Duration::from_mins(5);
/// …and one that gave another content, which cost a whole file.
const LONG_REST: Duration = Duration::from_mins(30);
/// Torrents that are remembered as useless; then all are forgotten.
const MOST_REFUSED: usize = 4096;

/// What came of a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The file is here.
    Taken,
    /// Its content is another one.
    Wrong,
    /// It is none of the files that are missing.
    Unfit,
    /// The machine did not give it.
    Lost,
    /// The machine gave a good part of it, and then no more.
    Broken,
    /// This node could not take it, or does not want it any longer.
    Stopped,
}

/// What is missing, and who is heard.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// Which of its files are not whole, by number.
    pub missing: &'a BTreeSet<u32>,
    /// What machines seed of its repository.
    pub heard: &'a [(Place, Seed)],
}

#[derive(Clone, Copy, Debug)]
struct Machine {
    rests_until: Instant,
    wrong: u32,
}

/// What is known of one snapshot about this.
#[derive(Debug, Default)]
pub struct Strangers {
    /// How many bytes had come from hub and nodes, and since when it is not more.
    still: Option<(u64, Instant)>,
    /// The last fetch from the hub failed.
    hub_fails: bool,
    /// Torrents that are useless for this snapshot.
    refused: BTreeSet<Place>,
    machines: BTreeMap<IpAddr, Machine>,
    /// Nobody is asked before.
    pause: Option<Instant>,
}

impl Strangers {
    /// A fetch from the hub ended.
    pub fn fetched(&mut self, gave: bool) {
        self.hub_fails = !gave;
    }

    /// Whether the last fetch from the hub failed.
    #[must_use]
    pub fn hub_fails(&self) -> bool {
        self.hub_fails
    }

    /// So many bytes came from hub and nodes until now. To be called a few times a second while something is missing.
    pub fn came(&mut self, now: Instant, bytes: u64) {
        if self.still.is_none_or(|(before, _)| before != bytes) {
            self.still = Some((bytes, now));
        }
    }

    /// Nothing is missing, or nothing can be taken: the time until now does not count.
    pub fn pass(&mut self) {
        self.still = None;
    }

    /// Whether anybody may be asked now.
    #[must_use]
    pub fn may_ask(&self, now: Instant) -> bool {
        self.waited(now) >= PATIENCE && self.pause.is_none_or(|until| now >= until)
    }

    fn waited(&self, now: Instant) -> Duration {
        self.still.map_or(Duration::ZERO, |(_, since)| {
            now.saturating_duration_since(since)
        })
    }

    /// Whom to ask now, for which torrent. `precedence` is this node's place in the order of a file.
    #[must_use]
    pub fn next(
        &self,
        now: Instant,
        standing: Standing<'_>,
        precedence: impl Fn(u32) -> Precedence,
    ) -> Option<Place> {
        if !self.may_ask(now) {
            return None;
        }
        let waited = self.waited(now);
        let candidates = standing.heard.iter().filter_map(|(place, seed)| {
            let machine = self.machines.get(&place.0.ip());
            let rests = machine.is_some_and(|machine| now < machine.rests_until);
            let commit = &standing.snapshot.commit;
            if rests || self.refused.contains(place) || !may_be(seed.revision(), commit) {
                return None;
            }
            // The name is a hint; what it really is only its metadata says.
            let named = named(standing.snapshot, seed.name());
            let file = named.intersection(standing.missing).next().copied();
            if file.is_none() && !named.is_empty() {
                return None;
            }
            let first = file.or_else(|| standing.missing.first().copied())?;
            let (turn, precedence) = (turn(standing.snapshot, first), precedence(first));
            if waited < PATIENCE + turn * precedence.before.min(MOST_TURNS) {
                return None;
            }
            let wrong = machine.map_or(0, |machine| machine.wrong);
            let order = Reverse(precedence.score);
            Some(((wrong, file.is_none(), order, *place), *place))
        });
        candidates.min().map(|(_, place)| place)
    }

    /// What came of a torrent.
    pub fn ended(&mut self, now: Instant, place: Place, end: End) {
        match end {
            End::Taken => {}
            End::Wrong => {
                self.refuse(place);
                self.rest(now, place, LONG_REST).wrong += 1;
            }
            End::Broken => self.rest(now, place, LONG_REST).wrong += 1,
            End::Unfit => {
                self.refuse(place);
                self.rest(now, place, REST);
            }
            End::Lost => {
                self.rest(now, place, REST);
            }
            End::Stopped => self.pause = Some(now + PATIENCE),
        }
    }

    fn refuse(&mut self, place: Place) {
        if self.refused.len() >= MOST_REFUSED {
            self.refused.clear();
        }
        self.refused.insert(place);
    }

    fn rest(&mut self, now: Instant, place: Place, rest: Duration) -> &mut Machine {
        // They are neighbours on the local network, so their number is bounded by that of its addresses; those that did
        // nothing worse than to be away are forgotten.
        self.machines
            .retain(|_, machine| machine.wrong > 0 || now < machine.rests_until);
        let until = now + rest;
        let machine = self.machines.entry(place.0.ip());
        let machine = machine.or_insert(Machine {
            rests_until: until,
            wrong: 0,
        });
        machine.rests_until = until;
        machine
    }
}

/// How much longer the next node in the order of a file waits.
fn turn(snapshot: &Snapshot, file: u32) -> Duration {
    let size = snapshot
        .files
        .get(file as usize)
        .map_or(0, |file| file.size);
    TURN.max(Duration::from_secs(size / EXPECTED_BYTES_PER_SECOND))
}

/// Whether something of this revision may be of the commit: one that is a commit must be the same.
fn may_be(revision: &str, commit: &str) -> bool {
    let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    !is_commit || revision.eq_ignore_ascii_case(commit)
}

/// The files that hali calls so.
fn named(snapshot: &Snapshot, name: &str) -> BTreeSet<u32> {
    let files = (0..).zip(&snapshot.files);
    let name_of = |file| model_name(&snapshot.repository, base(file));
    files
        .filter(|(_, file)| name_of(file).as_deref() == Some(name))
        .map(|(number, _)| number)
        .collect()
}

fn base(file: &SnapshotFile) -> &str {
    file.path.rsplit('/').next().unwrap_or(&file.path)
}

/// The file of a snapshot that a torrent can be, by what its metadata says: that of the same name and length which is in LFS and
/// `lacks`, so that its hash is known and its content is not here.
#[must_use]
pub fn fitting<'a>(
    snapshot: &'a Snapshot,
    name: &[u8],
    len: u64,
    lacks: impl Fn(&BlobId) -> bool,
) -> Option<&'a SnapshotFile> {
    let mut files = snapshot.files.iter();
    files.find(|file| {
        let known = matches!(file.blob, BlobId::Sha256(_));
        known && file.size == len && base(file).as_bytes() == name && lacks(&file.blob)
    })
}

#[cfg(test)]
mod tests;
