//! Whole files for other BitTorrent clients.

use tokio_util::sync::CancellationToken;

use super::*;

#[test]
fn pieces_of_a_published_file_are_read_once() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let files = [("w.bin", bytes(1, 5000)), ("none", Vec::new())];
    let snapshot = catalogue.add(("large", "org/large", "main"), 'a', &files);
    let (_store, one) = open(root.path(), &snapshot);
    let ids: Vec<BlobId> = snapshot.files.iter().map(|file| file.blob).collect();
    let (empty, large) = (ids[0], ids[1]);
    let go_on = CancellationToken::new();
    let hashes = || one.file_hashes(&large, &go_on).unwrap();
    assert!(one.content(&large).is_none());
    catalogue.finish(&one, &[]).unwrap();
    assert!(one.content(&empty).is_none());
    let kept = root.path().join("pieces").join(large.etag());

    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(one.file_hashes(&large, &stopped).unwrap(), None);
    assert!(!kept.exists());

    let mut read = vec![0; 4000];
    let content = one.content(&large).unwrap();
    content.read_at(1000, &mut read).unwrap();
    assert!(read == bytes(1, 5000)[1000..] && content.size() == 5000);

    let first = hashes().unwrap();
    assert!(first.fit(5000));
    let line = fs::read_to_string(&kept).unwrap();
    // Known now: nobody looks at the file again.
    assert_eq!(
        one.file_hashes(&large, &stopped).unwrap().as_ref(),
        Some(&first)
    );
    for wrong in [
        line.replacen('a', "b", 1),
        line[..line.len() / 2].to_owned(),
        String::new(),
    ] {
        fs::write(&kept, wrong).unwrap();
        assert_eq!(hashes().as_ref(), Some(&first));
        assert_eq!(fs::read_to_string(&kept).unwrap(), line);
    }
}
