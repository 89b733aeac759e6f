//! What a snapshot does while there is no coordinator: carries out what [`crate::alone`] decides.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use modelcache_crds::model_cache::SourcePolicy;
use modelcache_swarm::coordination::Member;
use modelcache_swarm::discovery::announcement::ContentId;
use modelcache_swarm::engine::AskError;
use modelcache_swarm::inventory::{Answer, Question};
use modelcache_swarm::verify::piece_count;

use super::super::failure::{Blame, Failure};
use super::super::transfer::Order;
use super::super::{Context, Link};
use super::{Done, Entry};
use crate::alone::{Standing, Step};
use crate::serving::Stance;

/// How a snapshot gets on without a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByItself {
    /// From other nodes, and from the hub what none of them has.
    Everywhere,
    /// From the hub, as the policy wants.
    Hub,
    /// From other nodes only, as the policy wants.
    Peers,
    /// From other nodes only: nobody said how to reach the hub.
    PeersWithoutHub,
    /// Not at all: nobody is known that could have it.
    Waits,
}

impl ByItself {
    /// What the agent does meanwhile, for people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Everywhere => {
                "meanwhile the nodes fetch what is missing from the hub by themselves and take it from each other"
            }
            Self::Hub => "meanwhile this node fetches what is missing from the hub by itself",
            Self::Peers => {
                "meanwhile this node takes what others have; the policy PeersOnly keeps it from the hub"
            }
            Self::PeersWithoutHub => {
                "meanwhile this node takes what others have; the way to the hub and its token come from the coordinator"
            }
            Self::Waits => {
                "nobody is known that could have what is missing: the coordinator names other nodes, and so do their announcements and the setting --peer; the agent keeps trying"
            }
        }
    }
}

impl Entry {
    /// The coordinator named the members of the snapshot.
    pub(in crate::core) fn set_members(&mut self, members: Vec<Member>) {
        self.alone.set_members(members);
    }

    /// There is a coordinator again: its orders count, and what is under way ends as it would.
    pub(in crate::core) fn connected(&mut self, link: &Link) {
        self.alone.connected();
        self.track(link);
    }

    pub(super) fn by_itself(&self) -> ByItself {
        let hub = matches!(self.origin, Some(Ok(_)));
        match self.wanted.source {
            SourcePolicy::OriginOnly if hub => ByItself::Hub,
            SourcePolicy::PeersFirst if hub => ByItself::Everywhere,
            SourcePolicy::OriginOnly => ByItself::Waits,
            _ if !self.alone.has_peers() => ByItself::Waits,
            SourcePolicy::PeersOnly => ByItself::Peers,
            SourcePolicy::PeersFirst => ByItself::PeersWithoutHub,
        }
    }

    /// Does what can be done without orders.
    pub(super) fn fend(&mut self, context: &Arc<Context>, link: &Link) {
        let Some(store) = self.store.as_ref().filter(|_| self.work.takes_orders()) else {
            return;
        };
        let segments = u32::try_from(store.segments().len()).unwrap_or(u32::MAX);
        let missing: BTreeSet<u32> = (0..segments)
            .filter(|segment| {
                !self.held.contains_key(segment)
                    && !self.running.contains_key(segment)
                    && !self.discarding.contains(segment)
            })
            .collect();
        let now = Instant::now();
        if !missing.is_empty() {
            let wanted = ContentId::of_snapshot(&self.snapshot.name);
            let found = context.peers.lock().candidates(wanted, now);
            self.alone.set_found(found);
        }
        let way = self.by_itself();
        let fetching = self.fetching().count();
        let standing = Standing {
            missing: &missing,
            fetching,
            taking: self.running.len() - fetching,
            may_fetch: matches!(way, ByItself::Everywhere | ByItself::Hub),
            may_take: !matches!(way, ByItself::Hub | ByItself::Waits),
        };
        for step in self.alone.next(now, standing) {
            match step {
                Step::Fetch(segment) => self.order(context, link, segment, Order::Fetch),
                Step::Take {
                    segment,
                    pieces,
                    node: holder,
                    address,
                } => {
                    let order = Order::Take {
                        pieces,
                        holder,
                        address,
                    };
                    self.order(context, link, segment, order);
                }
                Step::Ask {
                    node,
                    address,
                    wants,
                } => self.ask(context, node, address, wants),
            }
        }
    }

    fn ask(&self, context: &Arc<Context>, node: String, address: SocketAddr, wants: Vec<u32>) {
        let send = self.sender(context);
        let snapshot = self.snapshot.name.clone();
        // Nothing waits for it at the end: it touches nothing here, and is over after some seconds.
        let engine = context.engine.clone();
        let peers = context.peers.clone();
        tokio::spawn(async move {
            let answer = engine.ask(address, &snapshot, &Question { wants }).await;
            let reached = answer.as_ref().err().is_none_or(AskError::linked);
            if reached {
                peers.lock().verified(address, Instant::now());
            } else {
                peers.lock().failed(address, Instant::now());
            }
            if let Err(error) = &answer {
                tracing::debug!(snapshot, node, %error, "another node does not say what it has");
            }
            send(Done::Answered(node, answer.ok()));
        });
    }

    /// Another node answered, or did not.
    pub(super) fn answered(&mut self, node: &str, mut answer: Option<Answer>) {
        if let (Some(answer), Some(store)) = (&mut answer, &self.store) {
            // What does not fit the plan is of no use and could be of any size.
            answer.pieces.retain(|held| {
                let segment = store.segments().get(held.segment as usize);
                let piece_bytes = self.snapshot.sizes.piece_bytes;
                let expected = segment.map(|segment| piece_count(segment.len(), piece_bytes));
                expected == Some(held.pieces.as_slice().len() as u64)
            });
        }
        self.alone.answered(Instant::now(), node, answer);
    }

    /// Lets other nodes know how this one stands, if they ask.
    pub(super) fn stand(&self, context: &Context, coordinated: bool) {
        let Some(store) = self.store.as_ref().filter(|_| self.tracked) else {
            return;
        };
        let hub = matches!(self.by_itself(), ByItself::Everywhere | ByItself::Hub);
        let mut fetching: Vec<u32> = self.fetching().collect();
        fetching.sort_unstable();
        let stance = Stance {
            fetching,
            reaches_hub: hub && !self.alone.hub_rests(Instant::now()),
            coordinated,
        };
        context.serving.stand(store, stance);
    }

    fn fetching(&self) -> impl Iterator<Item = u32> {
        let fetches = self
            .running
            .iter()
            .filter(|(_, running)| running.order == Order::Fetch);
        fetches.map(|(segment, _)| *segment)
    }

    /// Remembers a failure for what is tried next without a coordinator.
    pub(super) fn note_failure(&mut self, index: u32, order: &Order, failure: &Failure) {
        let now = Instant::now();
        match (order, &failure.blame) {
            (_, Blame::Disk { .. }) => {}
            (Order::Take { holder, .. }, _) => self.alone.take_failed(now, holder),
            (Order::Fetch, Blame::Origin { retry_after, .. }) => {
                self.strangers.fetched(false);
                self.alone.fetch_failed(now, index, *retry_after);
            }
            (Order::Fetch, Blame::Chance) => self.alone.fetch_failed(now, index, None),
        }
    }
}
