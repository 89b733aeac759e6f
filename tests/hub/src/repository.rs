//! Repositories with commits, refs and files, and the hub's rules about names.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use sha1::{Digest as _, Sha1};
use thiserror::Error;

use crate::admin::{
    AccessSpec, CommitSpec, Gate, RefSpec, Rename, RepositorySpec, RepositoryStatus,
};
use crate::file::RepositoryFile;

/// Why content could not be set.
#[derive(Debug, Error)]
pub enum ContentError {
    /// A name that the hub does not allow.
    #[error(
        "'{0}' is no repository name: write 'name' or 'namespace/name' with letters, digits, '.', '_', '-'"
    )]
    Name(String),
    /// The name is taken.
    #[error("repository '{0}' exists: add a commit with POST /commits instead")]
    Exists(String),
    /// No such repository.
    #[error("there is no repository '{0}': make it with POST /repositories first")]
    NoRepository(String),
    /// No such ref or commit.
    #[error("repository '{repository}' has no ref or commit '{revision}'")]
    NoRevision {
        /// Which repository.
        repository: String,
        /// What was looked for.
        revision: String,
    },
    /// A ref that is none.
    #[error("'{0}' is no ref: write refs/heads/NAME, refs/tags/NAME or refs/pr/NUMBER")]
    Ref(String),
    /// Hex digits that are none.
    #[error("the content of '{0}' is not hex")]
    Hex(String),
    /// A file could not be read.
    #[error("cannot read the content of '{path}': {source}")]
    Read {
        /// Path in the repository.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// A state of a repository.
#[derive(Debug)]
pub struct Commit {
    /// 40 hex digits, from the content and the history only.
    pub id: String,
    /// By path.
    pub files: BTreeMap<String, Arc<RepositoryFile>>,
}

/// A repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its name now.
    pub name: String,
    /// Stays when it is renamed; 24 hex digits.
    pub id: String,
    /// By full name.
    pub refs: BTreeMap<String, String>,
    /// By id.
    pub commits: HashMap<String, Arc<Commit>>,
    /// See [`RepositorySpec::private`].
    pub private: bool,
    /// See [`RepositorySpec::gated`].
    pub gated: Gate,
    /// See [`RepositorySpec::disabled`].
    pub disabled: bool,
}

impl Repository {
    /// The commit of a branch, tag, full ref or commit id.
    #[must_use]
    pub fn resolve(&self, revision: &str) -> Option<&Arc<Commit>> {
        let by_ref = || {
            ["refs/heads/", "refs/tags/", ""]
                .iter()
                .find_map(|prefix| self.refs.get(&format!("{prefix}{revision}")))
        };
        self.commits
            .get(revision)
            .or_else(|| self.commits.get(by_ref()?))
    }

    fn commit(
        &mut self,
        parent: Option<&Arc<Commit>>,
        files: BTreeMap<String, Arc<RepositoryFile>>,
    ) -> String {
        let mut hasher = Sha1::new();
        hasher.update(format!(
            "{}\n{}\n",
            self.id,
            parent.map_or("", |parent| &parent.id)
        ));
        for file in files.values() {
            hasher.update(format!("{} {} {}\n", file.oid, file.etag(), file.path));
        }
        let id = hex::encode(hasher.finalize());
        self.commits.insert(
            id.clone(),
            Arc::new(Commit {
                id: id.clone(),
                files,
            }),
        );
        id
    }
}

/// All repositories.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// By name now.
    repositories: BTreeMap<String, Repository>,
    /// Former names with the names that replaced them.
    moved: HashMap<String, String>,
}

