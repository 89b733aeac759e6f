//! What lies on a node's disk, seen as a pod with a hostPath mount would see it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::hub::Repo;
use crate::world::World;

/// The cache of one node of the test rig, read from outside.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    node: String,
    root: PathBuf,
}

impl NodeFiles {
    /// The node's cache directory; an error where the cluster's nodes are other machines.
    pub fn local(world: &World, node: &str) -> Result<Self> {
        Ok(Self {
            node: node.to_owned(),
            root: world.cluster.node_path(node, world.cache_dir())?,
        })
    }

    /// The directory that a claim of this model shows.
    #[must_use]
    pub fn volume(&self, cache: &str, model: &str) -> PathBuf {
        self.root.join("models").join(cache).join(model)
    }

    /// Whether the model is published under its name.
    pub fn published(&self, cache: &str, model: &str) -> Result<bool> {
        Ok(self.volume(cache, model).try_exists()?)
    }

    /// Both forms of the published model hold exactly the repository's files with the right content.
    pub fn check(&self, cache: &str, model: &str, repo: &Repo) -> Result<()> {
        let volume = self.volume(cache, model);
        let expected: BTreeMap<String, String> = repo
            .files
            .iter()
            .map(|file| (file.path.clone(), file.sha256.clone()))
            .collect();
        let plain = volume.join("files");
        compare(&expected, &digests(&plain)?)
            .with_context(|| format!("{} on {}", plain.display(), self.node))?;
        let snapshot = volume
            .join("hub")
            .join(folder(&repo.name))
            .join("snapshots")
            .join(&repo.commit);
        compare(&expected, &digests(&snapshot)?)
            .with_context(|| format!("{} on {}", snapshot.display(), self.node))
    }
}

fn compare(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Result<()> {
    for (path, digest) in expected {
        let there = found
            .get(path)
            .with_context(|| format!("{path} is missing"))?;
        ensure!(
            there == digest,
            "{path} has SHA-256 {there}, should have {digest}"
        );
    }
    for path in found.keys() {
        ensure!(expected.contains_key(path), "{path} is not of the model");
    }
    Ok(())
}

/// SHA-256 of every file below a directory, by relative path; symbolic links are followed to files.
fn digests(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(current) = open.pop() {
        let entries = std::fs::read_dir(&current)
            .with_context(|| format!("cannot list {}", current.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(directory)?.to_string_lossy().into_owned();
            found.insert(name, digest(&path)?);
        }
    }
    Ok(found)
}

fn digest(path: &Path) -> Result<String> {
    let mut file =
        std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?
        {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hex::encode(hash.finalize()))
}

impl World {
    /// Every node that holds `cache` (with its model named `model`) has exactly the repository's files.
    pub async fn check_files(&self, cache: &str, repo: &Repo) -> Result<()> {
        let statuses = self.node_statuses(cache).await?;
        ensure!(!statuses.is_empty(), "no node holds {cache}");
        for (node, _) in statuses {
            self.check_node(cache, &node, repo).await?;
        }
        Ok(())
    }

    /// One node shows exactly the repository's files.
    pub async fn check_node(&self, cache: &str, node: &str, repo: &Repo) -> Result<()> {
        if self.cluster.is_rig() {
            let files = NodeFiles::local(self, node)?;
            let (cache, repo) = (cache.to_owned(), repo.clone());
            tokio::task::spawn_blocking(move || files.check(&cache, "model", &repo)).await?
        } else {
            self.check_by_pod(cache, node, repo).await
        }
    }

    /// Whether a node shows a model.
    pub async fn published(&self, node: &str, cache: &str, model: &str) -> Result<bool> {
        if self.cluster.is_rig() {
            return NodeFiles::local(self, node)?.published(cache, model);
        }
        let volume = format!("{}/models/{cache}/{model}", self.cache_dir());
        let answer = self
            .on_node(node, &format!("test -e {volume} && echo yes; true"))
            .await?;
        Ok(answer.trim() == "yes")
    }

    /// Both forms of the published model, from inside the cluster.
    async fn check_by_pod(&self, cache: &str, node: &str, repo: &Repo) -> Result<()> {
        let expected: BTreeMap<String, String> = repo
            .files
            .iter()
            .map(|file| (file.path.clone(), file.sha256.clone()))
            .collect();
        let folder = format!("hub/{}/snapshots/{}", folder(&repo.name), repo.commit);
        for form in ["files", &folder] {
            let directory = format!("{}/models/{cache}/model/{form}", self.cache_dir());
            let listing = self
                .on_node(
                    node,
                    &format!("cd {directory} && find . ! -type d -exec sha256sum {{}} +"),
                )
                .await?;
            let found = listing
                .lines()
                .filter_map(|line| line.split_once("  ./"))
                .map(|(digest, path)| (path.to_owned(), digest.to_owned()))
                .collect();
            compare(&expected, &found).with_context(|| format!("{directory} on {node}"))?;
        }
        Ok(())
    }
}

/// The directory of a repository in a hub cache.
fn folder(repository: &str) -> String {
    format!("models--{}", repository.replace('/', "--"))
}
