//! `modelcache-faults`: random faults over small runs; `tests/faults/run` prepares all it needs and calls it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use modelcache_bench::model::Model;
use modelcache_bench::network;
use modelcache_faults::run::{Diary, Ending, Report, run};
use modelcache_faults::schedule::{Kind, Schedule};
use modelcache_faults::{Setup, clock, disk, disks};

/// Sizes of the model's files: some of several segments, one of exactly one, tiny ones, one byte and none.
const SIZES: [u64; 11] = [
    3_500_003, 2_200_000, 1_048_576, 700_001, 262_144, 65_537, 4_096, 1_000, 33, 1, 0,
];

/// A run that is complete only so long after its last mend is shown with what was done, and its logs are kept.
const SLOW: Duration = Duration::from_secs(30);

/// Random faults over small runs of agents and coordinator.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Faults in all; runs are made until so many were done.
    #[arg(long, default_value_t = 60)]
    faults: usize,
    /// Seed of the first run; each following run has the next [default: the time].
    #[arg(long)]
    seed: Option<u64>,
    /// Runs at most; with --seed and 1, exactly the run of that seed.
    #[arg(long)]
    runs: Option<u64>,
    /// Faults in one run.
    #[arg(long, default_value_t = 26)]
    per_run: usize,
    /// Go on after a run that failed.
    #[arg(long)]
    keep_going: bool,
    /// Only the run about full and read-only disks, step by step.
    #[arg(long, conflicts_with_all = ["faults", "seed", "runs"])]
    disks: bool,
    /// Only print what the run of --seed does.
    #[arg(long, requires = "seed")]
    list: bool,
    /// Where disks, objects and logs lie while it runs; a file system in memory.
    #[arg(long, default_value = "/dev/shm/modelcache-faults")]
    directory: PathBuf,
    /// The library that gives a program another time of day.
    #[arg(
        long,
        default_value = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
    )]
    faketime: PathBuf,
}

fn main() -> ExitCode {
    match begin(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every run ended well.
fn begin(arguments: &Arguments) -> Result<bool> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed()?.as_secs(),
    };
    if arguments.list {
        for step in Schedule::new(seed, arguments.per_run).steps() {
            let what = if step.begins { "begins" } else { "ends" };
            println!("{:8.3} s  {what}: {}", step.at.as_secs_f64(), step.trouble);
        }
        return Ok(true);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces and mounts need root; run it with sudo"
    );
    ensure!(
        arguments.faketime.exists(),
        "{} is missing: install the package faketime, or name the library with --faketime",
        arguments.faketime.display()
    );
    network::name_laboratory("mcfault");
    network::sweep()?;
    disk::sweep(&arguments.directory)?;
    if arguments.directory.exists() {
        fs::remove_dir_all(&arguments.directory)?;
    }
    let own = std::env::current_exe()?;
    let setup = Setup {
        programs: own
            .parent()
            .context("this program lies nowhere")?
            .to_owned(),
        directory: arguments.directory.clone(),
        model: Model::create(&arguments.directory.join("model"), &SIZES)?,
        faketime: arguments.faketime.clone(),
    };
    let well = if arguments.disks {
        disks(&setup)?
    } else {
        let tally = all(arguments, &setup, seed)?;
        print!("{}", tally.table());
        tally.failed.is_empty()
    };
    clock::sweep()?;
    fs::remove_dir_all(&arguments.directory)?;
    Ok(well)
}

fn disks(setup: &Setup) -> Result<bool> {
    let mut diary = Diary::default();
    let result = disks::run(setup, &mut diary);
    for line in diary.lines() {
        println!("{line}");
    }
    if let Err(error) = &result {
        let kept = std::env::temp_dir().join("modelcache-faults-disks");
        copy_files(&setup.logs(), &kept)?;
        println!("FAILED: {error:#}; logs: {}", kept.display());
    }
    Ok(result.is_ok())
}

fn all(arguments: &Arguments, setup: &Setup, first: u64) -> Result<Tally> {
    let mut tally = Tally::default();
    let began = Instant::now();
    let last = arguments
        .runs
        .map_or(u64::MAX, |runs| first.saturating_add(runs));
    for seed in first..last {
        let schedule = Schedule::new(seed, arguments.per_run);
        let mut diary = Diary::default();
        tally.count(&schedule);
        match run(setup, &schedule, &mut diary) {
            Ok(report) => {
                println!("seed {seed}: {}", tell(&schedule, &report));
                if report.after_last_mend > SLOW || report.ending != Ending::Complete {
                    show(&diary);
                    keep(setup, seed)?;
                }
                tally.note(&report);
            }
            Err(error) => {
                println!("seed {seed}: FAILED: {error:#}");
                show(&diary);
                keep(setup, seed)?;
                tally.failed.push(seed);
                if !arguments.keep_going {
                    break;
                }
            }
        }
        if arguments.runs.is_none() && tally.faults() >= arguments.faults {
            break;
        }
    }
    tally.seconds = began.elapsed().as_secs_f64();
    Ok(tally)
}

fn show(diary: &Diary) {
    for line in diary.lines() {
        println!("    {line}");
    }
}

/// Keeps the logs of a run whose end is worth a look.
fn keep(setup: &Setup, seed: u64) -> Result<()> {
    let kept = std::env::temp_dir().join(format!("modelcache-faults-{seed}"));
    copy_files(&setup.logs(), &kept)?;
    println!(
        "    logs: {}; again: --seed {seed} --runs 1",
        kept.display()
    );
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn tell(schedule: &Schedule, report: &Report) -> String {
    let ending = match &report.ending {
        Ending::Complete => "complete".to_owned(),
        Ending::Waiting(said) => format!("NOT complete, but says why: {}", said.join("; ")),
    };
    format!(
        "{} nodes, {} faults, {ending}; {:.1} s, {:.1} s of them after the last mend; read whole {} times, {} ends of programs",
        schedule.nodes,
        schedule.faults.len(),
        report.took.as_secs_f64(),
        report.after_last_mend.as_secs_f64(),
        report.checks,
        report.ends.len()
    )
}

/// What all runs came to.
#[derive(Default)]
struct Tally {
    kinds: BTreeMap<Kind, usize>,
    runs: u32,
    complete: u32,
    waiting: u32,
    checks: u64,
    longest: f64,
    failed: Vec<u64>,
    seconds: f64,
}

impl Tally {
    fn count(&mut self, schedule: &Schedule) {
        self.runs += 1;
        for fault in &schedule.faults {
            *self.kinds.entry(fault.trouble.kind()).or_default() += 1;
        }
    }

    fn note(&mut self, report: &Report) {
        match &report.ending {
            Ending::Complete => self.complete += 1,
            Ending::Waiting(_) => self.waiting += 1,
        }
        self.checks += report.checks;
        self.longest = self.longest.max(report.after_last_mend.as_secs_f64());
    }

    fn faults(&self) -> usize {
        self.kinds.values().sum()
    }

    fn table(&self) -> String {
        let mut lines: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count:6}  {}", kind.name()))
            .collect();
        lines.push(format!(
            "{} faults in {} runs within {:.0} s: {} complete, {} waiting and saying why, {} failed {:?}",
            self.faults(),
            self.runs,
            self.seconds,
            self.complete,
            self.waiting,
            self.failed.len(),
            self.failed
        ));
        lines.push(format!(
            "in the runs that did not fail, published models were read {} times and always whole and right; the last node was Ready {:.1} s after the last mend at most",
            self.checks, self.longest
        ));
        lines.join("\n") + "\n"
    }
}
