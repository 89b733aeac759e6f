//! Programs on the hosts, and what they cost as the kernel counts it.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::float;
use crate::network::Host;

/// Ticks of `/proc/PID/stat` a second: fixed on every Linux that runs this.
const TICKS: f64 = 100.0;

/// How long a program may take to end when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts a program on a host. Its output goes to files named after it in `logs`.
    pub fn start(host: Host, name: &str, logs: &Path, words: &[&str]) -> Result<Self> {
        Self::start_in(&host.namespace(), name, logs, words)
    }

    /// The same in a namespace that is not a host's.
    pub(crate) fn start_in(
        namespace: &str,
        name: &str,
        logs: &Path,
        words: &[&str],
    ) -> Result<Self> {
        let output = logs.join(format!("{name}.out"));
        let errors = File::create(logs.join(format!("{name}.log")))?;
        // nsenter becomes the program: the process is the same.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg("--")
            .args(words)
            // Nodes have no such setting, with which each error of a library that ends well costs a walk through the stack.
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(File::create(&output)?)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{} does not start", words.join(" ")))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
        })
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").with_context(|| format!("{} reads nothing", self.name))
    }

    /// All that it has written to its standard output.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    /// Waits for a line on its standard output.
    pub fn until_says(&mut self, what: &str, patience: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let said = self.said()?;
            if said.lines().any(|line| line.contains(what)) {
                return Ok(());
            }
            self.check()?;
            if began.elapsed() > patience {
                bail!(
                    "{} did not say {what:?} within {} s; it said: {said}",
                    self.name,
                    patience.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// An error when it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}; see its log", self.name),
            None => Ok(()),
        }
    }

    /// Processor time, user and system, of all its threads so far, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(self.proc("stat"))?;
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .context("no stat line")?
            .1
            .split_whitespace()
            .collect();
        let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("short")?.parse()?) };
        Ok(float(ticks(11)? + ticks(12)?) / TICKS)
    }

    /// The most memory that it had resident, in bytes.
    pub fn peak_resident(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// The memory that it has resident, in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    fn memory(&self, what: &str) -> Result<u64> {
        memory(&self.proc("status"), what)
    }

    /// Bytes that its host has received over all cables, headers included.
    pub fn host_received(&self) -> Result<u64> {
        received(&fs::read_to_string(self.proc("net/dev"))?)
    }

    /// Bytes that it read by system calls, sockets left out where the kernel leaves them out.
    pub fn bytes_read(&self) -> Result<u64> {
        let io = fs::read_to_string(self.proc("io"))?;
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        Ok(line.context("no rchar")?.trim().parse()?)
    }

    /// Waits for its end and gives the processor time it took, its children that it waited for included.
    pub fn cost_at_end(&mut self, patience: Duration) -> Result<f64> {
        let began = Instant::now();
        loop {
            let stat = fs::read_to_string(self.proc("stat"))?;
            let rest = stat.rsplit_once(')').context("no stat line")?.1;
            if rest.split_whitespace().next() == Some("Z") {
                let cost = self.cpu_seconds()?;
                let status = self.child.wait()?;
                if !status.success() {
                    bail!("{} ended with {status}; see its log", self.name);
                }
                return Ok(cost);
            }
            if began.elapsed() > patience {
                bail!("{} does not end", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks it to end and waits.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > STOP_PATIENCE {
                bail!("{} does not end", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        let pid = Pid::from_raw(pid).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(file)
    }
}

/// The sum of a `/proc/PID/net/dev`, the loopback left out.
fn received(devices: &str) -> Result<u64> {
    let mut sum = 0;
    for line in devices.lines() {
        let Some((device, counts)) = line.split_once(':') else {
            continue;
        };
        if device.trim() != "lo" {
            let bytes = counts.split_whitespace().next();
            sum += bytes.context("no bytes")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// Memory of the machine that programs and files in memory can still have, in bytes.
pub fn available_memory() -> Result<u64> {
    memory(Path::new("/proc/meminfo"), "MemAvailable:")
}

/// The memory that this program has resident, in bytes.
#[cfg(test)]
pub(crate) fn own_resident() -> Result<u64> {
    memory(Path::new("/proc/self/status"), "VmRSS:")
}

/// What a file of the kernel's says in kB, in bytes.
fn memory(file: &Path, what: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("no {what}"))?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Processor time that all programs of the machine have used since it started, in seconds; without interrupts, which are
/// mostly packets of the laboratory.
pub fn machine_cpu_seconds() -> Result<f64> {
    // user, nice and system
    all_processors(&fs::read_to_string("/proc/stat")?, 0..3)
}

/// Processor time that a virtual machine's host has kept for others when there was something to do, since the machine started,
/// in seconds.
pub fn stolen_cpu_seconds() -> Result<f64> {
    // steal
    all_processors(&fs::read_to_string("/proc/stat")?, 7..8)
}

/// The sum of some counters of all processors (`proc_stat(5)`), in seconds.
fn all_processors(stat: &str, counters: Range<usize>) -> Result<f64> {
    let line = stat.lines().next().context("no line of all processors")?;
    let counted = line.split_whitespace().skip(1);
    let mut ticks = 0;
    for field in counted.skip(counters.start).take(counters.len()) {
        ticks += field.parse::<u64>()?;
    }
    Ok(float(ticks) / TICKS)
}

/// Waits until the programs of the machine keep less than a third of a processor busy for a second; whether they did within
/// `patience`.
pub fn wait_for_quiet(patience: Duration) -> Result<bool> {
    let began = Instant::now();
    loop {
        let (before, clock) = (machine_cpu_seconds()?, Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let busy = (machine_cpu_seconds()? - before) / clock.elapsed().as_secs_f64();
        if busy < 0.33 {
            return Ok(true);
        }
        if began.elapsed() >= patience {
            return Ok(false);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; the child is not collected before here, so the id is still its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::{all_processors, received};

    #[test]
    fn processor_time_is_read_by_its_place() {
        let stat = "cpu  100 20 3 9000 7 1 2 450 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert!((all_processors(stat, 0..3).unwrap() - 1.23).abs() < 1e-9);
        assert!((all_processors(stat, 7..8).unwrap() - 4.5).abs() < 1e-9);
    }

    #[test]
    fn what_a_host_received_is_summed_over_its_cables() {
        let devices = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0
   lan: 1000000     700    0    0    0     0          0         0     9000      80    0    0    0     0       0          0
egress:      42       1    0    0    0     0          0         0        0       0    0    0    0     0       0          0
";
        assert_eq!(received(devices).unwrap(), 1_000_042);
    }
}
