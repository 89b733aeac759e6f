//! The secret that agents and coordinator of a laboratory share.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sha2::{Digest as _, Sha256};

/// The file with it; made when it is absent.
pub fn file(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("key");
    if !path.exists() {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        // Nobody but the laboratory's own hosts reaches its networks.
        file.write_all(hex::encode(Sha256::digest("laboratory")).as_bytes())?;
    }
    Ok(path)
}
