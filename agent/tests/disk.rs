//! Disks that fill up or become read-only while a model comes in: a small file system in memory, as root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr
)]

// Each test uses a part of it.
#[allow(
    dead_code,
    clippy::match_wild_err_arm,
    clippy::duration_suboptimal_units,
    clippy::cast_possible_truncation
)]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use modelcache_agent::intent::Intent;
use modelcache_agent::reasons;
use modelcache_agent::state::SnapshotState;
use support::agent::Agent;
use support::coordinator::Coordinator;
use support::hub::Hub;
use support::model::{Model, bytes, intent};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 24 * MIB;

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// A file system of 320 MiB, of which 256 MiB are kept free of models.
struct Disk {
    point: TempDir,
}

impl Disk {
    /// None, and says so, where nothing can be mounted.
    fn mount() -> Option<Self> {
        let point = tempfile::tempdir().unwrap();
        let path = point.path().to_str().unwrap().to_owned();
        if run("mount", &["-t", "tmpfs", "-o", "size=320m", "tmpfs", &path]) {
            return Some(Self { point });
        }
        eprintln!("SKIPPED: a file system of its own needs root and mount(8); nothing was tested");
        None
    }

    fn cache(&self) -> PathBuf {
        self.point.path().join("cache")
    }

    fn ballast(&self) -> PathBuf {
        self.point.path().join("ballast")
    }

    fn free(&self) -> u64 {
        let output = Command::new("stat")
            .args(["-f", "-c", "%a %S"])
            .arg(self.point.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (blocks, size) = text.trim().split_once(' ').unwrap();
        blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap()
    }

    /// Fills it with something else, so that only `free` bytes are left.
    fn fill_but(&self, free: u64) {
        let len = (self.free() - free).to_string();
        let path = self.ballast();
        assert!(run("fallocate", &["-l", &len, path.to_str().unwrap()]));
    }

    fn release(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Waits until nobody has a file open for writing any more.
    async fn remount(&self, how: &str) {
        let path = self.point.path().to_str().unwrap();
        let options = format!("remount,size=320m,{how}");
        for _ in 0..200 {
            if run("mount", &["-o", &options, path]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("cannot be mounted anew");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.point.path().to_str().unwrap()]);
    }
}

struct Setting {
    hub: Hub,
    model: Model,
    wish: Intent,
    coordinator: Coordinator,
}

impl Setting {
    async fn new() -> Self {
        let hub = Hub::start().await;
        hub.delay(Duration::from_millis(300));
        let mut model = Model::default();
        model.add("model.bin", bytes(9, SIZE as usize));
        hub.put("m", &model);
        Self {
            wish: intent(&[model.snapshot("m")]),
            coordinator: Coordinator::start(hub.access()),
            hub,
            model,
        }
    }

    async fn agent(&self, cache: &Path) -> Agent {
        Agent::start("node", cache, &self.coordinator, self.wish.clone()).await
    }
}

fn failed_for(reason: &'static str) -> impl Fn(&SnapshotState) -> bool {
    move |state| {
        let problem = state.problem.as_ref();
        problem.is_some_and(|problem| problem.reason == reason)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_comes_as_soon_as_there_is_room() {
    let Some(disk) = Disk::mount() else { return };
    let setting = Setting::new().await;
    disk.fill_but(256 * MIB + SIZE - MIB);
    let mut agent = setting.agent(&disk.cache()).await;
    agent.until("refused", failed_for(reasons::NO_SPACE)).await;
    assert_eq!(setting.hub.sent(), 0);
    assert!(
        disk.free() >= 256 * MIB + SIZE - 2 * MIB,
        "nothing was taken"
    );
    disk.release();
    agent.until_ready().await;
    setting.model.assert_published(&disk.cache(), "m");
    assert_eq!(setting.hub.sent(), SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_fill_stops_it_and_it_goes_on_when_there_is_room() {
    let Some(disk) = Disk::mount() else { return };
    let setting = Setting::new().await;
    let mut agent = setting.agent(&disk.cache()).await;
    agent
        .until("on its way", |state| state.held_bytes >= 3 * MIB)
        .await;
    disk.fill_but(MIB);
    let state = agent.until("stopped", failed_for(reasons::NO_SPACE)).await;
    let words = state.problem.unwrap().message;
    assert!(words.contains("free space there"), "{words}");
    assert!(disk.free() > 0, "the last byte is not ours");
    disk.release();
    let state = agent.until_ready().await;
    assert_eq!(state.problem, None);
    setting.model.assert_published(&disk.cache(), "m");
    // What was under way when it stopped came again.
    assert!(
        setting.hub.sent() <= SIZE + 4 * MIB,
        "{}",
        setting.hub.sent()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_read_only_is_told_and_it_goes_on_when_it_is_not() {
    let Some(disk) = Disk::mount() else { return };
    let setting = Setting::new().await;
    let mut agent = setting.agent(&disk.cache()).await;
    agent
        .until("on its way", |state| state.held_bytes >= 3 * MIB)
        .await;
    agent.stop().await;
    disk.remount("ro").await;
    let sent = setting.hub.sent();
    let mut agent = setting.agent(&disk.cache()).await;
    let state = agent
        .until("stopped", failed_for(reasons::DISK_ERROR))
        .await;
    let words = state.problem.unwrap().message;
    assert!(words.contains("read-only"), "{words}");
    assert_eq!(setting.hub.sent(), sent, "nothing is asked for in vain");
    disk.remount("rw").await;
    agent.until_ready().await;
    setting.model.assert_published(&disk.cache(), "m");
}
