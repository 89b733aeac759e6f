//! The agent: one per node. It fills the node's cache with what its `ModelCacheNode` asks for, shares it with the other
//! nodes, and says in that object's status how it stands.
//!
//! [`core`] does the work and knows nothing of Kubernetes; [`watch`] and [`intent`] tell it what to hold, [`coordinator`]
//! carries its orders, [`sources`] learn of other nodes beside it, [`lan`] by announcements on the local network and [`tracker`]
//! from the operator's tracker, [`report`] tells the cluster how it stands, [`http`] serves metrics and probes, [`plain`] gives
//! files to other BitTorrent clients. [`work`], [`alone`], [`strangers`], [`throttle`] and [`events`] are pure. [`peers`] and [`doctor`] show
//! and test what is around a node.

pub mod alone;
pub mod args;
pub mod coordinator;
pub mod core;
pub mod doctor;
pub mod events;
pub mod http;
mod idle;
pub mod intent;
pub mod lan;
pub mod log;
pub mod metrics;
pub mod peers;
pub mod plain;
pub mod prepare;
pub mod report;
pub mod run;
pub mod serving;
pub mod sources;
pub mod state;
pub mod state_file;
pub mod strangers;
pub mod throttle;
pub mod tracker;
pub mod watch;
pub mod work;

/// The reasons that an agent gives in its status and Events. Documented; scripts rely on them.
pub use modelcache_crds::conditions::reasons;
