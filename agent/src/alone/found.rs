//! Nodes that were found without the coordinator, by the table of peers.
//!
//! They give what they have, as members do, but have no place in the order in which nodes come for the hub: only the
//! coordinator's list is the same on all nodes.

use std::net::SocketAddr;
use std::time::Instant;

use modelcache_swarm::coordination::MAX_MEMBERS;
use modelcache_swarm::discovery::table::Candidate;

use super::Alone;
use super::order::seed;
use super::peer::Peer;

/// Nodes besides the members that are asked again and again: as many, for the same reasons.
pub(super) const MOST: usize = MAX_MEMBERS;

impl Alone {
    /// These nodes may hold the snapshot, the best ones first. Those that answer are kept, and those that do not make
    /// room for others that were asked less lately.
    pub fn set_found(&mut self, candidates: Vec<Candidate>) {
        let mut found: Vec<(String, SocketAddr)> = candidates
            .into_iter()
            .map(|Candidate { node, address }| {
                let name = node.map_or_else(|| address.to_string(), |node| node.to_string());
                (name, address)
            })
            .filter(|(name, address)| *name != self.me.0 && !self.is_member(name, *address))
            .collect();
        found.sort_by_cached_key(|(name, _)| self.rank(name));
        let mut before = std::mem::take(&mut self.peers);
        self.peers
            .extend(before.extract_if(.., |_, peer| peer.member));
        let mut let_go = std::mem::take(&mut self.let_go);
        for (place, (name, address)) in found.into_iter().enumerate() {
            let known = before.remove(&name);
            if place < MOST {
                let mut peer = known.unwrap_or_else(|| Peer::new(seed(&name), address));
                // It may be reached better elsewhere, but is the same node.
                peer.address = address;
                self.peers.insert(name, peer);
            } else if let Some(asked) = known.and_then(|peer| peer.asked).or(let_go.remove(&name)) {
                self.let_go.insert(name, asked);
            }
        }
    }

    /// Whether the coordinator named this node, whose word about where it is counts.
    fn is_member(&self, name: &str, address: SocketAddr) -> bool {
        let mut members = self.peers.iter().filter(|(_, peer)| peer.member);
        members.any(|(member, peer)| member == name || peer.address == address)
    }

    /// The place of a node that was found: first those that answer or may do so yet, then those that nobody asked, then the
    /// others.
    fn rank(&self, name: &str) -> (u8, Option<Instant>) {
        match (self.peers.get(name), self.let_go.get(name)) {
            (Some(peer), _) if peer.lives() || peer.asking() => (0, None),
            (None, None) => (1, None),
            (Some(peer), _) => (2, peer.asked),
            (None, asked) => (2, asked.copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use modelcache_swarm::coordination::{Held, Member};
    use modelcache_swarm::discovery::announcement::NodeName;
    use modelcache_swarm::inventory::Answer;
    use modelcache_swarm::segment::PieceHashes;

    use super::super::{ASK_EVERY, ASKS, Standing, Step};
    use super::*;

    fn address(number: u8) -> SocketAddr {
        ([10, 0, 0, number], 9492).into()
    }

    fn announced(node: &str, number: u8) -> Candidate {
        Candidate {
            node: Some(NodeName::new(node).unwrap()),
            address: address(number),
        }
    }

    fn unnamed(number: u8) -> Candidate {
        Candidate {
            node: None,
            address: address(number),
        }
    }

    fn member(node: &str, number: u8) -> Member {
        Member {
            node: node.to_owned(),
            address: address(number),
        }
    }

    fn standing(missing: &BTreeSet<u32>) -> Standing<'_> {
        Standing {
            missing,
            fetching: 0,
            taking: 0,
            may_fetch: true,
            may_take: true,
        }
    }

    fn asked(steps: &[Step]) -> Vec<(&str, SocketAddr)> {
        let mut asked: Vec<_> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Ask { node, address, .. } => Some((node.as_str(), *address)),
                _ => None,
            })
            .collect();
        asked.sort_unstable();
        asked
    }

    /// Has the first segment.
    fn has_it() -> Answer {
        Answer {
            held: [0].into_iter().collect(),
            pieces: vec![Held {
                segment: 0,
                pieces: PieceHashes::new(Vec::new()),
                verified: true,
            }],
            ..Answer::default()
        }
    }

