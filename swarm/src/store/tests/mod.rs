//! The store as its callers see it, and as a crash leaves it.

mod crash;
mod file_hashes;
mod flow;
mod foreign;
mod layout;
pub(super) mod power;
mod published;
mod resume;
mod room;
mod sharing;
mod wrong;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::segment::{BlobId, PieceHashes, Segment};
use crate::snapshot::{SegmentSizes, Snapshot, SnapshotFile};
use crate::store::{SnapshotStore, Source, Store, StoreError};
use crate::verify::{BlobHasher, piece_hash};

const PIECE: u32 = 256;

/// Contents that the tests know.
#[derive(Clone, Default)]
struct Catalogue {
    contents: BTreeMap<BlobId, Vec<u8>>,
    snapshots: Vec<Arc<Snapshot>>,
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn name_of(kind: &BlobId, content: &[u8]) -> BlobId {
    let mut hasher = BlobHasher::new(kind, content.len() as u64);
    hasher.update(content);
    hasher.finish()
}

const LFS: BlobId = BlobId::Sha256([0; 32]);
const REGULAR: BlobId = BlobId::Git([0; 20]);

impl Catalogue {
    /// A snapshot; files whose name ends with `.bin` are in LFS.
    fn add(
        &mut self,
        (name, repository, revision): (&str, &str, &str),
        commit: char,
        files: &[(&str, Vec<u8>)],
    ) -> Arc<Snapshot> {
        let mut listed = Vec::new();
        for (path, content) in files {
            let is_lfs = Path::new(path).extension().is_some_and(|e| e == "bin");
            let blob = name_of(if is_lfs { &LFS } else { &REGULAR }, content);
            self.contents.insert(blob, content.clone());
            let git_oid = if is_lfs {
                name_of(&REGULAR, blob.to_string().as_bytes()).etag()
            } else {
                blob.etag()
            };
            listed.push(SnapshotFile {
                path: (*path).to_owned(),
                size: content.len() as u64,
                blob,
                git_oid,
            });
        }
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        let snapshot = Arc::new(Snapshot {
            name: name.into(),
            repository: repository.into(),
            revision: revision.into(),
            commit: commit.to_string().repeat(40),
            files: listed,
            sizes: SegmentSizes {
                segment_bytes: 1024,
                piece_bytes: PIECE,
            },
        });
        self.snapshots.push(Arc::clone(&snapshot));
        snapshot
    }

    fn segment(&self, segment: &Segment) -> Vec<u8> {
        let mut data = Vec::new();
        for extent in &segment.extents {
            let start = usize::try_from(extent.offset).unwrap();
            let end = start + usize::try_from(extent.len).unwrap();
            data.extend_from_slice(&self.contents[&extent.blob][start..end]);
        }
        data
    }

    /// Brings one segment in, in chunks that fit nothing.
    fn fill(&self, store: &SnapshotStore, index: u32, from: Source) -> Result<(), StoreError> {
        let data = self.segment(&store.segments()[index as usize]);
        fill_with(store, index, &data, from)
    }

    /// Does what is left to do until the snapshot is visible.
    fn finish(&self, store: &SnapshotStore, models: &[(String, String)]) -> Result<(), StoreError> {
        store.adopt()?;
        if !store.is_whole() {
            store.reserve()?;
        }
        for round in 0..10_u32 {
            let count = u32::try_from(store.segments().len()).unwrap();
            for step in 0..count {
                let index = (step * 7 + round + 3) % count;
                if !store.is_held(index) {
                    let right = pieces(&self.segment(&store.segments()[index as usize]));
                    let writer = store.writer(index)?;
                    let left = store.is_left(index, &*writer, &right);
                    drop(writer);
                    if left {
                        store.commit(index, right, None)?;
                    } else {
                        self.fill(store, index, Source::Peer)?;
                    }
                    store.verify()?;
                }
            }
            store.verify()?;
            if (0..count).all(|index| store.is_held(index)) && store.is_whole() {
                return store.publish(models);
            }
        }
        panic!("{} does not become whole", store.snapshot().name);
    }

    /// Everything that a reader can see is right and whole.
    fn audit(&self, root: &Path) {
        for name in names(&root.join("blobs")) {
            let right = self.by_etag(&name);
            assert_eq!(
                fs::read(root.join("blobs").join(&name)).unwrap(),
                right,
                "blobs/{name}"
            );
        }
        for name in names(&root.join("volumes")) {
            let snapshot = self.snapshots.iter().find(|s| s.name == name).expect(&name);
            let volume = root.join("volumes").join(&name);
            let folder = format!("models--{}", snapshot.repository.replace('/', "--"));
            let hub = volume.join("hub").join(&folder);
            for revision in [snapshot.revision.as_str(), "main"] {
                let found = fs::read_to_string(hub.join("refs").join(revision)).unwrap();
                assert_eq!(found, snapshot.commit);
            }
            self.audit_tree(&hub, snapshot);
            for file in &snapshot.files {
                let path = volume.join("files").join(&file.path);
                assert_eq!(
                    fs::read(&path).unwrap(),
                    self.contents[&file.blob],
                    "{}",
                    path.display()
                );
            }
        }
        for folder in names(&root.join("hub")) {
            let hub = root.join("hub").join(&folder);
            for commit in names(&hub.join("snapshots")) {
                let mut of_commit = self.snapshots.iter().filter(|s| s.commit == commit);
                assert!(
                    of_commit.any(|s| s.files.iter().all(|file| {
                        let path = hub.join("snapshots").join(&commit).join(&file.path);
                        fs::read(path).is_ok_and(|found| found == self.contents[&file.blob])
                    })),
                    "no snapshot is whole in {folder} at {commit}"
                );
            }
            for tree in names(&hub.join("trees")) {
                let commit = tree.strip_suffix(".json").unwrap();
                for path in listed(&hub.join("trees").join(&tree)).keys() {
                    let path = hub.join("snapshots").join(commit).join(path);
                    assert!(path.is_file(), "{} is listed but not there", path.display());
                }
            }
            for name in files_below(&hub.join("refs")) {
                let commit = fs::read_to_string(name).unwrap();
                assert!(hub.join("snapshots").join(&commit).is_dir());
                assert!(hub.join("trees").join(format!("{commit}.json")).is_file());
            }
        }
        for cache in names(&root.join("models")) {
            for model in names(&root.join("models").join(&cache)) {
                let files = root.join("models").join(&cache).join(&model).join("files");
                assert!(files.is_dir(), "{} leads nowhere", files.display());
            }
        }
    }