impl Catalogue {
    /// The repository of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Repository> {
        self.repositories.get(name)
    }

    /// The repository with this id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<&Repository> {
        self.repositories
            .values()
            .find(|repository| repository.id == id)
    }

    /// Where a renamed repository is now.
    #[must_use]
    pub fn moved(&self, name: &str) -> Option<&str> {
        let mut name = self.moved.get(name)?;
        while let Some(next) = self.moved.get(name) {
            name = next;
        }
        Some(name)
    }

    /// Makes a repository; the answer is its first commit.
    pub fn create(
        &mut self,
        spec: &RepositorySpec,
        files: Vec<RepositoryFile>,
    ) -> Result<String, ContentError> {
        check_name(&spec.name)?;
        if self.repositories.contains_key(&spec.name) {
            return Err(ContentError::Exists(spec.name.clone()));
        }
        let mut repository = Repository {
            name: spec.name.clone(),
            id: hex::encode(&Sha1::digest(&spec.name)[..12]),
            refs: BTreeMap::new(),
            commits: HashMap::new(),
            private: spec.private,
            gated: spec.gated,
            disabled: spec.disabled,
        };
        let commit = repository.commit(None, by_path(files));
        repository
            .refs
            .insert("refs/heads/main".to_owned(), commit.clone());
        self.moved.remove(&spec.name);
        self.repositories.insert(spec.name.clone(), repository);
        Ok(commit)
    }

    /// Adds a commit and moves its branch.
    pub fn commit(
        &mut self,
        spec: &CommitSpec,
        files: Vec<RepositoryFile>,
    ) -> Result<String, ContentError> {
        let repository = self.get_mut(&spec.repository)?;
        let full = if spec.branch.starts_with("refs/") {
            spec.branch.clone()
        } else {
            format!("refs/heads/{}", spec.branch)
        };
        check_ref(&full)?;
        let parent = repository
            .resolve(&full)
            .or_else(|| repository.resolve("main"))
            .cloned();
        let mut all = parent
            .as_ref()
            .map(|parent| parent.files.clone())
            .unwrap_or_default();
        all.retain(|path, _| !spec.delete.contains(path));
        all.extend(by_path(files));
        let commit = repository.commit(parent.as_ref(), all);
        if !spec.detached {
            repository.refs.insert(full, commit.clone());
        }
        Ok(commit)
    }

    /// Sets a ref; the answer is its commit.
    pub fn set_ref(&mut self, spec: &RefSpec) -> Result<String, ContentError> {
        check_ref(&spec.name)?;
        let repository = self.get_mut(&spec.repository)?;
        let commit = repository
            .resolve(&spec.target)
            .map(|commit| commit.id.clone());
        let commit = commit.ok_or_else(|| ContentError::NoRevision {
            repository: spec.repository.clone(),
            revision: spec.target.clone(),
        })?;
        repository.refs.insert(spec.name.clone(), commit.clone());
        Ok(commit)
    }

    /// Renames a repository.
    pub fn rename(&mut self, rename: &Rename) -> Result<(), ContentError> {
        check_name(&rename.to)?;
        if self.repositories.contains_key(&rename.to) {
            return Err(ContentError::Exists(rename.to.clone()));
        }
        let mut repository = self
            .repositories
            .remove(&rename.from)
            .ok_or_else(|| ContentError::NoRepository(rename.from.clone()))?;
        repository.name.clone_from(&rename.to);
        self.moved.remove(&rename.to);
        self.moved.insert(rename.from.clone(), rename.to.clone());
        self.repositories.insert(rename.to.clone(), repository);
        Ok(())
    }

    /// Changes who may read a repository.
    pub fn set_access(&mut self, spec: &AccessSpec) -> Result<(), ContentError> {
        let repository = self.get_mut(&spec.repository)?;
        repository.private = spec.private.unwrap_or(repository.private);
        repository.gated = spec.gated.unwrap_or(repository.gated);
        repository.disabled = spec.disabled.unwrap_or(repository.disabled);
        Ok(())
    }

    /// What there is.
    #[must_use]
    pub fn status(&self) -> Vec<RepositoryStatus> {
        let status = |repository: &Repository| {
            let main = repository.resolve("main");
            RepositoryStatus {
                name: repository.name.clone(),
                refs: repository.refs.clone(),
                files: main.map_or(0, |commit| commit.files.len() as u64),
                bytes: main.map_or(0, |commit| {
                    commit
                        .files
                        .values()
                        .fold(0, |sum: u64, file| sum.saturating_add(file.size))
                }),
            }
        };
        self.repositories.values().map(status).collect()
    }

    fn get_mut(&mut self, name: &str) -> Result<&mut Repository, ContentError> {
        self.repositories
            .get_mut(name)
            .ok_or_else(|| ContentError::NoRepository(name.to_owned()))
    }
}