    #[test]
    fn a_node_that_was_found_gives_what_it_has() {
        let now = Instant::now();
        let missing = BTreeSet::from([0]);
        for (candidate, name) in [(announced("b", 2), "b"), (unnamed(2), "10.0.0.2:9492")] {
            let mut alone = Alone::new("a", "s");
            assert!(!alone.has_peers());
            alone.set_found(vec![candidate]);
            assert!(alone.has_peers());
            assert_eq!(
                asked(&alone.next(now, standing(&missing))),
                [(name, address(2))]
            );
            alone.answered(now, name, Some(has_it()));
            let later = now + ASK_EVERY;
            assert_eq!(
                asked(&alone.next(later, standing(&missing))),
                [(name, address(2))]
            );
            alone.answered(later, name, Some(has_it()));
            let steps = alone.next(later, standing(&missing));
            let [
                Step::Take {
                    node, address: at, ..
                },
            ] = &steps[..]
            else {
                panic!("{steps:?}");
            };
            assert_eq!((node.as_str(), *at), (name, address(2)));
            alone.connected();
            assert!(!alone.has_peers(), "the coordinator's orders count again");
        }
    }

    #[test]
    fn what_the_coordinator_named_is_not_found_again_and_no_node_finds_itself() {
        let now = Instant::now();
        let mut alone = Alone::new("a", "s");
        alone.set_members(vec![member("a", 1), member("b", 2)]);
        alone.set_found(vec![
            announced("a", 9),
            announced("b", 3),
            unnamed(2),
            announced("c", 4),
        ]);
        let steps = alone.next(now, standing(&BTreeSet::from([0])));
        assert_eq!(asked(&steps), [("b", address(2)), ("c", address(4))]);
    }

    #[test]
    fn it_may_be_reached_better_elsewhere_and_may_be_gone() {
        let now = Instant::now();
        let missing = BTreeSet::from([0]);
        let mut alone = Alone::new("a", "s");
        alone.set_found(vec![announced("b", 2)]);
        alone.next(now, standing(&missing));
        alone.answered(now, "b", None);
        alone.set_found(vec![announced("b", 3)]);
        let early = alone.next(now, standing(&missing));
        assert_eq!(asked(&early), [], "it was asked just now");
        let steps = alone.next(now + ASK_EVERY, standing(&missing));
        assert_eq!(asked(&steps), [("b", address(3))]);
        alone.set_found(Vec::new());
        assert!(!alone.has_peers());
    }

    #[test]
    fn it_has_no_place_in_the_order_for_the_hub_but_what_it_has_is_not_fetched() {
        let now = Instant::now();
        let missing: BTreeSet<u32> = (0..50).collect();
        let mut alone = Alone::new("a", "s");
        alone.set_found(vec![announced("b", 2), announced("c", 3)]);
        let fetches = |steps: &[Step]| {
            let fetch = |step: &&Step| matches!(step, Step::Fetch(_));
            steps.iter().filter(fetch).count()
        };
        let steps = alone.next(now, standing(&missing));
        assert_eq!(fetches(&steps), 0, "they may have it");
        for node in ["b", "c"] {
            let answer = Answer {
                reaches_hub: true,
                ..has_it()
            };
            alone.answered(now, node, Some(answer));
        }
        assert_eq!(alone.turn(now, 0), None);
        for segment in 1..50 {
            assert_eq!(alone.turn(now, segment), Some(0));
        }
        // Who is found later is asked, but not waited for.
        alone.set_found(vec![announced("b", 2), announced("c", 3), unnamed(4)]);
        assert!(fetches(&alone.next(now, standing(&missing))) > 0);
    }

    #[test]
    fn among_very_many_the_few_that_answer_are_found_and_kept() {
        let missing = BTreeSet::from([0]);
        let candidate = |number: u16| Candidate {
            node: None,
            address: (std::net::Ipv4Addr::from_bits(number.into()), 1).into(),
        };
        let candidates: Vec<Candidate> = (1..=500).map(candidate).collect();
        let lives = |name: &str| name == "0.0.1.200:1" || name == "0.0.0.250:1";
        let mut alone = Alone::new("a", "s");
        let mut now = Instant::now();
        let mut open: Vec<(Instant, String)> = Vec::new();
        let mut heard = BTreeSet::new();
        for _ in 0..2 * 600 {
            now += Duration::from_millis(500);
            alone.set_found(candidates.clone());
            assert!(alone.peers.len() <= MOST && alone.let_go.len() <= candidates.len());
            for step in alone.next(now, standing(&missing)) {
                if let Step::Ask { node, .. } = step {
                    open.push((now, node));
                }
            }
            assert!(open.len() <= ASKS, "{} at once", open.len());
            // Each is silent for as long as a question may take.
            let over = |at: Instant| now >= at + Duration::from_secs(5);
            for (_, name) in open.extract_if(.., |(at, name)| over(*at) || lives(name)) {
                let answer = lives(&name).then(Answer::default);
                heard.extend(answer.is_some().then(|| name.clone()));
                alone.answered(now, &name, answer);
            }
        }
        assert_eq!(heard.len(), 2);
        assert!(heard.iter().all(|name| alone.peers.contains_key(name)));
    }
}
