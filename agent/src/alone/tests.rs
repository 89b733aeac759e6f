//! Nodes without a coordinator in simulated time: what each knows comes from its own questions only.

use modelcache_swarm::coordination::Held;
use proptest::prelude::*;

use super::order::mix;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// One simulated node.
struct Node {
    name: String,
    alone: Alone,
    held: BTreeSet<u32>,
    /// What is on its way, and when it is here or fails: from the hub, or from that node.
    under_way: BTreeMap<u32, (u64, Option<String>)>,
    /// Whether the hub gives it anything.
    able: bool,
    dies: Option<u64>,
    fetched: u32,
}

struct World {
    nodes: Vec<Node>,
    segments: u32,
    start: Instant,
    second: u64,
    dice: u64,
}

fn address() -> SocketAddr {
    "10.0.0.1:9492".parse().unwrap()
}

fn name(number: usize) -> String {
    format!("node-{number}")
}

fn members(count: usize) -> Vec<Member> {
    let member = |number| Member {
        node: name(number),
        address: address(),
    };
    (0..count).map(member).collect()
}

impl World {
    fn new(nodes: usize, segments: u32, dice: u64) -> Self {
        let node = |number| Node {
            name: name(number),
            alone: {
                let mut alone = Alone::new(&name(number), "s");
                alone.set_members(members(nodes.min(MAX_MEMBERS)));
                alone
            },
            held: BTreeSet::new(),
            under_way: BTreeMap::new(),
            able: true,
            dies: None,
            fetched: 0,
        };
        Self {
            nodes: (0..nodes).map(node).collect(),
            segments,
            start: Instant::now(),
            second: 0,
            dice,
        }
    }

    fn now(&self) -> Instant {
        self.start + SECOND * u32::try_from(self.second).unwrap()
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = mix(self.dice);
        self.dice % sides
    }

    fn lives(&self, number: usize) -> bool {
        self.nodes[number]
            .dies
            .is_none_or(|dies| self.second < dies)
    }

    fn find(&self, name: &str) -> Option<usize> {
        let found = self.nodes.iter().position(|node| node.name == name)?;
        self.lives(found).then_some(found)
    }

    fn answer(&self, number: usize, wants: &[u32]) -> Answer {
        let node = &self.nodes[number];
        let hub = node
            .under_way
            .iter()
            .filter(|(_, (_, from))| from.is_none());
        let pieces = wants.iter().filter(|one| node.held.contains(one));
        Answer {
            held: node.held.iter().copied().collect(),
            fetching: hub.map(|(segment, _)| *segment).collect(),
            reaches_hub: node.able && !node.alone.hub_rests(self.now()),
            coordinated: false,
            pieces: pieces
                .map(|segment| Held {
                    segment: *segment,
                    pieces: PieceHashes::new(Vec::new()),
                    verified: false,
                })
                .collect(),
        }
    }

    fn step(&mut self) {
        self.second += 1;
        let now = self.now();
        for number in 0..self.nodes.len() {
            if self.lives(number) {
                self.finish(number, now);
                self.decide(number, now);
            }
        }
    }

    fn finish(&mut self, number: usize, now: Instant) {
        let over = self.second;
        let due = self.nodes[number]
            .under_way
            .extract_if(.., |_, (at, _)| *at <= over);
        let due: Vec<_> = due.collect();
        for (segment, (_, from)) in due {
            let giver = from.as_deref().map(|from| self.find(from));
            let node = &mut self.nodes[number];
            match (giver, from) {
                (None, _) if !node.able => node.alone.fetch_failed(now, segment, None),
                (None, _) => {
                    node.held.insert(segment);
                    node.fetched += 1;
                    node.alone.progressed(now, Some(segment));
                }
                (Some(Some(_)), _) => {
                    node.held.insert(segment);
                    node.alone.progressed(now, None);
                }
                (Some(None), from) => node.alone.take_failed(now, &from.unwrap_or_default()),
            }
        }
    }

