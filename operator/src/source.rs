//! What identifies a model's source, and the ModelSnapshot that comes of it.
//!
//! Two models with the same endpoint, repository, revision and patterns are the same source: they share one snapshot.
//! The hash of a source is a label of its ModelSnapshot, so that after a restart the snapshot is found again without
//! asking the hub, and a commit once resolved stays pinned.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use modelcache_crds::model_snapshot::{File, ModelSnapshot, ModelSnapshotSpec};
use modelcache_swarm::plan;
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::{SegmentSizes, Snapshot, SnapshotFile};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Label of a ModelSnapshot: the hash of its source.
pub const SOURCE_LABEL: &str = "modelcache.io/source";

/// Longest serialized ModelSnapshot: etcd takes 1.5 MiB, and the API server adds its bookkeeping.
pub const OBJECT_MAX_BYTES: usize = 1_400_000;

/// Longest readable part of a snapshot's name.
const SLUG_MAX: usize = 40;

/// A repository at a revision, and which of its files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Base URL of the hub, without a trailing slash.
    pub endpoint: String,
    /// Repository on the hub.
    pub repository: String,
    /// Branch, tag or commit as the user wrote it.
    pub revision: String,
    /// Sorted patterns of files to take; empty: all.
    pub include: Vec<String>,
    /// Sorted patterns of files to leave.
    pub exclude: Vec<String>,
}

impl Source {
    /// A source with its patterns in their normal order; neither order nor repetition of patterns means anything.
    #[must_use]
    pub fn new(
        endpoint: &str,
        repository: &str,
        revision: &str,
        include: &[String],
        exclude: &[String],
    ) -> Self {
        let normal = |patterns: &[String]| {
            let mut patterns = patterns.to_vec();
            patterns.sort_unstable();
            patterns.dedup();
            patterns
        };
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            include: normal(include),
            exclude: normal(exclude),
        }
    }

    /// The value of [`SOURCE_LABEL`]: 32 hex digits.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(&self.digest(None)[..16])
    }

    /// Name of the ModelSnapshot of this source at `commit`.
    #[must_use]
    pub fn snapshot_name(&self, commit: &str) -> String {
        let digest = self.digest(Some(commit));
        let commit: String = commit.chars().take(8).collect();
        format!(
            "{}-{commit}-{}",
            slug(&self.repository),
            hex::encode(&digest[..4])
        )
    }

    // Every part is preceded by its length, so that no two sources are written alike.
    fn digest(&self, commit: Option<&str>) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut part = |text: &str| {
            hasher.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(text.as_bytes());
        };
        part(&self.endpoint);
        part(&self.repository);
        part(&self.revision);
        part(commit.unwrap_or_default());
        for patterns in [&self.include, &self.exclude] {
            part(&patterns.len().to_string());
            for pattern in patterns {
                part(pattern);
            }
        }
        hasher.finalize().into()
    }
}

/// The last part of a repository's name as part of an object's name.
fn slug(repository: &str) -> String {
    let name = repository.rsplit('/').next().unwrap_or(repository);
    let mut slug = String::new();
    for letter in name.chars().take(SLUG_MAX) {
        match letter.to_ascii_lowercase() {
            letter if letter.is_ascii_alphanumeric() => slug.push(letter),
            _ if slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    match slug.trim_matches('-') {
        "" => "model".to_owned(),
        slug => slug.to_owned(),
    }
}

/// What the operator needs to know of a snapshot: everything but the list of files, which may be long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Name of the ModelSnapshot.
    pub name: String,
    /// Hash of its source.
    pub source: String,
    /// Base URL of the hub it was resolved at.
    pub endpoint: String,
    /// Repository.
    pub repository: String,
    /// Revision as asked for.
    pub revision: String,
    /// Commit.
    pub commit: String,
    /// Number of files.
    pub files: usize,
    /// Sum of the files' sizes.
    pub size_bytes: u64,
    /// Number of segments of its plan.
    pub segments: u32,
    /// The hub gave it to somebody without a token.
    pub public: bool,
}

/// A listing that makes no ModelSnapshot.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ListingError {
    /// Nothing is left after the patterns.
    #[error("no file matches")]
    Empty,
    /// The object would be larger than the API server can store.
    #[error("{files} files make an object of {bytes} bytes")]
    TooLarge {
        /// Number of files.
        files: usize,
        /// Length of the object as JSON.
        bytes: usize,
    },
}

