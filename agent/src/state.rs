//! What the core tells the outside: the whole state of this node in one value. Reports, Events and metrics derive from it.

use std::net::SocketAddr;

use jiff::Timestamp;
use modelcache_crds::model_cache_node::{NodeModel, Phase};

/// How this node stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeState {
    /// Generation of the intent that this state speaks of.
    pub generation: Option<i64>,
    /// Where other agents reach this one.
    pub peer_address: Option<SocketAddr>,
    /// Size of the file system of the cache, in bytes.
    pub total_bytes: u64,
    /// What is free of it for the agent, in bytes.
    pub free_bytes: u64,
    /// Whether the coordinator is connected.
    pub connected: bool,
    /// One entry a wanted snapshot, in the order of the intent.
    pub snapshots: Vec<SnapshotState>,
}

/// How one snapshot stands.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotState {
    /// Name of the `ModelSnapshot`.
    pub name: String,
    /// Repository, once known.
    pub repository: Option<String>,
    /// Models under whose names it is asked for.
    pub models: Vec<NodeModel>,
    /// Where it stands.
    pub phase: Phase,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How much of it is durable here.
    pub held_bytes: u64,
    /// How much of that came from the hub, also before a restart.
    pub origin_bytes: u64,
    /// How much of that came from other nodes, also before a restart.
    pub peer_bytes: u64,
    /// Why it does not get on.
    pub problem: Option<Problem>,
    /// When it was last verified and published.
    pub verified_at: Option<Timestamp>,
    /// Whether it became Ready in this process: else being Ready is no news.
    pub fresh: bool,
}

/// Why a snapshot does not get on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One of [`crate::reasons`].
    pub reason: &'static str,
    /// The same for people, with what to do.
    pub message: String,
    /// When the agent tries again.
    pub retry_at: Option<Timestamp>,
}
