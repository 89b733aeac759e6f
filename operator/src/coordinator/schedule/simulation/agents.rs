//! What simulated agents do with orders, like the real ones.

use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, Held};
use modelcache_swarm::segment::PieceHashes;

use super::{Character, Content, Event, NAME, Order, Simulation, flavour_of, node_name, pieces};

impl Simulation {
    pub(super) fn obey(&mut self, node: usize, message: CoordinatorMessage) {
        let (segment, order) = match message {
            CoordinatorMessage::Fetch { segment, .. } => (segment, Order::Fetch),
            CoordinatorMessage::Take {
                segment,
                holder,
                pieces,
                ..
            } => {
                let holder = holder["node-".len()..].parse().unwrap();
                (segment, Order::Take(holder, pieces))
            }
            CoordinatorMessage::Discard { segments, .. } => {
                let agent = &mut self.agents[node];
                for segment in segments {
                    agent.open.remove(&segment);
                    let unverified = agent.held.get(&segment).is_some_and(|c| !c.verified);
                    if unverified
                        && agent.character != Character::Forger
                        && let Some(content) = agent.held.remove(&segment)
                    {
                        agent.left.insert(segment, content.flavour);
                    }
                }
                self.track(node);
                return;
            }
            CoordinatorMessage::Origin { .. }
            | CoordinatorMessage::Members { .. }
            | CoordinatorMessage::Refused { .. } => return,
        };
        if self.agents[node].held.contains_key(&segment) {
            self.have(node, segment);
            return;
        }
        if let Some((open, _)) = self.agents[node].open.get(&segment)
            && *open == order
        {
            return;
        }
        let ticket = self.dice.roll(u64::MAX);
        self.agents[node].open.insert(segment, (order, ticket));
        let time = self.now + 5 + self.dice.roll(150);
        let process = self.agents[node].process;
        self.at(time, Event::Done(node, process, segment, ticket));
    }

    fn have(&mut self, node: usize, segment: u32) {
        let agent = &self.agents[node];
        let content = &agent.held[&segment];
        let held = Held {
            segment,
            pieces: pieces(content.flavour, segment),
            verified: content.verified,
        };
        self.say(
            node,
            AgentMessage::Have {
                snapshot: NAME.to_owned(),
                held,
            },
        );
    }

    pub(super) fn done(&mut self, node: usize, process: u64, segment: u32, ticket: u64) {
        let agent = &mut self.agents[node];
        if agent.process != process
            || agent
                .open
                .get(&segment)
                .is_none_or(|(_, one)| *one != ticket)
        {
            return;
        }
        let (order, _) = agent.open.remove(&segment).unwrap();
        let broken = self.dice.chance(self.world.failing);
        let got = match order {
            Order::Fetch => self.fetched(node, segment, broken),
            Order::Take(holder, pieces) => self
                .taken(node, holder, segment, &pieces, broken)
                .ok_or(AgentMessage::TakeFailed {
                    snapshot: NAME.to_owned(),
                    segment,
                    holder: node_name(holder),
                    message: "broken".to_owned(),
                }),
        };
        match got {
            Ok(flavour) => {
                let forged = self.agents[node].character == Character::Forger;
                let content = Content {
                    flavour,
                    verified: forged,
                };
                self.agents[node].held.insert(segment, content);
                self.have(node, segment);
                self.verify_soon(node, segment);
            }
            Err(AgentMessage::FetchFailed {
                message,
                rate_limited,
                retry_after_seconds,
                snapshot,
                ..
            }) => self.say(
                node,
                AgentMessage::FetchFailed {
                    snapshot,
                    segment,
                    message,
                    rate_limited,
                    retry_after_seconds,
                },
            ),
            Err(failure) => self.say(node, failure),
        }
    }

    fn fetched(&mut self, node: usize, segment: u32, broken: bool) -> Result<u64, AgentMessage> {
        let rate_limited = self.now < self.hub_limits;
        let character = self.agents[node].character;
        if broken || rate_limited || self.now < self.hub_down || character == Character::Cutoff {
            return Err(AgentMessage::FetchFailed {
                snapshot: NAME.to_owned(),
                segment: 0,
                message: "no answer".to_owned(),
                rate_limited,
                retry_after_seconds: (rate_limited && self.dice.chance(50)).then_some(2),
            });
        }
        let spoilt = match character {
            Character::Sly => *self.agents[node].spoils.get_or_insert(segment) == segment,
            other => other.may_want_forever(),
        };
        let wrong = self.now < self.hub_lies || spoilt;
        Ok(if wrong { 1 + self.dice.roll(1000) } else { 0 })
    }

    fn taken(
        &mut self,
        taker: usize,
        holder: usize,
        segment: u32,
        pieces: &PieceHashes,
        broken: bool,
    ) -> Option<u64> {
        let flavour = flavour_of(pieces);
        if self.agents[taker].left.get(&segment) == Some(&flavour) {
            return Some(flavour);
        }
        let from = &mut self.agents[holder];
        let serves = from
            .held
            .get(&segment)
            .is_some_and(|content| content.flavour == flavour);
        if broken || !from.alive || from.character == Character::Mute || !serves {
            return None;
        }
        self.outcome.seeded += u64::from(from.seeder);
        self.outcome.moved += 1;
        Some(flavour)
    }

    pub(super) fn verify_soon(&mut self, node: usize, segment: u32) {
        let blob = segment / self.world.blob;
        let process = self.agents[node].process;
        let whole = self
            .blob(blob)
            .all(|one| self.agents[node].held.contains_key(&one));
        if whole {
            let time = self.now + self.dice.roll(60);
            self.at(time, Event::Verify(node, process, blob));
        }
    }

    pub(super) fn blob(&self, blob: u32) -> impl Iterator<Item = u32> + use<> {
        let end = ((blob + 1) * self.world.blob).min(self.world.segments);
        blob * self.world.blob..end
    }

    pub(super) fn verify(&mut self, node: usize, process: u64, blob: u32) {
        let segments: Vec<u32> = self.blob(blob).collect();
        let agent = &mut self.agents[node];
        let has = |segment: &u32| {
            agent
                .held
                .get(segment)
                .is_some_and(|content| !content.verified)
        };
        if agent.process != process
            || !segments.iter().all(has)
            || agent.character.may_want_forever()
        {
            return;
        }
        let right = segments
            .iter()
            .all(|segment| agent.held[segment].flavour == 0);
        let snapshot = NAME.to_owned();
        if right {
            for segment in &segments {
                agent.held.get_mut(segment).unwrap().verified = true;
            }
            self.say(node, AgentMessage::Verified { snapshot, segments });
        } else {
            let again = !agent.wrong.insert(blob);
            for segment in &segments {
                let content = agent.held.remove(segment).unwrap();
                agent.left.insert(*segment, content.flavour);
                if again {
                    agent.left.remove(segment);
                }
            }
            let message = "wrong hash".to_owned();
            self.say(
                node,
                AgentMessage::Corrupt {
                    snapshot,
                    segments,
                    message,
                },
            );
        }
    }
}
