use std::net::SocketAddr;

use modelcache_swarm::snapshot::SegmentSizes;

use super::*;

const FILES: [&str; 3] = ["config.json", "a/big-7b.Q4_K_M.gguf", "big-7b.Q8_0.gguf"];

fn snapshot() -> Snapshot {
    let file = |(number, path): (u8, &str)| SnapshotFile {
        path: path.to_owned(),
        size: 100 + u64::from(number),
        blob: if number == 0 {
            BlobId::Git([0; 20])
        } else {
            BlobId::Sha256([number; 32])
        },
        git_oid: "0".repeat(40),
    };
    Snapshot {
        name: "s".to_owned(),
        repository: "acme/big-7b".to_owned(),
        revision: "main".to_owned(),
        commit: "c".repeat(40),
        files: (0..).zip(FILES).map(file).collect(),
        sizes: SegmentSizes {
            segment_bytes: 1 << 20,
            piece_bytes: 1 << 18,
        },
    }
}

/// A torrent of machine `last` that is named as that file, if there is such a one.
fn seeds(last: u8, number: u8, file: usize, revision: &str) -> (Place, Seed) {
    let address = SocketAddr::new([10, 0, 0, last].into(), 7000);
    let named = FILES
        .get(file)
        .and_then(|path| model_name("acme/big-7b", path.rsplit('/').next()?));
    let name = named.unwrap_or_else(|| "other:1b:base:q8_0".to_owned());
    let seed = Seed::new(&name, [number; 20], [0; 32], "acme/big-7b", revision).unwrap();
    ((address, [number; 20]), seed)
}

/// Nothing has come for so long.
fn after(wait: Duration) -> (Strangers, Instant) {
    let start = Instant::now();
    let mut strangers = Strangers::default();
    strangers.came(start, 7);
    (strangers, start + wait)
}

/// So many nodes come before.
fn place(before: u32) -> Precedence {
    Precedence { before, score: 0 }
}

fn next(
    strangers: &Strangers,
    now: Instant,
    missing: &[u32],
    heard: &[(Place, Seed)],
) -> Option<u8> {
    let missing = missing.iter().copied().collect();
    let standing = Standing {
        snapshot: &snapshot(),
        missing: &missing,
        heard,
    };
    strangers
        .next(now, standing, |_| place(0))
        .map(|place| place.1[0])
}

#[test]
fn nobody_is_asked_while_hub_or_nodes_give() {
    let heard = [seeds(1, 1, 1, "")];
    let (mut strangers, now) = after(PATIENCE);
    assert_eq!(next(&strangers, now, &[1], &heard), Some(1));
    assert_eq!(next(&strangers, now, &[1], &[]), None);
    assert_eq!(next(&strangers, now, &[], &heard), None);
    strangers.came(now, 7);
    assert!(strangers.may_ask(now));
    strangers.came(now, 8);
    assert!(!strangers.may_ask(now) && strangers.may_ask(now + PATIENCE));
    strangers.pass();
    strangers.came(now + PATIENCE, 8);
    assert!(!strangers.may_ask(now + PATIENCE));
    assert!(!strangers.hub_fails());
    strangers.fetched(false);
    assert!(strangers.hub_fails());
    strangers.fetched(true);
    assert!(!strangers.hub_fails());
}

#[test]
fn what_is_named_as_missing_comes_first_and_what_is_here_is_not_asked_for() {
    let (strangers, now) = after(PATIENCE);
    let all = [
        seeds(1, 9, 9, "main"),
        seeds(2, 1, 1, ""),
        seeds(3, 2, 2, ""),
    ];
    let order = |missing: &[u32]| next(&strangers, now, missing, &all);
    assert_eq!(
        (order(&[1]), order(&[2]), order(&[0])),
        (Some(1), Some(2), Some(9))
    );
    // Nodes begin with different files, each with the one for which it comes earliest.
    let snapshot = snapshot();
    let missing = [1, 2].into();
    let standing = Standing {
        snapshot: &snapshot,
        missing: &missing,
        heard: &all,
    };
    for (first, machine) in [(1, 1), (2, 2)] {
        let precedence = |file| Precedence {
            before: 0,
            score: u64::from(file == first),
        };
        let place = strangers.next(now, standing, precedence).unwrap();
        assert_eq!(place.1[0], machine);
    }
}

#[test]
fn another_commit_is_not_asked_for() {
    let (strangers, now) = after(PATIENCE);
    for (revision, asked) in [
        ("c", true),
        ("main", true),
        (&*"C".repeat(40), true),
        (&*"d".repeat(40), false),
    ] {
        let found = next(&strangers, now, &[1], &[seeds(1, 1, 1, revision)]);
        assert_eq!(found.is_some(), asked, "{revision}");
    }
}