    fn audit_tree(&self, folder: &Path, snapshot: &Snapshot) {
        let tree = folder
            .join("trees")
            .join(format!("{}.json", snapshot.commit));
        let listed = listed(&tree);
        assert_eq!(listed.len(), snapshot.files.len());
        for file in &snapshot.files {
            let path = folder
                .join("snapshots")
                .join(&snapshot.commit)
                .join(&file.path);
            assert!(fs::read_link(&path).unwrap().is_relative());
            assert_eq!(
                fs::read(&path).unwrap(),
                self.contents[&file.blob],
                "{}",
                path.display()
            );
            assert_eq!(listed[&file.path]["blob_id"], file.git_oid);
            assert_eq!(listed[&file.path]["size"], file.size);
        }
    }

    fn by_etag(&self, etag: &str) -> Vec<u8> {
        let found = self.contents.iter().find(|(id, _)| id.etag() == etag);
        found.expect(etag).1.clone()
    }
}

fn fill_with(
    store: &SnapshotStore,
    index: u32,
    data: &[u8],
    from: Source,
) -> Result<(), StoreError> {
    let io = store.writer(index)?;
    assert_eq!(io.size(), data.len() as u64);
    for (number, chunk) in data.chunks(300).enumerate() {
        let offset = number as u64 * 300;
        io.write_at(offset, chunk)
            .map_err(|error| StoreError::io("write", Path::new("segment"), error))?;
        io.checked(offset, chunk);
    }
    drop(io);
    store.commit(index, pieces(data), from)
}

fn pieces(data: &[u8]) -> PieceHashes {
    PieceHashes::new(data.chunks(PIECE as usize).map(piece_hash).collect())
}

/// Names in a directory that are no dot files, sorted.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".locks"))
        .collect();
    names.sort();
    names
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let paths = names(directory)
        .into_iter()
        .map(|name| directory.join(name));
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn listed(tree: &Path) -> serde_json::Map<String, Value> {
    let value: Value = serde_json::from_slice(&fs::read(tree).unwrap()).unwrap();
    assert_eq!(value["format_version"], 1);
    value["files"].as_object().unwrap().clone()
}

/// What is said to be held is on disk: its pieces hash to what is said.
fn audit_held(store: &SnapshotStore) {
    for held in store.held() {
        let reader = store.reader(held.segment).unwrap();
        let mut data = vec![0; usize::try_from(reader.size()).unwrap()];
        reader.read_at(0, &mut data).unwrap();
        assert_eq!(pieces(&data), held.pieces, "segment {}", held.segment);
        let mut again = vec![0; data.len()];
        assert!(!reader.read_now(0, &mut again) || again == data);
        // Others may have verified it meanwhile.
        let alone = store.held_segment(held.segment).unwrap();
        assert_eq!((alone.segment, alone.pieces), (held.segment, held.pieces));
    }
}

fn model(name: &str) -> Vec<(String, String)> {
    vec![("cache".into(), name.into())]
}

/// A directory for tests with many syncs: in memory where possible.
fn fast_directory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        tempfile::tempdir_in(shared).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// The files of a model with everything that is odd about names and contents.
fn odd_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", bytes(1, 200)),
        ("empty.txt", Vec::new()),
        ("empty.bin", Vec::new()),
        ("model.bin", bytes(2, 3000)),
        ("a b/100% +#späß.txt", bytes(3, 77)),
        ("deep/d/e/e/p/er/file.bin", bytes(4, 1024)),
        ("twin one.bin", bytes(5, 1500)),
        ("twin two.bin", bytes(5, 1500)),
    ]
}

/// Opens a store and one snapshot in it.
fn open(root: &Path, snapshot: &Arc<Snapshot>) -> (Store, SnapshotStore) {
    let store = Store::open(root).unwrap();
    let of_snapshot = store.snapshot(Arc::clone(snapshot)).unwrap();
    (store, of_snapshot)
}

/// A snapshot of one file of five segments.
fn large(catalogue: &mut Catalogue) -> Arc<Snapshot> {
    catalogue.add(
        ("large", "org/large", "main"),
        'a',
        &[("w.bin", bytes(1, 5000))],
    )
}
