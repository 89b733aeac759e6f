//! What this node should hold: converted from the API objects, checked again, and kept on disk for restarts without an
//! API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use modelcache_crds::model_cache::{Peers, SourcePolicy};
use modelcache_crds::model_cache_node::{ModelCacheNodeSpec, NodeModel, NodeSnapshot};
use modelcache_crds::model_snapshot::ModelSnapshotSpec;
use modelcache_swarm::plan::MIN_SEGMENT;
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::{SegmentSizes, Snapshot, SnapshotFile, is_safe_path};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::reasons;
use crate::state::Problem;

/// Everything that this node should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intent {
    /// Generation of the `ModelCacheNode`; absent: no object.
    pub generation: Option<i64>,
    /// What to hold, each name once.
    pub snapshots: Vec<Wanted>,
}

/// One snapshot that this node should hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Name of the `ModelSnapshot`.
    pub name: String,
    /// Under which names to publish it.
    pub models: Vec<NodeModel>,
    /// Where bytes may come from.
    pub source: SourcePolicy,
    /// How other BitTorrent clients may take its files: as asked for, and not at all unless the hub gives it to everybody.
    pub peers: Peers,
    /// Its files, or why they are not known.
    pub content: Result<Arc<Snapshot>, Problem>,
}

/// A `ModelSnapshot` that cannot be taken as it is.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ContentError {
    /// A path that must not be created below the cache.
    #[error(
        "ModelSnapshot {snapshot}: the path {path:?} would leave the cache; exclude that file in the ModelCache or use another repository"
    )]
    UnsafePath {
        /// Name of the object.
        snapshot: String,
        /// The path.
        path: String,
    },
    /// Anything else that no snapshot can say.
    #[error("ModelSnapshot {snapshot}: {what}; delete the object, and the operator writes it anew")]
    Invalid {
        /// Name of the object.
        snapshot: String,
        /// What is wrong, naming the field.
        what: String,
    },
}

impl ContentError {
    /// The same as a problem in the status.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem {
            reason: match self {
                Self::UnsafePath { .. } => reasons::UNSAFE_PATH,
                Self::Invalid { .. } => reasons::INVALID_SNAPSHOT,
            },
            message: self.to_string(),
            retry_at: None,
        }
    }
}

/// Converts a `ModelSnapshot`, checking everything that the rest of the agent takes for granted.
pub fn convert(name: &str, spec: &ModelSnapshotSpec) -> Result<Snapshot, ContentError> {
    let invalid = |what: String| ContentError::Invalid {
        snapshot: name.to_owned(),
        what,
    };
    // The name becomes a directory.
    if name.contains('/') || !is_safe_path(name) {
        return Err(invalid(format!("metadata.name {name:?} is no name")));
    }
    if !is_commit(&spec.commit) {
        return Err(invalid(format!(
            "spec.commit {:?} is not 40 lower-case hex digits",
            spec.commit
        )));
    }
    if !is_repository(&spec.repository) {
        return Err(invalid(format!(
            "spec.repository {:?} is neither 'name' nor 'namespace/name'",
            spec.repository
        )));
    }
    // It becomes a path below refs/.
    if !is_safe_path(&spec.revision) {
        return Err(ContentError::UnsafePath {
            snapshot: name.to_owned(),
            path: format!("refs/{}", spec.revision),
        });
    }
    let files = files(name, spec)?;
    let sizes = sizes(spec).ok_or_else(|| {
        invalid(format!(
            "spec.segmentBytes {} and spec.pieceBytes {} are not powers of two of at least 262144 and 16384, the piece not the larger",
            spec.segment_bytes, spec.piece_bytes
        ))
    })?;
    Ok(Snapshot {
        name: name.to_owned(),
        repository: spec.repository.clone(),
        revision: spec.revision.clone(),
        commit: spec.commit.clone(),
        files,
        sizes,
    })
}

