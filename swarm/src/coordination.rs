//! The messages between an agent and the coordinator.
//!
//! One WebSocket per agent, opened by the agent at `GET /v1/coordinate` with its projected service account token as
//! bearer; each text frame is one JSON message. The coordinator's state is soft: after a reconnect the agent says
//! [`AgentMessage::Hello`] and one [`AgentMessage::Track`] a snapshot, and the coordinator knows all it needs again.
//! The transport is given to both sides as a stream, so that it can be wrapped in an encrypted link.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::segment::PieceHashes;

/// Version of these messages; a coordinator refuses any other.
pub const PROTOCOL: u32 = 2;

/// Largest frame either side accepts, in bytes: a `Track` of a few thousand segments.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// Nodes that are named to agents for the time without a coordinator. Enough that some of them live; few enough that all of
/// a large cluster can ask all of them.
pub const MAX_MEMBERS: usize = 64;

/// What an agent tells the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum AgentMessage {
    /// First message on a connection.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Name of the agent's Node; must equal the node its token is bound to.
        node: String,
        /// Where other agents reach this agent's uploader.
        peer_address: SocketAddr,
        /// Whether the same agent has another connection, which ends now: its orders go on, and it says `Track` next.
        #[serde(default)]
        resumes: bool,
    },
    /// The agent wants this snapshot whole, or holds it and serves it. Replaces what was said of it before.
    Track {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Number of segments of the plan; all those not in `held` are wanted.
        segments: u32,
        /// What the agent holds durably and can serve.
        held: Vec<Held>,
    },
    /// The agent neither wants nor serves this snapshot any longer.
    Untrack {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
    },
    /// One more segment is held durably and can be served. Ends a `Fetch` or a `Take` of it.
    Have {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// The segment.
        held: Held,
    },
    /// These segments, held until now unverified, belong to blobs whose hash now matched.
    Verified {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Segment indices.
        segments: Vec<u32>,
    },
    /// A `Fetch` ended without the segment.
    FetchFailed {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Segment index.
        segment: u32,
        /// What went wrong, for people.
        message: String,
        /// Whether the origin said that it is asked too often (HTTP 429): then nobody should ask for a while.
        rate_limited: bool,
        /// How long to leave the origin alone, in seconds; absent: the coordinator backs off by itself.
        retry_after_seconds: Option<u32>,
    },
    /// A `Take` ended without the segment: the holder was gone, silent or sent wrong bytes.
    TakeFailed {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Segment index.
        segment: u32,
        /// Node name of the holder it was taken from.
        holder: String,
        /// What went wrong, for people.
        message: String,
    },
    /// A whole blob had the wrong hash; these segments were thrown away here and are wanted again.
    Corrupt {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Segment indices that overlap the blob.
        segments: Vec<u32>,
        /// What went wrong, for people.
        message: String,
    },
}

/// A segment that a node holds durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Segment index.
    pub segment: u32,
    /// Its piece hashes; with the snapshot's name and sizes they give the torrent.
    pub pieces: PieceHashes,
    /// Whether every blob it overlaps was verified whole against the hub's hash on that node.
    pub verified: bool,
}

/// What the coordinator tells an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum CoordinatorMessage {
    /// How to reach the origin of a snapshot. Sent before its first `Fetch` and whenever it changes; without a token in it
    /// also to everybody who still misses something, for the time when there is no coordinator. Kept in memory only.
    Origin {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// How to reach it.
        access: OriginAccess,
    },
    /// Fetch this segment from the origin. Answered by `Have` or `FetchFailed`; by `Have` at once when it is held already.
    /// May be repeated for a fetch that is under way (after a `Track`): then there is nothing new to do.
    Fetch {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Segment index.
        segment: u32,
    },
    /// Take this segment from that node. Answered by `Have` or `TakeFailed`, otherwise like `Fetch`.
    Take {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Segment index.
        segment: u32,
        /// Its piece hashes.
        pieces: PieceHashes,
        /// Node name of a complete holder.
        holder: String,
        /// Where that holder's uploader listens.
        address: SocketAddr,
    },
    /// Throw these segments away unless their blobs are verified here: another node found that they are wrong. Ends every
    /// `Fetch` and `Take` of them without an answer. The agent says `Track` again when it is done, which tells what it
    /// still holds; until then the coordinator asks nothing of it for these segments.
    Discard {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// Segment indices.
        segments: Vec<u32>,
    },
    /// Who has a part in a snapshot, for the time when there is no coordinator: then these nodes fetch what is missing, and
    /// all take it from them. The same list for every agent; replaces an earlier one.
    Members {
        /// Name of the `ModelSnapshot`.
        snapshot: String,
        /// At most [`MAX_MEMBERS`] nodes, the receiver often among them.
        members: Vec<Member>,
    },
    /// The coordinator refuses this agent and closes the connection.
    Refused {
        /// Why, for people.
        message: String,
    },
}

/// A node that has a part in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Name of the Node.
    pub node: String,
    /// Where its uploader listens.
    pub address: SocketAddr,
}

/// How to reach the origin of a model.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginAccess {
    /// Base URL of the hub, without a trailing slash.
    pub endpoint: String,
    /// Access token for gated and private repositories; goes to the endpoint's own host only.
    pub token: Option<String>,
    /// Additional certificate authorities to trust, PEM.
    pub ca_bundle: Option<String>,
}

impl fmt::Debug for OriginAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginAccess")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("ca_bundle", &self.ca_bundle.is_some())
            .finish()
    }
}
