//! A program that is kept running, as a kubelet keeps a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use modelcache_bench::network::Host;
use modelcache_bench::process::Process;
use rustix::process::Signal;

/// How long after its end a program is started again.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// A program and how to start it.
#[derive(Debug)]
pub struct Service {
    host: Host,
    words: Vec<String>,
    /// What it is told after each start.
    word: String,
    logs: PathBuf,
    process: Option<Process>,
    starts: u32,
    /// When it is started again after it has ended by itself.
    due: Option<Instant>,
}

impl Service {
    /// Starts it.
    pub fn start(host: Host, words: Vec<String>, word: String, logs: &Path) -> Result<Self> {
        let mut service = Self {
            host,
            words,
            word,
            logs: logs.to_owned(),
            process: None,
            starts: 0,
            due: None,
        };
        service.revive()?;
        Ok(service)
    }

    /// Starts it again.
    pub fn revive(&mut self) -> Result<()> {
        self.due = None;
        self.starts += 1;
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let mut process = Process::start(self.host, &self.log_name(), &self.logs, &words)?;
        if !self.word.is_empty() {
            // One that has ended already is found by `supervise`.
            let _ = process.tell(&self.word);
        }
        self.process = Some(process);
        Ok(())
    }

    /// `kill -9`. It stays away until [`Service::revive`].
    pub fn kill(&mut self) {
        self.due = None;
        self.process = None;
    }

    /// Stops or continues it; nothing when it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process
            .as_ref()
            .map_or(Ok(()), |process| process.signal(signal))
    }

    /// Starts it again some time after it has ended by itself. Its last words, when it just has.
    pub fn supervise(&mut self) -> Result<Option<String>> {
        if self.due.is_some_and(|due| Instant::now() >= due) {
            self.revive()?;
        }
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let Err(end) = process.check() else {
            return Ok(None);
        };
        self.process = None;
        self.due = Some(Instant::now() + RESTART_AFTER);
        Ok(Some(format!("{end}: {}", self.last_words()?)))
    }

    /// What it has written to its standard output since its last start.
    pub fn said(&self) -> Result<String> {
        self.process
            .as_ref()
            .map_or(Ok(String::new()), Process::said)
    }

    /// The last error in its log, or its last line.
    pub fn last_words(&self) -> Result<String> {
        let log = self.logs.join(format!("{}.log", self.log_name()));
        let log = fs::read_to_string(&log).with_context(|| format!("no {}", log.display()))?;
        let mut lines = log.lines().rev();
        let error = lines.find(|line| line.contains("rror: ") || line.contains("ERROR"));
        let line = error.or_else(|| log.lines().last());
        Ok(line.unwrap_or_default().to_owned())
    }

    fn log_name(&self) -> String {
        format!("{}-{}", self.host.name(), self.starts)
    }
}
