//! The task that tells the tracker what this node has, and the table of peers what the tracker says.
//!
//! Plain HTTP: what both say is signed, so that nobody can change it. Whoever can listen in between sees which node announces
//! which digest, as on the local network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::answer::{Answer, AnswerError, MAX_ANSWER};
use super::proof::{Signed, sign};
use super::query::{Announce, Form, PeerId};
use super::schedule::{Schedule, Turn};
use crate::discovery::announcement::{ContentId, can_be_dialled};
use crate::discovery::clock::Now;
use crate::discovery::service::Peers;
use crate::discovery::table::Origin;
use crate::secret::Keys;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long goodbyes may take together: the tracker forgets who says none.
const GOODBYE: Duration = Duration::from_secs(2);
/// Peers that are asked for.
const NUMWANT: u32 = 100;
/// What [`count`](Settings::count) is given for an announce that was answered.
pub const OK: &str = "ok";

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address cannot be one of a tracker.
    #[error("'{0}' is no tracker: write http://host:port or http://host:port/announce")]
    Url(String),
    /// Port 0.
    #[error("nobody can reach a node at {0}: peers need a port")]
    Address(SocketAddr),
    /// The library refuses.
    #[error("there is no HTTP client: {0}")]
    Http(reqwest::Error),
}

/// The tracker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerUrl(Url);

impl std::str::FromStr for TrackerUrl {
    type Err = ClientError;

    /// Reads `http://host:port`; the path is `/announce` when there is none.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let sound = |url: &Url| {
            let bare = url.query().is_none() && url.fragment().is_none();
            url.scheme() == "http" && url.has_host() && !url.authority().contains('@') && bare
        };
        let mut url = Url::parse(text)
            .ok()
            .filter(sound)
            .ok_or_else(|| ClientError::Url(text.chars().take(200).collect()))?;
        if url.path() == "/" {
            url.set_path("/announce");
        }
        Ok(Self(url))
    }
}

/// Why an announce brought nothing.
#[derive(Debug, Error)]
enum Failure {
    #[error("it cannot be reached: {0}")]
    Unreachable(reqwest::Error),
    #[error("it answers with HTTP status {0}: is that a tracker?")]
    Status(u16),
    #[error("its answer is longer than {MAX_ANSWER} bytes: is that a tracker?")]
    TooLong,
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl Failure {
    fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) | Self::TooLong | Self::Answer(AnswerError::Malformed) => "malformed",
            Self::Answer(AnswerError::Refused(_)) => "refused",
            Self::Answer(AnswerError::Unsigned) => "unsigned",
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // The query would only fill the log.
        Self::Unreachable(error.without_url())
    }
}

