//! Files of the agent's own state: written as a whole, and nothing that could not be learnt again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Reading or writing a file of the agent's own state failed.
#[derive(Debug, Error)]
#[error(
    "cannot {doing} {path}: {source}; check that the cache directory belongs to the agent's user and has space"
)]
pub struct StateFileError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Where the agent's own state lies below the cache directory.
#[must_use]
pub fn path(cache_dir: &Path, file: &str) -> PathBuf {
    cache_dir.join("state").join(file)
}

/// Reads a JSON file of the agent's own; absent: none. One that cannot be parsed counts as absent too, because all of
/// it can be learnt again.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateFileError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StateFileError {
                doing: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "unreadable state file, ignored");
            Ok(None)
        }
    }
}

/// Writes a JSON file of the agent's own so that after a crash either the old or the new one is there.
pub fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), StateFileError> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let staged = path.with_extension("new");
        let mut file = File::create(&staged)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| StateFileError {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_survives_a_restart_and_what_is_torn_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "numbers.json");
        let load = || load::<Vec<u8>>(&path).unwrap();
        assert_eq!(load(), None);
        save(&path, &[1, 2]).unwrap();
        save(&path, &[3]).unwrap();
        assert_eq!(load(), Some(vec![3]));
        fs::write(&path, b"[ torn").unwrap();
        assert_eq!(load(), None);
    }
}
