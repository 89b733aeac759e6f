//! What the tests of the core need: models, a hub, a coordinator, and agents that can be killed.

pub mod agent;
pub mod coordinator;
pub mod giving;
pub mod hub;
pub mod model;
