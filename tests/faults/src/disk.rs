//! A node's own small file system in memory, which something else can fill and which can stop taking changes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use modelcache_bench::command::run;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// What agents leave to others (256 MiB), the model, and a little for journals.
const SIZE: &str = "size=288m";

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes and mounts one.
    pub fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", "tmpfs", "-o", SIZE, "modelcache-faults"])
            .arg(path))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Its root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that can still be written.
    pub fn free(&self) -> Result<u64> {
        let found = statvfs(&self.path)?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Something else takes all but so many bytes.
    pub fn fill(&self, left: u64) -> Result<()> {
        let file = File::create(self.ballast())?;
        // The agent writes meanwhile: try again with what is free then.
        for _ in 0..100 {
            let take = self.free()?.saturating_sub(left);
            if take == 0 || fallocate(&file, FallocateFlags::empty(), 0, take).is_ok() {
                return Ok(());
            }
        }
        bail!("{} cannot be filled", self.path.display())
    }

    /// It goes away again.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("the ballast is gone")
    }

    /// From now on every change by a path fails with EROFS. Files that are open stay writable: the kernel takes a file system
    /// from its writers only after an error of the device.
    pub fn protect(&self) -> Result<()> {
        run(Command::new("mount")
            .arg("--bind")
            .args([&self.path, &self.path]))?;
        run(Command::new("mount")
            .args(["-o", "remount,bind,ro"])
            .arg(&self.path))?;
        Ok(())
    }

    /// It takes changes again.
    pub fn unprotect(&self) -> Result<()> {
        unmount(&self.path)
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = sweep(&self.path) {
            eprintln!(
                "{} stays mounted, the next run tries again: {error:#}",
                self.path.display()
            );
        }
    }
}

/// Unmounts all that is mounted at or below a directory, what lies on top first.
pub fn sweep(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let points = mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(1));
    for point in points.map(Path::new) {
        if point.starts_with(directory) {
            unmount(point)?;
        }
    }
    Ok(())
}

/// Files that are still open do not keep it.
fn unmount(path: &Path) -> Result<()> {
    run(Command::new("umount").arg("--lazy").arg(path)).map(drop)
}
