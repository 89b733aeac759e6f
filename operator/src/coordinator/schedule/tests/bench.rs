//! A schedule under direct control, and its orders in short.

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, Held, OriginAccess};
use modelcache_swarm::segment::PieceHashes;

use super::super::invariants::check;
use super::super::simulation::{NAME, address, node_name};
use super::super::{CoordinatedSnapshot, Outgoing, Schedule, Settings, SourcePolicy};

pub(super) fn access(token: &str) -> OriginAccess {
    OriginAccess {
        endpoint: "https://hub".to_owned(),
        token: Some(token.to_owned()),
        ca_bundle: None,
    }
}

pub(super) fn snapshot(name: &str, segments: u32) -> CoordinatedSnapshot {
    CoordinatedSnapshot {
        name: name.to_owned(),
        segments,
        policy: SourcePolicy::PeersFirst,
        access: access("one"),
    }
}

pub(super) fn held(segment: u32, flavour: u8, verified: bool) -> Held {
    let pieces = PieceHashes::new(vec![[flavour; 20]]);
    Held {
        segment,
        pieces,
        verified,
    }
}

/// A schedule under direct control.
pub(super) struct Bench {
    pub(super) schedule: Schedule,
    pub(super) now: u64,
}

impl Bench {
    pub(super) fn new(segments: u32) -> Self {
        let mut schedule = Schedule::new(Settings {
            grace: 0,
            ..Settings::default()
        });
        schedule.set_snapshots(vec![snapshot(NAME, segments)], 0);
        Self { schedule, now: 0 }
    }

    pub(super) fn connect(&mut self, node: usize) -> Outgoing {
        self.schedule
            .agent_connected(&node_name(node), address(), self.now)
    }

    pub(super) fn say(&mut self, node: usize, message: AgentMessage) -> Outgoing {
        let outgoing = self.schedule.message(&node_name(node), message, self.now);
        check(&self.schedule, &Settings::default());
        outgoing
    }

    pub(super) fn track(&mut self, node: usize, segments: u32, held: Vec<Held>) -> Outgoing {
        let snapshot = NAME.to_owned();
        self.say(
            node,
            AgentMessage::Track {
                snapshot,
                segments,
                held,
            },
        )
    }

    pub(super) fn join(&mut self, node: usize, segments: u32, held: Vec<Held>) -> Outgoing {
        let mut outgoing = self.connect(node);
        outgoing.extend(self.track(node, segments, held));
        outgoing
    }

    pub(super) fn have(&mut self, node: usize, held: Held) -> Outgoing {
        let snapshot = NAME.to_owned();
        self.say(node, AgentMessage::Have { snapshot, held })
    }

    pub(super) fn fetch_failed(
        &mut self,
        node: usize,
        segment: u32,
        limited: bool,
        wait: Option<u32>,
    ) -> Outgoing {
        self.say(
            node,
            AgentMessage::FetchFailed {
                snapshot: NAME.to_owned(),
                segment,
                message: String::new(),
                rate_limited: limited,
                retry_after_seconds: wait,
            },
        )
    }

    pub(super) fn take_failed(&mut self, node: usize, segment: u32, holder: usize) -> Outgoing {
        self.say(
            node,
            AgentMessage::TakeFailed {
                snapshot: NAME.to_owned(),
                segment,
                holder: node_name(holder),
                message: String::new(),
            },
        )
    }

    pub(super) fn corrupt(&mut self, node: usize, segments: Vec<u32>) -> Outgoing {
        let (snapshot, message) = (NAME.to_owned(), String::new());
        self.say(
            node,
            AgentMessage::Corrupt {
                snapshot,
                segments,
                message,
            },
        )
    }

    pub(super) fn wait(&mut self, time: u64) -> Outgoing {
        self.now += time;
        let mut outgoing = self.schedule.tick(self.now);
        check(&self.schedule, &Settings::default());
        // Told whenever enough time passes; has tests of its own.
        outgoing.retain(|(_, one)| !matches!(one, CoordinatorMessage::Members { .. }));
        outgoing
    }
}

/// Orders in short: "0 fetch 3", "1 take 3 from 0", "2 discard [1, 2]", "0 origin one".
pub(super) fn brief(outgoing: &Outgoing) -> Vec<String> {
    let number = |name: &str| name["node-".len()..].parse::<usize>().unwrap();
    let one = |(node, message): &(String, CoordinatorMessage)| {
        let node = number(node);
        match message {
            CoordinatorMessage::Origin { access, .. } => {
                format!("{node} origin {}", access.token.as_deref().unwrap_or("-"))
            }
            CoordinatorMessage::Fetch { segment, .. } => format!("{node} fetch {segment}"),
            CoordinatorMessage::Take {
                segment, holder, ..
            } => {
                format!("{node} take {segment} from {}", number(holder))
            }
            CoordinatorMessage::Discard { segments, .. } => format!("{node} discard {segments:?}"),
            CoordinatorMessage::Members { members, .. } => {
                format!("{node} members {}", members.len())
            }
            CoordinatorMessage::Refused { message } => format!("{node} refused {message}"),
        }
    };
    outgoing.iter().map(one).collect()
}
