//! Wrong bytes: found, thrown away, and no more of them brought again than has to be.

use std::fs;
use std::sync::Arc;

use super::{Catalogue, audit_held, fill_with, large, model, open, pieces};
use crate::segment::BlobId;
use crate::store::{SnapshotStore, Source, StoreError, Verdict};

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

/// Brings all of the large file with the third segment wrong, which is found out.
fn spoil(one: &SnapshotStore, right: impl Fn(u32) -> Vec<u8>) {
    for index in 0..5 {
        let mut data = right(index);
        data[7] ^= u8::from(index == 2);
        fill_with(one, index, &data, Source::Peer).unwrap();
    }
    assert!(matches!(
        one.verify().unwrap()[..],
        [Verdict::Corrupt { .. }]
    ));
}

#[test]
fn of_a_wrong_blob_only_the_wrong_segments_are_brought_again() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let (_store, one) = open(root.path(), &snapshot);
    let right = |index: u32| catalogue.segment(&one.segments()[index as usize]);
    assert!(!one.may_be_left(0), "nothing was here yet");
    assert!(!is_left(&one, 0, &right(0)), "nothing was here yet");
    spoil(&one, right);
    assert!(one.held().is_empty());
    for index in 0..5 {
        assert!(one.may_be_left(index), "{index}");
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
        spoil(&one, right);
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
    for index in 1..5 {
        catalogue.fill(&one, index, Source::Origin).unwrap();
    }
    drop((store, one));
    // What was hashed already is not read again, but nothing of this was: its beginning is missing.
    let mut data = fs::read(&partial).unwrap();
    data[4999] ^= 1;
    fs::write(&partial, data).unwrap();
    let (_store, one) = open(root.path(), &snapshot);
    catalogue.fill(&one, 0, Source::Origin).unwrap();
    assert!(matches!(
        one.verify().unwrap()[..],
        [Verdict::Corrupt { .. }]
    ));
    catalogue.finish(&one, &model("m")).unwrap();
    catalogue.audit(root.path());
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
