//! What is promised about disks, step by step: one that is full or read-only stops its node cleanly with the reason told,
//! nothing fills it further, and the node goes on when there is room. The other nodes do not wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use modelcache_bench::network::Host;

use crate::Setup;
use crate::run::{Diary, no_panics, prepare};
use crate::schedule::Trouble;
use crate::watch::{Original, Watch};
use crate::world::World;

/// In trouble before its agent starts.
const BEFORE: [(Trouble, &str); 2] = [
    (Trouble::Full { node: 0, left: 0 }, "NoSpace: "),
    (
        Trouble::Full {
            node: 1,
            left: 100 << 20,
        },
        "NoSpace: ",
    ),
];
/// In trouble while the model arrives.
const DURING: [(Trouble, &str); 3] = [
    (Trouble::Full { node: 2, left: 0 }, "NoSpace: "),
    (Trouble::ReadOnly(3), "DiskError: "),
    (Trouble::ReadOnly(RESTARTED), "DiskError: "),
];
/// The node whose agent is killed as its disk becomes read-only, and starts on it.
const RESTARTED: u8 = 4;
/// The node without trouble.
const HEALTHY: u8 = 5;
/// Rate of the hub's cable in kbit/s: the model passes in about 7 seconds…
const HUB_RATE: u32 = 9_000;
/// …so that it is half there by then.
const HALF: Duration = Duration::from_secs(4);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it is looked whether a full disk becomes fuller.
const CALM: Duration = Duration::from_secs(4);
/// What a few small files of the agent's own may take meanwhile.
const LITTLE: u64 = 64 << 10;

/// The whole of it.
pub fn run(setup: &Setup, diary: &mut Diary) -> Result<()> {
    prepare(setup)?;
    let mut world = World::prepare(setup, HEALTHY + 1, HUB_RATE)?;
    let original = Arc::new(Original::read(&setup.model, world.commit())?);
    let mut roots = Vec::new();
    for node in world.nodes() {
        roots.push(world.root(node)?);
    }
    let watch = Watch::start(original.clone(), roots);
    *diary = Diary::default();
    for (trouble, _) in BEFORE {
        diary.note(&format!("begins: {trouble}"));
        world.begin(trouble)?;
    }
    world.start()?;
    diary.note("the agents start");
    std::thread::sleep(HALF);
    let restarted = Trouble::Killed(Host::Node(RESTARTED));
    world.begin(restarted)?;
    for (trouble, _) in DURING {
        diary.note(&format!("begins: {trouble}"));
        world.begin(trouble)?;
    }
    world.end(restarted)?;
    for (trouble, reason) in BEFORE.into_iter().chain(DURING) {
        let node = victim(trouble)?;
        let told = until(&mut world, diary, "told why", |world| {
            Ok(world.problem(node)?.filter(|told| told.contains(reason)))
        })?;
        diary.note(&format!("node{node} says: {told}"));
    }
    until(&mut world, diary, "Ready", |world| {
        Ok(world.is_ready(HEALTHY)?.then_some(()))
    })?;
    diary.note("the node without trouble is Ready");
    let mut free = Vec::new();
    for node in 0..HEALTHY {
        free.push((node, world.disk(node)?.free()?));
    }
    let calm = Instant::now();
    while calm.elapsed() < CALM {
        look(&mut world, diary)?;
    }
    for (node, before) in free {
        let after = world.disk(node)?.free()?;
        ensure!(
            after + LITTLE >= before,
            "the disk of node{node} had {before} bytes free and has {after} now"
        );
    }
    for (trouble, _) in BEFORE.into_iter().chain(DURING) {
        diary.note(&format!("ends: {trouble}"));
        world.end(trouble)?;
    }
    for node in world.nodes() {
        until(&mut world, diary, "Ready", |world| {
            Ok(world.is_ready(node)?.then_some(()))
        })?;
        diary.note(&format!("node{node} is Ready"));
        original.check_all(&world.root(node)?)?;
    }
    watch.verdict()?;
    no_panics(setup)
}

fn victim(trouble: Trouble) -> Result<u8> {
    match trouble {
        Trouble::Full { node, .. } | Trouble::ReadOnly(node) => Ok(node),
        _ => bail!("{trouble} is not about a disk"),
    }
}

fn look(world: &mut World<'_>, diary: &mut Diary) -> Result<()> {
    for end in world.supervise()? {
        diary.note(&format!("ended by itself: {end}"));
    }
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

/// Waits until something is so.
fn until<T>(
    world: &mut World<'_>,
    diary: &mut Diary,
    what: &str,
    mut is_so: impl FnMut(&mut World<'_>) -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        look(world, diary)?;
        if let Some(found) = is_so(world)? {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            let mut states = Vec::new();
            for node in world.nodes() {
                let service = world.service(Host::Node(node))?;
                states.push(format!("node{node}: {:?}", service.said()?));
            }
            bail!(
                "not {what} within {} s; {}",
                PATIENCE.as_secs(),
                states.join("; ")
            );
        }
    }
}