/// Who announces what to whom.
#[derive(Clone)]
pub struct Settings {
    /// The tracker.
    pub tracker: TrackerUrl,
    /// The cluster's keys.
    pub keys: Keys,
    /// Where this node listens for peers.
    pub address: SocketAddr,
    /// Told of each announce: [`OK`], or why it brought nothing.
    pub count: Arc<dyn Fn(&'static str) + Send + Sync>,
}

/// The running task. Dropping it ends it without a goodbye.
#[derive(Debug)]
pub struct Client {
    torrents: watch::Sender<BTreeMap<ContentId, u64>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Client {
    /// Announces nothing yet. What the tracker says goes into `peers`. Must be called within a tokio runtime.
    pub fn start(settings: Settings, peers: Peers) -> Result<Self, ClientError> {
        let port = NonZeroU16::new(settings.address.port())
            .ok_or(ClientError::Address(settings.address))?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("modelcache/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            // The tracker is near, and closes each connection.
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(Policy::none())
            .tls_certs_only([])
            .timeout(TIMEOUT)
            .build()
            .map_err(ClientError::Http)?;
        let (torrents, wanted) = watch::channel(BTreeMap::new());
        let stop = CancellationToken::new();
        let service = Service {
            http,
            id: peer_id(),
            port,
            schedule: Schedule::new(rand::random()),
            told: None,
            peers,
            settings,
        };
        Ok(Self {
            torrents,
            task: Some(tokio::spawn(service.run(wanted, stop.clone()))),
            stop,
        })
    }

    /// What this node has or wants from now on, each with the bytes that are missing.
    pub fn announce(&self, torrents: BTreeMap<ContentId, u64>) {
        self.torrents.send_if_modified(|known| {
            let changed = *known != torrents;
            *known = torrents;
            changed
        });
    }

    /// Tells the tracker that this node leaves, and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the tracker's client ended badly");
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Ours (BEP 20), and another in each life.
fn peer_id() -> PeerId {
    let mut id = *b"-MC0100-............";
    if let Some(random) = id.last_chunk_mut::<12>() {
        *random = rand::random();
    }
    PeerId(id)
}

struct Service {
    settings: Settings,
    http: reqwest::Client,
    id: PeerId,
    port: NonZeroU16,
    schedule: Schedule,
    peers: Peers,
    /// The failure that was told last, until one succeeds.
    told: Option<String>,
}

impl Service {
    async fn run(
        mut self,
        mut wanted: watch::Receiver<BTreeMap<ContentId, u64>>,
        stop: CancellationToken,
    ) {
        let stopped = stop.cancelled();
        tokio::pin!(stopped);
        loop {
            let due = self.schedule.due();
            tokio::select! {
                () = &mut stopped => break,
                Ok(()) = wanted.changed() => {
                    let wanted = wanted.borrow_and_update().clone();
                    self.schedule.set(&wanted, Instant::now());
                }
                () = until(due) => tokio::select! {
                    () = &mut stopped => break,
                    () = self.turn() => {}
                },
            }
        }
        self.schedule.set(&BTreeMap::new(), Instant::now());
        let goodbyes = async {
            while self.schedule.due().is_some() {
                self.turn().await;
            }
        };
        if timeout(GOODBYE, goodbyes).await.is_err() {
            tracing::debug!("the tracker does not answer; it forgets this node by itself");
        }
    }

    /// Says what is due.
    async fn turn(&mut self) {
        let Some(turn) = self.schedule.turn(Instant::now()) else {
            return;
        };
        let result = self.announce(turn).await;
        let now = Instant::now();
        match result {
            Ok(answer) => {
                (self.settings.count)(OK);
                self.schedule.answered(turn, answer.interval, now);
                if self.told.take().is_some() {
                    tracing::info!("the tracker answers again");
                }
                let mut peers = self.peers.lock();
                for peer in answer.peers {
                    if can_be_dialled(peer.address) && peer.address != self.settings.address {
                        peers.heard(peer.address, Origin::Tracker, &[turn.torrent], now);
                    }
                }
            }
            Err(failure) => {
                (self.settings.count)(failure.name());
                self.schedule.failed(turn, now);
                let text = failure.to_string();
                if self.told.as_ref() != Some(&text) {
                    let tracker = self.settings.tracker.0.as_str();
                    tracing::warn!(tracker, %failure, "the tracker does not serve this node; trying again");
                    self.told = Some(text);
                }
            }
        }
    }

    async fn announce(&self, turn: Turn) -> Result<Answer, Failure> {
        let request = self.request(turn);
        let mut url = self.settings.tracker.0.clone();
        url.set_query(Some(&request.query));
        let mut response = self.http.get(url).send().await?;
        if !response.status().is_success() {
            return Err(Failure::Status(response.status().as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer::read(&bytes, &request)?)
    }

    fn request(&self, turn: Turn) -> Signed {
        let announce = Announce {
            info_hash: turn.torrent,
            peer_id: self.id,
            port: self.port,
            ip: Some(self.settings.address.ip()),
            // What nodes give each other is counted elsewhere.
            uploaded: 0,
            downloaded: 0,
            left: turn.left,
            event: turn.event,
            numwant: Some(NUMWANT),
            form: Form::Compact,
        };
        let ring = self.settings.keys.now();
        sign(announce.to_query(), ring.current(), Now::read().wall)
    }
}

/// Waits until then; for ever without a time.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
