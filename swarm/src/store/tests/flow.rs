//! What callers may count on: progress, wrong bytes, writers that give up, space, bad names.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::power::{World, within};
use super::{
    Catalogue, audit_held, bytes, fast_directory, fill_with, model, odd_files, open, pieces,
};
use crate::segment::BlobId;
use crate::snapshot::Snapshot;
use crate::store::disk::Step;
use crate::store::{SnapshotStore, Source, Store, StoreError, Verdict};

fn large(catalogue: &mut Catalogue) -> Arc<Snapshot> {
    catalogue.add(
        ("large", "org/large", "main"),
        'a',
        &[("w.bin", bytes(1, 5000))],
    )
}

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
fn a_wrong_byte_is_found_thrown_away_and_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    for index in 0..5 {
        let mut data = catalogue.segment(&one.segments()[index]);
        if index == 2 {
            data[7] ^= 0x20;
        }
        fill_with(&one, u32::try_from(index).unwrap(), &data, Source::Origin).unwrap();
    }
    let verdicts = one.verify().unwrap();
    let [
        Verdict::Corrupt {
            segments,
            blob,
            message,
        },
    ] = verdicts.as_slice()
    else {
        panic!("{verdicts:?}");
    };
    assert_eq!(
        (segments.as_slice(), *blob),
        (&[0, 1, 2, 3, 4][..], snapshot.files[0].blob)
    );
    assert!(message.contains(&blob.to_string()), "{message}");
    assert!(one.held().is_empty() && !one.is_whole());
    assert_eq!(one.progress().origin_bytes, 5000);
    assert!(matches!(one.publish(&[]), Err(StoreError::NotWhole { .. })));
    catalogue.finish(&one, &model("m")).unwrap();
    assert_eq!(one.progress().peer_bytes, 1024, "the wrong segment");
    catalogue.audit(root.path());
}

/// Whether a segment that was thrown away is still here with the piece hashes of these bytes.
fn is_left(one: &SnapshotStore, index: u32, data: &[u8]) -> bool {
    let writer = one.writer(index).unwrap();
    one.is_left(index, &*writer, &pieces(data))
}

#[test]
fn of_a_wrong_blob_only_the_wrong_segments_are_brought_again() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    let right = |index: u32| catalogue.segment(&one.segments()[index as usize]);
    assert!(!is_left(&one, 0, &right(0)), "nothing was here yet");
    for index in 0..5 {
        let mut data = right(index);
        data[7] ^= u8::from(index == 2);
        fill_with(&one, index, &data, Source::Peer).unwrap();
    }
    assert!(matches!(
        one.verify().unwrap()[..],
        [Verdict::Corrupt { .. }]
    ));
    assert!(one.held().is_empty());
    for index in 0..5 {
        let writer = one.writer(index).unwrap();
        let left = one.is_left(index, &*writer, &pieces(&right(index)));
        assert_eq!(left, index != 2, "{index}");
        if left {
            one.commit(index, pieces(&right(index)), None).unwrap();
        }
        // What lies there is not given to others, and proves nothing, before it is recorded.
        assert_eq!(one.is_held(index), left);
    }
    audit_held(&one);
    assert!(one.verify().unwrap().is_empty() && !one.is_whole());
    catalogue.fill(&one, 2, Source::Peer).unwrap();
    one.verify().unwrap();
    assert!(one.is_whole());
    assert_eq!(one.progress().peer_bytes, 5000 + right(2).len() as u64);
    one.publish(&model("m")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn a_blob_that_is_wrong_once_more_begins_from_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let partial = root
        .path()
        .join("partial")
        .join(snapshot.files[0].blob.etag());
    let (_store, one) = open(root.path(), &snapshot);
    let right = |index: u32| catalogue.segment(&one.segments()[index as usize]);
    for stays in [true, false] {
        for index in 0..5 {
            let mut data = right(index);
            data[7] ^= u8::from(index == 2);
            fill_with(&one, index, &data, Source::Peer).unwrap();
        }
        assert!(matches!(
            one.verify().unwrap()[..],
            [Verdict::Corrupt { .. }]
        ));
        assert_eq!(partial.exists(), stays);
        assert_eq!(is_left(&one, 0, &right(0)), stays);
    }
    catalogue.finish(&one, &model("m")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn what_others_found_wrong_need_not_be_brought_again_when_it_is_right() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    let right = |index: u32| catalogue.segment(&one.segments()[index as usize]);
    for index in 0..4 {
        catalogue.fill(&one, index, Source::Peer).unwrap();
    }
    assert_eq!(one.discard(&[0, 1, 4]).unwrap(), [0, 1]);
    assert!(is_left(&one, 0, &right(0)));
    assert!(!is_left(&one, 0, &right(1)));
    assert!(!is_left(&one, 4, &right(4)), "it was never here");
}

#[test]
fn a_wrong_byte_on_the_disk_is_found_too() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let partial = root
        .path()
        .join("partial")
        .join(snapshot.files[0].blob.etag());
    let (store, one) = open(root.path(), &snapshot);
    for index in 0..5 {
        catalogue.fill(&one, index, Source::Origin).unwrap();
    }
    drop((store, one));
    let mut data = fs::read(&partial).unwrap();
    data[4999] ^= 1;
    fs::write(&partial, data).unwrap();
    let (_store, one) = open(root.path(), &snapshot);
    assert!(matches!(
        one.verify().unwrap()[..],
        [Verdict::Corrupt { .. }]
    ));
    catalogue.finish(&one, &model("m")).unwrap();
    catalogue.audit(root.path());
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
fn a_published_content_that_changed_its_size_is_withdrawn() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = catalogue.add(("odd", "org/odd", "main"), 'd', &odd_files());
    let (store, one) = open(root.path(), &snapshot);
    catalogue.finish(&one, &model("m")).unwrap();
    drop((store, one));
    let blob = root
        .path()
        .join("blobs")
        .join(snapshot.files[5].blob.etag());
    // Nobody but root may write to it as it is published.
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&blob)
        .unwrap()
        .set_len(3)
        .unwrap();
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o444)).unwrap();
    let (_store, one) = open(root.path(), &snapshot);
    assert!(!one.published() && !one.is_whole());
    assert!(!root.path().join("models/cache/m").is_symlink());
    catalogue.audit(root.path());
    catalogue.finish(&one, &model("m")).unwrap();
    assert!(one.published());
    catalogue.audit(root.path());
    assert!(root.path().join("models/cache/m/files").is_dir());
}

