//! What the end-to-end tests and the demo share: a cluster with ModelCache installed, a hub in it, and ways to see
//! what is true there. Everything goes through the Kubernetes API, so that any cluster will do; what needs the power
//! switch or the cable of a node is asked of [`modelcache_test_cluster`], which says so where it cannot.

pub mod capture;
pub mod files;
pub mod forward;
mod guest;
pub mod hub;
pub mod metrics;
pub mod model_cache;
pub mod nodes;
pub mod pods;
pub mod scenarios;
pub mod search;
pub mod wait;
pub mod world;
pub mod writes;
