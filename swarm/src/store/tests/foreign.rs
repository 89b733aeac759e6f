//! Whole contents from somebody of whom nothing is believed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::power::{World, within};
use super::{Catalogue, audit_held, bytes, fill_with, large, model, names, open, pieces};
use crate::segment::BlobId;
use crate::store::disk::Step;
use crate::store::{Foreign, Proof, SnapshotStore, Source, StoreError};

/// A place for the content, with these bytes in it, the last ones first.
fn written(one: &SnapshotStore, id: &BlobId, data: &[u8]) -> Result<Foreign, StoreError> {
    let place = one.foreign(id)?.expect("it is lacking");
    for (number, chunk) in data
        .chunks(700)
        .enumerate()
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        place.write_at(number as u64 * 700, chunk)?;
    }
    Ok(place)
}

/// Brings the content of a blob, wrong at first.
pub(super) fn bring(
    catalogue: &Catalogue,
    one: &SnapshotStore,
    id: &BlobId,
) -> Result<(), StoreError> {
    let right = &catalogue.contents[id];
    let mut wrong = right.clone();
    wrong[100] ^= 1;
    let proof = written(one, id, &wrong)?.prove(|| false)?;
    assert!(
        matches!(proof, Proof::Wrong(found) if found != *id),
        "{proof:?}"
    );
    audit_held(one);
    let proof = written(one, id, right)?.prove(|| false)?;
    assert!(matches!(proof, Proof::Right), "{proof:?}");
    one.adopt()?;
    audit_held(one);
    Ok(())
}

fn in_tmp(root: &Path) -> Vec<String> {
    names(&root.join("tmp"))
}

#[test]
fn a_proven_content_is_held_and_published_like_any_other() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let id = snapshot.files[0].blob;
    let (store, one) = open(root.path(), &snapshot);
    one.reserve().unwrap();
    catalogue.fill(&one, 3, Source::Origin).unwrap();
    let place = written(&one, &id, &catalogue.contents[&id]).unwrap();
    assert!(
        one.lacks(&id) && one.held().len() == 1,
        "not before it is proved"
    );
    assert!(matches!(place.prove(|| false).unwrap(), Proof::Right));
    let held = one.adopt().unwrap();
    assert_eq!(held, one.held());
    assert!(held.len() == 5 && held.iter().all(|held| held.verified));
    audit_held(&one);
    assert!(one.is_whole() && !one.lacks(&id) && one.foreign(&id).unwrap().is_none());
    assert!(in_tmp(root.path()).is_empty() && names(&root.path().join("partial")).is_empty());
    one.publish(&model("m")).unwrap();
    catalogue.audit(root.path());
    assert_eq!(
        one.progress().origin_bytes,
        1024,
        "what the hub gave stays counted"
    );
    drop((store, one));
    let (_store, one) = open(root.path(), &snapshot);
    assert_eq!(one.held(), held);
}

#[test]
fn what_lies_in_one_segment_with_a_foreign_content_is_proved_too() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let shared = ("x", bytes(1, 200));
    let first = catalogue.add(
        ("first", "org/one", "main"),
        'a',
        std::slice::from_ref(&shared),
    );
    let both = [shared, ("y", bytes(2, 300))];
    let second = catalogue.add(("second", "org/two", "main"), 'b', &both);
    let (store, one) = open(root.path(), &first);
    let two = store.snapshot(second).unwrap();
    let id = first.files[0].blob;
    let place = written(&one, &id, &catalogue.contents[&id]).unwrap();
    catalogue.fill(&two, 0, Source::Peer).unwrap();
    assert!(matches!(place.prove(|| false).unwrap(), Proof::Right));
    two.verify().unwrap();
    assert!(two.is_whole());
    catalogue.finish(&two, &model("two")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn of_a_wrong_or_stopped_content_nothing_is_left() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let id = snapshot.files[0].blob;
    let (store, one) = open(root.path(), &snapshot);
    catalogue.fill(&one, 3, Source::Origin).unwrap();
    let held = one.held();
    let short = &catalogue.contents[&id][..4999];
    let proof = written(&one, &id, short).unwrap().prove(|| false).unwrap();
    assert!(matches!(proof, Proof::Wrong(_)));
    let place = written(&one, &id, &catalogue.contents[&id]).unwrap();
    assert!(matches!(
        place.write_at(4999, &[1, 2]),
        Err(StoreError::Io { .. })
    ));
    assert!(matches!(
        place.write_at(u64::MAX, &[1]),
        Err(StoreError::Io { .. })
    ));
    assert!(matches!(place.prove(|| true).unwrap(), Proof::Stopped));
    assert!(in_tmp(root.path()).is_empty() && one.held() == held);
    assert!(one.foreign(&BlobId::Sha256([7; 32])).unwrap().is_none());
    // Nor after a crash.
    let place = written(&one, &id, &catalogue.contents[&id]).unwrap();
    let path = root.path().join("tmp").join(&in_tmp(root.path())[0]);
    let whole = fs::read(&path).unwrap();
    drop((place, store, one));
    fs::write(path, whole).unwrap();
    let (_store, one) = open(root.path(), &snapshot);
    assert!(in_tmp(root.path()).is_empty() && one.held() == held);
    catalogue.finish(&one, &model("m")).unwrap();
    catalogue.audit(root.path());
}

