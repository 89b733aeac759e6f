//! What the rig started, remembered by process id and start time, so that it never ends anything else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::ClusterError;
use crate::run::{output, remove, wait};

/// One process, for good: its id may be given away again, together with its start time it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: i32,
    start: u64,
}

impl Process {
    /// From the record that `launch.sh` wrote.
    pub(crate) fn read(record: &Path) -> Option<Process> {
        let text = fs::read_to_string(record).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Process {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        })
    }

    pub(crate) fn pid(self) -> i32 {
        self.pid
    }

    /// Whether it still runs (one that ended and was not collected does not).
    pub(crate) fn alive(self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| parse_stat(&stat))
            .is_some_and(|(state, start)| start == self.start && state != 'Z' && state != 'X')
    }

    /// Ends it at once and waits until it is gone.
    pub(crate) fn kill(self, log: &Path) -> Result<(), ClusterError> {
        // The descriptor is taken first and the start time checked afterwards: then the signal cannot reach a successor of the same id.
        let descriptor =
            Pid::from_raw(self.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let Some(descriptor) = descriptor.filter(|_| self.alive()) else {
            return Ok(());
        };
        // It may end by itself in between, which is what is wanted.
        let _ = pidfd_send_signal(&descriptor, Signal::KILL);
        wait("the end of a process", Duration::from_secs(20), log, || {
            !self.alive() && !self.has_other_threads()
        })
    }

    /// Whether threads besides the first still run: while they end, the process keeps its ports and files, though the
    /// first is a zombie already.
    fn has_other_threads(self) -> bool {
        fs::read_dir(format!("/proc/{}/task", self.pid)).is_ok_and(|threads| threads.count() > 1)
    }
}

/// State and start time out of a line of `/proc/PID/stat`. The name in it may hold spaces and brackets.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((
        fields.first()?.chars().next()?,
        fields.get(19)?.parse().ok()?,
    ))
}

/// Something to start and to leave running.
pub(crate) struct Daemon<'a> {
    /// The name of its record and log.
    pub(crate) name: &'a str,
    /// The directory of records.
    pub(crate) run: PathBuf,
    /// The directory of logs.
    pub(crate) log: PathBuf,
    /// The script that writes the record.
    pub(crate) launcher: PathBuf,
    /// What is put before the launcher (entering namespaces).
    pub(crate) before: Vec<String>,
    /// The command itself.
    pub(crate) command: Vec<String>,
    /// Environment that it gets.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Daemon<'_> {
    /// Where the record of a daemon lies.
    pub(crate) fn record(run: &Path, name: &str) -> PathBuf {
        run.join(format!("{name}.process"))
    }

    /// Starts it and returns once its record is written.
    pub(crate) fn start(self) -> Result<Process, ClusterError> {
        let record = Daemon::record(&self.run, self.name);
        remove(&record)?;
        let log_path = self.log.join(format!("{}.log", self.name));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(ClusterError::io("open", &log_path))?;
        let error_log = log
            .try_clone()
            .map_err(ClusterError::io("open", &log_path))?;
        let mut command = Command::new("setsid");
        command
            .arg("--fork")
            .args(&self.before)
            .arg(&self.launcher)
            .arg(&record)
            .args(&self.command);
        command
            .envs(self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log);
        let source = |source| ClusterError::Start {
            command: format!("setsid --fork … {}", self.command.join(" ")),
            source,
        };
        command.status().map_err(source)?;
        wait(
            &format!("the start of {}", self.name),
            Duration::from_secs(20),
            &log_path,
            || Process::read(&record).is_some(),
        )?;
        Process::read(&record).ok_or(ClusterError::NotUp)
    }
}

/// Ends everything whose record lies in the directory, and removes the records.
pub(crate) fn kill_all(run: &Path, log: &Path) -> Result<usize, ClusterError> {
    let Ok(entries) = fs::read_dir(run) else {
        return Ok(0);
    };
    let records: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "process"))
        .collect();
    let mut ended = 0;
    for record in &records {
        if let Some(process) = Process::read(record).filter(|process| process.alive()) {
            process.kill(log)?;
            ended += 1;
        }
        remove(record)?;
    }
    Ok(ended)
}

/// Runs a command for its effect where failing means that there was nothing to do.
pub(crate) fn attempt(command: &mut Command) {
    let _ = output(command);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_whose_name_has_brackets() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(parse_stat(line), Some(('S', 98765)));
    }

    #[test]
    fn a_successor_with_the_same_id_is_another_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let line = fs::read_to_string("/proc/self/stat").unwrap();
        let (_, start) = parse_stat(&line).unwrap();
        assert!(Process { pid, start }.alive());
        assert!(
            !Process {
                pid,
                start: start + 1
            }
            .alive()
        );
        // Would end this test if the start time were not looked at.
        Process {
            pid,
            start: start + 1,
        }
        .kill(Path::new("/"))
        .unwrap();
    }
}
