//! Listening to a node's cable.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wait::until;
use crate::world::World;

/// What passes a cable is written to a file; ends when it is dropped.
pub struct Capture {
    tcpdump: Child,
    said: BufReader<ChildStderr>,
    file: PathBuf,
}

impl Capture {
    /// Begins; returns when it listens.
    pub fn start(world: &World, node: &str, file: &Path) -> Result<Self> {
        let out = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        let mut tcpdump = world
            .cluster
            .capture_command(node)?
            .stdout(out)
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start tcpdump")?;
        let said = tcpdump.stderr.take().context("tcpdump has no output")?;
        let mut capture = Self {
            tcpdump,
            said: BufReader::new(said),
            file: file.to_owned(),
        };
        let mut text = String::new();
        while !text.contains("listening on") {
            let len = capture.said.read_line(&mut text)?;
            ensure!(len > 0, "tcpdump does not listen: {text}");
        }
        Ok(capture)
    }

    /// Ends once so many bytes have passed and were written, and tells where; an error if any were missed.
    pub async fn stop_after(mut self, bytes: u64) -> Result<PathBuf> {
        until(
            "the traffic to be written",
            Duration::from_secs(20),
            || async {
                let len = self.file.metadata()?.len();
                ensure!(len >= bytes, "{len} bytes of {bytes}");
                Ok(())
            },
        )
        .await?;
        let pid = self.tcpdump.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status()?;
        let mut text = String::new();
        self.said.read_to_string(&mut text)?;
        self.tcpdump.wait()?;
        let whole = text
            .lines()
            .any(|line| line == "0 packets dropped by kernel");
        ensure!(whole, "some packets were missed: {text}");
        Ok(self.file.clone())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}
