//! What pods see, and what becomes of it when somebody damages it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{Catalogue, large, model, odd_files, open};

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
