//! Ways from this machine into a cluster whose addresses it cannot reach.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};

use crate::world::{APPS, World};

/// A `kubectl` that listens on this machine until it is dropped.
pub struct Forward {
    child: Child,
    address: String,
}

impl Forward {
    /// To the hub's service: `http://…` without a slash at the end.
    pub fn hub(world: &World) -> Result<Self> {
        Self::start(world, &["-n", APPS, "port-forward", "service/hub", ":8080"])
    }

    /// To the API server, as the administrator.
    pub fn api(world: &World) -> Result<Self> {
        Self::start(world, &["proxy", "--port=0"])
    }

    fn start(world: &World, arguments: &[&str]) -> Result<Self> {
        let mut child = world
            .cluster
            .kubectl_command(arguments)?
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let mut forward = Self {
            child,
            address: String::new(),
        };
        let mut line = String::new();
        let mut output = BufReader::new(output);
        output.read_line(&mut line)?;
        // It says more later, and would end if nobody listened.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        forward.address = listening(&line)
            .with_context(|| format!("kubectl {} says '{line}'", arguments.join(" ")))?;
        Ok(forward)
    }

    /// Host and port on this machine.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in `Forwarding from 127.0.0.1:4711 -> 8080` and in `Starting to serve on 127.0.0.1:4711`.
fn listening(line: &str) -> Option<String> {
    line.split_whitespace()
        .find(|word| word.starts_with("127.0.0.1:"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[test]
    fn the_address_is_found_in_what_kubectl_says() {
        for line in [
            "Forwarding from 127.0.0.1:4711 -> 8080\n",
            "Starting to serve on 127.0.0.1:4711\n",
        ] {
            assert_eq!(listening(line).as_deref(), Some("127.0.0.1:4711"));
        }
        assert_eq!(listening("error: no such service"), None);
    }
}
