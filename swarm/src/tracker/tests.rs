use std::num::NonZeroU16;

use proptest::prelude::*;

use super::query::{Form, PeerId};
use super::*;
use crate::bencode::Bencode;
use crate::discovery::clock::UnixMillis;
use crate::secret::{Key, Keyring};
use crate::tracker::proof::{Signed, sign};

const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEW: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const SNAPSHOT: ContentId = ContentId([7; 20]);
const OTHER: ContentId = ContentId([8; 20]);

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn start() -> Now {
    Now {
        wall: UnixMillis(1_700_000_000_000),
        monotonic: Instant::now(),
    }
}

fn host(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn announce(torrent: ContentId, number: u8, left: u64) -> Announce {
    Announce {
        info_hash: torrent,
        peer_id: PeerId([number; 20]),
        port: NonZeroU16::new(9492).unwrap(),
        ip: Some(host(number)),
        uploaded: 0,
        downloaded: 0,
        left,
        event: None,
        numwant: None,
        form: Form::Compact,
    }
}

/// A tracker that knows of [`SNAPSHOT`], and a time at which it believes members.
struct Lab {
    tracker: Tracker,
    ring: Keyring,
    now: Now,
}

impl Lab {
    fn new(admission: Admission) -> Self {
        let begin = start();
        let mut tracker = Tracker::new(admission, 1, begin);
        tracker.register([SNAPSHOT].into());
        Self {
            tracker,
            ring: Keyring::new(key(NEW), Some(key(OLD))),
            now: begin.plus(Duration::from_mins(1)),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// Signed now, with the current key.
    fn signed(&mut self, announce: &Announce) -> Signed {
        // Two requests of one node are never the same.
        self.now = self.now.plus(Duration::from_millis(1));
        sign(announce.to_query(), self.ring.current(), self.now.wall)
    }

    /// As an address translator with the address 10.9.9.9 hands it on.
    fn send(&mut self, query: &str) -> Result<Vec<u8>, Refusal> {
        let source = [10, 9, 9, 9].into();
        self.tracker.announce(query, source, &self.ring, self.now)
    }

    fn member(&mut self, announce: &Announce) -> Result<Answer, Refusal> {
        let request = self.signed(announce);
        let bytes = self.send(&request.query)?;
        Ok(Answer::read(&bytes, &request).unwrap())
    }

    fn stranger(&mut self, announce: &Announce, source: IpAddr) -> Result<Vec<u8>, Refusal> {
        self.tracker
            .announce(&announce.to_query(), source, &self.ring, self.now)
    }
}

fn hosts(answer: &Answer) -> Vec<IpAddr> {
    let mut hosts: Vec<_> = answer.peers.iter().map(|peer| peer.address.ip()).collect();
    hosts.sort_unstable();
    hosts
}

fn peers_of(bytes: &[u8]) -> Vec<u8> {
    let answer = Bencode::decode(bytes).unwrap();
    answer
        .get("peers")
        .and_then(Bencode::bytes)
        .unwrap()
        .to_vec()
}

#[test]
fn members_learn_of_each_other_by_the_addresses_that_they_signed() {
    let mut lab = Lab::new(Admission::Private);
    let seed = lab.member(&announce(SNAPSHOT, 1, 0)).unwrap();
    assert_eq!(
        (seed.complete, seed.incomplete, hosts(&seed)),
        (1, 0, vec![])
    );
    assert_eq!((seed.interval, seed.min_interval), (INTERVAL, MIN_INTERVAL));
    let leecher = lab.member(&announce(SNAPSHOT, 2, 5)).unwrap();
    assert_eq!((leecher.complete, leecher.incomplete), (1, 1));
    assert_eq!(hosts(&leecher), [host(1)]);
    assert_eq!(leecher.peers[0].address.port(), 9492);
    assert_eq!(
        hosts(&lab.member(&announce(SNAPSHOT, 1, 0)).unwrap()),
        [host(2)]
    );
    assert_eq!(lab.tracker.numbers(lab.now.monotonic), (1, 2));
    let stopped = Announce {
        event: Some(Event::Stopped),
        ..announce(SNAPSHOT, 2, 5)
    };
    let answer = lab.member(&stopped).unwrap();
    assert_eq!((answer.incomplete, hosts(&answer)), (0, vec![]));
    assert_eq!(lab.tracker.numbers(lab.now.monotonic), (1, 1));
}

#[test]
fn who_misses_two_announces_is_gone() {
    let mut lab = Lab::new(Admission::Private);
    lab.member(&announce(SNAPSHOT, 1, 0)).unwrap();
    lab.wait(2 * INTERVAL.as_secs() - 1);
    assert_eq!(
        hosts(&lab.member(&announce(SNAPSHOT, 2, 5)).unwrap()),
        [host(1)]
    );
    lab.wait(1);
    assert_eq!(
        hosts(&lab.member(&announce(SNAPSHOT, 2, 5)).unwrap()),
        [] as [IpAddr; 0]
    );
    assert_eq!(lab.tracker.numbers(lab.now.monotonic), (1, 1));
}

#[test]
fn as_many_peers_are_named_as_are_wanted_within_bounds() {
    let mut lab = Lab::new(Admission::Private);
    for number in 1..=240 {
        lab.member(&announce(SNAPSHOT, number, 0)).unwrap();
    }
    let mut named = |numwant| {
        let wanting = Announce {
            numwant,
            ..announce(SNAPSHOT, 250, 1)
        };
        lab.member(&wanting).unwrap().peers.len()
    };
    assert_eq!(named(None), 50);
    assert_eq!(named(Some(0)), 0);
    assert_eq!(named(Some(7)), 7);
    assert_eq!(named(Some(u32::MAX)), MAX_PEERS);
}

#[test]
fn a_private_tracker_tells_nobody_else_anything() {
    let mut lab = Lab::new(Admission::Private);
    lab.member(&announce(SNAPSHOT, 1, 0)).unwrap();
    for torrent in [SNAPSHOT, OTHER] {
        let refused = lab.stranger(&announce(torrent, 2, 5), host(2));
        assert_eq!(refused, Err(Refusal::Missing));
    }
    assert_eq!(
        lab.member(&announce(OTHER, 2, 5)),
        Err(Refusal::Unregistered)
    );
    let scrape = format!("info_hash={}", "%07".repeat(20));
    let refused = lab.tracker.scrape(&scrape, host(2), lab.now);
    assert_eq!(refused, Err(Refusal::Missing));
    assert_eq!(lab.tracker.numbers(lab.now.monotonic), (1, 1));
}

#[test]
fn each_valid_key_will_do_and_what_is_wrong_stale_or_repeated_does_not() {
    let mut lab = Lab::new(Admission::Private);
    let sound = announce(SNAPSHOT, 1, 0);
    let wall = lab.now.wall;
    let by_old = sign(sound.to_query(), &key(OLD), wall).query;
    assert!(lab.send(&by_old).is_ok());
    assert_eq!(lab.send(&by_old), Err(Refusal::Replayed));
    // The same from elsewhere is the same.
    let elsewhere = lab.tracker.announce(&by_old, host(77), &lab.ring, lab.now);
    assert_eq!(elsewhere, Err(Refusal::Replayed));
    let later = sign(
        sound.to_query(),
        &key(OLD),
        wall.plus(Duration::from_millis(1)),
    )
    .query;
    lab.ring = Keyring::new(key(NEW), None);
    assert_eq!(lab.send(&later), Err(Refusal::UnknownKey));
    let request = lab.signed(&sound);
    let other_port = request.query.replace("port=9492", "port=9493");
    assert_eq!(lab.send(&other_port), Err(Refusal::Wrong));
    lab.wait(31);
    assert_eq!(lab.send(&request.query), Err(Refusal::Stale));
    let ahead = sign(
        sound.to_query(),
        &key(NEW),
        lab.now.wall.plus(Duration::from_secs(11)),
    )
    .query;
    assert_eq!(lab.send(&ahead), Err(Refusal::Stale));
}

#[test]
fn a_tracker_that_was_started_anew_believes_no_repetition() {
    let mut lab = Lab::new(Admission::Private);
    let recorded = lab.signed(&announce(SNAPSHOT, 1, 0)).query;
    assert!(lab.send(&recorded).is_ok());
    lab.tracker = Tracker::new(Admission::Private, 1, lab.now);
    lab.tracker.register([SNAPSHOT].into());
    assert_eq!(lab.send(&recorded), Err(Refusal::PossiblyReplayed));
    lab.wait(11);
    assert_eq!(lab.send(&recorded), Err(Refusal::PossiblyReplayed));
    assert!(lab.member(&announce(SNAPSHOT, 1, 0)).is_ok());
}

#[test]
fn a_member_names_an_address_that_can_be_dialled() {
    let mut lab = Lab::new(Admission::Private);
    for bad in ["127.0.0.1", "0.0.0.0", "fe80::1", "224.0.0.1"] {
        let bad = Announce {
            ip: Some(bad.parse().unwrap()),
            ..announce(SNAPSHOT, 1, 0)
        };
        assert_eq!(lab.member(&bad), Err(Refusal::Unsound));
    }
    // Without one, the connection's counts.
    let silent = Announce {
        ip: None,
        ..announce(SNAPSHOT, 1, 0)
    };
    lab.member(&silent).unwrap();
    let told = lab.member(&announce(SNAPSHOT, 2, 1)).unwrap();
    assert_eq!(hosts(&told), [IpAddr::from([10, 9, 9, 9])]);
}

#[test]
fn a_snapshot_that_is_no_longer_wanted_is_forgotten() {
    let mut lab = Lab::new(Admission::Public);
    lab.member(&announce(SNAPSHOT, 1, 0)).unwrap();
    lab.stranger(&announce(OTHER, 2, 5), host(2)).unwrap();
    lab.tracker.register([OTHER].into());
    assert_eq!(lab.tracker.numbers(lab.now.monotonic), (0, 0));
    // What strangers said of it before is not told to members.
    assert_eq!(
        hosts(&lab.member(&announce(OTHER, 3, 5)).unwrap()),
        [] as [IpAddr; 0]
    );
}

#[test]
fn a_public_tracker_tells_members_of_members_only() {
    let mut lab = Lab::new(Admission::Public);
    lab.stranger(&announce(OTHER, 2, 0), host(2)).unwrap();
    let told = lab.member(&announce(OTHER, 1, 1));
    assert!(matches!(told, Err(Refusal::Unregistered)), "{told:?}");
    let told = lab.stranger(&announce(OTHER, 3, 1), host(3)).unwrap();
    assert_eq!(peers_of(&told)[..4], [10, 0, 0, 2]);
}

#[test]
fn a_public_tracker_serves_strangers_by_the_address_of_their_connection() {
    let mut lab = Lab::new(Admission::Public);
    lab.member(&announce(SNAPSHOT, 1, 0)).unwrap();
    // Whoever does not know the key learns nothing of what the cluster holds.
    let refused = lab.stranger(&announce(SNAPSHOT, 2, 5), host(2));
    assert_eq!(refused, Err(Refusal::Unregistered));
    // It names another's address, which is not believed; an IPv4 address is one whatever socket it came by.
    let liar = announce(OTHER, 99, 0);
    lab.stranger(&liar, "::ffff:127.0.0.3".parse().unwrap())
        .unwrap();
    let told = lab.stranger(&announce(OTHER, 2, 5), host(2)).unwrap();
    assert_eq!(peers_of(&told), [127, 0, 0, 3, 0x25, 0x14]);
    let completed = Announce {
        event: Some(Event::Completed),
        ..announce(OTHER, 2, 0)
    };
    lab.stranger(&completed, host(2)).unwrap();
    let hash = |byte: &str| format!("info_hash={}", byte.repeat(20));
    let both = format!("{}&{}", hash("%08"), hash("%07"));
    assert_eq!(
        lab.tracker.scrape(&both, host(3), lab.now).unwrap(),
        b"d5:filesd20:\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\
          d8:completei2e10:downloadedi1e10:incompletei0eeee"
    );
}

#[test]
fn whoever_asks_without_end_is_not_heard() {
    let mut lab = Lab::new(Admission::Public);
    let query = announce(OTHER, 1, 5).to_query();
    let mut ask = |source| lab.tracker.announce(&query, source, &lab.ring, lab.now);
    let asked = (0..1_500).filter(|_| ask(host(1)).is_ok()).count();
    assert_eq!(asked, 1_000);
    assert_eq!(ask(host(1)), Err(Refusal::TooMany));
    assert!(ask(host(2)).is_ok());
}

#[test]
fn strangers_have_their_own_room() {
    let mut lab = Lab::new(Admission::Public);
    let mut full = false;
    for number in 0..=64 {
        let torrent = ContentId([100 + number; 20]);
        full = lab.stranger(&announce(torrent, 1, 5), host(1)) == Err(Refusal::Full);
    }
    assert!(full, "65 peers at one address");
    assert!(lab.member(&announce(SNAPSHOT, 1, 0)).is_ok());
}

#[test]
fn an_ipv6_network_is_one_stranger_and_many_members() {
    let mut lab = Lab::new(Admission::Public);
    let within = |number: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]);
    let mut answers: Vec<_> = (0..1_500)
        .map(|number| lab.stranger(&announce(OTHER, 1, 5), within(number)))
        .collect();
    assert!(answers.drain(..64).all(|answer| answer.is_ok()));
    assert!(
        answers
            .drain(..936)
            .all(|answer| answer == Err(Refusal::Full))
    );
    assert!(
        answers
            .iter()
            .all(|answer| *answer == Err(Refusal::TooMany))
    );
    let next_door = "2001:db8:0:1::1".parse().unwrap();
    assert!(lab.stranger(&announce(OTHER, 1, 5), next_door).is_ok());
    for number in 0..100 {
        let node = Announce {
            ip: Some(within(number)),
            ..announce(SNAPSHOT, 1, 0)
        };
        assert!(lab.member(&node).is_ok());
    }
}

#[test]
fn refusals_have_the_names_that_metrics_show() {
    let all = [
        Refusal::Malformed(QueryError::TooLong),
        Refusal::Unsound,
        Refusal::Missing,
        Refusal::UnknownKey,
        Refusal::Wrong,
        Refusal::Stale,
        Refusal::Replayed,
        Refusal::PossiblyReplayed,
        Refusal::Unregistered,
        Refusal::TooMany,
        Refusal::Full,
    ];
    let names: BTreeSet<_> = all.into_iter().map(Refusal::name).collect();
    assert_eq!(names, Refusal::NAMES.into());
}

proptest! {
    /// Whatever is asked, signed or not: memory is bounded, and only members are told of members.
    #[test]
    fn anything_may_be_asked(announces in prop::collection::vec((query::tests::announces(), 0_u8..4, any::<bool>()), 1..60), public: bool) {
        let mut lab = Lab::new(if public { Admission::Public } else { Admission::Private });
        lab.member(&announce(SNAPSHOT, 1, 0)).unwrap();
        for (mut announce, torrent, signed) in announces {
            announce.info_hash = [SNAPSHOT, OTHER, announce.info_hash, ContentId([9; 20])][usize::from(torrent)];
            if signed {
                let _ = lab.member(&Announce { form: Form::Compact, ..announce });
            } else if let Ok(answer) = lab.stranger(&Announce { form: Form::Compact, ..announce }, host(9)) {
                prop_assert!(public);
                let told = peers_of(&answer);
                prop_assert!(told.chunks(6).all(|peer| !peer.starts_with(&[10, 0, 0, 1])));
            }
            let (torrents, peers) = lab.tracker.numbers(lab.now.monotonic);
            prop_assert!(torrents <= 61 && peers <= 61);
        }
    }
}
