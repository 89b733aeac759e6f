//! The fault suite: small runs of agents and coordinator while things go wrong at random, and what must hold all the same.
//!
//! * [`schedule`]: what goes wrong when; a pure function of a seed.
//! * [`world`]: hosts, programs and disks of one run, and how each fault is done and mended. [`service`] keeps a program
//!   running as a kubelet would, [`disk`] is a node's own small file system, [`clock`] its time of day, [`hub`] the stand-in
//!   hub and its faults.
//! * [`watch`]: reads what is published all the time, as a pod would.
//! * [`run`]: one run and what came of it.
//! * [`disks`]: what is promised about full and read-only disks, step by step.

pub mod clock;
pub mod disk;
pub mod disks;
pub mod hub;
pub mod run;
pub mod schedule;
pub mod service;
pub mod watch;
pub mod world;

use std::path::PathBuf;

use modelcache_bench::model::Model;

/// What all runs share.
pub struct Setup {
    /// Where our programs are.
    pub programs: PathBuf,
    /// For disks, objects and logs; a file system in memory.
    pub directory: PathBuf,
    /// What is moved.
    pub model: Model,
    /// The library that gives a program another time of day.
    pub faketime: PathBuf,
}

impl Setup {
    /// Where a program of ours lies.
    #[must_use]
    pub fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// Where the logs of a run lie.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }
}