#[test]
fn what_the_journal_says_of_a_lost_content_is_not_believed_of_its_successor() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (store, one) = open(root.path(), &snapshot);
    catalogue.finish(&one, &[]).unwrap();
    drop((store, one));
    fs::remove_file(
        root.path()
            .join("blobs")
            .join(snapshot.files[0].blob.etag()),
    )
    .unwrap();
    for _ in 0..2 {
        let (_store, one) = open(root.path(), &snapshot);
        assert!(one.held().is_empty() && one.progress().held_bytes == 0);
        // Makes a file of the right size that holds nothing yet.
        one.reserve().unwrap();
    }
    let (_store, one) = open(root.path(), &snapshot);
    catalogue.finish(&one, &model("m")).unwrap();
    assert_eq!(one.progress().peer_bytes, 10_000);
    catalogue.audit(root.path());
}

#[test]
fn a_published_place_that_somebody_damaged_is_made_anew() {
    for damaged in [
        "volumes/odd/files",
        "volumes/odd",
        "hub/models--org--odd",
        "hub",
    ] {
        let root = tempfile::tempdir().unwrap();
        let mut catalogue = Catalogue::default();
        let snapshot = catalogue.add(("odd", "org/odd", "main"), 'd', &odd_files());
        let (store, one) = open(root.path(), &snapshot);
        catalogue.finish(&one, &model("m")).unwrap();
        drop((store, one));
        fs::remove_dir_all(root.path().join(damaged)).unwrap();
        let (_store, one) = open(root.path(), &snapshot);
        assert!(!one.published() && one.is_whole(), "{damaged}");
        one.publish(&model("m")).unwrap();
        catalogue.audit(root.path());
        assert!(root.path().join("hub/models--org--odd/refs/main").is_file());
    }
}

#[test]
fn what_does_not_fit_is_refused_before_a_byte_is_written() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let small = large(&mut catalogue);
    let huge = Arc::new(Snapshot {
        name: "huge".into(),
        files: vec![crate::snapshot::SnapshotFile {
            path: "w.bin".into(),
            size: 1 << 60,
            blob: BlobId::Sha256([9; 32]),
            git_oid: "0".repeat(40),
        }],
        sizes: crate::snapshot::SegmentSizes {
            segment_bytes: 1 << 40,
            piece_bytes: 1 << 30,
        },
        ..(*small).clone()
    });
    let (store, one) = open(root.path(), &huge);
    let error = one.reserve().unwrap_err();
    let StoreError::NoSpace { needed, free, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((*needed, *free), (1 << 60, store.space().unwrap().free));
    assert!(
        error.is_no_space() && error.to_string().contains("too few"),
        "{error}"
    );
    assert!(super::names(&root.path().join("partial")).is_empty());
    let other = store.snapshot(small).unwrap();
    other.reserve().unwrap();
    catalogue.finish(&other, &model("m")).unwrap();
}