/// The ModelSnapshot of `source` at `commit` with these files (already chosen by the patterns, sorted by path). `public`: they
/// were had without a token.
pub fn snapshot(
    source: &Source,
    commit: &str,
    files: &[SnapshotFile],
    public: bool,
) -> Result<(ModelSnapshot, Facts), ListingError> {
    if files.is_empty() {
        return Err(ListingError::Empty);
    }
    let total: u64 = files.iter().map(|file| file.size).sum();
    let sizes = plan::sizes(total);
    let spec = ModelSnapshotSpec {
        endpoint: source.endpoint.clone(),
        repository: source.repository.clone(),
        revision: source.revision.clone(),
        commit: commit.to_owned(),
        public,
        files: files.iter().map(file).collect(),
        segment_bytes: i64::try_from(sizes.segment_bytes).unwrap_or(i64::MAX),
        piece_bytes: i64::from(sizes.piece_bytes),
    };
    let name = source.snapshot_name(commit);
    let mut object = ModelSnapshot::new(&name, spec);
    object.metadata = ObjectMeta {
        name: Some(name),
        labels: Some(BTreeMap::from([
            (SOURCE_LABEL.to_owned(), source.hash()),
            (
                "app.kubernetes.io/managed-by".to_owned(),
                modelcache_crds::names::OPERATOR_MANAGER.to_owned(),
            ),
        ])),
        ..ObjectMeta::default()
    };
    // Serializing to memory fails for no value of this type; if it did, the API server would refuse it.
    let bytes = serde_json::to_vec(&object).map_or(0, |json| json.len());
    if bytes > OBJECT_MAX_BYTES {
        return Err(ListingError::TooLarge {
            files: files.len(),
            bytes,
        });
    }
    let facts = facts(&object);
    Ok((object, facts))
}

fn file(file: &SnapshotFile) -> File {
    File {
        path: file.path.clone(),
        size: i64::try_from(file.size).unwrap_or(i64::MAX),
        git_oid: file.git_oid.clone(),
        sha256: match file.blob {
            BlobId::Sha256(_) => Some(file.blob.etag()),
            BlobId::Git(_) => None,
        },
    }
}

/// What is to be known of a ModelSnapshot; the number of segments is 0 for one that agents refuse.
#[must_use]
pub fn facts(object: &ModelSnapshot) -> Facts {
    let spec = &object.spec;
    let label = object
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SOURCE_LABEL));
    Facts {
        name: object.metadata.name.clone().unwrap_or_default(),
        source: label.cloned().unwrap_or_default(),
        endpoint: spec.endpoint.clone(),
        repository: spec.repository.clone(),
        revision: spec.revision.clone(),
        commit: spec.commit.clone(),
        files: spec.files.len(),
        size_bytes: spec
            .files
            .iter()
            .map(|file| u64::try_from(file.size).unwrap_or(0))
            .sum(),
        segments: segments(spec).unwrap_or(0),
        public: spec.public,
    }
}

