//! Disks with too little room, or that take nothing.

use std::io::ErrorKind;
use std::sync::Arc;

use super::power::{World, within};
use super::{Catalogue, large, model, open, pieces};
use crate::segment::BlobId;
use crate::snapshot::Snapshot;
use crate::store::blob::Blob;
use crate::store::disk::Step;
use crate::store::recovered::Recovered;
use crate::store::{Source, Store, StoreError, locked};

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
    // Other programs use the disk meanwhile.
    let (total, now) = (store.space().unwrap().total, store.space().unwrap().free);
    assert!(
        *needed == 1 << 60 && free.abs_diff(now) < total / 4,
        "{free} {now}"
    );
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
    let store = Store::open(root.path()).unwrap();
    let free = store.space().unwrap().free;
    // Half of all that is free, none of it written: other programs that use the disk meanwhile do not matter.
    let half = Blob::new(
        BlobId::Sha256([9; 32]),
        free / 2,
        false,
        Recovered::default(),
    );
    locked(&store.0.reserved).insert("other".into(), vec![Arc::new(half)]);
    let left = store.space().unwrap().free;
    assert!(left < free / 4 * 3, "{free} {left}");
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