#[test]
fn the_next_nodes_wait_for_their_turn() {
    let snapshot = snapshot();
    let missing = [1].into();
    let heard = [seeds(1, 1, 1, "")];
    let standing = Standing {
        snapshot: &snapshot,
        missing: &missing,
        heard: &heard,
    };
    for (before, turns) in [(0, 0), (1, 1), (2, 2), (200, 2)] {
        let (strangers, due) = after(PATIENCE + TURN * turns);
        let early = due.checked_sub(Duration::from_secs(1)).unwrap();
        assert!(
            strangers.next(early, standing, |_| place(before)).is_none(),
            "{before}"
        );
        assert!(
            strangers.next(due, standing, |_| place(before)).is_some(),
            "{before}"
        );
    }
}

#[test]
fn who_failed_is_left_alone_and_what_was_wrong_for_ever() {
    let (mut strangers, now) = after(PATIENCE);
    let all = [
        seeds(1, 1, 1, ""),
        seeds(1, 2, 1, ""),
        seeds(2, 3, 1, ""),
        seeds(3, 4, 1, ""),
    ];
    let ask = |strangers: &Strangers, now| next(strangers, now, &[1], &all);
    assert_eq!(ask(&strangers, now), Some(1));
    strangers.ended(now, all[0].0, End::Wrong);
    assert_eq!(ask(&strangers, now), Some(3), "not the same machine");
    strangers.ended(now, all[2].0, End::Lost);
    assert_eq!(ask(&strangers, now), Some(4));
    strangers.ended(now, all[3].0, End::Unfit);
    assert_eq!(ask(&strangers, now), None);
    assert_eq!(
        next(&strangers, now, &[1], &[seeds(3, 5, 1, "")]),
        None,
        "nor another torrent of a machine whose last was useless"
    );
    assert_eq!(ask(&strangers, now + REST), Some(3), "it may be back");
    assert_eq!(
        ask(&strangers, now + LONG_REST),
        Some(3),
        "before who was wrong once"
    );
    strangers.ended(now + LONG_REST, all[2].0, End::Unfit);
    assert_eq!(ask(&strangers, now + LONG_REST), Some(2));
    strangers.ended(now + LONG_REST, all[1].0, End::Wrong);
    assert_eq!(ask(&strangers, now + LONG_REST * 9), None);
}

#[test]
fn who_breaks_off_comes_last() {
    let (mut strangers, now) = after(PATIENCE);
    let all = [seeds(1, 1, 1, ""), seeds(2, 2, 1, "")];
    strangers.ended(now, all[0].0, End::Broken);
    assert_eq!(next(&strangers, now, &[1], &all[..1]), None);
    let later = now + LONG_REST;
    assert_eq!(next(&strangers, later, &[1], &all[..1]), Some(1));
    assert_eq!(next(&strangers, later, &[1], &all), Some(2));
}

#[test]
fn many_useless_torrents_keep_nobody_from_the_others() {
    let (mut strangers, now) = after(PATIENCE);
    let all: Vec<_> = (0..MOST_REFUSED)
        .map(|number| {
            let port = u16::try_from(number + 1).unwrap();
            let (mut place, seed) = seeds(9, 1, 1, "");
            place.0.set_port(port);
            (place, seed)
        })
        .collect();
    for (place, _) in &all {
        strangers.ended(now, *place, End::Unfit);
    }
    assert_eq!(strangers.refused.len(), MOST_REFUSED);
    assert_eq!(next(&strangers, now + REST, &[1], &all), None);
    assert_eq!(next(&strangers, now, &[1], &[seeds(1, 2, 1, "")]), Some(2));
    strangers.ended(now, seeds(1, 2, 1, "").0, End::Unfit);
    assert_eq!(strangers.refused.len(), 1);
}

#[test]
fn for_a_large_file_the_next_nodes_wait_longer() {
    let mut large = snapshot();
    assert_eq!(turn(&large, 1), TURN);
    assert_eq!(turn(&large, 99), TURN);
    large.files[1].size = 40 << 30;
    assert_eq!(turn(&large, 1), Duration::from_secs(2560));
}

#[test]
fn a_node_that_cannot_take_it_waits() {
    let (mut strangers, now) = after(PATIENCE);
    let heard = [seeds(1, 1, 1, "")];
    strangers.ended(now, heard[0].0, End::Stopped);
    assert_eq!(next(&strangers, now, &[1], &heard), None);
    assert_eq!(next(&strangers, now + PATIENCE, &[1], &heard), Some(1));
}

#[test]
fn only_a_missing_file_of_lfs_with_that_name_and_length_fits() {
    let snapshot = snapshot();
    let found = |name: &str, len, lacks: bool| {
        fitting(&snapshot, name.as_bytes(), len, |_| lacks).map(|file| file.path.as_str())
    };
    assert_eq!(found("big-7b.Q4_K_M.gguf", 101, true), Some(FILES[1]));
    for (name, len, lacks) in [
        ("big-7b.Q4_K_M.gguf", 101, false),
        ("big-7b.Q4_K_M.gguf", 102, true),
        ("big-7b.q4_k_m.gguf", 101, true),
        ("a/big-7b.Q4_K_M.gguf", 101, true),
        ("../big-7b.Q8_0.gguf", 102, true),
        ("config.json", 100, true),
        ("", 100, true),
    ] {
        assert_eq!(found(name, len, lacks), None, "{name}");
    }
}
