//! What goes wrong in a simulated world.

use modelcache_swarm::coordination::AgentMessage;

use super::super::Schedule;
use super::{Event, Fault, NAME, Simulation, node_name};

impl Simulation {
    pub(super) fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(node) => {
                self.cut(node);
                self.connect_soon(node, 5_000);
            }
            Fault::Kill(node) | Fault::Wipe(node) | Fault::Die(node) => {
                self.cut(node);
                let agent = &mut self.agents[node];
                agent.alive = false;
                agent.process += 1;
                agent.open.clear();
                if matches!(fault, Fault::Wipe(_)) {
                    agent.held.clear();
                }
                if matches!(fault, Fault::Die(_)) {
                    agent.dead = true;
                } else if !agent.dead {
                    let time = self.now + 100 + self.dice.roll(10_000);
                    self.at(time, Event::Start(node));
                }
            }
            Fault::HubDown(time) => self.hub_down = self.now + time,
            Fault::HubLimits(time) => self.hub_limits = self.now + time,
            Fault::HubLies(time) => self.hub_lies = self.now + time,
            Fault::Restart => {
                self.schedule = Schedule::new(self.world.settings.clone());
                for node in 0..self.agents.len() {
                    self.agents[node].connected = false;
                    self.connect_soon(node, 5_000);
                }
                let time = self.now + self.dice.roll(2_000);
                self.at(time, Event::Want);
            }
            Fault::Rot(node) => {
                let segment = u32::try_from(self.dice.roll(self.world.segments.into())).unwrap();
                let segments: Vec<u32> = self.blob(segment / self.world.blob).collect();
                let agent = &mut self.agents[node];
                if agent.alive && segments.iter().all(|one| agent.held.contains_key(one)) {
                    for segment in &segments {
                        agent.held.remove(segment);
                    }
                    self.say(
                        node,
                        AgentMessage::Corrupt {
                            snapshot: NAME.to_owned(),
                            segments,
                            message: "disk error".to_owned(),
                        },
                    );
                }
            }
        }
    }

    fn cut(&mut self, node: usize) {
        if std::mem::take(&mut self.agents[node].connected) {
            let outgoing = self.schedule.agent_gone(&node_name(node), self.now);
            self.deliver(outgoing);
        }
    }
}
