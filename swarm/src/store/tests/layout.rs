//! The exact paths that clients, volumes and people see.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{Catalogue, bytes, model, odd_files, open};

/// Every path below `root` with its kind: `d`, a link's target, or a file's mode and number of links.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, lines: &mut Vec<String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_symlink() {
                lines.push(format!(
                    "{name} -> {}",
                    fs::read_link(&path).unwrap().display()
                ));
            } else if metadata.is_dir() {
                lines.push(format!("{name}/ {mode:o}"));
                walk(root, &path, lines);
            } else {
                lines.push(format!("{name} {mode:o} x{}", metadata.nlink()));
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.sort();
    lines
}

#[test]
fn the_exact_tree() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = catalogue.add(
        ("snap", "org/name", "refs/pr/1"),
        'c',
        &[
            ("config.json", b"{}".to_vec()),
            ("d/m 1.bin", b"hello".to_vec()),
        ],
    );
    let (store, one) = open(root.path(), &snapshot);
    catalogue.finish(&one, &model("tiny")).unwrap();
    drop((store, one));
    let git = "9e26dfeeb6e641a33dae4961196235bdb965b21b";
    let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let c = "c".repeat(40);
    let mut expected: Vec<String> = [
        "blobs/ 755",
        "hub/ 755",
        "hub/.locks/ 755",
        "hub/.locks/models--org--name/ 755",
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    for blob in [git, sha] {
        expected.push(format!("blobs/{blob} 444 x4"));
    }
    for base in ["hub", "volumes/snap/hub"] {
        let folder = format!("{base}/models--org--name");
        expected.extend([
            format!("{folder}/ 755"),
            format!("{folder}/blobs/ 755"),
            format!("{folder}/blobs/{git} 444 x4"),
            format!("{folder}/blobs/{sha} 444 x4"),
            format!("{folder}/refs/ 755"),
            format!("{folder}/refs/refs/ 755"),
            format!("{folder}/refs/refs/pr/ 755"),
            format!("{folder}/refs/refs/pr/1 644 x1"),
            format!("{folder}/snapshots/ 755"),
            format!("{folder}/snapshots/{c}/ 755"),
            format!("{folder}/snapshots/{c}/config.json -> ../../blobs/{git}"),
            format!("{folder}/snapshots/{c}/d/ 755"),
            format!("{folder}/snapshots/{c}/d/m 1.bin -> ../../../blobs/{sha}"),
            format!("{folder}/trees/ 755"),
            format!("{folder}/trees/{c}.json 644 x1"),
        ]);
    }
    expected.extend(
        [
            "journal/ 755",
            "journal/snap 644 x1",
            "lock 644 x1",
            "models/ 755",
            "models/cache/ 755",
            "models/cache/tiny -> ../../volumes/snap",
            "partial/ 755",
            "tmp/ 755",
            "volumes/ 755",
            "volumes/snap/ 755",
            "volumes/snap/files/ 755",
            "volumes/snap/files/config.json 444 x4",
            "volumes/snap/files/d/ 755",
            "volumes/snap/files/d/m 1.bin 444 x4",
            "volumes/snap/hub/ 755",
            "volumes/snap/hub/.locks/ 755",
            "volumes/snap/hub/.locks/models--org--name/ 755",
            "volumes/snap/hub/models--org--name/refs/main 644 x1",
        ]
        .map(String::from),
    );
    expected.sort();
    let found = tree(root.path());
    assert_eq!(found, expected, "{found:#?}");

    let folder = root.path().join("volumes/snap/hub/models--org--name");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), c);
    let text = fs::read_to_string(folder.join(format!("trees/{c}.json"))).unwrap();
    let pointer = &snapshot.files[1].git_oid;
    assert_eq!(
        text,
        format!(
            r#"{{"files":{{"config.json":{{"blob_id":"{git}","size":2}},"d/m 1.bin":{{"blob_id":"{pointer}","lfs_sha256":"{sha}","lfs_size":5,"size":5}}}},"format_version":1}}"#
        )
    );
}

#[test]
fn odd_names_and_contents() {
    let root = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default();
    let snapshot = catalogue.add(("odd", "odd", "main"), 'd', &odd_files());
    let (_store, one) = open(root.path(), &snapshot);
    catalogue.finish(&one, &model("odd")).unwrap();
    catalogue.audit(root.path());
    let progress = one.progress();
    assert_eq!(progress.size_bytes, 200 + 3000 + 77 + 1024 + 1500);
    assert_eq!(progress.held_bytes, progress.size_bytes);
    assert_eq!(progress.peer_bytes, progress.size_bytes);
}

#[test]
fn a_revision_that_is_the_commit_and_one_below_main() {
    for revision in ["c".repeat(40), "main/x".to_owned()] {
        let root = tempfile::tempdir().unwrap();
        let mut catalogue = Catalogue::default();
        let snapshot = catalogue.add(("s", "a/b", &revision), 'c', &[("f", bytes(1, 9))]);
        let (_store, one) = open(root.path(), &snapshot);
        catalogue.finish(&one, &model("m")).unwrap();
        let refs = root.path().join("volumes/s/hub/models--a--b/refs");
        assert_eq!(
            fs::read_to_string(refs.join(&revision)).unwrap(),
            snapshot.commit
        );
    }
}

#[test]
fn three_thousand_files_and_few_descriptors() {
    let root = super::fast_directory();
    let mut catalogue = Catalogue::default();
    let names: Vec<String> = (0..3000)
        .map(|n| format!("dir{}/file {n}.json", n % 50))
        .collect();
    let files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), format!("content {n}").into_bytes()))
        .collect();
    let snapshot = catalogue.add(("many", "a/many", "main"), 'e', &files);
    let (_store, one) = open(root.path(), &snapshot);
    one.reserve().unwrap();
    for index in 0..u32::try_from(one.segments().len()).unwrap() {
        catalogue
            .fill(&one, index, crate::store::Source::Origin)
            .unwrap();
    }
    let open_files = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|path| path.starts_with(root.path()))
        .count();
    assert!(open_files <= 70, "{open_files} files open");
    one.verify().unwrap();
    one.publish(&model("many")).unwrap();
    catalogue.audit(root.path());
}
