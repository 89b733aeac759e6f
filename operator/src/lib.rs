//! The operator of ModelCache: plans what each node holds, and coordinates who fetches and who gives it.

pub mod coordinator;