fn files(name: &str, spec: &ModelSnapshotSpec) -> Result<Vec<SnapshotFile>, ContentError> {
    let invalid = |what: String| ContentError::Invalid {
        snapshot: name.to_owned(),
        what,
    };
    let mut files: Vec<SnapshotFile> = Vec::with_capacity(spec.files.len());
    let mut lengths = BTreeMap::new();
    for (at, file) in spec.files.iter().enumerate() {
        if !is_safe_path(&file.path) {
            return Err(ContentError::UnsafePath {
                snapshot: name.to_owned(),
                path: file.path.clone(),
            });
        }
        if files.last().is_some_and(|last| last.path >= file.path) {
            return Err(invalid(format!(
                "spec.files[{at}].path {:?} is not sorted after the one before it",
                file.path
            )));
        }
        let size = u64::try_from(file.size)
            .map_err(|_| invalid(format!("spec.files[{at}].size {} is negative", file.size)))?;
        let blob: BlobId = match &file.sha256 {
            Some(digest) => format!("sha256:{digest}"),
            None => format!("git:{}", file.git_oid),
        }
        .parse()
        .map_err(|error| invalid(format!("spec.files[{at}]: {error}")))?;
        if !is_commit(&file.git_oid) {
            return Err(invalid(format!(
                "spec.files[{at}].gitOid {:?} is not 40 lower-case hex digits",
                file.git_oid
            )));
        }
        if *lengths.entry(blob).or_insert(size) != size {
            return Err(invalid(format!(
                "spec.files[{at}]: two files have the hash {blob} and different sizes"
            )));
        }
        files.push(SnapshotFile {
            path: file.path.clone(),
            size,
            blob,
            git_oid: file.git_oid.clone(),
        });
    }
    // A path that is a file and a directory at once cannot be laid out.
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for file in &files {
        let parents = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
        if let Some(parent) = parents.into_iter().find(|parent| paths.contains(parent)) {
            return Err(invalid(format!(
                "spec.files: {parent:?} is a file and a directory at once"
            )));
        }
    }
    if files.is_empty() {
        return Err(invalid("spec.files is empty".to_owned()));
    }
    let total = files
        .iter()
        .try_fold(0_u64, |sum, file| sum.checked_add(file.size));
    if total.is_none_or(|sum| sum > i64::MAX.unsigned_abs()) {
        return Err(invalid(
            "spec.files: the sizes add up to more than 2^63".to_owned(),
        ));
    }
    Ok(files)
}

fn sizes(spec: &ModelSnapshotSpec) -> Option<SegmentSizes> {
    let segment_bytes = u64::try_from(spec.segment_bytes).ok()?;
    let piece_bytes = u32::try_from(spec.piece_bytes).ok()?;
    (segment_bytes.is_power_of_two()
        && segment_bytes >= MIN_SEGMENT
        && piece_bytes.is_power_of_two()
        && piece_bytes >= 16 << 10
        && u64::from(piece_bytes) <= segment_bytes)
        .then_some(SegmentSizes {
            segment_bytes,
            piece_bytes,
        })
}

fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

// It becomes a directory `models--namespace--name`.
fn is_repository(text: &str) -> bool {
    is_safe_path(text)
        && text.split('/').count() <= 2
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}

/// The objects behind an [`Intent`], as they are kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Objects {
    /// Generation of the `ModelCacheNode`; absent: no object.
    pub generation: Option<i64>,
    /// Its `spec.snapshots`.
    pub snapshots: Vec<NodeSnapshot>,
    /// The `ModelSnapshot`s that were read, by name.
    pub contents: BTreeMap<String, ModelSnapshotSpec>,
}

impl Objects {
    /// Takes over what the object says now and drops the contents it no longer names.
    pub fn set_node(&mut self, object: Option<(Option<i64>, &ModelCacheNodeSpec)>) {
        let (generation, snapshots) = match object {
            Some((generation, spec)) => (generation, spec.snapshots.clone()),
            None => (None, Vec::new()),
        };
        self.generation = generation;
        self.snapshots = snapshots;
        let named = &self.snapshots;
        self.contents
            .retain(|name, _| named.iter().any(|wanted| wanted.name == *name));
    }

