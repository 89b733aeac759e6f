//! Fuzzing on the stable toolchain, as a part of the tests: known inputs as they are, then changed at random in great number.
//!
//! Each run repeats, and no coverage guides it. The inputs are those of the test and the corpus that libFuzzer has found
//! (`fuzz/corpus/NAME.txt`), former findings among them. A few thousand executions are a part of every test run;
//! `MODELCACHE_FUZZ=10000000 cargo test -p modelcache-swarm --lib fuzz` makes it a long one. `MODELCACHE_FUZZ_SEEDS=DIR` adds
//! the inputs of the tests to the corpora there, for libFuzzer to begin with.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

const EXECUTIONS: u64 = 5_000;
/// Longer than any datagram.
const LONGEST: usize = 2_000;

/// Runs `target` on `seeds` and the corpus, and on changed copies of both. It fails by panicking; what it was given is
/// printed then.
pub(crate) fn run(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let mut corpus = corpus(name);
    corpus.extend_from_slice(seeds);
    if let Some(directory) = std::env::var_os("MODELCACHE_FUZZ_SEEDS") {
        write(&Path::new(&directory).join(format!("{name}.txt")), seeds);
    }
    let executions = match std::env::var("MODELCACHE_FUZZ") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => EXECUTIONS,
    };
    for known in &corpus {
        let input = Input(known.clone());
        target(&input.0);
    }
    let mut chance = StdRng::seed_from_u64(executions);
    let began = Instant::now();
    for _ in 0..executions {
        let input = Input(mutate(&mut chance, &corpus));
        target(&input.0);
    }
    if executions > EXECUTIONS {
        eprintln!("{name}: {executions} executions in {:?}", began.elapsed());
    }
}

/// Appends inputs to a corpus.
fn write(file: &Path, inputs: &[Vec<u8>]) {
    let lines: String = inputs.iter().map(|one| hex::encode(one) + "\n").collect();
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(file)
        .unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// What libFuzzer has found: an input a line, in hexadecimal digits, and comments.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let text = std::fs::read_to_string(directory.join(format!("{name}.txt"))).unwrap();
    let inputs = text.lines().filter(|line| !line.starts_with('#'));
    inputs.map(|line| hex::decode(line).unwrap()).collect()
}

/// Says what it was when the target panics.
struct Input(Vec<u8>);

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}", hex::encode(&self.0));
        }
    }
}

fn mutate(chance: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus.choose(chance).cloned().unwrap_or_default();
    for _ in 0..chance.random_range(0..6) {
        let len = bytes.len();
        if len == 0 {
            bytes = (0..chance.random_range(0..64))
                .map(|_| chance.random())
                .collect();
            continue;
        }
        let at = chance.random_range(0..len);
        let end = (at + chance.random_range(0..=32)).min(len);
        match chance.random_range(0..8) {
            0 => bytes[at] ^= 1 << chance.random_range(0..8),
            1 => {
                bytes[at] = *[0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b':']
                    .choose(chance)
                    .unwrap();
            }
            2 => {
                let number: u32 = *[0, 1, 13, 0x4000, 0x20001, u32::MAX]
                    .choose(chance)
                    .unwrap();
                for (to, from) in bytes[at..].iter_mut().zip(number.to_be_bytes()) {
                    *to = from;
                }
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let copy = bytes[at..end].to_vec();
                let to = chance.random_range(0..=len);
                bytes.splice(to..to, copy);
            }
            6 => {
                let other = corpus.choose(chance).cloned().unwrap_or_default();
                let from = chance.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.insert(at, chance.random()),
        }
        bytes.truncate(LONGEST);
    }
    bytes
}
