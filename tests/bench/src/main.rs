//! `modelcache-bench`: runs the cases of the laboratory; `tests/bench/run` prepares all it needs and calls it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use modelcache_bench::case::{CASES, Case, Work};
use modelcache_bench::model::Model;
use modelcache_bench::network;
use modelcache_bench::process::available_memory;
use modelcache_bench::report::{Entry, HEAD, Outcome, megabytes_per_second};
use modelcache_bench::sample::Sample;
use modelcache_bench::team::{Field, Team};
use modelcache_bench::{idle, solo, swarm};

/// Measures agents and coordinator on shaped links beside other programs.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The cases to run [default: all].
    cases: Vec<String>,
    /// How often each program does each case; they take turns.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// How to print the results.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Leave the other programs out.
    #[arg(long)]
    no_peers: bool,
    /// Divides the rate of every link, for machines without enough processor for eight nodes at full rate.
    #[arg(long, default_value_t = 1)]
    slower: u32,
    /// Divides the size of every file, to see whether a case runs.
    #[arg(long, default_value_t = 1)]
    smaller: u64,
    /// Another number of fetches from the hub at once than the operator's, to see what it does.
    #[arg(long)]
    fetches: Option<u32>,
    /// How many seconds each run waits for other programs of the machine to be quiet; then it runs beside them.
    #[arg(long, default_value_t = 0)]
    wait: u64,
    /// Only name the cases.
    #[arg(long)]
    list: bool,
    /// Where models, caches and logs lie while it runs; a file system in memory, because one disk cannot stand in for those of
    /// eight nodes.
    #[arg(long, default_value = "/dev/shm/modelcache-bench")]
    directory: PathBuf,
    /// Where the others' scripts are.
    #[arg(long)]
    scripts: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A Markdown table.
    Table,
    /// One JSON object a line.
    Json,
}

/// What a run leaves for programs, in bytes.
const MEMORY_LEFT: u64 = 2 << 30;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every run ended well.
fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for case in CASES {
            println!("{:<16} {}", case.name, case.about);
        }
        return Ok(true);
    }
    let cases = chosen(arguments)?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root; run it with sudo"
    );
    network::sweep()?;
    let mut well = true;
    if arguments.output == Output::Table {
        print!("{HEAD}");
    }
    for case in &cases {
        let outcome = measure(arguments, case)?;
        well &= outcome
            .entries
            .iter()
            .all(|entry| entry.failures.is_empty());
        match arguments.output {
            Output::Table => print!("{}", outcome.rows()),
            Output::Json => println!("{}", outcome.json()),
        }
    }
    Ok(well)
}

fn chosen(arguments: &Arguments) -> Result<Vec<Case>> {
    ensure!(
        arguments.slower > 0 && arguments.smaller > 0,
        "--slower and --smaller divide by 1 or more"
    );
    let mut cases = named(&arguments.cases)?;
    for case in &mut cases {
        case.slower = arguments.slower;
        case.smaller = arguments.smaller;
    }
    Ok(cases)
}

fn named(names: &[String]) -> Result<Vec<Case>> {
    if names.is_empty() {
        return Ok(CASES.to_vec());
    }
    names
        .iter()
        .map(|name| {
            let found = CASES.iter().find(|case| case.name == name);
            found
                .copied()
                .with_context(|| format!("there is no case {name}; --list names them"))
        })
        .collect()
}

fn measure<'a>(arguments: &Arguments, case: &'a Case) -> Result<Outcome<'a>> {
    let mut teams = vec![Team::Ours];
    if !arguments.no_peers {
        teams.extend(case.peers);
    }
    let mut entries: Vec<Entry> = teams
        .iter()
        .map(|team| Entry {
            team: *team,
            samples: Vec::new(),
            failures: Vec::new(),
        })
        .collect();
    let root = &arguments.directory;
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    let (wanted, available) = (case.memory_bytes() + MEMORY_LEFT, available_memory()?);
    ensure!(
        available >= wanted,
        "{} needs {} MB of memory and {} are available; --smaller divides it",
        case.name,
        wanted / 1_000_000,
        available / 1_000_000
    );
    let model = Model::create(&root.join("many/model"), &case.file_sizes())?;
    let single = if teams.contains(&Team::OneFile) {
        Some(Model::create(&root.join("one/model"), &[case.bytes()])?)
    } else {
        None
    };
    for round in 1..=arguments.runs {
        for entry in &mut entries {
            let model = match (entry.team, &single) {
                (Team::OneFile, Some(single)) => single,
                _ => &model,
            };
            let name = entry.team.name();
            match once(arguments, case, entry.team, model) {
                Ok(sample) => {
                    eprintln!(
                        "{} {round}/{} {name}: {}",
                        case.name,
                        arguments.runs,
                        tell(case, &sample)
                    );
                    entry.samples.push(sample);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    eprintln!(
                        "{} {round}/{} {name} FAILED: {error}",
                        case.name, arguments.runs
                    );
                    entry.failures.push(error);
                }
            }
        }
    }
    fs::remove_dir_all(root)?;
    Ok(Outcome { case, entries })
}

fn once(arguments: &Arguments, case: &Case, team: Team, model: &Model) -> Result<Sample> {
    let directory = arguments.directory.join("run");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    let logs = arguments.directory.join("logs");
    fs::create_dir_all(&logs)?;
    let own = std::env::current_exe()?;
    let Some(programs) = own.parent() else {
        bail!("this program lies nowhere");
    };
    let field = Field {
        case,
        model,
        directory: &directory,
        logs: &logs,
        programs,
        fetches: arguments.fetches,
        patience: Duration::from_secs(arguments.wait),
        scripts: &arguments.scripts,
    };
    let sample = match case.work {
        Work::Restart => solo::restart(team, &field),
        Work::RestartKilled => solo::restart_killed(team, &field),
        Work::Memory => idle::memory(team, &field),
        _ => swarm::run(team, &field),
    };
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    // Also when all went well: a figure that surprises is explained there.
    let kept = std::env::temp_dir().join("modelcache-bench-logs");
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    copy_files(&logs, &kept)?;
    fs::remove_dir_all(&logs)?;
    sample.with_context(|| format!("logs kept in {}", kept.display()))
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn tell(case: &Case, sample: &Sample) -> String {
    let ratio = case
        .bound_seconds()
        .map(|bound| format!(" = {:.2} × bound", sample.seconds / bound))
        .unwrap_or_default();
    let first = sample.finishes.iter().copied().fold(f64::MAX, f64::min);
    let mut line = format!(
        "{:.2} s{ratio} ({} MB/s a node, first {first:.2} s), {:.3} copies, {:.2} CPU-s/GB, {} MB at most, own load {:.1}, \
         other load {:.1}, stolen {:.2}",
        sample.seconds,
        megabytes_per_second(case.bytes(), sample.seconds),
        sample.copies,
        sample.cpu_seconds_per_gb,
        sample.peak_resident / 1_000_000,
        sample.own_load,
        sample.other_load,
        sample.stolen_load
    );
    for (name, figure) in &sample.figures {
        // Writing to a string cannot fail.
        let _ = write!(line, ", {name} {figure:.2}");
    }
    line
}
