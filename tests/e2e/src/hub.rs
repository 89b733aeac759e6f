//! The stand-in hub as a pod of the cluster, driven through the API server's service proxy.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use modelcache_test_hub::admin::{
    Committed, ContentSpec, Counters, Effect, Endpoint, Fault, FaultStatus, FileSpec, Gate,
    RepositorySpec, Settings, Token,
};
use modelcache_test_hub::content::Content;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::wait::until;
use crate::world::{APPS, World, is_ready};

/// The hub's address as pods and agents see it.
pub const URL: &str = "http://hub.modelcache-test.svc.cluster.local:8080";
/// The second host name, from which large files are served.
const CDN: &str = "http://hub-cdn.modelcache-test.svc.cluster.local:8081";

const MANIFEST: &str = include_str!("../manifests/hub.yaml");

/// A running stand-in hub.
pub struct Hub<'a> {
    world: &'a World,
}

/// A repository on the hub, and what its files must hash to.
#[derive(Clone, Debug)]
pub struct Repo {
    /// `namespace/name`.
    pub name: String,
    /// Commit of `main`, 40 hex digits.
    pub commit: String,
    /// Its files.
    pub files: Vec<RepoFile>,
}

/// One file of a repository.
#[derive(Clone, Debug)]
pub struct RepoFile {
    /// Path.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content, hex.
    pub sha256: String,
}

impl Repo {
    /// Bytes of its distinct contents: what one copy is.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let distinct: BTreeMap<&str, u64> = self
            .files
            .iter()
            .map(|file| (file.sha256.as_str(), file.size))
            .collect();
        distinct.values().sum()
    }
}

