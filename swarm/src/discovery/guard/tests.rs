use std::collections::HashSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::discovery::announcement::{Body, Delivery, Listening};

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn start() -> Now {
    Now {
        wall: UnixMillis(1_700_000_000_000),
        monotonic: Instant::now(),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn sent(node: u32, boot: u64, sequence: u64, sent_at: UnixMillis) -> Announcement {
    Announcement {
        node: NodeName::new(&format!("node-{node}")).unwrap(),
        boot: UnixMillis(boot),
        sequence,
        sent_at,
        listening: Listening::new([(SOURCE, 9492).into()]).unwrap(),
        delivery: Delivery::default(),
        body: Body::Goodbye,
    }
}

/// A guard that has been up for an hour.
fn settled() -> (Guard, Now) {
    let start = start();
    (
        Guard::new(Tolerance::default(), start),
        start.plus(seconds(3600)),
    )
}

#[test]
fn what_is_too_old_or_from_the_future_is_stale() {
    let (mut guard, now) = settled();
    for (sent_at, expected) in [
        (now.wall.minus(seconds(30)), Ok(())),
        (
            now.wall.minus(Duration::from_millis(30_001)),
            Err(Refusal::Stale),
        ),
        (now.wall.plus(seconds(10)), Ok(())),
        (
            now.wall.plus(Duration::from_millis(10_001)),
            Err(Refusal::Stale),
        ),
        (UnixMillis(0), Err(Refusal::Stale)),
        (UnixMillis(u64::MAX), Err(Refusal::Stale)),
    ] {
        let node = guard.len().try_into().unwrap();
        let announcement = sent(node, 1, 1, sent_at);
        assert_eq!(
            guard.accept(&announcement, SOURCE, now),
            expected,
            "{sent_at:?}"
        );
    }
}

#[test]
fn what_was_heard_is_not_heard_again() {
    let (mut guard, now) = settled();
    let mut hear = |boot, sequence| guard.accept(&sent(1, boot, sequence, now.wall), SOURCE, now);
    assert_eq!(hear(5, 100), Ok(()));
    assert_eq!(hear(5, 100), Err(Refusal::Replayed));
    // Two interfaces may deliver out of order.
    assert_eq!(hear(5, 103), Ok(()));
    assert_eq!(hear(5, 101), Ok(()));
    assert_eq!(hear(5, 101), Err(Refusal::Replayed));
    assert_eq!(hear(5, 40), Ok(()));
    assert_eq!(hear(5, 39), Err(Refusal::Replayed));
    // Another life begins; the one before it is over.
    assert_eq!(hear(6, 0), Ok(()));
    assert_eq!(hear(5, 104), Err(Refusal::Replayed));
    assert_eq!(hear(6, 0), Err(Refusal::Replayed));
    assert_eq!(hear(6, u64::MAX), Ok(()));
    assert_eq!(hear(6, 1), Err(Refusal::Replayed));
}

#[test]
fn an_address_that_the_sender_does_not_name_is_refused() {
    let (mut guard, now) = settled();
    let elsewhere = "10.0.0.99".parse().unwrap();
    let announcement = sent(1, 1, 1, now.wall);
    assert_eq!(
        guard.accept(&announcement, elsewhere, now),
        Err(Refusal::Elsewhere)
    );
    assert_eq!(guard.accept(&announcement, SOURCE, now), Ok(()));
    // What was heard is a replay, wherever it comes from.
    assert_eq!(
        guard.accept(&announcement, elsewhere, now),
        Err(Refusal::Replayed)
    );
    // What was not is not taken for heard because somebody relayed it.
    let next = sent(1, 1, 2, now.wall);
    assert_eq!(guard.accept(&next, elsewhere, now), Err(Refusal::Elsewhere));
    assert_eq!(guard.accept(&next, SOURCE, now), Ok(()));
}

/// Whatever was accepted before a restart, from senders whose clocks are as wrong as they may be, is refused after it.
#[test]
fn a_replay_from_before_a_restart_is_refused() {
    let (mut guard, now) = settled();
    let recorded: Vec<_> = (0..)
        .zip([
            now.wall.minus(seconds(30)),
            now.wall,
            now.wall.plus(seconds(10)),
        ])
        .map(|(node, sent_at)| sent(node, 1, 1, sent_at))
        .collect();
    for announcement in &recorded {
        assert_eq!(guard.accept(announcement, SOURCE, now), Ok(()));
    }
    let mut restarted = Guard::new(Tolerance::default(), now);
    for after in 0..60 {
        let now = now.plus(seconds(after));
        for announcement in &recorded {
            assert!(
                restarted.accept(announcement, SOURCE, now).is_err(),
                "{after} s"
            );
        }
    }
    // A sender with an exact clock is heard again after the tolerance.
    let later = now.plus(seconds(11));
    let mut restarted = Guard::new(Tolerance::default(), now);
    assert_eq!(
        restarted.accept(&sent(1, 1, 2, now.wall.plus(seconds(9))), SOURCE, later),
        Err(Refusal::PossiblyReplayed)
    );
    assert_eq!(
        restarted.accept(&sent(1, 1, 3, later.wall), SOURCE, later),
        Ok(())
    );
}

/// Also when the sender has been heard again meanwhile, and the number of the replay is just behind the new one.
#[test]
fn a_replay_from_before_a_restart_is_refused_when_its_sender_is_known_again() {
    let (mut guard, now) = settled();
    let recorded = sent(1, 1, 7, now.wall);
    assert_eq!(guard.accept(&recorded, SOURCE, now), Ok(()));
    let mut restarted = Guard::new(Tolerance::default(), now);
    let later = now.plus(seconds(11));
    assert_eq!(
        restarted.accept(&sent(1, 1, 8, later.wall), SOURCE, later),
        Ok(())
    );
    assert_eq!(
        restarted.accept(&recorded, SOURCE, later),
        Err(Refusal::PossiblyReplayed)
    );
}

#[test]
fn a_clock_that_is_set_back_does_not_deafen() {
    let (mut guard, now) = settled();
    let back = Now {
        wall: now.wall.minus(seconds(7200)),
        monotonic: now.monotonic + seconds(1),
    };
    guard.forget_stale(now);
    guard.forget_stale(back);
    let at_once = sent(1, 1, 1, back.wall);
    assert_eq!(
        guard.accept(&at_once, SOURCE, back),
        Err(Refusal::PossiblyReplayed)
    );
    let later = back.plus(seconds(11));
    assert_eq!(
        guard.accept(&sent(1, 1, 2, later.wall), SOURCE, later),
        Ok(())
    );
}

/// Somebody who can set the receiver's clock (by NTP without authentication) gets nothing believed twice.
#[test]
fn a_replay_is_refused_whichever_way_the_clock_moves() {
    let hour = 3600;
    // Ahead and back again; a little back; far back, until the old time comes again.
    let moves: [&[(i64, u64)]; 3] = [
        &[(hour, 1), (2, 2), (8, 8), (20, 20)],
        &[(-5, 1), (0, 6), (10, 16)],
        &[
            (-2 * hour, 1),
            (-hour, 3601),
            (-8, 7193),
            (0, 7201),
            (20, 7221),
        ],
    ];
    for moves in moves {
        let (mut guard, now) = settled();
        let recorded = sent(1, 1, 1, now.wall);
        assert_eq!(guard.accept(&recorded, SOURCE, now), Ok(()));
        for (wall, after) in moves {
            let shift = seconds(wall.unsigned_abs());
            let at = Now {
                wall: if *wall < 0 {
                    now.wall.minus(shift)
                } else {
                    now.wall.plus(shift)
                },
                monotonic: now.monotonic + seconds(*after),
            };
            guard.forget_stale(at);
            let replayed = guard.accept(&recorded, SOURCE, at);
            assert!(replayed.is_err(), "{wall} s after {after} s");
        }
    }
}

#[test]
fn a_node_that_is_forgotten_to_save_memory_cannot_be_replayed() {
    let (mut guard, now) = settled();
    guard.0.most = 3;
    let recorded: Vec<_> = (0..10)
        .map(|node| {
            sent(
                node,
                1,
                1,
                now.wall.plus(Duration::from_millis(node.into())),
            )
        })
        .collect();
    for announcement in &recorded {
        assert_eq!(guard.accept(announcement, SOURCE, now), Ok(()));
        assert!(guard.len() <= 3);
    }
    for announcement in &recorded {
        assert!(guard.accept(announcement, SOURCE, now).is_err());
    }
}

#[test]
fn nodes_that_are_silent_are_forgotten() {
    let (mut guard, now) = settled();
    assert_eq!(guard.accept(&sent(1, 9, 9, now.wall), SOURCE, now), Ok(()));
    guard.forget_stale(now.plus(seconds(30)));
    assert_eq!(guard.len(), 1);
    let later = now.plus(seconds(31));
    guard.forget_stale(later);
    assert!(guard.is_empty());
    // It may come back with a clock that was set back a little.
    assert_eq!(
        guard.accept(&sent(1, 8, 0, later.wall), SOURCE, later),
        Ok(())
    );
}

proptest! {
    /// No datagram is accepted twice, whatever the order, the restarts and the times; memory stays bounded.
    #[test]
    fn nothing_is_accepted_twice(
        datagrams in prop::collection::vec((0_u32..6, 0_u64..3, 0_u64..80, 0_u64..50_000), 1..30),
        deliveries in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..8_000, prop::bool::weighted(0.05)), 0..200),
    ) {
        let mut now = start();
        let first = now.wall;
        let mut guard = Guard::new(Tolerance::default(), now);
        guard.0.most = 4;
        let mut accepted = HashSet::new();
        for (which, after, restart) in deliveries {
            now = now.plus(Duration::from_millis(after));
            if restart {
                guard = Guard::new(Tolerance::default(), now);
                guard.0.most = 4;
            }
            if after % 5 == 0 {
                guard.forget_stale(now);
            }
            let number = which.index(datagrams.len());
            let (node, boot, sequence, at) = datagrams[number];
            let announcement = sent(node, boot, sequence, first.plus(Duration::from_millis(at)));
            if guard.accept(&announcement, SOURCE, now).is_ok() {
                prop_assert!(accepted.insert(datagrams[number]), "{announcement:?} twice");
            }
            prop_assert!(guard.len() <= 4);
        }
    }
}