fn segments(spec: &ModelSnapshotSpec) -> Option<u32> {
    let files = spec
        .files
        .iter()
        .map(|file| {
            let blob: BlobId = match &file.sha256 {
                Some(digest) => format!("sha256:{digest}").parse().ok()?,
                None => format!("git:{}", file.git_oid).parse().ok()?,
            };
            Some(SnapshotFile {
                path: String::new(),
                size: u64::try_from(file.size).ok()?,
                blob,
                git_oid: String::new(),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let snapshot = Snapshot {
        name: String::new(),
        repository: String::new(),
        revision: String::new(),
        commit: String::new(),
        files,
        sizes: SegmentSizes {
            segment_bytes: u64::try_from(spec.segment_bytes).ok().filter(|s| *s > 0)?,
            piece_bytes: u32::try_from(spec.piece_bytes).ok()?,
        },
    };
    u32::try_from(plan::cut(&snapshot).len()).ok()
}

/// Creation time of an object, oldest first in comparisons; one that has none yet counts as the youngest.
#[must_use]
pub fn age(created: Option<&Time>) -> i128 {
    created.map_or(i128::MAX, |time| time.0.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source::new(
            "https://hub.example/",
            "acme/Rocket_9--B.v2",
            "main",
            &["*.json".to_owned(), "*.bin".to_owned(), "*.bin".to_owned()],
            &[],
        )
    }

    fn one_file(path: &str, size: u64) -> SnapshotFile {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&size.to_be_bytes());
        SnapshotFile {
            path: path.to_owned(),
            size,
            blob: BlobId::Sha256(digest),
            git_oid: "a".repeat(40),
        }
    }

    #[test]
    fn the_order_of_patterns_means_nothing_everything_else_does() {
        let base = source();
        let mut same = base.clone();
        same.include = vec!["*.bin".to_owned(), "*.json".to_owned()];
        assert_eq!(base.hash(), same.hash());
        let changes: [fn(&mut Source); 5] = [
            |s| s.endpoint = "https://other.example".to_owned(),
            |s| s.repository = "acme/other".to_owned(),
            |s| s.revision = "v2".to_owned(),
            |s| s.exclude = std::mem::take(&mut s.include),
            |s| s.include = vec!["*.bin*.json".to_owned()],
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(base.hash(), other.hash(), "{other:?}");
        }
        assert_eq!(base.hash().len(), 32);
    }

    #[test]
    fn a_name_is_readable_valid_and_changes_with_the_commit() {
        let name = source().snapshot_name(&"0123456789".repeat(4));
        assert!(name.starts_with("rocket-9-b-v2-01234567-"), "{name}");
        assert_ne!(name, source().snapshot_name(&"9876543210".repeat(4)));
        for (repository, start) in [
            ("___", "model-"),
            ("a", "a-"),
            (&"x".repeat(96), &format!("{}-", "x".repeat(40))),
        ] {
            assert!(slug(repository).len() <= SLUG_MAX);
            assert!(format!("{}-", slug(repository)).starts_with(start));
        }
    }

    #[test]
    fn the_object_carries_the_label_and_its_facts_come_back_from_it() {
        let source = source();
        let commit = "c".repeat(40);
        let mut git = one_file("b", 5);
        git.blob = BlobId::Git([0xbb; 20]);
        let files = [one_file("a", 3 << 18), git, one_file("c", 0)];
        let (object, told) = snapshot(&source, &commit, &files, true).unwrap();
        assert_eq!(facts(&object), told);
        assert_eq!(told.source, source.hash());
        assert_eq!(told.size_bytes, (3 << 18) + 5);
        assert_eq!(told.segments, 4);
        assert_eq!(object.spec.files[1].sha256, None);
        assert!(object.spec.files[0].sha256.is_some());
    }

    #[test]
    fn what_is_empty_or_too_large_for_one_object_is_refused() {
        let commit = "c".repeat(40);
        assert_eq!(
            snapshot(&source(), &commit, &[], false).unwrap_err(),
            ListingError::Empty
        );
        let fits: Vec<_> = (0..3000)
            .map(|n| one_file(&format!("data/part-{n:05}.bin"), n))
            .collect();
        assert!(snapshot(&source(), &commit, &fits, false).is_ok());
        let many: Vec<_> = (0..12_000)
            .map(|n| one_file(&format!("data/part-{n:05}.bin"), n))
            .collect();
        assert!(matches!(
            snapshot(&source(), &commit, &many, false),
            Err(ListingError::TooLarge { files: 12_000, bytes }) if bytes > OBJECT_MAX_BYTES
        ));
    }
}
