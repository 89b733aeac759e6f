//! Every change of the file system that the store makes, each with its own name, so that tests can stop the world
//! before any of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, RenameFlags};

use super::error::StoreError;

/// Mode of directories.
const DIRECTORY: u32 = 0o755;
/// Mode of contents: nobody writes them.
pub(super) const CONTENT: u32 = 0o444;
/// Mode of what describes contents (refs, tree listings): other users must be able to read it.
pub(super) const LISTING: u32 = 0o644;

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Write,
    Resize,
    Chmod,
    SyncFile,
    SyncDirectory,
    SyncAll,
    MakeDirectory,
    Rename,
    Exchange,
    Link,
    Symlink,
    Remove,
    RemoveTree,
}

#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps)] // its twin for tests fails
fn before(_: Step, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use super::tests::power::before;

fn run(
    step: Step,
    action: &'static str,
    path: &Path,
    call: impl FnOnce() -> io::Result<()>,
) -> Result<(), StoreError> {
    before(step, path)
        .and_then(|()| call())
        .map_err(|source| StoreError::io(action, path, source))
}

/// Makes a directory unless it is there.
pub(super) fn make_directory(path: &Path) -> Result<(), StoreError> {
    run(
        Step::MakeDirectory,
        "make the directory",
        path,
        || match fs::create_dir(path) {
            Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error),
        },
    )
}

/// Makes a directory and those above it, up to and without `base`.
pub(super) fn make_directories(base: &Path, path: &Path) -> Result<(), StoreError> {
    if path == base || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directories(base, parent)?;
    }
    make_directory(path)
}

/// Opens a file for reading and writing, with exactly `size` bytes; creates it when absent. Tells whether it did.
pub(super) fn open_sized(path: &Path, size: u64) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(LISTING);
    let (file, created) = match options.open(path) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            before(Step::Create, path)?;
            (options.create(true).truncate(false).open(path)?, true)
        }
        // A content that was finished and protected when the power went.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            before(Step::Chmod, path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(LISTING))?;
            (options.open(path)?, false)
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() != size {
        before(Step::Resize, path)?;
        file.set_len(size)?;
    }
    Ok((file, created))
}

/// Reserves all blocks of an open file. False when the file system cannot.
pub(super) fn allocate(file: &File, path: &Path, size: u64) -> Result<bool, StoreError> {
    let mut able = true;
    run(
        Step::Resize,
        "reserve space for",
        path,
        || match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            Err(
                rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL,
            ) => {
                able = false;
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        },
    )?;
    Ok(able)
}

/// Writes at an offset of an open file.
pub(super) fn write_at(file: &File, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
    before(Step::Write, path)?;
    file.write_all_at(data, offset)
}

/// Writes a whole new small file, synced, with `mode`.
pub(super) fn write_file(path: &Path, data: &[u8], mode: u32) -> Result<(), StoreError> {
    let mut file = None;
    run(Step::Create, "create", path, || {
        file = Some(
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(mode)
                .open(path)?,
        );
        Ok(())
    })?;
    let Some(file) = file else { return Ok(()) };
    run(Step::Write, "write", path, || {
        file.write_all_at(data, 0)?;
        file.set_permissions(fs::Permissions::from_mode(mode))
    })?;
    sync_file(&file, path)
}

/// Sets the length of an open file.
pub(super) fn resize(file: &File, path: &Path, len: u64) -> Result<(), StoreError> {
    run(Step::Resize, "cut", path, || file.set_len(len))
}

/// Makes a finished content read-only.
pub(super) fn protect(path: &Path) -> Result<(), StoreError> {
    run(Step::Chmod, "make read-only", path, || {
        fs::set_permissions(path, fs::Permissions::from_mode(CONTENT))
    })
}

/// Makes the content of an open file durable.
pub(super) fn sync_file(file: &File, path: &Path) -> Result<(), StoreError> {
    run(Step::SyncFile, "sync", path, || file.sync_data())
}

/// Makes the content and mode of a file durable.
pub(super) fn sync_path(path: &Path) -> Result<(), StoreError> {
    run(Step::SyncFile, "sync", path, || {
        File::open(path)?.sync_all()
    })
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    run(Step::SyncDirectory, "sync the directory", path, || {
        File::open(path)?.sync_all()
    })
}

/// Makes all of a file system durable.
pub(super) fn sync_all(root: &Path) -> Result<(), StoreError> {
    run(Step::SyncAll, "sync the file system of", root, || {
        Ok(rustix::fs::syncfs(File::open(root)?)?)
    })
}

/// Moves `from` to `to`, replacing a file or link there.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    run(Step::Rename, "rename into", to, || fs::rename(from, to))
}

/// Swaps two directories in one step. False when the file system cannot.
pub(super) fn exchange(staged: &Path, live: &Path) -> Result<bool, StoreError> {
    let mut able = true;
    run(Step::Exchange, "swap", live, || {
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, staged, cwd, live, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                able = false;
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    })?;
    Ok(able)
}

/// Makes a hard link.
pub(super) fn link(from: &Path, to: &Path) -> Result<(), StoreError> {
    run(Step::Link, "link", to, || fs::hard_link(from, to))
}

/// Makes a hard link where nothing lies. False when something does.
pub(super) fn link_new(from: &Path, to: &Path) -> Result<bool, StoreError> {
    let mut free = true;
    run(Step::Link, "link", to, || match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            free = false;
            Ok(())
        }
        linked => linked,
    })?;
    Ok(free)
}

/// Makes a symbolic link.
pub(super) fn symlink(target: &str, path: &Path) -> Result<(), StoreError> {
    run(Step::Symlink, "link", path, || {
        std::os::unix::fs::symlink(target, path)
    })
}

/// Removes a file or link; nothing when there is none.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    run(Step::Remove, "remove", path, || gone(fs::remove_file(path)))
}

/// Removes whatever lies there; nothing when there is nothing.
pub(super) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.is_dir() {
        return remove(path);
    }
    run(Step::RemoveTree, "remove", path, || {
        gone(fs::remove_dir_all(path))
    })
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
