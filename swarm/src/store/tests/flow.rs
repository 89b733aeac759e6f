//! What callers may count on: progress, writers that give up, restarts, bad names.

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;

use super::{Catalogue, audit_held, bytes, fast_directory, large, model, open, pieces};
use crate::snapshot::Snapshot;
use crate::store::{Source, Store, StoreError, Verdict};

#[test]
fn progress_and_held_segments_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (store, one) = open(root.path(), &snapshot);
    one.reserve().unwrap();
    catalogue.fill(&one, 3, Source::Origin).unwrap();
    catalogue.fill(&one, 4, Source::Peer).unwrap();
    assert!(one.verify().unwrap().is_empty());
    let (held, progress) = (one.held(), one.progress());
    assert_eq!(
        held.iter()
            .map(|h| (h.segment, h.verified))
            .collect::<Vec<_>>(),
        [(3, false), (4, false)]
    );
    assert_eq!((progress.origin_bytes, progress.peer_bytes), (1024, 904));
    assert_eq!(progress.held_bytes, 1928);
    drop((store, one));

    let (store, one) = open(root.path(), &snapshot);
    assert_eq!((one.held(), one.progress()), (held, progress));
    audit_held(&one);
    assert!(one.reader(0).is_none() && !one.is_held(0) && one.is_held(3) && !one.is_held(99));
    for index in 0..3 {
        catalogue.fill(&one, index, Source::Peer).unwrap();
    }
    assert_eq!(
        one.verify().unwrap(),
        [Verdict::Verified {
            segments: vec![0, 1, 2, 3, 4]
        }]
    );
    assert!(one.verify().unwrap().is_empty() && one.is_whole() && !one.published());
    one.publish(&model("m")).unwrap();
    drop((store, one));

    let (_store, one) = open(root.path(), &snapshot);
    assert!(one.published() && one.is_whole());
    assert!(one.held().iter().all(|held| held.verified) && one.held().len() == 5);
    assert_eq!(one.progress().held_bytes, 5000);
    audit_held(&one);
}

#[test]
fn what_an_abandoned_writer_fed_does_not_count() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    let wrong = bytes(99, 1024);
    let io = one.writer(0).unwrap();
    io.write_at(0, &wrong).unwrap();
    io.checked(0, &wrong);
    // A second writer of the same segment ends the first.
    let newer = one.writer(0).unwrap();
    assert!(io.write_at(0, &wrong).is_err());
    io.checked(0, &wrong);
    newer.write_at(0, &wrong).unwrap();
    newer.checked(0, &wrong);
    // The same writer tries once more, this time with what is right.
    let right = catalogue.segment(&one.segments()[0]);
    newer.write_at(0, &right).unwrap();
    newer.checked(0, &right);
    one.commit(0, pieces(&right), Source::Peer).unwrap();
    assert!(newer.write_at(0, &wrong).is_err());
    one.commit(0, pieces(&right), Source::Peer).unwrap();
    for index in 1..5 {
        catalogue.fill(&one, index, Source::Peer).unwrap();
    }
    assert!(matches!(
        one.verify().unwrap()[..],
        [Verdict::Verified { .. }]
    ));
    catalogue.finish(&one, &model("m")).unwrap();
    catalogue.audit(root.path());
    assert!(one.reader(0).unwrap().write_at(0, b"x").is_err());
}

#[test]
fn what_is_in_memory_is_read_without_waiting() {
    for root in [fast_directory(), tempfile::tempdir().unwrap()] {
        let mut catalogue = Catalogue::default();
        let snapshot = large(&mut catalogue);
        let (store, one) = open(root.path(), &snapshot);
        one.reserve().unwrap();
        catalogue.fill(&one, 1, Source::Peer).unwrap();
        assert_eq!(one.held_segment(0), None);
        assert_eq!(one.held_segment(99), None);
        let reader = one.reader(1).unwrap();
        let mut data = vec![0; 1000];
        // On a disk it depends on the kernel, which may have thrown the page out.
        if reader.read_now(24, &mut data) {
            assert!(data == bytes(1, 5000)[1048..2048]);
        } else {
            assert!(!root.path().starts_with("/dev/shm"));
        }
        assert!(!reader.read_now(25, &mut data), "beyond the end");
        drop((store, one));

        let (_store, one) = open(root.path(), &snapshot);
        let reader = one.reader(1).unwrap();
        assert!(!reader.read_now(24, &mut data), "its file is not open yet");
        reader.read_at(24, &mut data).unwrap();
        assert!(data == bytes(1, 5000)[1048..2048]);
        assert_eq!(one.discard(&[1]).unwrap(), [1]);
        assert!(!reader.read_now(24, &mut data), "it was thrown away");
    }
}

