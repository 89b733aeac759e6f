//! Memory that the machine has for sure.
//!
//! A virtual machine's host may take back memory that is free, and what a program writes to then costs it more than any of its
//! work: seconds of processor time a gigabyte on some days and none on others, for every program alike. Nodes with GPUs are not
//! such machines. So what the nodes will fill is touched before, and freed when they start or, where they take longer than the
//! host waits with taking it back, as they fill it: the kernel gives away first what was freed last.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::statvfs;

/// How much is touched and freed at once, so that the kernel gets it back at once.
const CHUNK: u64 = 64 << 20;

/// How much is free ahead of what is being filled: as much as is written between two looks, and what programs need besides.
const AHEAD: u64 = 256 << 20;

/// How often it is looked how much has been filled.
const LOOK: Duration = Duration::from_millis(50);

/// Memory that has been written to. Free for others when this is dropped.
#[derive(Debug)]
pub struct Reserve(Vec<Vec<u8>>);

impl Reserve {
    /// Of so many bytes at least.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        let chunks = bytes.div_ceil(CHUNK);
        let chunk = usize::try_from(CHUNK).unwrap_or(usize::MAX);
        Self((0..chunks).map(|_| vec![1; chunk]).collect())
    }

    /// Gives it back.
    pub fn free(self) {
        drop(self.0);
    }

    /// Gives it back as the file system of `directory`, which is in memory, fills.
    #[must_use]
    pub fn free_as_it_fills(self, directory: &Path) -> Following {
        let directory = directory.to_owned();
        self.follow(move || filled(&directory))
    }

    fn follow(mut self, filled: impl Fn() -> u64 + Send + 'static) -> Following {
        let before = filled();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let all = self.0.len() as u64 * CHUNK;
            while !self.0.is_empty() {
                let given = filled().saturating_sub(before) + AHEAD;
                let left = all.saturating_sub(given) / CHUNK;
                self.0.truncate(usize::try_from(left).unwrap_or(0));
                if stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Following {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

/// Bytes of a file system that are in use.
fn filled(directory: &Path) -> u64 {
    // Where that cannot be asked, the whole reserve is given back at once.
    statvfs(directory).map_or(u64::MAX / 2, |all| {
        (all.f_blocks - all.f_bfree) * all.f_frsize
    })
}

/// A reserve that is given back bit by bit; the rest of it when this is dropped.
#[derive(Debug)]
pub struct Following {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use super::*;
    use crate::process::own_resident;

    /// One test at a time looks at what the program of the tests has resident.
    static TURN: Mutex<()> = Mutex::new(());

    #[test]
    fn it_is_there_until_it_is_freed() {
        let _turn = TURN.lock().unwrap();
        let before = own_resident().unwrap();
        let reserve = Reserve::of(200 << 20);
        let with = own_resident().unwrap();
        assert!(with >= before + (200 << 20), "{before} {with}");
        reserve.free();
        let after = own_resident().unwrap();
        assert!(after <= before + (100 << 20), "{before} {after}");
    }

    #[test]
    fn it_makes_room_as_files_come() {
        let _turn = TURN.lock().unwrap();
        let reserve = Reserve::of(AHEAD + 4 * CHUNK);
        let with = own_resident().unwrap();
        let filled = Arc::new(AtomicU64::new(7 << 30));
        let looked = filled.clone();
        let following = reserve.follow(move || looked.load(Ordering::Relaxed));
        let is_free = |freed: u64| {
            let began = Instant::now();
            while own_resident().unwrap() + freed > with + CHUNK / 2 {
                assert!(began.elapsed() < Duration::from_mins(1), "{freed}");
                std::thread::sleep(Duration::from_millis(5));
            }
            // No more than that.
            let left = own_resident().unwrap();
            assert!(left + freed + CHUNK / 2 > with, "{left} of {with}");
        };
        is_free(AHEAD);
        filled.fetch_add(2 * CHUNK, Ordering::Relaxed);
        is_free(AHEAD + 2 * CHUNK);
        drop(following);
        is_free(AHEAD + 4 * CHUNK);
    }
}
