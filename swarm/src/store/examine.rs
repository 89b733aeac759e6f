//! A look at a cache root from beside: what its file system can do, whoever holds the cache at the moment.

use std::fs::File;
use std::path::Path;

use super::disk;
use super::error::StoreError;
use super::layout::Layout;
use super::space::{self, Space};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Room for models, without what a running agent has promised to some.
    pub space: Space,
    /// Whether two directories can be swapped in one step.
    pub swaps: bool,
    /// Whether blocks can be reserved.
    pub reserves: bool,
}

/// Does once, in a directory of its own, what a store does: writes, syncs, links and renames. Takes no lock and leaves
/// nothing behind. Blocks.
pub fn examine(root: &Path) -> Result<Disk, StoreError> {
    let staging = Layout::new(root).tmp();
    // An agent that ran here before made it.
    let above = if staging.is_dir() { &staging } else { root };
    let own = above.join(format!("examined-{}", std::process::id()));
    let tried = exercise(&own);
    let removed = disk::remove_tree(&own);
    let (swaps, reserves) = tried?;
    removed?;
    Ok(Disk {
        space: space::unpromised(root)?,
        swaps,
        reserves,
    })
}

/// Whether directories can be swapped, and blocks reserved.
fn exercise(own: &Path) -> Result<(bool, bool), StoreError> {
    disk::make_directory(own)?;
    let [one, other] = ["one", "other"].map(|name| own.join(name));
    for directory in [&one, &other] {
        disk::make_directory(directory)?;
    }
    let (written, linked, renamed) = (one.join("file"), one.join("link"), other.join("link"));
    disk::write_file(&written, &[0; 4096], disk::LISTING)?;
    disk::link(&written, &linked)?;
    disk::rename(&linked, &renamed)?;
    let opened = File::options().write(true).open(&written);
    let file = opened.map_err(|error| StoreError::io("open", &written, error))?;
    let reserves = disk::allocate(&file, &written, 1 << 20)?;
    let swaps = disk::exchange(&one, &other)?;
    disk::sync_directory(own)?;
    Ok((swaps, reserves))
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn a_cache_is_examined_beside_the_agent_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let alone = examine(dir.path()).unwrap();
        assert!(alone.space.total >= alone.space.free);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let held = Store::open(dir.path()).unwrap();
        assert_eq!(examine(dir.path()).unwrap().swaps, alone.swaps);
        drop(held);
        let tmp = Layout::new(dir.path()).tmp();
        assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
    }

    #[test]
    fn a_root_that_takes_nothing_is_an_error() {
        assert!(examine(Path::new("/proc")).is_err());
    }
}
