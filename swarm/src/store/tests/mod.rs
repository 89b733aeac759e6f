//! The store as its callers see it, and as a crash leaves it.

pub(super) mod power;
