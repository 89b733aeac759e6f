//! Long cables: each a program between two virtual ends that holds every packet back for a while and loses some. Not every
//! kernel has a queue that does it.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::network::{Host, Net, switch};
use crate::process::Process;

/// The largest packet: an Ethernet header and 1,500 bytes, and a VLAN tag.
const LARGEST: usize = 1518;

/// Packets that a cable holds at most in one direction: a second of 240 Mbit/s. The queue that counts is in front of it.
const HELD: usize = 20_000;

/// What the way between two hosts does to packets; each passes two cables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// There and back.
    pub round_trip: Duration,
    /// Share of the packets that is lost on the way, 0 to 1.
    pub loss: f64,
}

/// What the laboratory needs to lay long cables.
pub struct Far<'a> {
    /// Between any two hosts.
    pub way: Way,
    /// Where our programs are.
    pub programs: &'a Path,
    /// For logs.
    pub logs: &'a Path,
}

/// The name of a cable's end, before the host has it.
pub(crate) fn end(host: Host, net: Net) -> String {
    format!("{}-e", host.port(net))
}

/// Starts the program that is a host's cable; its two ends are in the switch's namespace then.
pub(crate) fn lay(far: &Far<'_>, host: Host, net: Net) -> Result<Process> {
    let port = host.port(net);
    // There and back are four cables; a packet that passes two is lost on one of them.
    let delay = far.way.round_trip / 4;
    let loss = 1.0 - (1.0 - far.way.loss).sqrt();
    let seed = u32::from(host.address(net));
    let mut process = Process::start_in(
        &switch(),
        &format!("cable-{port}"),
        far.logs,
        &[
            &far.programs
                .join("modelcache-bench-cable")
                .display()
                .to_string(),
            "--ends",
            &port,
            &end(host, net),
            "--delay-us",
            &delay.as_micros().to_string(),
            "--loss",
            &loss.to_string(),
            "--seed",
            &seed.to_string(),
        ],
    )?;
    process.until_says("up", Duration::from_secs(10))?;
    Ok(process)
}

/// One direction of one cable.
#[derive(Debug)]
pub struct Line {
    /// How long each packet is held back.
    pub delay: Duration,
    /// Share of the packets that is lost, 0 to 1.
    pub loss: f64,
    /// The same packets are lost each time.
    pub seed: u64,
}

struct Held {
    due: Instant,
    packet: Vec<u8>,
}

impl Line {
    /// Carries packets from one end to the other until reading fails, and gives that error.
    pub fn carry<R, W>(&self, read: R, write: W) -> io::Error
    where
        R: FnMut(&mut [u8]) -> io::Result<usize>,
        W: FnMut(&[u8]) -> io::Result<usize> + Send,
    {
        let (sender, receiver) = sync_channel(HELD);
        thread::scope(|scope| {
            scope.spawn(move || deliver(&receiver, write));
            let error = self.collect(read, &sender);
            // Then the writer ends too, after what is still held.
            drop(sender);
            error
        })
    }

    fn collect(
        &self,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
        sender: &SyncSender<Held>,
    ) -> io::Error {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let mut buffer = [0; LARGEST];
        loop {
            let len = match read(&mut buffer) {
                Ok(len) => len,
                Err(error) => return error,
            };
            if random.random_bool(self.loss) {
                continue;
            }
            // When it is full the packet is lost, as in any queue.
            let _ = sender.try_send(Held {
                due: Instant::now() + self.delay,
                packet: buffer.get(..len).unwrap_or_default().to_vec(),
            });
        }
    }
}

fn deliver(packets: &Receiver<Held>, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
    for held in packets {
        thread::sleep(held.due.saturating_duration_since(Instant::now()));
        // What arrives at an end that is not plugged in is lost.
        let _ = write(&held.packet);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What arrives of so many packets, each with its number, and when.
    fn carried(line: &Line, count: u32) -> Vec<(u32, Instant)> {
        let arrived = Mutex::new(Vec::new());
        let mut next = 0;
        let error = line.carry(
            |buffer| {
                if next == count {
                    return Err(io::Error::other("unplugged"));
                }
                buffer[..4].copy_from_slice(&u32::to_be_bytes(next));
                next += 1;
                Ok(4)
            },
            |packet| {
                let number = u32::from_be_bytes(packet.try_into().unwrap());
                arrived.lock().unwrap().push((number, Instant::now()));
                Ok(packet.len())
            },
        );
        assert_eq!(error.to_string(), "unplugged");
        arrived.into_inner().unwrap()
    }

    #[test]
    fn packets_arrive_in_order_and_no_sooner_than_they_may() {
        let line = Line {
            delay: Duration::from_millis(20),
            loss: 0.0,
            seed: 1,
        };
        let began = Instant::now();
        let arrived = carried(&line, 100);
        let numbers: Vec<u32> = arrived.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        assert!(arrived[0].1 - began >= line.delay);
    }

    #[test]
    fn the_share_that_is_asked_for_is_lost_the_same_each_time() {
        let line = Line {
            delay: Duration::ZERO,
            loss: 0.01,
            seed: 7,
        };
        let numbers = |line: &Line| -> Vec<u32> {
            let arrived = carried(line, 10_000);
            arrived.into_iter().map(|(number, _)| number).collect()
        };
        let arrived = numbers(&line);
        assert!((9850..=9950).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(numbers(&line), arrived);
        let other = Line { seed: 8, ..line };
        assert_ne!(numbers(&other), arrived);
    }
}
