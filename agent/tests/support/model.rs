//! Models with known contents.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use modelcache_agent::intent::{Intent, Wanted};
use modelcache_crds::model_cache::{Peers, SourcePolicy};
use modelcache_crds::model_cache_node::NodeModel;
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::snapshot::{SegmentSizes, Snapshot, SnapshotFile};
use sha2::{Digest as _, Sha256};

/// A model's files.
#[derive(Clone, Default)]
pub struct Model {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Model {
    /// Large, small, equal and empty files, odd names.
    pub fn odd() -> Self {
        let mut model = Self::default();
        model.add("weights/model 1 of 2 #ä+%20.bin", bytes(1, 9 << 20));
        model.add("weights/model-2.bin", bytes(2, (3 << 20) + 501));
        model.add("weights/same.bin", bytes(2, (3 << 20) + 501));
        model.add("empty", Vec::new());
        for number in 0..40 {
            let len = 1000 + 77 * number as usize;
            model.add(&format!("small/{number:02}.json"), bytes(100 + number, len));
        }
        model
    }

    pub fn add(&mut self, path: &str, content: Vec<u8>) {
        self.files.insert(path.to_owned(), content);
    }

    /// Bytes of distinct contents: what one copy costs.
    pub fn distinct_bytes(&self, name: &str) -> u64 {
        self.snapshot(name)
            .blobs()
            .iter()
            .map(|(_, size)| size)
            .sum()
    }

    pub fn snapshot(&self, name: &str) -> Arc<Snapshot> {
        let files = self
            .files
            .iter()
            .map(|(path, content)| SnapshotFile {
                path: path.clone(),
                size: content.len() as u64,
                blob: BlobId::Sha256(Sha256::digest(content).into()),
                git_oid: "0".repeat(40),
            })
            .collect();
        Arc::new(Snapshot {
            name: name.to_owned(),
            repository: format!("acme/{name}"),
            revision: "main".to_owned(),
            commit: "c".repeat(40),
            files,
            sizes: SegmentSizes {
                segment_bytes: 1 << 20,
                piece_bytes: 256 << 10,
            },
        })
    }

    /// Whether the published plain files are these, all of them and no other.
    pub fn assert_published(&self, cache: &Path, snapshot: &str) {
        for root in [
            cache.join("volumes").join(snapshot).join("files"),
            cache.join("models/tests").join(snapshot).join("files"),
        ] {
            for (path, content) in &self.files {
                let found = fs::read(root.join(path)).unwrap();
                assert!(found == *content, "{path} below {}", root.display());
            }
        }
    }
}

/// Bytes that look random and are the same each time.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// An intent for these snapshots, each as the model of its own name in the cache `tests`.
pub fn intent(snapshots: &[Arc<Snapshot>]) -> Intent {
    Intent {
        generation: Some(1),
        snapshots: snapshots
            .iter()
            .map(|snapshot| Wanted {
                name: snapshot.name.clone(),
                models: vec![NodeModel {
                    cache: "tests".to_owned(),
                    model: snapshot.name.clone(),
                }],
                source: SourcePolicy::PeersFirst,
                public: true,
                peers: Peers::default(),
                content: Ok(snapshot.clone()),
            })
            .collect(),
    }
}
