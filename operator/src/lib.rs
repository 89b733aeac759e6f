//! The operator of ModelCache: plans what each node holds, and coordinates who fetches and who gives it.
//!
//! * [`reconcile`]: from ModelCaches and Nodes to snapshots, per-node intent, volumes, labels and statuses.
//! * [`resolve`]: asks the hub what a model is, beside the reconciler.
//! * [`coordinator`]: tells connected agents what to fetch from the hub and what to take from each other.
//! * [`tracker`]: tells agents over HTTP who else has a snapshot, for times without a coordinator.
//! * [`secrets`] and [`endpoint`]: access tokens, and to which hubs they may be sent.
//! * [`keys`]: makes the cluster's secret, and changes it.
//! * [`agents`]: how the agents are installed, as far as that matters to the plan.
//! * [`run`]: puts them together; [`args`], [`http`], [`health`] and [`metrics`] face the outside.

pub mod agents;
pub mod args;
pub mod coordinator;
pub mod endpoint;
mod fault;
pub mod keys;
pub mod metrics;
mod mirror;
pub mod picture;
#[cfg(test)]
mod properties;
pub mod reconcile;
pub mod resolve;
pub mod run;
pub mod secrets;
pub mod source;
pub mod tracker;
