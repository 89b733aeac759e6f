//! What this node should hold: converted from the API objects, checked again, and kept on disk for restarts without an
//! API server.

mod convert;

use std::collections::BTreeMap;
use std::sync::Arc;

use modelcache_crds::model_cache::{Peers, SourcePolicy};
use modelcache_crds::model_cache_node::{ModelCacheNodeSpec, NodeModel, NodeSnapshot};
use modelcache_crds::model_snapshot::ModelSnapshotSpec;
use modelcache_swarm::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use crate::reasons;
use crate::state::Problem;

pub use self::convert::{ContentError, convert};

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
    /// The hub gives it to everybody, without a token.
    pub public: bool,
    /// How other BitTorrent clients may take its files: as asked for, and not at all unless the hub gives it to everybody.
    pub peers: Peers,
    /// Its files, or why they are not known.
    pub content: Result<Arc<Snapshot>, Problem>,
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
                public,
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

#[cfg(test)]
mod tests {
    use super::convert::tests::{file, spec};
    use super::*;

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
            assert_eq!(objects.intent().snapshots[0].public, public);
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
        let mut objects = Objects {
            generation: Some(1),
            ..Objects::default()
        };
        objects
            .contents
            .insert("s".to_owned(), spec(vec![file("a", 1, 'a')]));
        let kept = serde_json::to_vec(&objects).unwrap();
        assert_eq!(serde_json::from_slice::<Objects>(&kept).unwrap(), objects);
    }
}
