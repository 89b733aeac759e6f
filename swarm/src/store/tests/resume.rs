//! What was hashed before a program ended, in whatever way, is not hashed again.

use super::{Catalogue, bytes, fill_with, large, model, open};
use crate::store::{SnapshotStore, Source, Verdict, locked};

/// How far the one content of a snapshot is hashed.
fn hashed(one: &SnapshotStore) -> u64 {
    let blob = one.0.blobs.values().next().unwrap();
    locked(&blob.prefix).position()
}

#[test]
fn hashing_goes_on_where_the_last_program_was() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    for (index, expected) in [(0, 1024), (2, 1024), (1, 2048), (3, 4096)] {
        let (store, one) = open(root.path(), &snapshot);
        // What had arrived ahead of its turn is read.
        one.verify().unwrap();
        catalogue.fill(&one, index, Source::Peer).unwrap();
        // As if killed: nothing more was said to the store.
        drop((store, one));
        let (_store, one) = open(root.path(), &snapshot);
        assert_eq!(hashed(&one), expected, "after segment {index}");
    }
    let (_store, one) = open(root.path(), &snapshot);
    catalogue.finish(&one, &model("m")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn what_was_thrown_away_was_never_hashed() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (store, one) = open(root.path(), &snapshot);
    for index in 0..3 {
        catalogue.fill(&one, index, Source::Peer).unwrap();
    }
    assert_eq!(one.discard(&[1]).unwrap(), [1]);
    let mut wrong = catalogue.segment(&one.segments()[1]);
    wrong[5] ^= 1;
    fill_with(&one, 1, &wrong, Source::Peer).unwrap();
    drop((store, one));

    let (_store, one) = open(root.path(), &snapshot);
    assert_eq!(hashed(&one), 1024);
    for index in 3..5 {
        catalogue.fill(&one, index, Source::Peer).unwrap();
    }
    assert!(matches!(
        one.verify().unwrap()[..],
        [Verdict::Corrupt { .. }]
    ));
}

#[test]
fn a_file_in_one_segment_leaves_nothing_to_go_on_from() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let files = [("a.bin", bytes(1, 300)), ("b.bin", bytes(2, 300))];
    let snapshot = catalogue.add(("small", "org/small", "main"), 'a', &files);
    let (_store, one) = open(root.path(), &snapshot);
    catalogue.fill(&one, 0, Source::Peer).unwrap();
    let journal = std::fs::read_to_string(root.path().join("journal/small")).unwrap();
    assert_eq!(journal.lines().count(), 1, "{journal}");
}
