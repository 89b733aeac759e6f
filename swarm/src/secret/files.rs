//! Where the secret lies: a mounted Kubernetes Secret, or files on a machine outside of the cluster.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use super::{Key, KeyError, Keyring};

/// File, and entry of the Secret, with the key to use.
pub const CURRENT: &str = "current";
/// File, and entry of the Secret, with the key before it, while that one is still valid.
pub const PREVIOUS: &str = "previous";

/// The link in the kubelet's volumes that names the directory with the files; it is swapped when the Secret changes.
const KUBELET_LINK: &str = "..data";

/// Longest file that is read, in bytes: 64 digits and some white space.
const MAX_FILE_BYTES: usize = 256;

/// Why there is no secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// A file is missing or cannot be read.
    #[error(
        "the secret {path} cannot be read: {source}; mount the Secret there, or copy its entry into that file"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "the secret {path} is not ours alone (mode {mode:04o}, owner {owner}): run 'chmod 600' on it, and 'chown' it to the user of this program"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner's user id.
        owner: u32,
    },
    /// It holds something else.
    #[error("the secret {path} {source}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
}

impl Keyring {
    /// Reads the secret from `path`: a directory with the files [`CURRENT`] and, optionally, [`PREVIOUS`], or one file
    /// with the current key. Blocks.
    ///
    /// A file must be readable by its owner only, who is the user of this program or root. In a volume that the kubelet
    /// mounted this is not asked: there the files belong to root, the group is how the container's user gets to read
    /// them (`fsGroup`), and nobody but the pod sees the volume.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        if !path.is_dir() {
            return Ok(Self::new(read(path, Guard::Mode)?, None));
        }
        // Resolved once: both files are then of the same state of the Secret, whenever the kubelet swaps the link.
        let (dir, guard) = match fs::canonicalize(path.join(KUBELET_LINK)) {
            Ok(dir) => (dir, Guard::Pod),
            Err(_) => (path.to_owned(), Guard::Mode),
        };
        let current = read(&dir.join(CURRENT), guard)?;
        let previous = match read(&dir.join(PREVIOUS), guard) {
            Ok(key) => Some(key),
            Err(SecretError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self::new(current, previous))
    }
}

/// Reads a secret that is none of the cluster's: from the entry `entry` of a Secret that is mounted at `path`, from the file of
/// that name in the directory `path`, or from the file `path`. Blocks. Who else may read it is asked as of [`Keyring::load`].
pub(crate) fn read_other<T>(
    path: &Path,
    entry: &str,
    parse: impl FnOnce(&str) -> Result<T, KeyError>,
) -> Result<T, SecretError> {
    match fs::canonicalize(path.join(KUBELET_LINK)) {
        Ok(mounted) => read_as(&mounted.join(entry), Guard::Pod, parse),
        Err(_) if path.is_dir() => read_as(&path.join(entry), Guard::Mode, parse),
        Err(_) => read_as(path, Guard::Mode, parse),
    }
}

/// What keeps others from reading a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// Its permission bits.
    Mode,
    /// That the volume exists in the pod only.
    Pod,
}

fn read(path: &Path, guard: Guard) -> Result<Key, SecretError> {
    read_as(path, guard, Key::parse)
}

fn read_as<T>(
    path: &Path,
    guard: Guard,
    parse: impl FnOnce(&str) -> Result<T, KeyError>,
) -> Result<T, SecretError> {
    let failed = |source| SecretError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that what was looked at is what is read.
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let ours = [0, rustix::process::geteuid().as_raw()];
    if guard == Guard::Mode && (mode & 0o077 != 0 || !ours.contains(&owner)) {
        return Err(SecretError::Exposed {
            path: path.to_owned(),
            mode,
            owner,
        });
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * MAX_FILE_BYTES));
    let malformed = |source| SecretError::Malformed {
        path: path.to_owned(),
        source,
    };
    file.take(MAX_FILE_BYTES as u64)
        .read_to_string(&mut text)
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => malformed(KeyError::Malformed),
            _ => failed(error),
        })?;
    parse(&text).map_err(malformed)
}
