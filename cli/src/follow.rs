//! Following the cluster until there is a verdict.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::Client;
use thiserror::Error;

use crate::args::Output;
use crate::cluster::{self, ClusterError, Listing, Picture};
use crate::steps::Steps;
use crate::table;
use crate::view::{CacheView, Verdict};

/// Least time between two pictures.
const PACE: Duration = Duration::from_millis(200);

/// Columns and lines where the terminal does not say.
const SIZE: (usize, usize) = (120, 50);

/// How the following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is Ready.
    Ready,
    /// It does not get on by itself.
    Failed,
    /// The time was up.
    TimeUp,
}

/// Why the following broke off.
#[derive(Debug, Error)]
pub(crate) enum FollowError {
    /// The cluster could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// It is not there.
    #[error("there is no ModelCache {name:?}; {others}")]
    NoSuchCache {
        /// The name.
        name: String,
        /// What there is.
        others: String,
    },
    /// Standard output is gone.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    /// Cannot happen for our own types.
    #[error("cannot write as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What there is instead of a name that is not there.
pub(crate) fn no_such(picture: &Picture, name: &str) -> FollowError {
    let names = picture.names();
    let others = if names.is_empty() {
        "there is none at all".to_owned()
    } else {
        format!("there is {}", names.join(", "))
    };
    FollowError::NoSuchCache {
        name: name.to_owned(),
        others,
    }
}

/// What to follow, and how to show it.
pub(crate) struct Follow<'a> {
    /// One ModelCache, or all.
    pub name: Option<&'a str>,
    /// Whether a verdict ends it.
    pub until_verdict: bool,
    /// Whether a ModelCache that is not there yet is waited for.
    pub await_existence: bool,
    /// How pictures are shown; `None`: not at all.
    pub output: Option<Output>,
    /// When to give up.
    pub timeout: Option<Duration>,
}

impl Follow<'_> {
    /// Follows; the last picture of the one ModelCache, and how it ended.
    pub(crate) async fn run(
        &self,
        client: &Client,
    ) -> Result<(Option<CacheView>, End), FollowError> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        // Asked once before it is watched: errors that no waiting cures are told at once.
        let mut picture = cluster::picture(client).await?;
        let mut screen = Screen::new(self.output);
        let mut changes = cluster::changes(client);
        let mut listing = Listing::default();
        let mut complete = true;
        let mut last = None;
        loop {
            if complete {
                let views = picture.views(self.name);
                if let (Some(name), [], false) = (self.name, views.as_slice(), self.await_existence)
                {
                    return Err(no_such(&picture, name));
                }
                screen.show(&views)?;
                last = views.into_iter().next();
                let verdict = last
                    .as_ref()
                    .map(|view| view.verdict)
                    .filter(|_| self.until_verdict);
                match verdict {
                    Some(Verdict::Ready) => return Ok((last, End::Ready)),
                    Some(Verdict::Failed | Verdict::Suspended) => return Ok((last, End::Failed)),
                    Some(Verdict::Working) | None => {}
                }
            }
            let pace = Instant::now() + PACE;
            // At least one change, then all that come within the pace.
            let mut first = true;
            loop {
                let until = if first { deadline } else { Some(pace) };
                let next = match until {
                    Some(until) => tokio::time::timeout_at(until.into(), changes.next())
                        .await
                        .ok(),
                    None => Some(changes.next().await),
                };
                match next {
                    None if first => return Ok((last, End::TimeUp)),
                    None => break,
                    Some(Some(Ok(change))) => {
                        complete = change.completes(&mut listing);
                        picture.change(change);
                    }
                    Some(Some(Err(error))) => screen.trouble(&error),
                    // The watches never end by themselves.
                    Some(None) => return Ok((last, End::TimeUp)),
                }
                first = false;
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok((last, End::TimeUp));
                }
            }
        }
    }
}

/// Where pictures go.
struct Screen {
    output: Option<Output>,
    terminal: bool,
    drawn: usize,
    steps: Steps,
    shown: Vec<CacheView>,
    start: Instant,
    troubled: bool,
}

impl Screen {
    fn new(output: Option<Output>) -> Self {
        Self {
            output,
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            steps: Steps::default(),
            shown: Vec::new(),
            start: Instant::now(),
            troubled: false,
        }
    }

    fn show(&mut self, views: &[CacheView]) -> Result<(), FollowError> {
        if self.shown == views && !(views.is_empty() && self.drawn == 0) {
            return Ok(());
        }
        self.shown = views.to_vec();
        let mut out = io::stdout().lock();
        match self.output {
            None => {}
            Some(Output::Json) => writeln!(out, "{}", serde_json::to_string(views)?)?,
            Some(Output::Table) if self.terminal => {
                let (width, height) = terminal();
                let lines = table::fit(&table::render(views), width, height);
                if self.drawn > 0 {
                    write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
                }
                for line in &lines {
                    writeln!(out, "{line}")?;
                }
                self.drawn = lines.len();
            }
            Some(Output::Table) => {
                for line in self.steps.lines(views) {
                    writeln!(out, "{:7.1} s  {line}", self.start.elapsed().as_secs_f64())?;
                }
            }
        }
        out.flush()?;
        Ok(())
    }

    /// Told once: the watch tries again by itself.
    fn trouble(&mut self, error: &kube::runtime::watcher::Error) {
        if !self.troubled {
            self.troubled = true;
            self.drawn = 0;
            eprintln!(
                "kubectl-modelcache: the API server is away, trying again: {}",
                cluster::chain(error)
            );
        }
    }
}

/// Columns and lines of the terminal.
fn terminal() -> (usize, usize) {
    terminal_size::terminal_size().map_or(SIZE, |(width, height)| {
        (usize::from(width.0), usize::from(height.0))
    })
}
