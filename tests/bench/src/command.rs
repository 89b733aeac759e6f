//! Running commands to their end, with errors that name the command and what it said.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A command inside a network namespace.
#[must_use]
pub fn inside(namespace: &str, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg("--")
        .args(words);
    command
}

/// Runs to the end and gives what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?} does not start; tests/bench/run installs it"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a shell script, each line of which must succeed.
pub fn script(namespace: &str, lines: &[String]) -> Result<()> {
    run(&mut inside(
        namespace,
        &["sh", "-e", "-c", &lines.join("\n")],
    ))
    .map(drop)
}
