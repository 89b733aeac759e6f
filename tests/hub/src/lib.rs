//! A stand-in for the Hugging Face hub, for tests: it answers as the hub does, counts every byte, and fails on demand.
//!
//! Three ports: the hub, a "CDN" that serves the contents of LFS files at signed addresses, and an admin API
//! ([`admin`]) that sets content and faults and reads counters. [`Hub`] runs it in process, the program
//! `modelcache-hub` on its own.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use modelcache_test_hub::admin::RepositorySpec;
//! use modelcache_test_hub::{Hub, HubOptions};
//!
//! let hub = Hub::start(HubOptions::default()).await?;
//! let model = RepositorySpec::new("org/model").text("config.json", "{}").synthetic("model.safetensors", 1, 1 << 30);
//! let commit = hub.add_repository(&model)?;
//! println!("{} has {commit}", hub.url());
//! # Ok(())
//! # }
//! ```

mod access;
pub mod admin;
mod admin_server;
mod answer;
mod api;
mod budget;
mod connection;
pub mod content;
mod counting;
mod delivery;
mod fault;
mod file;
mod files;
mod hub;
mod load;
mod locks;
mod range;
mod repository;
mod route;
mod server;
mod shared;
mod signature;
mod throttle;

pub use hub::{Hub, HubError, HubOptions, Tls};
pub use repository::ContentError;
