//! What goes wrong when: a pure function of a seed.
//!
//! No two faults of one run touch the same thing at the same time, so that the end of each mends exactly what its beginning
//! broke; faults of different things overlap freely.

use std::fmt;
use std::time::Duration;

use modelcache_bench::network::Host;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};

/// Faults begin within so many milliseconds of a run.
const WINDOW: u64 = 8_000;
/// Rates of the hub's cable: the model passes in about 7, 4 and 2 seconds.
const HUB_RATES: [u32; 3] = [9_000, 16_000, 40_000];
/// Shortest and longest fault, in milliseconds.
const LENGTH: (u64, u64) = (200, 3_000);
/// Longest fault of the hub's answers: there is one hub, and all kinds of them must find room.
const HUB_LENGTH: u64 = 1_200;
/// How often a free moment for a fault is looked for, each time for a shorter fault.
const TRIES: u64 = 100;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// `kill -9` of a node's agent or of the coordinator; started again at the end.
    Killed(Host),
    /// SIGSTOP; SIGCONT at the end.
    Stopped(Host),
    /// The host's cable is pulled.
    Unplugged(Host),
    /// The host hears nothing of the other one, which still hears it.
    Deaf {
        /// Who does not hear.
        host: Host,
        /// Who is not heard.
        to: Host,
    },
    /// Other nodes get wrong bytes from this one.
    Lying(u8),
    /// The hub answers badly.
    Hub(HubTrouble),
    /// The host's time of day jumps by an hour, and back at the end.
    Clock {
        /// Whose clock.
        host: Host,
        /// Forward, or back.
        forward: bool,
    },
    /// Something else fills the node's disk.
    Full {
        /// The node.
        node: u8,
        /// Bytes that stay free: none, or less than agents leave to others.
        left: u64,
    },
    /// The node's disk takes no changes.
    ReadOnly(u8),
}

/// How the hub answers badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubTrouble {
    /// Bodies end early.
    Truncated,
    /// Bodies stop in the middle for longer than the fault lasts.
    Stalled,
    /// One byte of a body is another one.
    WrongBytes,
    /// Status 500 and 503.
    Errors,
    /// Status 429.
    RateLimited,
    /// Nobody listens.
    Refusing,
    /// Nobody answers.
    Silent,
}

/// Kinds of troubles, for counting and for seeing that each occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`Trouble::Killed`], a node's agent.
    AgentKilled,
    /// [`Trouble::Killed`], the coordinator.
    CoordinatorKilled,
    /// [`Trouble::Stopped`]
    Stopped,
    /// [`Trouble::Unplugged`]
    Unplugged,
    /// [`Trouble::Deaf`]
    Deaf,
    /// [`Trouble::Lying`]
    Lying,
    /// [`HubTrouble::Truncated`]
    HubTruncated,
    /// [`HubTrouble::Stalled`]
    HubStalled,
    /// [`HubTrouble::WrongBytes`]
    HubWrongBytes,
    /// [`HubTrouble::Errors`] and [`HubTrouble::RateLimited`]
    HubErrors,
    /// [`HubTrouble::Refusing`] and [`HubTrouble::Silent`]
    HubAway,
    /// [`Trouble::Clock`]
    Clock,
    /// [`Trouble::Full`]
    Full,
    /// [`Trouble::ReadOnly`]
    ReadOnly,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::AgentKilled,
        Self::CoordinatorKilled,
        Self::Stopped,
        Self::Unplugged,
        Self::Deaf,
        Self::Lying,
        Self::HubTruncated,
        Self::HubStalled,
        Self::HubWrongBytes,
        Self::HubErrors,
        Self::HubAway,
        Self::Clock,
        Self::Full,
        Self::ReadOnly,
    ];

    /// For the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent killed",
            Self::CoordinatorKilled => "coordinator killed",
            Self::Stopped => "program stopped, continued",
            Self::Unplugged => "cable pulled",
            Self::Deaf => "one-way partition",
            Self::Lying => "wrong bytes from a peer",
            Self::HubTruncated => "hub: truncated answers",
            Self::HubStalled => "hub: stalled answers",
            Self::HubWrongBytes => "hub: wrong bytes",
            Self::HubErrors => "hub: 500, 503, 429",
            Self::HubAway => "hub: refuses, is silent",
            Self::Clock => "clock jumps an hour",
            Self::Full => "disk full",
            Self::ReadOnly => "disk read-only",
        }
    }
}

/// What only one fault at a time may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Program(Host),
    Cable(Host),
    Way(Host, Host),
    Uploader(u8),
    Answers,
    Clock(Host),
    Disk(u8),
}

