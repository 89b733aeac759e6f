//! The API of ModelCache: group `modelcache.io`, version `v1alpha1`, all cluster-scoped.
//!
//! The only definition of the three types; the YAML in the chart and in `deploy/` is generated from it (`crdgen`).

pub mod conditions;
pub mod generate;
pub mod model_cache;
pub mod model_cache_node;
pub mod model_snapshot;
pub mod names;
pub mod quantity;
mod rules;

pub use model_cache::{ModelCache, ModelCacheSpec, ModelCacheStatus};
pub use model_cache_node::{ModelCacheNode, ModelCacheNodeSpec, ModelCacheNodeStatus};
pub use model_snapshot::{ModelSnapshot, ModelSnapshotSpec, ModelSnapshotStatus};