    fn decide(&mut self, number: usize, now: Instant) {
        let (all, node) = (self.segments, &mut self.nodes[number]);
        let missing =
            (0..all).filter(|one| !node.held.contains(one) && !node.under_way.contains_key(one));
        let missing: BTreeSet<u32> = missing.collect();
        let fetching = node
            .under_way
            .values()
            .filter(|(_, from)| from.is_none())
            .count();
        let standing = Standing {
            missing: &missing,
            fetching,
            taking: node.under_way.len() - fetching,
            may_fetch: true,
            may_take: true,
        };
        for step in node.alone.next(now, standing) {
            match step {
                Step::Ask { node, wants, .. } => {
                    let answer = self.find(&node).map(|asked| self.answer(asked, &wants));
                    self.nodes[number].alone.answered(now, &node, answer);
                }
                Step::Take { segment, node, .. } => {
                    let end = self.second + 1 + self.roll(3);
                    let under_way = &mut self.nodes[number].under_way;
                    assert!(under_way.insert(segment, (end, Some(node))).is_none());
                }
                Step::Fetch(segment) => {
                    let end = self.second + 1 + self.roll(20);
                    let under_way = &mut self.nodes[number].under_way;
                    assert!(under_way.insert(segment, (end, None)).is_none());
                }
            }
        }
    }

