//! Running commands, with errors that name the command and what it said, and the few file operations that the rig repeats.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::ClusterError;

/// How much of a failed command's output an error carries.
const TAIL_BYTES: usize = 2000;

/// A command from a program and its arguments.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs to the end and returns what it printed; an error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<String, ClusterError> {
    let output = output(command)?;
    if !output.status.success() {
        return Err(ClusterError::Command {
            command: line(command),
            status: output.status,
            output: tail(&output),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, whatever comes of it.
pub(crate) fn output(command: &mut Command) -> Result<Output, ClusterError> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ClusterError::Start {
            command: line(command),
            source,
        })
}

/// The command as a person would have typed it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn tail(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let text = text.trim();
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

/// Asks until the answer is yes.
pub(crate) fn wait(
    what: &str,
    limit: Duration,
    log: &Path,
    mut done: impl FnMut() -> bool,
) -> Result<(), ClusterError> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            return Err(ClusterError::Timeout {
                what: what.to_owned(),
                seconds: limit.as_secs(),
                log: log.to_path_buf(),
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub(crate) fn make_dir(path: &Path) -> Result<(), ClusterError> {
    fs::create_dir_all(path).map_err(ClusterError::io("create directory", path))
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), ClusterError> {
    fs::write(path, text).map_err(ClusterError::io("write", path))
}

/// Removes a file or a whole directory; fine when there is none.
pub(crate) fn remove(path: &Path) -> Result<(), ClusterError> {
    let result = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    result.map_err(ClusterError::io("remove", path))
}