#[test]
fn writers_of_the_content_come_too_late() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let id = snapshot.files[0].blob;
    let (_store, one) = open(root.path(), &snapshot);
    let data = catalogue.segment(&one.segments()[1]);
    let writer = one.writer(1).unwrap();
    writer.write_at(0, &data[..500]).unwrap();
    let place = written(&one, &id, &catalogue.contents[&id]).unwrap();
    assert!(!one.is_here(1) && !one.is_here(99));
    place.prove(|| false).unwrap();
    assert!(one.is_here(1) && !one.is_held(1));
    assert_eq!(one.adopt().unwrap().len(), 5);
    let late = writer.write_at(500, &data[500..]).unwrap_err();
    assert!(
        late.raw_os_error().is_none(),
        "the disk is not to blame: {late}"
    );
    let mut wrong = data.clone();
    wrong[0] ^= 1;
    // As good as held.
    one.commit(1, pieces(&wrong), Source::Peer).unwrap();
    audit_held(&one);
    assert!(one.verify().unwrap().is_empty() && one.is_whole());
}

/// Wrong bytes that were held, but not proved, give way too, for every snapshot that has them.
#[test]
fn what_was_held_and_wrong_is_not_held_any_longer() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let other = catalogue.add(
        ("other", "org/other", "main"),
        'b',
        &[("a", bytes(2, 700)), ("w.bin", bytes(1, 5000))],
    );
    let id = snapshot.files[0].blob;
    let (store, one) = open(root.path(), &snapshot);
    let two = store.snapshot(other).unwrap();
    let mut wrong = catalogue.segment(&one.segments()[2]);
    wrong[0] ^= 1;
    fill_with(&one, 2, &wrong, Source::Peer).unwrap();
    let shared = two.segments().iter().find(|s| s.extents[0].offset == 2048);
    let shared = shared.unwrap();
    // What a third program reads now, before it is thrown away.
    let stale = (shared, pieces(&wrong), two.0.generation(shared));
    assert_eq!(two.adopt().unwrap().len(), 1);
    bring(&catalogue, &one, &id).unwrap();
    let mut adopted = Vec::new();
    two.take_over(vec![stale], &mut adopted).unwrap();
    assert!(adopted.is_empty() && !two.is_held(shared.index));
    two.adopt().unwrap();
    audit_held(&two);
    catalogue.finish(&two, &model("m")).unwrap();
    assert_eq!(two.progress().peer_bytes, 700);
    catalogue.audit(root.path());
    let second = Arc::clone(two.snapshot());
    drop((store, one, two));
    let (_store, two) = open(root.path(), &second);
    audit_held(&two);
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = large(&mut catalogue);
    let id = snapshot.files[0].blob;
    let (_store, one) = open(root.path(), &snapshot);
    let full = |step| World {
        fail: Some((step, ErrorKind::StorageFull)),
        ..World::default()
    };
    let (refused, _) = within(full(Step::Resize), || one.foreign(&id).map(|_| ()));
    assert!(refused.unwrap_err().is_no_space());
    assert!(in_tmp(root.path()).is_empty());
    let place = one.foreign(&id).unwrap().unwrap();
    let (refused, _) = within(full(Step::Write), || place.write_at(0, &[1; 10]));
    assert!(refused.unwrap_err().is_no_space());
    drop(place);
    let blob = Arc::clone(&one.0.blobs[&id]);
    let huge = one.0.store.check_fits("s", 1 << 60).unwrap_err();
    assert!(matches!(huge, StoreError::NoSpace { needed, .. } if needed == 1 << 60));
    assert!(in_tmp(root.path()).is_empty() && !blob.is_verified());
    assert!(fs::metadata(root.path().join("blobs").join(id.etag())).is_err());
}