    /// Runs until every living node has everything. How many segments came from the hub.
    fn run(&mut self) -> u32 {
        for _ in 0..4 * 3600 {
            self.step();
            let all = self.segments as usize;
            let whole = |number: usize| self.nodes[number].held.len() == all;
            if (0..self.nodes.len()).all(|number| !self.lives(number) || whole(number)) {
                return self.nodes.iter().map(|node| node.fetched).sum();
            }
        }
        panic!("not whole after four hours");
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

fn fetches(steps: &[Step]) -> Vec<u32> {
    let fetch = |step: &Step| match step {
        Step::Fetch(segment) => Some(*segment),
        _ => None,
    };
    steps.iter().filter_map(fetch).collect()
}

/// A member that heard of every other that it holds nothing and reaches the hub.
fn informed(number: usize, count: usize, now: Instant) -> Alone {
    let mut alone = Alone::new(&name(number), "s");
    alone.set_members(members(count));
    alone.next(now, standing(&BTreeSet::from([0])));
    let answer = Answer {
        reaches_hub: true,
        ..Answer::default()
    };
    for other in (0..count).filter(|other| *other != number) {
        alone.answered(now, &name(other), Some(answer.clone()));
    }
    alone
}

#[test]
fn each_member_has_a_place_of_its_own_for_each_thing() {
    let world = World::new(9, 1, 1);
    let places = |item| -> Vec<_> {
        let nodes = world.nodes.iter();
        let mut all: Vec<_> = nodes.map(|node| node.alone.precedence(item)).collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.score));
        all.iter().map(|one| one.before).collect()
    };
    assert_eq!(places(0), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(places(1), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let first = |item| (0..9).find(|n| world.nodes[*n].alone.precedence(item).before == 0);
    assert!((1..20).any(|item| first(item) != first(0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn while_all_live_each_segment_is_fetched_once(nodes in 1_usize..9, segments in 1_u32..40, dice: u64) {
        let mut world = World::new(nodes, segments, dice);
        prop_assert_eq!(world.run(), segments);
    }

    #[test]
    fn whoever_dies_or_does_not_reach_the_hub_the_living_become_whole(
        fates in prop::collection::vec((any::<bool>(), prop::option::of(0_u64..200)), 0..7),
        segments in 1_u32..30, dice: u64,
    ) {
        let mut world = World::new(fates.len() + 1, segments, dice);
        for (number, (able, dies)) in fates.into_iter().enumerate() {
            world.nodes[number].able = able;
            world.nodes[number].dies = dies;
            for segment in 0..segments {
                if world.roll(4) == 0 {
                    world.nodes[number].held.insert(segment);
                }
            }
        }
        world.run();
    }

    #[test]
    fn of_nodes_that_see_the_same_exactly_one_goes_first(count in 1_usize..MAX_MEMBERS, segment: u32) {
        let now = Instant::now();
        let turns: BTreeSet<Option<u32>> =
            (0..count).map(|number| informed(number, count, now).turn(now, segment)).collect();
        let expected = (0..u32::try_from(count).unwrap()).map(Some).collect();
        prop_assert_eq!(turns, expected);
    }
}

#[test]
fn the_same_node_decides_the_same_again() {
    let now = Instant::now();
    let missing: BTreeSet<u32> = (0..500).collect();
    let decide = || informed(1, 5, now).next(now, standing(&missing));
    assert_eq!(decide(), decide());
    assert_eq!(fetches(&decide()).len(), FETCHES);
}

#[test]
fn nobody_goes_to_the_hub_before_all_were_asked() {
    let now = Instant::now();
    let missing = BTreeSet::from([0, 1, 2]);
    let mut alone = Alone::new(&name(0), "s");
    alone.set_members(members(2));
    let steps = alone.next(now, standing(&missing));
    assert!(matches!(&steps[..], [Step::Ask { node, .. }] if *node == name(1)));
    alone.answered(now, &name(1), None);
    alone.next(now + ASK_EVERY, standing(&missing));
    alone.answered(now + ASK_EVERY, &name(1), None);
    let steps = alone.next(now + ASK_EVERY, standing(&missing));
    assert_eq!(fetches(&steps).len(), FETCHES, "the only other is dead");
}

#[test]
fn what_another_holds_or_fetches_is_not_fetched() {
    let now = Instant::now();
    let missing = BTreeSet::from([0, 1]);
    let mut alone = informed(0, 2, now);
    let answer = Answer {
        held: [0].into_iter().collect(),
        fetching: vec![1],
        ..Answer::default()
    };
    alone.answered(now, &name(1), Some(answer));
    assert_eq!(fetches(&alone.next(now, standing(&missing))), [0; 0]);
    // What it does not give although it has it is fetched, and what it fetches for ever too.
    alone.take_failed(now, &name(1));
    assert_eq!(fetches(&alone.next(now, standing(&missing))), [0]);
    let later = now + Duration::from_mins(6);
    assert_eq!(
        fetches(&alone.next(later, standing(&BTreeSet::from([1])))),
        [1]
    );
}

#[test]
fn a_hub_that_fails_is_left_alone_and_then_probed() {
    let now = Instant::now();
    let missing = BTreeSet::from([0, 1, 2]);
    let mut alone = informed(0, 1, now);
    assert_eq!(fetches(&alone.next(now, standing(&missing))).len(), FETCHES);
    alone.fetch_failed(now, 0, Some(Duration::from_secs(40)));
    let nothing: [u32; 0] = [];
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    assert_eq!(fetches(&alone.next(at(39), standing(&missing))), nothing);
    let probe = fetches(&alone.next(at(51), standing(&missing)));
    assert!(probe.len() == 1 && probe != [0], "{probe:?}");
    alone.progressed(at(51), Some(probe[0]));
    assert_eq!(
        fetches(&alone.next(at(51), standing(&missing))).len(),
        FETCHES
    );
    for _ in 0..100 {
        alone.fetch_failed(now, 1, None);
    }
    assert!(!alone.hub_rests(now + hub::WAIT.1 * 2));
}

#[test]
fn where_only_this_node_lost_the_coordinator_it_waits_for_the_others() {
    let now = Instant::now();
    let missing = BTreeSet::from([0]);
    let mut alone = informed(0, 2, now);
    let answer = Answer {
        coordinated: true,
        ..Answer::default()
    };
    alone.answered(now, &name(1), Some(answer));
    assert_eq!(fetches(&alone.next(now, standing(&missing))), [0; 0]);
    assert_eq!(fetches(&alone.next(now + TURN, standing(&missing))), [0]);
}

#[test]
fn a_node_that_is_not_listed_leaves_the_hub_to_those_that_are() {
    let now = Instant::now();
    let missing: BTreeSet<u32> = (0..100).collect();
    let mut alone = Alone::new("another", "s");
    alone.set_members(members(MAX_MEMBERS));
    let mut asked = 0;
    loop {
        let steps = alone.next(now, standing(&missing));
        assert_eq!(fetches(&steps), [0; 0]);
        if steps.is_empty() {
            break;
        }
        assert!(steps.len() <= ASKS);
        for step in steps {
            if let Step::Ask { node, .. } = step {
                let answer = Answer {
                    reaches_hub: true,
                    ..Answer::default()
                };
                alone.answered(now, &node, Some(answer));
                asked += 1;
            }
        }
    }
    assert_eq!(asked, MAX_MEMBERS);
    let longest = TURN * (MOST_TURNS + 16);
    assert_eq!(
        fetches(&alone.next(now + longest, standing(&missing))).len(),
        FETCHES
    );
}

#[test]
fn what_came_from_elsewhere_meanwhile_does_not_keep_a_node_from_asking_for_more() {
    let now = Instant::now();
    let mut alone = informed(0, 2, now);
    let hold_all = |pieces: Vec<u32>| {
        let held = |segment| Held {
            segment,
            pieces: PieceHashes::new(Vec::new()),
            verified: false,
        };
        Answer {
            held: (0..100).collect(),
            pieces: pieces.into_iter().map(held).collect(),
            ..Answer::default()
        }
    };
    let asked = |steps: &[Step]| {
        steps.iter().find_map(|step| match step {
            Step::Ask { wants, .. } => Some(wants.clone()),
            _ => None,
        })
    };
    alone.answered(now, &name(1), Some(hold_all(vec![])));
    let mut missing: BTreeSet<u32> = (0..100).collect();
    let at = |seconds| now + SECOND * seconds;
    let wants = asked(&alone.next(at(5), standing(&missing))).unwrap();
    assert_eq!(wants.len(), MAX_WANTS);
    alone.answered(at(5), &name(1), Some(hold_all(wants.clone())));
    missing.retain(|segment| !wants.contains(segment));
    let more = asked(&alone.next(at(6), standing(&missing))).unwrap();
    assert!(more.len() == MAX_WANTS && more.iter().all(|one| !wants.contains(one)));
}

#[test]
fn policies_are_kept() {
    let now = Instant::now();
    let missing = BTreeSet::from([0, 1, 2]);
    let mut peers_only = informed(0, 1, now);
    let never = Standing {
        may_fetch: false,
        ..standing(&missing)
    };
    assert_eq!(peers_only.next(now + TURN * 100, never), []);
    let mut origin_only = Alone::new(&name(0), "s");
    origin_only.set_members(members(5));
    let at_once = Standing {
        may_take: false,
        ..standing(&missing)
    };
    let steps = origin_only.next(now, at_once);
    assert_eq!(steps.len(), FETCHES);
    assert_eq!(fetches(&steps).len(), FETCHES);
}

#[test]
fn what_was_wrong_is_fetched_from_the_hub_whoever_has_it() {
    let now = Instant::now();
    let missing = BTreeSet::from([0]);
    let mut alone = informed(0, 2, now);
    let answer = Answer {
        held: [0].into_iter().collect(),
        ..Answer::default()
    };
    alone.answered(now, &name(1), Some(answer));
    alone.found_wrong(now, &[0]);
    let later = now + hub::WAIT.0 * 2;
    let steps = alone.next(later, standing(&missing));
    assert_eq!(fetches(&steps), [0]);
    let wanted = |step: &Step| matches!(step, Step::Ask { wants, .. } if !wants.is_empty());
    assert!(!steps.iter().any(wanted));
}
