//! Counters and the request log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::admin::{Count, Counters, Endpoint, LoggedRequest, RepositoryCount};
use crate::locks::lock;
use crate::repository::Catalogue;

/// Requests kept in the log.
const LOG_LENGTH: usize = 10_000;

/// What one answer is counted under.
#[derive(Debug)]
pub struct Meter {
    content: bool,
    body_bytes: AtomicU64,
    tallies: Vec<Arc<Tally>>,
}

impl Meter {
    /// Counts body bytes that a socket took.
    pub fn add(&self, bytes: u64) {
        self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        for tally in &self.tallies {
            tally.body_bytes.fetch_add(bytes, Ordering::Relaxed);
            if self.content {
                tally.content_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    body_bytes: AtomicU64,
    content_bytes: AtomicU64,
}

impl Tally {
    fn count(&self) -> Count {
        Count {
            requests: self.requests.load(Ordering::Relaxed),
            body_bytes: self.body_bytes.load(Ordering::Relaxed),
            content_bytes: self.content_bytes.load(Ordering::Relaxed),
        }
    }

    fn reset(&self) {
        self.requests.store(0, Ordering::Relaxed);
        self.body_bytes.store(0, Ordering::Relaxed);
        self.content_bytes.store(0, Ordering::Relaxed);
    }
}

/// What a request was about.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The repository's id.
    pub repository: Option<String>,
    /// The file's path.
    pub path: Option<String>,
    /// The body is the file's content.
    pub content: bool,
}

/// All counters.
#[derive(Debug, Default)]
pub struct Counting {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    total: Arc<Tally>,
    clients: HashMap<IpAddr, Arc<Tally>>,
    endpoints: HashMap<Endpoint, Arc<Tally>>,
    statuses: BTreeMap<u16, u64>,
    repositories: HashMap<String, Repository>,
    leaked_tokens: u64,
    log: VecDeque<(LoggedRequest, Arc<Meter>)>,
}

#[derive(Debug, Default)]
struct Repository {
    total: Arc<Tally>,
    files: HashMap<String, Arc<Tally>>,
}

impl Counting {
    /// Counts a request and opens a meter for the body of its answer.
    pub fn request(&self, request: LoggedRequest, subject: &Subject) -> Arc<Meter> {
        let mut inner = lock(&self.inner);
        let mut tallies = vec![
            inner.total.clone(),
            inner.clients.entry(request.client).or_default().clone(),
            inner.endpoints.entry(request.endpoint).or_default().clone(),
        ];
        if let Some(id) = &subject.repository {
            let repository = inner.repositories.entry(id.clone()).or_default();
            tallies.push(repository.total.clone());
            if let Some(path) = &subject.path {
                tallies.push(repository.files.entry(path.clone()).or_default().clone());
            }
        }
        for tally in &tallies {
            tally.requests.fetch_add(1, Ordering::Relaxed);
        }
        *inner.statuses.entry(request.status).or_default() += 1;
        if request.endpoint == Endpoint::Cdn && request.headers.contains_key("authorization") {
            inner.leaked_tokens += 1;
        }
        let meter = Arc::new(Meter {
            content: subject.content,
            body_bytes: AtomicU64::new(0),
            tallies,
        });
        if inner.log.len() == LOG_LENGTH {
            inner.log.pop_front();
        }
        inner.log.push_back((request, meter.clone()));
        meter
    }

    /// The figures now.
    #[must_use]
    pub fn counters(&self, catalogue: &Catalogue) -> Counters {
        let inner = lock(&self.inner);
        let repositories = inner
            .repositories
            .iter()
            .filter(|(_, counts)| counts.total.count() != Count::default());
        Counters {
            total: inner.total.count(),
            clients: counts(&inner.clients),
            endpoints: counts(&inner.endpoints),
            statuses: inner.statuses.clone(),
            repositories: repositories
                .map(|(id, counters)| {
                    let name = catalogue
                        .by_id(id)
                        .map_or(id, |repository| &repository.name);
                    let count = RepositoryCount {
                        total: counters.total.count(),
                        files: counts(&counters.files),
                    };
                    (name.clone(), count)
                })
                .collect(),
            leaked_tokens: inner.leaked_tokens,
        }
    }

    /// The log, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        let inner = lock(&self.inner);
        let entry = |(request, meter): &(LoggedRequest, Arc<Meter>)| LoggedRequest {
            body_bytes: meter.body_bytes.load(Ordering::Relaxed),
            ..request.clone()
        };
        inner.log.iter().map(entry).collect()
    }

    /// Sets everything to zero. Answers under way go on counting from there.
    pub fn reset(&self) {
        let mut inner = lock(&self.inner);
        inner.total.reset();
        inner.clients.values().for_each(|tally| tally.reset());
        inner.endpoints.values().for_each(|tally| tally.reset());
        for repository in inner.repositories.values() {
            repository.total.reset();
            repository.files.values().for_each(|tally| tally.reset());
        }
        inner.statuses.clear();
        inner.leaked_tokens = 0;
        inner.log.clear();
    }
}

fn counts<K: Ord + Clone>(tallies: &HashMap<K, Arc<Tally>>) -> BTreeMap<K, Count> {
    let counts = tallies
        .iter()
        .map(|(key, tally)| (key.clone(), tally.count()));
    counts
        .filter(|(_, count)| *count != Count::default())
        .collect()
}
