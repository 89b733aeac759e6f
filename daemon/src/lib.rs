//! What the operator and the agent have in common as programs that run until they are told to stop.

pub mod health;
pub mod log;
pub mod metrics;
pub mod probes;
pub mod stop;
