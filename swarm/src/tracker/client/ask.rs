//! One request and its answer, over plain HTTP: what both say is signed.

use std::time::Duration;

use reqwest::header::DATE;
use reqwest::redirect::Policy;
use thiserror::Error;

use super::TrackerUrl;
use crate::tracker::answer::{Answer, AnswerError, MAX_ANSWER};
use crate::tracker::proof::Signed;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why an announce brought nothing.
#[derive(Debug, Error)]
pub enum Failure {
    /// There is no connection, or it ends too early.
    #[error("it cannot be reached: {0}")]
    Unreachable(reqwest::Error),
    /// HTTP's way to say no; a tracker says it otherwise.
    #[error("it answers with HTTP status {0}: is that a tracker?")]
    Status(u16),
    /// More than a tracker of ours ever says.
    #[error("its answer is longer than {MAX_ANSWER} bytes: is that a tracker?")]
    TooLong,
    /// It refuses, or it is none of ours.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl Failure {
    /// Its name in metrics.
    pub(super) fn name(&self) -> &'static str {
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

/// What is said over HTTP, not judged yet.
pub(super) struct Reply {
    bytes: Vec<u8>,
    /// The header `Date`, which is not signed.
    pub(super) date: Option<String>,
}

impl Reply {
    /// The tracker's answer to `request`.
    pub(super) fn read(&self, request: &Signed) -> Result<Answer, Failure> {
        Ok(Answer::read(&self.bytes, request)?)
    }
}

/// Asks trackers.
pub(super) struct Asker(reqwest::Client);

impl Asker {
    pub(super) fn new() -> reqwest::Result<Self> {
        reqwest::Client::builder()
            .user_agent(concat!("modelcache/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            // The tracker is near, and closes each connection.
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(Policy::none())
            .tls_certs_only([])
            .timeout(TIMEOUT)
            .build()
            .map(Self)
    }

    pub(super) async fn ask(
        &self,
        tracker: &TrackerUrl,
        request: &Signed,
    ) -> Result<Reply, Failure> {
        let mut url = tracker.0.clone();
        url.set_query(Some(&request.query));
        let mut response = self.0.get(url).send().await?;
        if !response.status().is_success() {
            return Err(Failure::Status(response.status().as_u16()));
        }
        let date = response.headers().get(DATE);
        let date = date.and_then(|date| date.to_str().ok()).map(str::to_owned);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Reply { bytes, date })
    }
}
