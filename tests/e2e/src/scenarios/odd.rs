//! Odd models, and the real client's own checks of what the agents wrote.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modelcache_test_hub::admin::{ContentSpec, FileSpec};

use super::{Outcome, cold};
use crate::files::NodeFiles;
use crate::forward::Forward;
use crate::hub::{self, Hub, Repo};
use crate::nodes::Scratch;
use crate::world::World;

/// The odd models by name.
fn models() -> Vec<(&'static str, Vec<FileSpec>)> {
    let many = (0..3_000u64).map(|i| {
        FileSpec::new(
            &format!("shards/{:02}/part-{i:04}.bin", i % 50),
            ContentSpec::Synthetic {
                seed: cold::fresh(20_000 + i),
                size: 1 + i * 7 % 9_000,
            },
            i % 10 == 0,
        )
    });
    vec![
        (
            "empty",
            vec![
                FileSpec::text("empty.txt", ""),
                FileSpec::synthetic("empty.safetensors", 1, 0),
                FileSpec::text("config.json", "{}"),
            ],
        ),
        ("only-empty", vec![FileSpec::text("__init__.py", "")]),
        ("many", many.collect()),
        (
            "names",
            vec![
                FileSpec::text("with space.txt", "a"),
                FileSpec::text("100%.txt", "b"),
                FileSpec::text("a+b.txt", "c"),
                FileSpec::text("#hash.txt", "d"),
                FileSpec::text("späß/モデル.txt", "e"),
                FileSpec::text("a/b/c/d/e/f/g/h/deep.txt", "f"),
                FileSpec::text("%41.txt", "g"),
                FileSpec::synthetic(
                    "späß/weights #1 +100%.safetensors",
                    cold::fresh(30_000),
                    3_000_000,
                ),
            ],
        ),
        (
            "twins",
            vec![
                FileSpec::synthetic("a.safetensors", cold::fresh(30_001), 2_500_000),
                FileSpec::synthetic("b.safetensors", cold::fresh(30_001), 2_500_000),
                FileSpec::text("a.json", "{\"same\": 1}"),
                FileSpec::text("b.json", "{\"same\": 1}"),
            ],
        ),
        (
            "shares",
            vec![
                FileSpec::synthetic("c.safetensors", cold::fresh(30_001), 2_500_000),
                FileSpec::text("c.json", "{\"other\": 1}"),
            ],
        ),
    ]
}

pub(super) async fn run(world: &World) -> Result<Outcome> {
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    let mut repos = Vec::new();
    for (name, files) in models() {
        let repository = format!("org/{name}");
        let repo = hub
            .add(&repository, &files)
            .await
            .with_context(|| format!("model {name}"))?;
        world.apply(&cold::cache(name, &repository)).await?;
        repos.push((name, repo));
    }
    let mut copies = Vec::new();
    for (name, repo) in &repos {
        world
            .ready(name, Duration::from_mins(3))
            .await
            .with_context(|| format!("model {name}"))?;
        world.check_files(name, repo).await?;
        let one = repo.content_bytes();
        if one > 0 {
            // The operator asks for one byte, to see whether it may: that counts where the model is a few bytes.
            #[expect(
                clippy::cast_precision_loss,
                reason = "byte counts stay far below 2^53"
            )]
            let ratio = (hub.content_bytes(&repo.name).await? - 1) as f64 / one as f64;
            ensure!(ratio <= 1.10, "{ratio:.2} copies of {name} left the hub");
            copies.push(ratio);
        }
    }
    let checked = clients(world, &repos).await?;
    Ok(Outcome::Done(vec![
        format!(
            "{} models, at most {:.2} copies",
            repos.len(),
            copies.into_iter().fold(0.0, f64::max)
        ),
        checked,
    ]))
}

/// The official client in three versions: offline checks of content and completeness, offline loads by branch and by
/// commit from a read-only mount; and `hf cache verify` against the hub.
pub(super) async fn clients(world: &World, repos: &[(&str, Repo)]) -> Result<String> {
    let node = world
        .ready_nodes()
        .await?
        .into_iter()
        .next()
        .context("no nodes")?;
    let copies = Scratch::new("odd")?;
    let forward = if world.cluster.is_rig() {
        None
    } else {
        Some(Forward::hub(world)?)
    };
    let endpoint = match &forward {
        None => world.hub_address().await?,
        Some(forward) => format!("http://{}", forward.address()),
    };
    for (name, repo) in repos {
        let cache = if world.cluster.is_rig() {
            NodeFiles::local(world, &node)?.volume(name, "model")
        } else {
            // Another machine's disk: what a pod there sees is copied here.
            let copy = copies.path().join(name);
            world.copy_volume(&node, name, "model", &copy).await?;
            copy
        }
        .join("hub");
        let script = world.root.join("tests/hub/clients");
        let arguments = [
            repo.name.clone(),
            "main".to_owned(),
            "--endpoint".to_owned(),
            endpoint.clone(),
        ];
        let name = (*name).to_owned();
        tokio::task::spawn_blocking(move || {
            // A mount namespace of its own, in which the cache is a read-only mount as in a pod.
            let output = Command::new("unshare")
                .args(["--mount", "sh", "-ec", "mount --bind \"$1\" \"$1\"; mount -o remount,ro,bind \"$1\"; ! touch \"$1/x\" 2>/dev/null; exec \"$0\" verify \"$@\""])
                .arg(&script)
                .arg(&cache)
                .args(arguments)
                .output()
                .context("cannot start unshare")?;
            ensure!(
                output.status.success(),
                "the clients refuse the cache of {name}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        })
        .await??;
    }
    Ok("accepted by huggingface_hub 2.x, 1.33 and 0.36".to_owned())
}