    /// Names that are wanted and whose contents are not known.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.snapshots
            .iter()
            .filter(|wanted| !self.contents.contains_key(&wanted.name))
            .map(|wanted| wanted.name.clone())
            .collect()
    }

    /// The intent: each snapshot once, with the models of all entries that name it.
    #[must_use]
    pub fn intent(&self) -> Intent {
        let mut snapshots: Vec<Wanted> = Vec::new();
        for entry in &self.snapshots {
            if let Some(wanted) = snapshots
                .iter_mut()
                .find(|wanted| wanted.name == entry.name)
            {
                wanted.models.extend(entry.models.iter().cloned());
                // Each entry has to allow it.
                let also = peers(entry);
                wanted.peers.plain_bit_torrent &= also.plain_bit_torrent;
                wanted.peers.pex &= also.pex;
                wanted.peers.dht &= also.dht;
                continue;
            }
            let spec = self.contents.get(&entry.name);
            let public = spec.is_some_and(|spec| spec.public);
            let content = match spec {
                Some(spec) => convert(&entry.name, spec)
                    .map(Arc::new)
                    .map_err(|error| error.problem()),
                None => Err(Problem {
                    reason: reasons::SNAPSHOT_UNKNOWN,
                    message: format!(
                        "ModelSnapshot {} has not been read from the API server yet; the agent tries again by itself",
                        entry.name
                    ),
                    retry_at: None,
                }),
            };
            snapshots.push(Wanted {
                name: entry.name.clone(),
                models: entry.models.clone(),
                source: entry.source,
                peers: if public {
                    peers(entry)
                } else {
                    Peers::default()
                },
                content,
            });
        }
        Intent {
            generation: self.generation,
            snapshots,
        }
    }
}

/// How an entry lets other BitTorrent clients take the snapshot: none is told of what none may take.
fn peers(entry: &NodeSnapshot) -> Peers {
    Peers {
        plain_bit_torrent: entry.plain_bit_torrent,
        pex: entry.plain_bit_torrent && entry.pex,
        dht: entry.plain_bit_torrent && entry.dht,
    }
}

/// Reading or writing a file of the agent's own state failed.
#[derive(Debug, Error)]
#[error(
    "cannot {doing} {path}: {source}; check that the cache directory belongs to the agent's user and has space"
)]
pub struct StateFileError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Where the agent's own state lies below the cache directory.
#[must_use]
pub fn state_path(cache_dir: &Path, file: &str) -> PathBuf {
    cache_dir.join("state").join(file)
}

/// Reads a JSON file of the agent's own; absent: none. One that cannot be parsed counts as absent too, because all of
/// it can be learnt again.
pub fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StateFileError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StateFileError {
                doing: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "unreadable state file, ignored");
            Ok(None)
        }
    }
}

