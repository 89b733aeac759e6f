//! By what the agent's metrics are told apart.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// Label of bytes: the repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Model {
    /// Repository on the hub.
    pub model: String,
}

/// Label of gauges of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Snapshot {
    pub(super) snapshot: String,
}

/// Labels of segments.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Transfer {
    /// Where from.
    pub source: Origin,
    /// What came of it.
    pub result: Outcome,
}

/// Where a segment came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The hub.
    Hub,
    /// Another node.
    Peer,
    /// Bytes that were on this node already: another snapshot's, or those of a content that was thrown away.
    Disk,
}

impl EncodeLabelValue for Origin {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            Self::Hub => "origin",
            Self::Peer => "peer",
            Self::Disk => "disk",
        })
    }
}

/// What came of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is held.
    Held,
    /// It failed.
    Failed,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(match self {
            Self::Held => "held",
            Self::Failed => "failed",
        })
    }
}

/// Labels of announces to tracker and DHT, and of files that machines with hali were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Announce {
    /// What came of it: `ok`, or why it brought nothing.
    pub(super) result: &'static str,
}

/// Labels of handshakes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Handshake {
    /// Whom with: a peer or the coordinator.
    pub(super) with: &'static str,
    /// Which end opened the connection.
    pub(super) side: &'static str,
    /// How it ended: `ok`, or why there is no link.
    pub(super) result: &'static str,
}

/// Label of the build.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Build {
    pub(super) version: &'static str,
}