impl Trouble {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Killed(Host::Control) => Kind::CoordinatorKilled,
            Self::Killed(_) => Kind::AgentKilled,
            Self::Stopped(_) => Kind::Stopped,
            Self::Unplugged(_) => Kind::Unplugged,
            Self::Deaf { .. } => Kind::Deaf,
            Self::Lying(_) => Kind::Lying,
            Self::Hub(HubTrouble::Truncated) => Kind::HubTruncated,
            Self::Hub(HubTrouble::Stalled) => Kind::HubStalled,
            Self::Hub(HubTrouble::WrongBytes) => Kind::HubWrongBytes,
            Self::Hub(HubTrouble::Errors | HubTrouble::RateLimited) => Kind::HubErrors,
            Self::Hub(HubTrouble::Refusing | HubTrouble::Silent) => Kind::HubAway,
            Self::Clock { .. } => Kind::Clock,
            Self::Full { .. } => Kind::Full,
            Self::ReadOnly(_) => Kind::ReadOnly,
        }
    }

    fn thing(&self) -> Thing {
        match *self {
            // A stopped hub takes no orders about its answers either.
            Self::Stopped(Host::Hub) | Self::Hub(_) => Thing::Answers,
            Self::Killed(host) | Self::Stopped(host) => Thing::Program(host),
            Self::Unplugged(host) => Thing::Cable(host),
            Self::Deaf { host, to } => Thing::Way(host, to),
            Self::Lying(node) => Thing::Uploader(node),
            Self::Clock { host, .. } => Thing::Clock(host),
            Self::Full { node, .. } | Self::ReadOnly(node) => Thing::Disk(node),
        }
    }

    fn random(kind: Kind, nodes: u8, random: &mut StdRng) -> Self {
        let node = random.random_range(0..nodes);
        let anybody = match random.random_range(0..nodes + 2) {
            0 => Host::Hub,
            1 => Host::Control,
            number => Host::Node(number - 2),
        };
        let either = random.random_bool(0.5);
        match kind {
            Kind::AgentKilled => Self::Killed(Host::Node(node)),
            Kind::CoordinatorKilled => Self::Killed(Host::Control),
            Kind::Stopped => Self::Stopped(anybody),
            Kind::Unplugged => Self::Unplugged(anybody),
            Kind::Deaf => {
                let host = Host::Node(node);
                let other = Host::Node((node + random.random_range(1..nodes)) % nodes);
                let to = [Host::Hub, Host::Control, other];
                let to = to.choose(random).copied().unwrap_or(Host::Control);
                // Nobody hears the victim as often as the victim hears nobody.
                if either {
                    Self::Deaf { host, to }
                } else {
                    Self::Deaf { host: to, to: host }
                }
            }
            Kind::Lying => Self::Lying(node),
            Kind::HubTruncated => Self::Hub(HubTrouble::Truncated),
            Kind::HubStalled => Self::Hub(HubTrouble::Stalled),
            Kind::HubWrongBytes => Self::Hub(HubTrouble::WrongBytes),
            Kind::HubErrors if either => Self::Hub(HubTrouble::Errors),
            Kind::HubErrors => Self::Hub(HubTrouble::RateLimited),
            Kind::HubAway if either => Self::Hub(HubTrouble::Refusing),
            Kind::HubAway => Self::Hub(HubTrouble::Silent),
            Kind::Clock => Self::Clock {
                host: anybody,
                forward: either,
            },
            Kind::Full => Self::Full {
                node,
                left: if either { 0 } else { 100 << 20 },
            },
            Kind::ReadOnly => Self::ReadOnly(node),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(host) => write!(f, "{} killed", host.name()),
            Self::Stopped(host) => write!(f, "{} stopped", host.name()),
            Self::Unplugged(host) => write!(f, "{} unplugged", host.name()),
            Self::Deaf { host, to } => write!(f, "{} does not hear {}", host.name(), to.name()),
            Self::Lying(node) => write!(f, "node{node} lies"),
            Self::Hub(trouble) => write!(f, "hub {trouble:?}"),
            Self::Clock { host, forward } => write!(
                f,
                "clock of {} an hour {}",
                host.name(),
                if *forward { "ahead" } else { "behind" }
            ),
            Self::Full { node, left } => write!(f, "disk of node{node} full but {left} bytes"),
            Self::ReadOnly(node) => write!(f, "disk of node{node} read-only"),
        }
    }
}

/// Something that goes wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub trouble: Trouble,
    /// From then on, since the start of the run, in milliseconds…
    pub from: u64,
    /// …until then.
    pub until: u64,
}

/// The beginning or the end of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the start of the run.
    pub at: Duration,
    /// What goes wrong, or is mended.
    pub trouble: Trouble,
    /// Whether it begins here.
    pub begins: bool,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Nodes in it: 3 to 5.
    pub nodes: u8,
    /// Rate of the hub's cable in kbit/s: one at which faults meet a model that arrives, or one that is there already.
    pub hub_rate: u32,
    /// In the order in which they begin.
    pub faults: Vec<Fault>,
}

