//! Moving and verifying model bytes, with no Kubernetes in it.
//!
//! A [`snapshot::Snapshot`] is a model at one commit: an exact list of files with sizes and hashes. Its distinct
//! contents ("blobs") are cut by [`plan`] into segments, the units that travel. A segment comes either from the origin
//! ([`origin`]) or from another node ([`engine`]); [`store`] keeps it crash-safe, [`verify`] proves every blob by the
//! hub's own hash, and only then it becomes visible. Who takes what from whom is decided by a coordinator that speaks
//! the messages of [`coordination`]. Where no coordinator is, nodes find each other by [`discovery`] and a [`tracker`].

mod bencode;
mod buffers;
mod compact;
pub mod coordination;
pub mod crowd;
pub mod discovery;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gate;
pub mod inventory;
pub mod link;
pub mod metainfo;
pub mod origin;
pub mod plan;
pub mod secret;
pub mod segment;
pub mod snapshot;
pub mod store;
pub mod tracker;
pub mod verify;
