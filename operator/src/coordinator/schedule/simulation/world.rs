//! What a simulated world is made of, and what came of a run.

use std::collections::BTreeSet;

use super::super::{Settings, SourcePolicy};

/// Numbers by a seed.
pub(in super::super) struct Dice(u64);

impl Dice {
    pub(in super::super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    pub(in super::super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below.max(1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Fault {
    /// The connection breaks; the agent and its transfers go on.
    Cut(usize),
    /// The agent dies and comes back with what it holds.
    Kill(usize),
    /// The agent dies and comes back with an empty disk.
    Wipe(usize),
    /// The agent never comes back.
    Die(usize),
    /// The hub answers nothing for so many milliseconds.
    HubDown(u64),
    /// The hub answers 429 for so many milliseconds.
    HubLimits(u64),
    /// The hub sends wrong bytes for so many milliseconds.
    HubLies(u64),
    /// The coordinator restarts with an empty memory.
    Restart,
    /// A held and verified segment is found wrong (a disk error).
    Rot(usize),
}

/// How a node misbehaves all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Character {
    #[default]
    Honest,
    /// Cannot reach the hub.
    Cutoff,
    /// Whatever it gives breaks.
    Mute,
    /// What it fetches becomes wrong, and it serves that.
    Poisoner,
    /// Like the poisoner, with one segment only: the first that it fetches.
    Sly,
    /// Like the poisoner, and says that all of it is verified, and never discards.
    Forger,
}

impl Character {
    pub(in super::super) fn may_want_forever(self) -> bool {
        matches!(self, Self::Poisoner | Self::Sly | Self::Forger)
    }
}

#[derive(Clone, Debug)]
pub(in super::super) struct World {
    pub(in super::super) seed: u64,
    pub(in super::super) segments: u32,
    /// Segments of one blob.
    pub(in super::super) blob: u32,
    pub(in super::super) policy: SourcePolicy,
    /// When each node starts, whether it is full, and what it is like.
    pub(in super::super) nodes: Vec<(u64, bool, Character)>,
    pub(in super::super) faults: Vec<(u64, Fault)>,
    /// Percent of transfers that fail for no reason.
    pub(in super::super) failing: u64,
    /// Longest delay of a message.
    pub(in super::super) latency: u64,
    /// When the cluster begins to want the snapshot.
    pub(in super::super) wanted_at: u64,
    pub(in super::super) settings: Settings,
    pub(in super::super) ticking: bool,
    pub(in super::super) check: bool,
    /// Simulated milliseconds after which the run counts as stuck.
    pub(in super::super) limit: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            seed: 1,
            segments: 40,
            blob: 3,
            policy: SourcePolicy::PeersFirst,
            nodes: vec![(0, false, Character::Honest); 4],
            faults: Vec::new(),
            failing: 0,
            latency: 20,
            wanted_at: 0,
            settings: Settings {
                grace: 0,
                ..Settings::default()
            },
            ticking: true,
            check: true,
            limit: 4 * 3_600_000,
        }
    }
}

/// What a run did.
#[derive(Debug, Default)]
pub(in super::super) struct Outcome {
    pub(in super::super) finished: bool,
    pub(in super::super) ended: u64,
    pub(in super::super) fetches: u64,
    pub(in super::super) takes: u64,
    pub(in super::super) calls: u64,
    /// Segments that went from node to node.
    pub(in super::super) moved: u64,
    /// Nodes that were distrusted at some time.
    pub(in super::super) distrusted: BTreeSet<usize>,
    /// Segments that full nodes gave away.
    pub(in super::super) seeded: u64,
    pub(in super::super) stuck: String,
}
