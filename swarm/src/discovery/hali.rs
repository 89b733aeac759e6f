//! hali's announcements: how nodes and machines that run hali (`hali daemon`) on the same network hear of each other.
//!
//! Its packets ([`packet`]) go to the group and port of our own announcements, as JSON signed with a secret of its own. They
//! prove that their sender has that secret, and nothing about the address that they came from or what is served there. So
//! they are believed for one thing only: that somebody may seed a torrent whose info hash this node has computed itself. A
//! sender of ours names only files that everybody may have.

pub mod guard;
pub mod name;
pub mod packet;
pub mod secret;
pub mod service;
