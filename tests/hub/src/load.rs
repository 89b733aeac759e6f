//! A directory on disk as a repository.

use std::path::Path;

use crate::admin::{ContentSpec, FileSpec, RepositorySpec};
use crate::fault::matches;
use crate::repository::ContentError;

/// All files below `directory` as a repository. Files that the directory's `.gitattributes` gives to LFS lie there, as
/// do large ones. Hidden directories are left out.
pub fn load_directory(directory: &Path, name: &str) -> Result<RepositorySpec, ContentError> {
    let attributes = std::fs::read_to_string(directory.join(".gitattributes")).unwrap_or_default();
    let patterns = lfs_patterns(&attributes);
    let mut spec = RepositorySpec::new(name);
    collect(directory, "", &patterns, &mut spec.files)?;
    spec.files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(spec)
}

fn collect(
    directory: &Path,
    prefix: &str,
    patterns: &[String],
    files: &mut Vec<FileSpec>,
) -> Result<(), ContentError> {
    let read_error = |source| ContentError::Read {
        path: directory.display().to_string(),
        source,
    };
    for entry in std::fs::read_dir(directory).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        // Follows links: in a hub cache the files are links.
        if std::fs::metadata(entry.path())
            .map_err(read_error)?
            .is_dir()
        {
            if !name.starts_with('.') {
                collect(&entry.path(), &format!("{path}/"), patterns, files)?;
            }
            continue;
        }
        let in_lfs = patterns
            .iter()
            .any(|pattern| matches(pattern, &path) || matches(pattern, &name));
        files.push(FileSpec {
            path,
            content: ContentSpec::Disk(entry.path().display().to_string()),
            lfs: in_lfs.then_some(true),
            wrong_byte_at: None,
        });
    }
    Ok(())
}

/// The patterns of lines such as `*.safetensors filter=lfs diff=lfs merge=lfs -text`.
fn lfs_patterns(attributes: &str) -> Vec<String> {
    let in_lfs = |line: &&str| {
        line.split_whitespace()
            .skip(1)
            .any(|attribute| attribute == "filter=lfs")
    };
    attributes
        .lines()
        .filter(in_lfs)
        .filter_map(|line| line.split_whitespace().next())
        .map(|pattern| pattern.replace("**/", "*"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_become_repositories() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            ".gitattributes",
            "*.bin filter=lfs diff=lfs merge=lfs -text\n*.txt text\n",
        );
        write("config.json", "{}");
        write("deep/er/x.bin", "x");
        write(".git/HEAD", "no");
        let spec = load_directory(directory.path(), "org/a").unwrap();
        let files: Vec<_> = spec
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.lfs))
            .collect();
        assert_eq!(
            files,
            [
                (".gitattributes", None),
                ("config.json", None),
                ("deep/er/x.bin", Some(true))
            ]
        );
        assert!(load_directory(&directory.path().join("missing"), "org/a").is_err());
    }
}
