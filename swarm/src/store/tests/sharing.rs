//! Snapshots that have contents in common: nothing is fetched twice, nobody writes over another's bytes.

use std::fs;
use std::sync::Arc;

use super::{Catalogue, audit_held, bytes, fill_with, model, open, pieces};
use crate::snapshot::{SegmentSizes, Snapshot};
use crate::store::{SnapshotStore, Source, Store, StoreError, Verdict};

fn pair(root: &std::path::Path) -> (Catalogue, Store, SnapshotStore, SnapshotStore) {
    let mut catalogue = Catalogue::default();
    let shared = ("w.bin", bytes(1, 5000));
    let first = catalogue.add(
        ("first", "org/one", "main"),
        'a',
        std::slice::from_ref(&shared),
    );
    let second = catalogue.add(
        ("second", "org/two", "main"),
        'b',
        &[("a", bytes(2, 700)), shared],
    );
    let (store, one) = open(root, &first);
    let two = store.snapshot(second).unwrap();
    (catalogue, store, one, two)
}

#[test]
fn what_one_has_the_other_does_not_fetch() {
    let root = tempfile::tempdir().unwrap();
    let (catalogue, store, one, two) = pair(root.path());
    assert!(two.adopt().unwrap().is_empty());
    catalogue.fill(&one, 1, Source::Origin).unwrap();
    catalogue.fill(&one, 0, Source::Origin).unwrap();
    let adopted = two.adopt().unwrap();
    assert_eq!(adopted, two.held());
    assert_eq!(
        adopted.iter().map(|held| held.segment).collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(
        (two.progress().held_bytes, two.progress().origin_bytes),
        (2048, 0)
    );
    audit_held(&two);
    catalogue.finish(&one, &model("one")).unwrap();
    two.adopt().unwrap();
    assert_eq!(
        two.verify().unwrap(),
        [Verdict::Verified {
            segments: vec![0, 1]
        }]
    );
    let (second, held) = (Arc::clone(two.snapshot()), two.held());
    drop((store, one, two));

    let (_store, two) = open(root.path(), &second);
    assert_eq!(two.held(), held);
    catalogue.finish(&two, &model("two")).unwrap();
    assert_eq!(two.progress().peer_bytes, 700);
    catalogue.audit(root.path());
}

/// Between the choice of what needs space and the giving of it, the other snapshot may finish a content.
#[test]
fn what_the_other_finished_needs_no_space() {
    let root = tempfile::tempdir().unwrap();
    let (catalogue, _store, one, _two) = pair(root.path());
    catalogue.finish(&one, &model("one")).unwrap();
    let blobs: Vec<_> = one.0.blobs.values().cloned().collect();
    // The open file that wrote it is forgotten, as when many others were opened since.
    for blob in &blobs {
        one.0.store.files.close(&blob.id);
    }
    one.0.store.allocate(&blobs).unwrap();
}

#[test]
fn bytes_being_filled_have_one_writer() {
    let root = tempfile::tempdir().unwrap();
    let (catalogue, _store, one, two) = pair(root.path());
    let data = catalogue.segment(&one.segments()[0]);
    let io = one.writer(0).unwrap();
    io.write_at(0, &data).unwrap();
    let error = two.writer(0).err().unwrap();
    assert!(
        matches!(&error, StoreError::Busy { other, .. } if other == "first"),
        "{error}"
    );
    two.writer(1).unwrap();
    // The first one gives up: the second may.
    drop(io);
    fill_with(&two, 0, &data, Source::Peer).unwrap();
    assert!(matches!(
        one.commit(0, pieces(&data), Source::Peer),
        Err(StoreError::Superseded { .. })
    ));
    assert_eq!(one.adopt().unwrap().len(), 1);
    catalogue.finish(&one, &model("one")).unwrap();
    catalogue.finish(&two, &model("two")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn durable_bytes_are_never_written_again() {
    let root = tempfile::tempdir().unwrap();
    let (catalogue, store, one, two) = pair(root.path());
    // The same contents, cut differently: its first segment overlaps one that is durable and one that is not.
    let wider = Arc::new(Snapshot {
        name: "wider".into(),
        sizes: SegmentSizes {
            segment_bytes: 2048,
            piece_bytes: super::PIECE,
        },
        ..(**one.snapshot()).clone()
    });
    catalogue.fill(&one, 0, Source::Origin).unwrap();
    let wide = store.snapshot(wider).unwrap();
    let mut data = catalogue.segment(&wide.segments()[0]);
    let right = data.clone();
    data[5] ^= 1;
    fill_with(&wide, 0, &data, Source::Peer).unwrap();
    assert_eq!(wide.held()[0].pieces, pieces(&right));
    audit_held(&wide);
    assert_eq!(one.adopt().unwrap().len(), 1);
    catalogue.finish(&two, &model("two")).unwrap();
    let writer = two.writer(0).unwrap();
    writer.write_at(0, &[0; 1024]).unwrap();
    two.commit(0, pieces(&[0; 1024]), Source::Peer).unwrap();
    catalogue.finish(&one, &model("one")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn what_one_finds_wrong_the_other_hears_of() {
    let root = tempfile::tempdir().unwrap();
    let (catalogue, _store, one, two) = pair(root.path());
    for index in 0..5 {
        let mut data = catalogue.segment(&one.segments()[index as usize]);
        data[0] ^= u8::from(index == 3);
        fill_with(&one, index, &data, Source::Origin).unwrap();
    }
    two.adopt().unwrap();
    assert_eq!(two.held().len(), 5);
    assert!(matches!(
        one.verify().unwrap()[..],
        [Verdict::Corrupt { .. }]
    ));
    assert!(two.held().is_empty());
    let verdicts = two.verify().unwrap();
    assert!(matches!(&verdicts[..], [Verdict::Corrupt { segments, .. }] if segments.len() == 5));
    catalogue.finish(&two, &model("two")).unwrap();
    catalogue.finish(&one, &model("one")).unwrap();
    catalogue.audit(root.path());
}

/// A pair whose shared content the first had proved and published before it went from the disk; the second was opened since,
/// which looks at the disk.
fn pair_after_a_loss(root: &std::path::Path) -> (Catalogue, Store, SnapshotStore, SnapshotStore) {
    let (catalogue, store, one, two) = pair(root);
    catalogue.finish(&one, &model("one")).unwrap();
    let second = Arc::clone(two.snapshot());
    drop(two);
    assert_eq!(one.verify().unwrap(), []);
    let blob = one.snapshot().files[0].blob;
    fs::remove_file(root.join("blobs").join(blob.etag())).unwrap();
    let two = store.snapshot(second).unwrap();
    assert!(two.held().is_empty() && !one.is_whole());
    (catalogue, store, one, two)
}

#[test]
fn a_proven_content_that_went_from_the_disk_is_missed_by_all_who_have_it() {
    let root = tempfile::tempdir().unwrap();
    let (_catalogue, _store, one, _two) = pair_after_a_loss(root.path());
    let verdicts = one.verify().unwrap();
    assert!(
        matches!(&verdicts[..], [Verdict::Corrupt { segments, blob, .. }]
            if segments.len() == 5 && *blob == one.snapshot().files[0].blob),
        "{verdicts:?}"
    );
    assert_eq!(one.verify().unwrap(), [], "said once");
}

#[test]
fn a_content_that_another_brought_again_is_proved_again() {
    let root = tempfile::tempdir().unwrap();
    let (catalogue, _store, one, two) = pair_after_a_loss(root.path());
    for index in 0..u32::try_from(two.segments().len()).unwrap() {
        catalogue.fill(&two, index, Source::Peer).unwrap();
    }
    drop(two);
    one.verify().unwrap();
    assert!(one.is_whole());
    catalogue.audit(root.path());
}

#[test]
fn two_commits_of_one_branch_the_later_one_keeps_the_ref() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let old = catalogue.add(("old", "org/one", "main"), 'a', &[("f", bytes(1, 50))]);
    let new = catalogue.add(("new", "org/one", "main"), 'b', &[("f", bytes(2, 50))]);
    let (store, one) = open(root.path(), &old);
    catalogue.finish(&one, &model("m")).unwrap();
    let two = store.snapshot(Arc::clone(&new)).unwrap();
    catalogue.finish(&two, &model("m")).unwrap();
    drop((one, two, store));
    let (_store, one) = open(root.path(), &old);
    assert!(one.published());
    one.publish(&[]).unwrap();
    let main = root.path().join("hub/models--org--one/refs/main");
    assert_eq!(fs::read_to_string(main).unwrap(), new.commit);
    let shown = fs::read_link(root.path().join("models/cache/m")).unwrap();
    assert_eq!(shown.to_str(), Some("../../volumes/new"));
    catalogue.audit(root.path());
}

#[test]
fn a_size_that_contradicts_another_model_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (_catalogue, store, one, _two) = pair(root.path());
    let mut liar = (**one.snapshot()).clone();
    liar.name = "liar".into();
    liar.files[0].size += 1;
    let error = store.snapshot(Arc::new(liar)).err().unwrap();
    assert!(matches!(error, StoreError::SizeConflict { .. }), "{error}");
}

#[test]
fn many_writers_readers_and_verifiers_at_once() {
    let root = super::fast_directory();
    let mut catalogue = Catalogue::default();
    let shared = ("w.bin", bytes(1, 200_000));
    let first = catalogue.add(
        ("first", "org/one", "main"),
        'a',
        std::slice::from_ref(&shared),
    );
    let second = catalogue.add(
        ("second", "org/two", "main"),
        'b',
        &[shared, ("x.bin", bytes(3, 9_999))],
    );
    let store = Store::open(root.path()).unwrap();
    std::thread::scope(|scope| {
        for snapshot in [&first, &second] {
            for thread in 0..3_usize {
                let (store, catalogue) = (store.clone(), &catalogue);
                scope.spawn(move || {
                    let one = store.snapshot(Arc::clone(snapshot)).unwrap();
                    one.reserve().unwrap();
                    while !one.is_whole() {
                        for step in 0..one.segments().len() {
                            let index =
                                u32::try_from((step * 31 + thread * 67) % one.segments().len())
                                    .unwrap();
                            if one.is_held(index) {
                                continue;
                            }
                            match catalogue.fill(&one, index, Source::Peer) {
                                Ok(())
                                | Err(
                                    StoreError::Busy { .. }
                                    | StoreError::Superseded { .. }
                                    | StoreError::Io { .. },
                                ) => {}
                                Err(error) => panic!("{error}"),
                            }
                            if step % 17 == thread {
                                one.adopt().unwrap();
                                let verdicts = one.verify().unwrap();
                                assert!(
                                    !verdicts
                                        .iter()
                                        .any(|v| matches!(v, Verdict::Corrupt { .. })),
                                    "{verdicts:?}"
                                );
                                audit_held(&one);
                            }
                        }
                        one.adopt().unwrap();
                        one.verify().unwrap();
                    }
                    one.publish(&model(&snapshot.name)).unwrap();
                });
            }
        }
    });
    catalogue.audit(root.path());
}
