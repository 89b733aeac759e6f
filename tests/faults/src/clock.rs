//! A host's own time of day: a library in front of the C library's clock, told by a file how far off it is.
//!
//! The monotonic clock stays as it is: the kernel's never jumps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use modelcache_bench::network::Host;

use crate::Setup;

/// Where the library keeps what a program shares with its children, each with the program's process id at the end.
const SHARED: &str = "/dev/shm";
/// What its files there begin with.
const NAMES: [&str; 2] = ["faketime_shm_", "sem.faketime_sem_"];

/// The host's time of day from now on, in seconds beside the right one. Programs look every second.
pub fn set(setup: &Setup, host: Host, beside: i32) -> Result<()> {
    let (path, new) = (file(setup, host), file(setup, host).with_extension("new"));
    fs::write(&new, format!("{beside:+}\n"))?;
    Ok(fs::rename(new, path)?)
}

/// What is written before a program so that its time of day is the host's.
#[must_use]
pub fn words(setup: &Setup, host: Host) -> Vec<String> {
    vec![
        "env".to_owned(),
        format!("LD_PRELOAD={}", setup.faketime.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file(setup, host).display()),
        "FAKETIME_CACHE_DURATION=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ]
}

/// Removes what programs that were killed left in memory.
pub fn sweep() -> Result<()> {
    for entry in fs::read_dir(SHARED)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = NAMES.iter().find_map(|start| name.strip_prefix(start));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // The library of another program may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn file(setup: &Setup, host: Host) -> PathBuf {
    setup.directory.join(format!("{}.clock", host.name()))
}
