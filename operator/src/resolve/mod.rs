//! Asking the hub what a source is: beside the reconciler, never in its way.
//!
//! Each source that is wanted and not known has a task that asks until it is answered, with a wait of its own between
//! attempts. What came of it is picked up by the next pass, which the task wakes. A task ends when nobody wants its
//! source any longer.

mod hub;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use modelcache_crds::ModelSnapshot;
use modelcache_swarm::coordination::OriginAccess;
use modelcache_swarm::origin;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::metrics::{HubOutcome, Metrics};
use crate::secrets::{ReadSecret, SecretError, SecretRef, Token, TokenUse};
use crate::source::{self, Facts, Source};

pub use self::hub::{Hub, Listing, LiveHub};

/// Hubs asked at once; each answer may hold thousands of files in memory.
const AT_ONCE: usize = 4;

/// A listing of many pages takes a while; a hub that takes longer than this is asked again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(5);

/// While a source with a token waits for its next attempt, its Secret is looked at this often.
const SECRET_PERIOD: Duration = Duration::from_secs(5);

/// Identifies what was asked: the source, and how its hub was to be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub source: Source,
    /// The commit, when it was resolved before.
    pub commit: Option<String>,
    /// Where the access token is.
    pub secret: Option<SecretRef>,
    /// Certificate authorities to trust.
    pub ca_bundle: Option<String>,
}

impl Request {
    /// Changes whenever the hub should be asked anew.
    #[must_use]
    pub fn key(&self) -> Key {
        let mut hasher = Sha256::new();
        let secret = self.secret.as_ref();
        for part in [
            self.commit.as_deref(),
            secret.map(|secret| secret.name.as_str()),
            secret.map(|secret| secret.key.as_str()),
            self.ca_bundle.as_deref(),
        ] {
            hasher.update([u8::from(part.is_some())]);
            hasher.update(Sha256::digest(part.unwrap_or_default()));
        }
        Key(format!(
            "{}-{}",
            self.source.hash(),
            hex::encode(hasher.finalize())
        ))
    }
}

/// What came of a request so far.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// The hub is being asked for the first time.
    Resolving,
    /// The answer.
    Resolved(Arc<Resolved>),
    /// The last attempt failed; there will be another.
    Failed(Fault),
}

/// A source that was resolved.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The object to write.
    pub object: ModelSnapshot,
    /// The same in short.
    pub facts: Facts,
}

/// What came of all requests.
pub type Resolutions = BTreeMap<Key, Resolution>;

/// Asks the hub.
pub struct Resolver {
    asker: Asker,
    tasks: BTreeMap<Key, JoinHandle<()>>,
}

/// What each task needs.
#[derive(Clone)]
struct Asker {
    hub: Arc<dyn Hub>,
    secrets: Arc<dyn ReadSecret>,
    metrics: Arc<Metrics>,
    results: Arc<Mutex<Resolutions>>,
    turns: Arc<Semaphore>,
    wake: Arc<Notify>,
}