fn by_path(files: Vec<RepositoryFile>) -> BTreeMap<String, Arc<RepositoryFile>> {
    files
        .into_iter()
        .map(|file| (file.path.clone(), Arc::new(file)))
        .collect()
}

fn check_ref(name: &str) -> Result<(), ContentError> {
    let known = ["refs/heads/", "refs/tags/", "refs/pr/", "refs/convert/"]
        .iter()
        .any(|prefix| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| !rest.is_empty())
        });
    if known {
        Ok(())
    } else {
        Err(ContentError::Ref(name.to_owned()))
    }
}

fn check_name(name: &str) -> Result<(), ContentError> {
    let part = |part: &str| {
        (1..=96).contains(&part.len())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && !part.contains("--")
            && !part.contains("..")
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && part.strip_suffix(".git").is_none()
    };
    let good = match name.split_once('/') {
        Some((namespace, name)) => part(namespace) && part(name),
        None => part(name),
    };
    if good {
        Ok(())
    } else {
        Err(ContentError::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::FileSpec;
    use crate::file::build_files;

    fn create(catalogue: &mut Catalogue, spec: &RepositorySpec) -> Result<String, ContentError> {
        catalogue.create(spec, build_files(&spec.files).unwrap())
    }

    #[test]
    fn commits_depend_on_content_and_history_only() {
        let spec = RepositorySpec::new("org/a").text("x", "1");
        let (mut one, mut two) = (Catalogue::default(), Catalogue::default());
        let first = create(&mut one, &spec).unwrap();
        assert_eq!(first, create(&mut two, &spec).unwrap());
        assert_eq!(first.len(), 40);
        let change = CommitSpec {
            repository: "org/a".into(),
            branch: "main".into(),
            delete: vec!["x".into()],
            ..CommitSpec::default()
        };
        let second = one
            .commit(&change, build_files(&[FileSpec::text("y", "2")]).unwrap())
            .unwrap();
        let repository = one.get("org/a").unwrap();
        assert_eq!(repository.resolve("main").unwrap().id, second);
        assert_eq!(
            repository
                .resolve("main")
                .unwrap()
                .files
                .keys()
                .collect::<Vec<_>>(),
            ["y"]
        );
        assert_eq!(
            repository
                .resolve(&first)
                .unwrap()
                .files
                .keys()
                .collect::<Vec<_>>(),
            ["x"]
        );
    }

    #[test]
    fn refs_and_names() {
        let mut catalogue = Catalogue::default();
        let first = create(&mut catalogue, &RepositorySpec::new("org/a").text("x", "1")).unwrap();
        let pull = RefSpec {
            repository: "org/a".into(),
            name: "refs/pr/1".into(),
            target: "main".into(),
        };
        assert_eq!(catalogue.set_ref(&pull).unwrap(), first);
        catalogue
            .rename(&Rename {
                from: "org/a".into(),
                to: "org/b".into(),
            })
            .unwrap();
        catalogue
            .rename(&Rename {
                from: "org/b".into(),
                to: "org/c".into(),
            })
            .unwrap();
        assert_eq!(catalogue.moved("org/a"), Some("org/c"));
        assert_eq!(
            catalogue
                .get("org/c")
                .unwrap()
                .resolve("refs/pr/1")
                .unwrap()
                .id,
            first
        );
        for name in [
            "", "a/b/c", "-a", "a.git", "a--b", "a..b", "ä", "org/", "a b",
        ] {
            assert!(
                create(&mut catalogue, &RepositorySpec::new(name)).is_err(),
                "{name}"
            );
        }
        assert!(create(&mut catalogue, &RepositorySpec::new("gpt2")).is_ok());
        assert!(matches!(
            create(&mut catalogue, &RepositorySpec::new("gpt2")),
            Err(ContentError::Exists(_))
        ));
    }
}
