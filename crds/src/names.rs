//! Names that more than one program must agree on.

/// API group.
pub const GROUP: &str = "modelcache.io";

/// Prefix of the labels that the operator sets on a Node where a model is whole.
pub const READY_LABEL_PREFIX: &str = "ready.modelcache.io/";
