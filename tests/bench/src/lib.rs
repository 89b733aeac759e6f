//! The laboratory: hosts in network namespaces on shaped links, and programs on them, measured from outside.
//!
//! * [`network`]: namespaces, cables, rates, byte counters; removes itself, also after a crash. [`cable`]: long cables.
//! * [`process`]: programs on those hosts, with their processor time and memory as the kernel counts them.
//! * [`model`]: what is moved, and whether it arrived.
//! * [`reserve`]: memory that the machine has for sure, where processor time counts.
//! * [`team`]: the programs that move it: ours and the others.
//! * [`case`]: the cases as data, with their bounds. [`swarm`] runs those of many nodes, [`solo`] those of one, [`idle`] that
//!   of nothing to do.
//! * [`sample`]: what a run came to. [`report`]: medians, spread, JSON and the table.

pub mod cable;
pub mod case;
pub mod command;
pub mod idle;
pub mod key;
pub mod model;
pub mod network;
pub mod process;
pub mod report;
pub mod reserve;
pub mod sample;
pub mod solo;
pub mod swarm;
pub mod team;

/// For ratios and sums that are printed with a few digits.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    reason = "no count here comes near 2^52 bytes"
)]
pub fn float(number: u64) -> f64 {
    number as f64
}
