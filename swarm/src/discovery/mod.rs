//! Finding peers without a coordinator.
//!
//! Nodes announce themselves by signed datagrams ([`announcement`], [`wire`]) to a multicast group, and by directed
//! broadcast where multicast does not arrive. What arrives is limited by source ([`rate`]), checked for age and replay
//! ([`guard`]), and counted by what became of it ([`refusal`]). Other BitTorrent clients are heard by local service
//! discovery ([`lsd`]), machines with hali by its packets ([`hali`]), and the settings can name peers ([`named`]). All of it
//! feeds one [`table`], which [`upkeep`] keeps.
//!
//! An announcement is a hint about addresses and nothing else: what a model consists of comes from its snapshot only.

pub mod announcement;
pub mod clock;
pub mod guard;
pub mod hali;
pub mod interfaces;
pub mod lsd;
pub mod named;
pub mod net;
pub mod rate;
pub mod refusal;
pub(crate) mod senders;
pub mod service;
pub mod table;
pub mod timing;
pub mod upkeep;
pub mod window;
pub mod wire;