#[test]
fn callers_who_err_are_told() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    let io = one.writer(4).unwrap();
    assert_eq!(
        io.write_at(900, &[0; 10]).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert!(io.read_at(u64::MAX, &mut [0]).is_err());
    assert!(matches!(
        one.commit(4, pieces(&[0; 100]), Source::Peer),
        Err(StoreError::BadPieces {
            expected: 4,
            given: 1,
            ..
        })
    ));
    assert!(matches!(
        one.writer(5),
        Err(StoreError::NoSuchSegment { .. })
    ));
    assert!(matches!(
        one.commit(0, pieces(&[0; 1024]), Source::Peer),
        Err(StoreError::Superseded { .. })
    ));
}

#[test]
fn discarded_segments_are_wanted_again() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (store, one) = open(root.path(), &snapshot);
    for index in 0..4 {
        catalogue.fill(&one, index, Source::Peer).unwrap();
    }
    one.verify().unwrap();
    assert_eq!(one.discard(&[1, 4]).unwrap(), [1]);
    assert!(!one.is_held(1) && one.is_held(2));
    drop((store, one));
    let (_store, one) = open(root.path(), &snapshot);
    assert_eq!(one.held().len(), 3);
    catalogue.finish(&one, &model("m")).unwrap();
    assert!(one.discard(&[0, 1, 2]).unwrap().is_empty());
    assert!(one.is_whole());
    catalogue.audit(root.path());
}

#[test]
fn one_agent_a_root() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let second = Store::open(root.path()).err().unwrap();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    drop(store);
    Store::open(root.path()).unwrap();
}

#[test]
fn staging_is_emptied_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    drop(Store::open(root.path()).unwrap());
    fs::create_dir_all(root.path().join("tmp/volume-x/deep")).unwrap();
    fs::write(root.path().join("tmp/volume-x/deep/file"), "x").unwrap();
    Store::open(root.path()).unwrap();
    assert!(super::names(&root.path().join("tmp")).is_empty());
}

#[test]
fn names_that_leave_the_cache_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let mut catalogue = Catalogue::default();
    let good = (*large(&mut catalogue)).clone();
    let with = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        store.snapshot(Arc::new(snapshot)).err()
    };
    let bad = [
        with(&|s| s.name = "../x".into()),
        with(&|s| s.repository = "../..".into()),
        with(&|s| s.revision = "../main".into()),
        with(&|s| s.commit = "main".into()),
        with(&|s| s.files[0].path = "a/../../b".into()),
    ];
    for error in bad {
        assert!(
            matches!(error, Some(StoreError::BadName { .. })),
            "{error:?}"
        );
    }
    let one = store.snapshot(Arc::new(good)).unwrap();
    assert!(one.publish(&[]).is_err());
    catalogue.finish(&one, &[]).unwrap();
    let outside = [("..".to_owned(), "x".to_owned())];
    assert!(matches!(
        one.publish(&outside),
        Err(StoreError::BadName { .. })
    ));
}

/// A snapshot can have many thousands of small files, and verification runs after each segment.
#[test]
fn verification_looks_only_at_what_came_since() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let names: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
    let files: Vec<(&str, Vec<u8>)> = (0..)
        .zip(&names)
        .map(|(seed, name)| (name.as_str(), bytes(seed, 200)))
        .collect();
    let snapshot = catalogue.add(("small", "org/small", "main"), 'a', &files);
    let (_store, one) = open(root.path(), &snapshot);
    assert_eq!(one.unproved().len(), 0);
    for index in 0..8 {
        catalogue.fill(&one, index, Source::Peer).unwrap();
        let mut looked_at: Vec<_> = one.unproved().iter().map(|blob| blob.id).collect();
        let mut came: Vec<_> = one.segments()[index as usize]
            .extents
            .iter()
            .map(|extent| extent.blob)
            .collect();
        looked_at.sort_unstable();
        came.sort_unstable();
        assert_eq!(looked_at, came);
        assert_eq!(
            one.verify().unwrap(),
            [Verdict::Verified {
                segments: vec![index]
            }]
        );
    }
    assert!(one.is_whole());
}