impl Resolver {
    /// Nothing asked yet. `wake` is notified of each answer.
    #[must_use]
    pub fn new(
        hub: Arc<dyn Hub>,
        secrets: Arc<dyn ReadSecret>,
        metrics: Arc<Metrics>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            asker: Asker {
                hub,
                secrets,
                metrics,
                results: Arc::default(),
                turns: Arc::new(Semaphore::new(AT_ONCE)),
                wake,
            },
            tasks: BTreeMap::new(),
        }
    }

    /// Says what is wanted, all of it each time. Forgets the rest, begins with what is new.
    pub fn want(&mut self, requests: Vec<Request>) {
        let requests: BTreeMap<Key, Request> = requests
            .into_iter()
            .map(|request| (request.key(), request))
            .collect();
        let wanted: BTreeSet<&Key> = requests.keys().collect();
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        self.asker.results().retain(|key, _| wanted.contains(key));
        for (key, request) in requests {
            self.tasks.entry(key).or_insert_with_key(|key| {
                self.asker
                    .results()
                    .insert(key.clone(), Resolution::Resolving);
                tokio::spawn(self.asker.clone().run(key.clone(), request))
            });
        }
    }

    /// What came of it so far.
    #[must_use]
    pub fn results(&self) -> Resolutions {
        self.asker.results().clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Asker {
    fn results(&self) -> MutexGuard<'_, Resolutions> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, key: Key, request: Request) {
        // Attempts that failed alike: another fault begins with short waits again.
        let mut attempts: u32 = 0;
        let mut last = None;
        loop {
            let token = self.token(&request).await;
            let result = match token.clone() {
                Ok(token) => self.attempt(&request, token).await,
                Err(error) => Err(Fault::of_secret(error)),
            };
            self.metrics.hub_request(match &result {
                Ok(_) => HubOutcome::Resolved,
                Err(fault) => HubOutcome::Failed(fault.reason()),
            });
            let (resolution, wait) = match result {
                Ok(resolved) => {
                    tracing::info!(
                        repository = resolved.facts.repository,
                        revision = resolved.facts.revision,
                        commit = resolved.facts.commit,
                        files = resolved.facts.files,
                        "resolved"
                    );
                    (Resolution::Resolved(Arc::new(resolved)), None)
                }
                Err(fault) => {
                    let reason = Some(fault.reason());
                    attempts = if last == reason {
                        attempts.saturating_add(1)
                    } else {
                        1
                    };
                    last = reason;
                    let wait = fault.wait(attempts);
                    tracing::warn!(
                        repository = request.source.repository,
                        revision = request.source.revision,
                        reason = fault.reason(),
                        retry_in = ?wait,
                        "not resolved"
                    );
                    (Resolution::Failed(fault), Some(wait))
                }
            };
            // Absent: nobody wants it any longer, and this task is about to be ended.
            if let Some(result) = self.results().get_mut(&key) {
                *result = resolution;
            }
            self.wake.notify_one();
            match wait {
                Some(wait) => self.wait(wait, &request, &token).await,
                None => return,
            }
        }
    }

    /// Waits for the next attempt; less long when another token stands in the Secret by then.
    async fn wait(
        &self,
        wait: Duration,
        request: &Request,
        used: &Result<Option<Token>, SecretError>,
    ) {
        let until = Instant::now() + wait;
        if request.secret.is_none() {
            return tokio::time::sleep_until(until).await;
        }
        while Instant::now() + SECRET_PERIOD < until {
            tokio::time::sleep(SECRET_PERIOD).await;
            let token = self.token(request).await;
            if !matches!(token, Err(SecretError::Unreadable { .. })) && token != *used {
                return;
            }
        }
        tokio::time::sleep_until(until).await;
    }

    async fn token(&self, request: &Request) -> Result<Option<Token>, SecretError> {
        let Some(secret) = &request.secret else {
            return Ok(None);
        };
        let wanted = TokenUse {
            secret: secret.clone(),
            endpoint: request.source.endpoint.clone(),
        };
        self.secrets.read(&wanted).await.map(Some)
    }

    async fn attempt(&self, request: &Request, token: Option<Token>) -> Result<Resolved, Fault> {
        let source = &request.source;
        let access = OriginAccess {
            endpoint: source.endpoint.clone(),
            token: token.map(|token| token.reveal().to_owned()),
            ca_bundle: request.ca_bundle.clone(),
        };
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let list = self.hub.list(
            &access,
            &source.repository,
            &source.revision,
            request.commit.as_deref(),
        );
        let listing = tokio::time::timeout(ATTEMPT_TIMEOUT, list)
            .await
            .map_err(|_| {
                Fault::Unavailable(format!(
                    "{} did not give its list of files within {} s",
                    source.endpoint,
                    ATTEMPT_TIMEOUT.as_secs()
                ))
            })?
            .map_err(|error| {
                let secret = request.secret.as_ref();
                Fault::of_origin(&error, secret.map(|secret| secret.name.as_str()))
            })?;
        let mut files = listing.files;
        files.retain(|file| origin::matches(&source.include, &source.exclude, &file.path));
        let (object, facts) =
            source::snapshot(source, &listing.commit, &files, access.token.is_none())
                .map_err(|error| Fault::of_listing(&error))?;
        Ok(Resolved { object, facts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::BoxFuture;
    use modelcache_crds::conditions::reasons;
    use modelcache_swarm::origin::OriginError;
    use modelcache_swarm::segment::BlobId;
    use modelcache_swarm::snapshot::SnapshotFile;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct FakeHub {
        asked: AtomicUsize,
        tokens: Mutex<Vec<Option<String>>>,
        down_for: usize,
    }

    impl Hub for FakeHub {
        fn list<'a>(
            &'a self,
            access: &'a OriginAccess,
            _repository: &'a str,
            _revision: &'a str,
            commit: Option<&'a str>,
        ) -> BoxFuture<'a, Result<Listing, OriginError>> {
            Box::pin(async move {
                self.tokens.lock().unwrap().push(access.token.clone());
                if self.asked.fetch_add(1, Ordering::SeqCst) < self.down_for {
                    return Err(OriginError::Unavailable {
                        url: access.endpoint.clone(),
                        message: "refused".to_owned(),
                    });
                }
                Ok(Listing {
                    commit: commit.unwrap_or(&"a".repeat(40)).to_owned(),
                    files: vec![SnapshotFile {
                        path: "config.json".to_owned(),
                        size: 7,
                        blob: BlobId::Git([1; 20]),
                        git_oid: hex::encode([1; 20]),
                    }],
                })
            })
        }
    }

    struct OneSecret;

    impl ReadSecret for OneSecret {
        fn read<'a>(&'a self, wanted: &'a TokenUse) -> BoxFuture<'a, Result<Token, SecretError>> {
            Box::pin(async move {
                let TokenUse { secret, endpoint } = wanted.clone();
                let namespace = "ns".to_owned();
                match (secret.name, secret.key) {
                    (name, _) if name == "hub" && endpoint == "http://hub" => {
                        Ok(Token::new("hf_x"))
                    }
                    (name, _) if name == "hub" => Err(SecretError::OtherEndpoint {
                        namespace,
                        name,
                        allowed: "http://hub".to_owned(),
                        endpoint,
                    }),
                    (name, key) => Err(SecretError::NoSecret {
                        namespace,
                        name,
                        key,
                    }),
                }
            })
        }
    }

    fn request(secret: Option<&str>) -> Request {
        Request {
            source: Source::new("http://hub", "acme/rocket", "main", &[], &[]),
            commit: None,
            secret: secret.map(|name| SecretRef {
                name: name.to_owned(),
                key: "token".to_owned(),
            }),
            ca_bundle: None,
        }
    }

    fn resolver(hub: Arc<FakeHub>) -> (Resolver, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        let metrics = Arc::new(Metrics::new());
        let resolver = Resolver::new(hub, Arc::new(OneSecret), metrics, Arc::clone(&wake));
        (resolver, wake)
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_once_and_wakes_the_reconciler() {
        let hub = Arc::new(FakeHub::default());
        let (mut resolver, wake) = resolver(Arc::clone(&hub));
        let request = request(Some("hub"));
        for _ in 0..3 {
            resolver.want(vec![request.clone(), request.clone()]);
        }
        wake.notified().await;
        let results = resolver.results();
        assert!(matches!(&results[&request.key()], Resolution::Resolved(r) if r.facts.files == 1));
        assert_eq!(hub.asked.load(Ordering::SeqCst), 1);
        assert_eq!(*hub.tokens.lock().unwrap(), [Some("hf_x".to_owned())]);
        resolver.want(Vec::new());
        assert!(resolver.results().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_told_and_tried_again() {
        let hub = Arc::new(FakeHub {
            down_for: 1,
            ..FakeHub::default()
        });
        let (mut resolver, wake) = resolver(Arc::clone(&hub));
        let request = request(None);
        resolver.want(vec![request.clone()]);
        wake.notified().await;
        assert!(matches!(
            &resolver.results()[&request.key()],
            Resolution::Failed(Fault::Unavailable(_))
        ));
        wake.notified().await;
        assert!(matches!(
            &resolver.results()[&request.key()],
            Resolution::Resolved(_)
        ));
    }

    #[tokio::test]
    async fn without_its_token_the_hub_is_not_asked() {
        let absent = request(Some("absent"));
        let mut elsewhere = request(Some("hub"));
        elsewhere.source.endpoint = "http://other".to_owned();
        for (request, reason) in [
            (absent, reasons::TOKEN_SECRET_MISSING),
            (elsewhere, reasons::TOKEN_NOT_FOR_ENDPOINT),
        ] {
            let hub = Arc::new(FakeHub::default());
            let (mut resolver, wake) = resolver(Arc::clone(&hub));
            resolver.want(vec![request.clone()]);
            wake.notified().await;
            let Resolution::Failed(fault) = &resolver.results()[&request.key()] else {
                panic!("resolved without its token");
            };
            assert_eq!(fault.reason(), reason);
            assert_eq!(hub.asked.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn whatever_changes_the_way_to_the_hub_asks_anew() {
        let base = request(None);
        let mut pinned = base.clone();
        pinned.commit = Some("a".repeat(40));
        let mut trusted = base.clone();
        trusted.ca_bundle = Some("pem".to_owned());
        let keys = [
            base.key(),
            pinned.key(),
            trusted.key(),
            request(Some("hub")).key(),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
        assert_eq!(base.key(), request(None).key());
    }
}