/// Writes a JSON file of the agent's own so that after a crash either the old or the new one is there.
pub fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), StateFileError> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let staged = path.with_extension("new");
        let mut file = File::create(&staged)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| StateFileError {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use modelcache_crds::model_snapshot::File;

    use super::*;

    fn file(path: &str, size: i64, digit: char) -> File {
        File {
            path: path.to_owned(),
            size,
            git_oid: digit.to_string().repeat(40),
            sha256: Some(digit.to_string().repeat(64)),
        }
    }

    fn spec(files: Vec<File>) -> ModelSnapshotSpec {
        ModelSnapshotSpec {
            endpoint: "http://hub".to_owned(),
            repository: "acme/rocket".to_owned(),
            revision: "refs/pr/1".to_owned(),
            commit: "c".repeat(40),
            public: true,
            files,
            segment_bytes: 1 << 20,
            piece_bytes: 1 << 18,
        }
    }

    #[test]
    fn a_good_object_becomes_a_snapshot_with_content_and_git_hashes() {
        let mut regular = file("b", 2, 'b');
        regular.sha256 = None;
        let snapshot = convert("s", &spec(vec![file("a", 1, 'a'), regular])).unwrap();
        assert_eq!(snapshot.files[0].blob, BlobId::Sha256([0xaa; 32]));
        assert_eq!(snapshot.files[1].blob, BlobId::Git([0xbb; 20]));
        assert_eq!(snapshot.size(), 3);
    }

    #[test]
    fn a_path_that_leaves_the_cache_is_refused_by_name() {
        let error = convert("s", &spec(vec![file("../etc/passwd", 1, 'a')])).unwrap_err();
        assert_eq!(error.problem().reason, reasons::UNSAFE_PATH);
        assert!(error.to_string().contains("../etc/passwd"), "{error}");
        let mut bad = spec(vec![file("a", 1, 'a')]);
        bad.revision = "../../x".to_owned();
        assert_eq!(
            convert("s", &bad).unwrap_err().problem().reason,
            reasons::UNSAFE_PATH
        );
    }

    #[test]
    fn what_no_snapshot_can_say_is_refused() {
        type Change = fn(&mut ModelSnapshotSpec);
        let changes: Vec<(&str, Change)> = vec![
            ("commit", |s| s.commit = "C".repeat(40)),
            ("repository", |s| s.repository = "a/b/c".to_owned()),
            ("repository", |s| s.repository = "../x".to_owned()),
            ("size", |s| s.files[0].size = -1),
            ("gitOid", |s| s.files[0].git_oid = "xyz".to_owned()),
            ("blob id", |s| s.files[0].sha256 = Some("12".to_owned())),
            ("sorted", |s| s.files.swap(0, 1)),
            ("sorted", |s| s.files[1].path = "a".to_owned()),
            ("empty", |s| s.files.clear()),
            ("pieceBytes", |s| s.piece_bytes = 3),
            ("pieceBytes", |s| s.segment_bytes = 1 << 17),
            ("different sizes", |s| {
                s.files[1].sha256 = s.files[0].sha256.clone();
            }),
            ("directory at once", |s| s.files[1].path = "a/b".to_owned()),
            ("add up", |s| {
                s.files[0].size = i64::MAX;
                s.files[1].size = i64::MAX;
            }),
        ];
        for (word, change) in changes {
            let mut spec = spec(vec![file("a", 1, 'a'), file("b", 2, 'b')]);
            change(&mut spec);
            let error = convert("s", &spec).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn other_clients_may_take_only_what_is_public_and_allowed() {
        let entry = |peers: Peers| NodeSnapshot {
            name: "s".to_owned(),
            source: SourcePolicy::PeersFirst,
            plain_bit_torrent: peers.plain_bit_torrent,
            pex: peers.pex,
            dht: peers.dht,
            models: Vec::new(),
        };
        let peers = |bits: u8| Peers {
            plain_bit_torrent: bits & 1 != 0,
            pex: bits & 2 != 0,
            dht: bits & 4 != 0,
        };
        for (public, bits, other) in [false, true]
            .into_iter()
            .flat_map(|public| (0..64_u8).map(move |bits| (public, bits & 7, bits >> 3)))
        {
            let mut objects = Objects {
                snapshots: vec![entry(peers(bits))],
                ..Objects::default()
            };
            let mut spec = spec(vec![file("a", 1, 'a')]);
            spec.public = public;
            objects.contents.insert("s".to_owned(), spec);
            let expected = |bits: u8| {
                if public && bits & 1 != 0 {
                    peers(bits)
                } else {
                    Peers::default()
                }
            };
            assert_eq!(objects.intent().snapshots[0].peers, expected(bits));
            objects.snapshots.push(entry(peers(other)));
            assert_eq!(objects.intent().snapshots[0].peers, expected(bits & other));
        }
    }

    #[test]
    fn a_bad_or_missing_object_does_not_hide_the_others() {
        let entry = |name: &str| NodeSnapshot {
            name: name.to_owned(),
            source: SourcePolicy::PeersFirst,
            plain_bit_torrent: false,
            pex: false,
            dht: false,
            models: vec![NodeModel {
                cache: "c".to_owned(),
                model: name.to_owned(),
            }],
        };
        let mut objects = Objects::default();
        let node = ModelCacheNodeSpec {
            node_name: "n".to_owned(),
            snapshots: vec![entry("good"), entry("bad"), entry("absent")],
        };
        objects.set_node(Some((Some(7), &node)));
        objects
            .contents
            .insert("good".to_owned(), spec(vec![file("a", 1, 'a')]));
        objects
            .contents
            .insert("bad".to_owned(), spec(vec![file("/a", 1, 'a')]));
        assert_eq!(objects.missing(), ["absent"]);
        let intent = objects.intent();
        assert_eq!(intent.generation, Some(7));
        assert!(intent.snapshots[0].content.is_ok());
        assert!(intent.snapshots[1].content.is_err());
        assert_eq!(
            intent.snapshots[2].content.as_ref().unwrap_err().reason,
            reasons::SNAPSHOT_UNKNOWN
        );
        objects.set_node(None);
        assert_eq!(objects, Objects::default());
    }

    #[test]
    fn objects_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = state_path(directory.path(), "intent.json");
        assert!(load::<Objects>(&path).unwrap().is_none());
        let mut objects = Objects {
            generation: Some(1),
            ..Objects::default()
        };
        objects
            .contents
            .insert("s".to_owned(), spec(vec![file("a", 1, 'a')]));
        save(&path, &objects).unwrap();
        assert_eq!(load::<Objects>(&path).unwrap().unwrap(), objects);
        fs::write(&path, b"{ torn").unwrap();
        assert!(load::<Objects>(&path).unwrap().is_none());
    }
}
