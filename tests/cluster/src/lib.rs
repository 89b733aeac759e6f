//! A real Kubernetes cluster for tests and the demo.
//!
//! [`Cluster`] is what tests use: it drives either the project's own rig (real upstream Kubernetes in network namespaces of this
//! machine, see [`rig`]) or any other cluster that `KUBECONFIG` names. The command `modelcache-cluster` is the same for people.

mod cluster;
mod error;
pub mod rig;
mod run;

pub use cluster::Cluster;
pub use error::ClusterError;
