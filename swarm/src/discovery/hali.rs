//! hali's announcements: how nodes and machines that run hali (`hali daemon`) on the same network hear of each other.
//!
//! Its packets ([`packet`]) go to the group and port of our own announcements, as JSON signed with a secret of its own
//! ([`secret`]). They prove that their sender has that secret, and nothing about the address that they came from or what is
//! served there. So they are believed for one thing only: that somebody may listen there, whom nobody vouches for, and who may be
//! asked for a torrent ([`seeds`]). A sender of ours names only files that everybody may have.

pub mod guard;
pub mod name;
pub mod packet;
pub mod secret;
pub mod seeds;
pub mod service;

use std::net::Ipv4Addr;

use super::net::Group;
use super::refusal::Refusal;

/// Where its packets go. By IPv4 only; the other group is not used.
pub const GROUP: Group = Group {
    v4: Ipv4Addr::new(239, 192, 42, 1),
    port: 4269,
    ..super::service::GROUP
};

/// Why its packets are refused.
pub const REFUSALS: [Refusal; 9] = [
    Refusal::Malformed,
    Refusal::Version,
    Refusal::Missing,
    Refusal::Wrong,
    Refusal::Stale,
    Refusal::Replayed,
    Refusal::PossiblyReplayed,
    Refusal::Elsewhere,
    Refusal::TooMany,
];

/// Whether a datagram may be a packet of hali's: an announcement of a node begins with another byte.
#[must_use]
pub fn is_packet(datagram: &[u8]) -> bool {
    datagram.starts_with(b"{")
}