impl<'a> Hub<'a> {
    /// Starts a fresh hub (an earlier one is replaced) and waits until it answers. Its rate limit is out of the way.
    pub async fn start(world: &'a World, extra: &[&str]) -> Result<Hub<'a>> {
        let mut arguments = vec!["--listen-address", "0.0.0.0", "--cdn-url", CDN];
        arguments.extend(extra);
        let manifest = MANIFEST
            .replace("HUB_IMAGE", &world.images.name("hub"))
            .replace("HUB_ARGUMENTS", &serde_json::to_string(&arguments)?);
        world.kubectl(&[
            "-n",
            APPS,
            "delete",
            "deployment",
            "hub",
            "--ignore-not-found",
            "--force",
            "--grace-period=0",
        ])?;
        until(
            "the old hub's pods to be gone",
            Duration::from_secs(30),
            || async {
                match world.pods(APPS, "app=hub").await?.len() {
                    0 => Ok(()),
                    n => bail!("{n} left"),
                }
            },
        )
        .await?;
        world.apply(&manifest).await?;
        until("the hub to be ready", Duration::from_mins(1), || async {
            if world.pods(APPS, "app=hub").await?.iter().any(is_ready) {
                Ok(())
            } else {
                bail!("not ready")
            }
        })
        .await?;
        let hub = Self { world };
        let plenty = json!({"api": 1_000_000, "resolvers": 1_000_000, "pages": 1_000_000});
        until(
            "the hub's admin service",
            Duration::from_secs(30),
            || async {
                hub.put::<_, Settings>("/settings", &json!({"anonymous": plenty, "user": plenty}))
                    .await
            },
        )
        .await?;
        Ok(hub)
    }

    /// Adds a repository with one commit on `main`.
    pub async fn add(&self, name: &str, files: &[FileSpec]) -> Result<Repo> {
        self.add_repository(RepositorySpec {
            files: files.to_vec(),
            ..RepositorySpec::new(name)
        })
        .await
    }

    /// Adds a repository.
    pub async fn add_repository(&self, spec: RepositorySpec) -> Result<Repo> {
        let committed: Committed = self.post("/repositories", &spec).await?;
        let name = spec.name.clone();
        let files = tokio::task::spawn_blocking(move || {
            spec.files.iter().map(describe).collect::<Result<Vec<_>>>()
        })
        .await??;
        Ok(Repo {
            name,
            commit: committed.commit,
            files,
        })
    }

    /// Caps what all clients together get, in bytes a second.
    pub async fn rate(&self, bytes_per_second: Option<u64>) -> Result<()> {
        self.put::<_, Settings>("/settings", &json!({"bytes_per_second": bytes_per_second}))
            .await
            .map(drop)
    }

    /// Switches hub and CDN off: their ports are closed.
    pub async fn off(&self) -> Result<()> {
        self.put::<_, Settings>("/settings", &json!({"hub": "refuse", "cdn": "refuse"}))
            .await
            .map(drop)
    }

    /// Switches both on again.
    pub async fn on(&self) -> Result<()> {
        self.put::<_, Settings>("/settings", &json!({"hub": "on", "cdn": "on"}))
            .await
            .map(drop)
    }

    /// A token that may read these repositories.
    pub async fn token(&self, token: &str, repositories: &[&str]) -> Result<()> {
        let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
        let tokens = vec![Token {
            token: token.to_owned(),
            user: "someone".to_owned(),
            repositories,
        }];
        self.put::<_, Vec<Token>>("/tokens", &tokens)
            .await
            .map(drop)
    }

    /// Asks every request for a repository back with 429.
    pub async fn too_many_requests(&self, repository: &str) -> Result<()> {
        let effect = Effect::Status {
            status: 429,
            retry_after: Some(2),
            rate_limit_reset: None,
        };
        self.fault(Fault {
            repository: Some(repository.to_owned()),
            ..Fault::new(effect)
        })
        .await
    }

    /// Serves one wrong byte in every file content of a repository.
    pub async fn wrong_bytes(&self, repository: &str) -> Result<()> {
        let fault = Fault::new(Effect::WrongByte { at: 1000 }).on(Endpoint::Cdn);
        self.fault(Fault {
            repository: Some(repository.to_owned()),
            ..fault
        })
        .await
    }

    /// Adds a fault.
    pub async fn fault(&self, fault: Fault) -> Result<()> {
        self.post::<_, Vec<FaultStatus>>("/faults", &fault)
            .await
            .map(drop)
    }

    /// Takes all faults away.
    pub async fn heal(&self) -> Result<()> {
        self.put::<_, Vec<FaultStatus>>("/faults", &json!([]))
            .await
            .map(drop)
    }

    /// Makes a repository gated: its files are for tokens that may read it.
    pub async fn gate(&self, repository: &str) -> Result<()> {
        self.put::<_, Value>(
            "/access",
            &json!({"repository": repository, "gated": Gate::Files}),
        )
        .await
        .map(drop)
    }

    /// Everything the hub counted.
    pub async fn counters(&self) -> Result<Counters> {
        self.call("GET", "/counters", Vec::new()).await
    }

    /// Bytes of file contents of a repository that left the hub.
    pub async fn content_bytes(&self, repository: &str) -> Result<u64> {
        Ok(self.counters().await?.repository_bytes(repository))
    }

    /// Requests for a repository.
    pub async fn requests(&self, repository: &str) -> Result<u64> {
        Ok(self
            .counters()
            .await?
            .repositories
            .get(repository)
            .map_or(0, |count| count.total.requests))
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.call("POST", path, serde_json::to_vec(body)?).await
    }

    async fn put<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.call("PUT", path, serde_json::to_vec(body)?).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T> {
        let uri = format!("/api/v1/namespaces/{APPS}/services/hub-admin:8082/proxy{path}");
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/json")
            .body(body)?;
        let text = self
            .world
            .client
            .request_text(request)
            .await
            .with_context(|| format!("hub: {method} {path}"))?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "hub: {method} {path} answered {}",
                text.chars().take(200).collect::<String>()
            )
        })
    }
}

fn describe(spec: &FileSpec) -> Result<RepoFile> {
    let content = match &spec.content {
        ContentSpec::Text(text) => Content::Inline(text.clone().into()),
        ContentSpec::Synthetic { seed, size } => Content::Synthetic {
            seed: *seed,
            size: *size,
        },
        // Only claimed, or not known here: such files are never compared.
        ContentSpec::Declared { size } => {
            return Ok(RepoFile {
                path: spec.path.clone(),
                size: *size,
                sha256: String::new(),
            });
        }
        ContentSpec::Hex(_) | ContentSpec::Disk(_) => {
            bail!("{}: not a form of content the tests use", spec.path)
        }
    };
    Ok(RepoFile {
        path: spec.path.clone(),
        size: content.size(),
        sha256: content.sha256()?,
    })
}
