//! One run: its faults in their order, and what came of it.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use modelcache_bench::network::Host;

use crate::schedule::Schedule;
use crate::watch::{Original, Watch};
use crate::world::World;
use crate::{Setup, clock, disk};

/// How long after the last mend every node must have the model. The longest waits of the programs behind it: an answer of the
/// hub that never comes is given up after 12 seconds, a peer that is silent after 15, one that lied is left alone for 10 and
/// then 20, a failure of the node's own is tried again after 5, 10 and 20.
const LIMIT: Duration = Duration::from_mins(2);
/// How often programs are looked after.
const LOOK: Duration = Duration::from_millis(20);

/// How a run that did not fail ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Every node has the model, published and right.
    Complete,
    /// Some wait, and each says for what.
    Waiting(Vec<String>),
}

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// From its start.
    pub took: Duration,
    /// From the last mend.
    pub after_last_mend: Duration,
    /// How often a published model was read whole meanwhile.
    pub checks: u64,
    /// Programs that ended by themselves, with their last words.
    pub ends: Vec<String>,
}

/// What was done when; printed when a run fails.
#[derive(Debug)]
pub struct Diary {
    began: Instant,
    lines: Vec<String>,
}

impl Diary {
    /// Something happens now.
    pub fn note(&mut self, what: &str) {
        let at = self.began.elapsed().as_secs_f64();
        self.lines.push(format!("{at:8.3} s  {what}"));
    }

    /// One line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl Default for Diary {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            lines: Vec::new(),
        }
    }
}

/// Carries out a schedule. An error is a failure of what is tested, or of the suite itself.
pub fn run(setup: &Setup, schedule: &Schedule, diary: &mut Diary) -> Result<Report> {
    prepare(setup)?;
    let mut world = World::prepare(setup, schedule.nodes, schedule.hub_rate)?;
    let original = Arc::new(Original::read(&setup.model, world.commit())?);
    let mut roots = Vec::new();
    for node in 0..schedule.nodes {
        roots.push(world.root(node)?);
    }
    let watch = Watch::start(original.clone(), roots);
    world.start()?;
    *diary = Diary::default();
    let began = diary.began;
    let mut ends = Vec::new();
    let mut look = |world: &mut World<'_>, diary: &mut Diary| -> Result<()> {
        for end in world.supervise()? {
            diary.note(&format!("ended by itself: {end}"));
            ends.push(end);
        }
        watch.verdict()?;
        std::thread::sleep(LOOK);
        Ok(())
    };
    for step in schedule.steps() {
        while began.elapsed() < step.at {
            look(&mut world, diary)?;
        }
        let what = if step.begins { "begins" } else { "ends" };
        diary.note(&format!("{what}: {}", step.trouble));
        if step.begins {
            world.begin(step.trouble)?;
        } else {
            world.end(step.trouble)?;
        }
    }
    let mended = Instant::now();
    let mut waiting = (0..schedule.nodes).collect::<Vec<u8>>();
    while !waiting.is_empty() && mended.elapsed() < LIMIT {
        look(&mut world, diary)?;
        let mut left = Vec::new();
        for node in waiting {
            if world.is_ready(node)? {
                diary.note(&format!("node{node} is Ready"));
            } else {
                left.push(node);
            }
        }
        waiting = left;
    }
    let (took, after_last_mend) = (began.elapsed(), mended.elapsed());
    let mut said = Vec::new();
    for node in &waiting {
        said.push(excuse(&mut world, *node)?);
    }
    for node in (0..schedule.nodes).filter(|node| !waiting.contains(node)) {
        original.check_all(&world.root(node)?)?;
    }
    watch.verdict()?;
    no_panics(setup)?;
    let checks = watch.checks();
    let ending = if said.is_empty() {
        Ending::Complete
    } else {
        Ending::Waiting(said)
    };
    Ok(Report {
        ending,
        took,
        after_last_mend,
        checks,
        ends,
    })
}

/// Removes what an earlier run left.
pub fn prepare(setup: &Setup) -> Result<()> {
    clock::sweep()?;
    disk::sweep(&setup.directory)?;
    let logs = setup.logs();
    if logs.exists() {
        fs::remove_dir_all(&logs)?;
    }
    Ok(fs::create_dir_all(&logs)?)
}

/// What a node says it waits for; an error when it says nothing.
fn excuse(world: &mut World<'_>, node: u8) -> Result<String> {
    if let Some(problem) = world.problem(node)? {
        return Ok(format!("node{node} waits: {problem}"));
    }
    let service = world.service(Host::Node(node))?;
    bail!(
        "node{node} is not Ready {} s after the last mend and does not say why; it said: {:?}; last of its log: {}",
        LIMIT.as_secs(),
        service.said()?,
        service.last_words()?
    )
}

/// An error when any program panicked.
pub fn no_panics(setup: &Setup) -> Result<()> {
    for entry in fs::read_dir(setup.logs())? {
        let path = entry?.path();
        let log = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
        let log = String::from_utf8_lossy(&log);
        if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
            bail!("{}: {line}", path.display());
        }
    }
    Ok(())
}