impl Schedule {
    /// The run of a seed with at most so many faults: one of each kind as long as there is room, the rest at random.
    #[must_use]
    pub fn new(seed: u64, most: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = random.random_range(3..=5);
        let hub_rate = HUB_RATES
            .choose(&mut random)
            .copied()
            .unwrap_or(HUB_RATES[0]);
        let mut kinds = Kind::ALL.to_vec();
        kinds.shuffle(&mut random);
        while kinds.len() < most {
            kinds.extend(Kind::ALL.choose(&mut random));
        }
        let mut faults: Vec<Fault> = Vec::new();
        for kind in kinds.into_iter().take(most) {
            for tried in 0..TRIES {
                let fault = Fault::random(kind, nodes, tried, &mut random);
                if faults.iter().all(|other| !fault.collides(other)) {
                    faults.push(fault);
                    break;
                }
            }
        }
        faults.sort_by_key(|fault| fault.from);
        Self {
            nodes,
            hub_rate,
            faults,
        }
    }

    /// Beginnings and ends in their order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let step = |fault: &Fault, begins: bool| Step {
            at: Duration::from_millis(if begins { fault.from } else { fault.until }),
            trouble: fault.trouble,
            begins,
        };
        let faults = self.faults.iter();
        let mut steps: Vec<Step> = faults
            .flat_map(|fault| [step(fault, true), step(fault, false)])
            .collect();
        steps.sort_by_key(|step| step.at);
        steps
    }
}

impl Fault {
    fn random(kind: Kind, nodes: u8, tried: u64, random: &mut StdRng) -> Self {
        let trouble = Trouble::random(kind, nodes, random);
        let (shortest, mut longest) = LENGTH;
        if trouble.thing() == Thing::Answers {
            longest = HUB_LENGTH;
        }
        longest -= (longest - shortest) * tried / TRIES;
        let from = random.random_range(0..WINDOW);
        let until = from + random.random_range(shortest..=longest);
        Self {
            trouble,
            from,
            until,
        }
    }

    fn collides(&self, other: &Self) -> bool {
        self.trouble.thing() == other.trouble.thing()
            && self.from <= other.until
            && other.from <= self.until
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node_of(host: Host) -> Option<u8> {
        match host {
            Host::Node(node) => Some(node),
            Host::Hub | Host::Control => None,
        }
    }

    fn nodes_of(trouble: Trouble) -> Vec<u8> {
        match trouble {
            Trouble::Killed(host)
            | Trouble::Stopped(host)
            | Trouble::Unplugged(host)
            | Trouble::Clock { host, .. } => node_of(host).into_iter().collect(),
            Trouble::Deaf { host, to } => {
                assert_ne!(host, to);
                node_of(host).into_iter().chain(node_of(to)).collect()
            }
            Trouble::Lying(node) | Trouble::Full { node, .. } | Trouble::ReadOnly(node) => {
                vec![node]
            }
            Trouble::Hub(_) => Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn a_seed_is_a_schedule(seed: u64, most in 1_usize..40) {
            prop_assert_eq!(Schedule::new(seed, most), Schedule::new(seed, most));
        }

        #[test]
        fn every_kind_occurs_and_nearly_all_faults_find_room(seed: u64) {
            let schedule = Schedule::new(seed, 26);
            for kind in Kind::ALL {
                prop_assert!(
                    schedule.faults.iter().any(|fault| fault.trouble.kind() == kind),
                    "{:?}", kind
                );
            }
            prop_assert!(schedule.faults.len() >= 22, "{}", schedule.faults.len());
        }

        #[test]
        fn victims_exist(seed: u64) {
            let schedule = Schedule::new(seed, 30);
            prop_assert!((3..=5).contains(&schedule.nodes));
            for fault in &schedule.faults {
                let victims = nodes_of(fault.trouble);
                prop_assert!(victims.iter().all(|node| *node < schedule.nodes), "{}", fault.trouble);
            }
        }

        #[test]
        fn what_is_broken_is_whole_before_and_mended_after(seed: u64, most in 1_usize..40) {
            let mut broken: Vec<Trouble> = Vec::new();
            let mut last = Duration::ZERO;
            for step in Schedule::new(seed, most).steps() {
                prop_assert!(step.at >= last);
                last = step.at;
                if step.begins {
                    prop_assert!(
                        broken.iter().all(|other| other.thing() != step.trouble.thing()),
                        "{} while {:?}", step.trouble, broken
                    );
                    broken.push(step.trouble);
                } else {
                    let at = broken.iter().position(|other| *other == step.trouble);
                    prop_assert!(at.is_some(), "{} ends before it begins", step.trouble);
                    broken.remove(at.unwrap_or(0));
                }
            }
            prop_assert!(broken.is_empty(), "{:?}", broken);
            prop_assert!(last <= Duration::from_millis(WINDOW + LENGTH.1));
        }
    }
}