#[test]
fn outstanding_reservations_count() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (store, one) = open(root.path(), &snapshot);
    let free = store.space().unwrap().free;
    // A file system that allocates only what is written.
    let world = World {
        fail: Some((Step::Resize, ErrorKind::Other)),
        ..World::default()
    };
    let (refused, _) = within(world, || one.reserve());
    assert!(refused.is_err());
    let blob = store
        .0
        .blobs(&snapshot)
        .unwrap()
        .into_values()
        .next()
        .unwrap();
    super::super::locked(&store.0.reserved).insert("other".into(), vec![blob]);
    let left = store.space().unwrap().free;
    assert!(
        left.abs_diff(free - 5000) < 64 << 20 && left < free,
        "{free} {left}"
    );
}

#[test]
fn a_full_disk_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    let full = |step| World {
        fail: Some((step, ErrorKind::StorageFull)),
        ..World::default()
    };
    let (result, _) = within(full(Step::Resize), || one.reserve());
    assert!(
        matches!(result, Err(StoreError::NoSpace { .. })),
        "{result:?}"
    );
    assert!(super::names(&root.path().join("partial")).is_empty());
    let io = one.writer(0).unwrap();
    let (result, _) = within(full(Step::Write), || io.write_at(0, &[1; 10]));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
    let data = catalogue.segment(&one.segments()[0]);
    io.write_at(0, &data).unwrap();
    let (result, _) = within(full(Step::SyncFile), || {
        one.commit(0, pieces(&data), Source::Peer)
    });
    assert!(result.unwrap_err().is_no_space());
    assert!(!one.is_held(0));
    catalogue.finish(&one, &model("m")).unwrap();
    let (result, _) = within(full(Step::Rename), || one.publish(&model("other")));
    assert!(result.unwrap_err().is_no_space());
    one.publish(&model("other")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn a_disk_that_takes_nothing_is_found_out_before_bytes_are_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    // Reserved before, so that there is nothing left to allocate.
    one.reserve().unwrap();
    for (kind, words) in [
        (ErrorKind::ReadOnlyFilesystem, "is read-only"),
        (ErrorKind::StorageFull, "free some space"),
        (ErrorKind::Other, "kernel log"),
    ] {
        for step in [Step::Create, Step::Write, Step::SyncFile] {
            let world = World {
                fail: Some((step, kind)),
                ..World::default()
            };
            let (result, _) = within(world, || one.reserve());
            let error = result.unwrap_err().to_string();
            assert!(error.contains(words), "{step:?}: {error}");
        }
    }
    one.reserve().unwrap();
    assert!(super::names(&root.path().join("tmp")).is_empty());
    catalogue.finish(&one, &model("m")).unwrap();
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

#[test]
fn links_of_models_nobody_asks_for_go_and_data_stays() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (store, one) = open(root.path(), &snapshot);
    catalogue
        .finish(&one, &[("a".into(), "x".into()), ("b".into(), "y".into())])
        .unwrap();
    store
        .retain_models(&[("a".into(), "x".into(), "newer-snapshot".into())])
        .unwrap();
    assert!(root.path().join("models/a/x/files/w.bin").is_file());
    assert!(!root.path().join("models/b").exists());
    assert!(root.path().join("volumes/large").is_dir());
}

#[test]
fn an_empty_file_that_should_hash_to_something_never_becomes_whole() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let mut snapshot = (*catalogue.add(("s", "a/b", "main"), 'a', &[("e.bin", vec![])])).clone();
    let (store, one) = open(root.path(), &Arc::new(snapshot.clone()));
    assert!(one.is_whole() && one.segments().is_empty());
    drop(one);
    snapshot.files[0].blob = BlobId::Sha256([1; 32]);
    let one = store.snapshot(Arc::new(snapshot)).unwrap();
    let verdicts = one.verify().unwrap();
    assert!(matches!(&verdicts[..], [Verdict::Corrupt { segments, .. }] if segments.is_empty()));
    assert!(!one.is_whole());
}
