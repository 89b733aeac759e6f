//! A gated model on its way between two nodes: whoever listens gets none of it, and nothing of it lies where it should not.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::{Outcome, cold, kills};
use crate::capture::Capture;
use crate::files::NodeFiles;
use crate::hub::{self, Hub, Repo};
use crate::nodes::Scratch;
use crate::search::{Needles, WINDOW};
use crate::world::{APPS, SYSTEM, World};

const BYTES: u64 = 40_000_000;
const REPOSITORY: &str = "org/capture";
/// The nodes with this label hold the model.
const LABEL: &str = "modelcache-test/capture";
/// As long as a window, so that it is found as they are.
const TOKEN: &str = "hf_captureCaptureCapture0123456789abcdefghijklmnopqrstuvwxyzABCD";
const _: () = assert!(TOKEN.len() == WINDOW);
/// Directories in which a node of the test cluster keeps files of its own.
const DIRECTORIES: [&str; 4] = ["/var/lib", "/var/log", "/srv", "/mnt"];
const LIMIT: Duration = Duration::from_mins(1);

pub(super) async fn run(world: &World) -> Result<Outcome> {
    if !world.cluster.is_rig() {
        return Ok(Outcome::Skipped(
            "this cluster's cables cannot be listened to".to_owned(),
        ));
    }
    let began = SystemTime::now();
    let hub = Hub::start(world, &[]).await?;
    world
        .install(&[&format!("hub.endpoint={}", hub::URL)])
        .await?;
    // What goes to the hub's own node is not on the cable of another.
    let hub_node = kills::node_of(world, APPS, "app=hub").await?;
    let mut nodes = world.ready_nodes().await?;
    nodes.retain(|node| *node != hub_node);
    let [first, second] = nodes
        .first_chunk()
        .context("two nodes beside the hub's are needed")?;
    let label = |node: &str, value: &str| {
        world.kubectl(&[
            "label",
            "--overwrite",
            "node",
            node,
            &format!("{LABEL}{value}"),
        ])
    };
    let repo = gated(world, &hub).await?;
    world.apply(&cache()).await?;

    let scratch = Scratch::new("capture")?;
    let from_hub = Capture::start(world, first, &scratch.path().join("hub.pcap"))?;
    label(first, "=yes")?;
    world.ready_on("capture", first, LIMIT).await?;
    let from_hub = from_hub.stop_after(BYTES).await?;
    // Then all that comes to the second comes from the first.
    hub.off().await?;
    let between = Capture::start(world, second, &scratch.path().join("peer.pcap"))?;
    label(second, "=yes")?;
    world.ready_on("capture", second, LIMIT).await?;
    let between = between.stop_after(BYTES).await?;
    hub.on().await?;
    for node in [first, second] {
        world.check_node("capture", node, &repo).await?;
    }

    let files = NodeFiles::local(world, second)?
        .volume("capture", "model")
        .join("files");
    let nodes = [first.clone(), second.clone()];
    let found = {
        let roots = roots(world, &nodes)?;
        let caches: Vec<_> = nodes
            .iter()
            .map(|node| world.cluster.node_path(node, world.cache_dir()))
            .collect::<Result<_, _>>()?;
        tokio::task::spawn_blocking(move || -> Result<_> {
            let model = Needles::of(&contents(&files, &repo)?);
            let token = Needles::of(TOKEN.as_bytes());
            // The control: without encryption the same search finds what is there.
            let plain = model.found_in(File::open(&from_hub)?)?;
            ensure!(
                plain * 10 >= model.len() * 9 && token.found_in(File::open(&from_hub)?)? == 1,
                "on the way from the hub, over plain HTTP, only {plain} of {} windows are found, or not the token",
                model.len()
            );
            let seen = model.found_in(File::open(&between)?)?;
            ensure!(seen == 0, "{seen} windows of the model pass between the nodes as they are");
            ensure!(token.found_in(File::open(&between)?)? == 0, "the token passes between the nodes");
            let mut searched = 0;
            for root in &roots {
                let outside = |path: &Path| !caches.iter().any(|cache| path == cache);
                searched += each_file(root, &outside, &mut |path, file| {
                    if file.metadata()?.modified()? < began {
                        return Ok(false);
                    }
                    ensure!(model.found_in(&*file)? == 0, "a part of the model lies in {}", path.display());
                    // By its name it may be gone by now.
                    file.rewind()?;
                    ensure!(token.found_in(&*file)? == 0, "the token lies in {}", path.display());
                    Ok(true)
                })?;
            }
            for cache in &caches {
                let models = |path: &Path| path != cache.join("volumes") && path != cache.join("hub");
                searched += each_file(cache, &models, &mut |path, file| {
                    ensure!(token.found_in(file)? == 0, "the token lies in {}", path.display());
                    Ok(true)
                })?;
            }
            Ok((plain, model.len(), searched))
        })
        .await??
    };
    // Not before: without it the model's link goes, by which its files are read above.
    for node in [first, second] {
        label(node, "-")?;
    }
    let (plain, all, searched) = found;
    Ok(Outcome::Done(vec![format!(
        "of {all} windows of {WINDOW} bytes, 0 are seen between two nodes, {plain} on the plain way from the hub; none in \
         {searched} files that changed"
    )]))
}

/// All files of a model, each from the beginning of a window on.
fn contents(files: &Path, repo: &Repo) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    for file in &repo.files {
        contents.extend(fs::read(files.join(&file.path))?);
        contents.resize(contents.len().next_multiple_of(WINDOW), 0);
    }
    Ok(contents)
}

/// The gated repository on the hub, and the Secret with the token for it.
async fn gated(world: &World, hub: &Hub<'_>) -> Result<Repo> {
    world
        .apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: capture, namespace: {SYSTEM}}}\nstringData: {{token: {TOKEN}}}\n"
        ))
        .await?;
    hub.token(TOKEN, &[REPOSITORY]).await?;
    let repo = hub.add(REPOSITORY, &cold::model(BYTES, 13_000)).await?;
    hub.gate(REPOSITORY).await?;
    Ok(repo)
}

fn cache() -> String {
    format!(
        "apiVersion: modelcache.io/v1alpha1
kind: ModelCache
metadata: {{name: capture}}
spec:
  models:
  - name: model
    source: {{huggingFace: {{repository: {REPOSITORY}, tokenSecret: {{name: capture}}}}}}
  nodePools:
  - name: listened-to
    nodeSelector: {{matchLabels: {{{LABEL}: \"yes\"}}}}
"
    )
}

/// The directories of these nodes, as they are seen from outside.
fn roots(world: &World, nodes: &[String]) -> Result<Vec<std::path::PathBuf>> {
    let mut roots = Vec::new();
    for node in nodes {
        for directory in DIRECTORIES {
            roots.push(world.cluster.node_path(node, directory)?);
        }
    }
    Ok(roots)
}

/// Opens each regular file below a directory, but for what lies below paths that are not `wanted`; the number of those for
/// which `look` says that it looked. What goes away meanwhile is passed over.
fn each_file(
    directory: &Path,
    wanted: &dyn Fn(&Path) -> bool,
    look: &mut dyn FnMut(&Path, &mut File) -> Result<bool>,
) -> Result<usize> {
    let mut looked = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(current) = open.pop() {
        let Some(entries) = there(fs::read_dir(&current))? else {
            continue;
        };
        for entry in entries {
            let Some(entry) = there(entry)? else {
                continue;
            };
            let Some(kind) = there(entry.file_type())? else {
                continue;
            };
            let path = entry.path();
            if kind.is_dir() && wanted(&path) {
                open.push(path);
            } else if kind.is_file()
                && let Some(mut file) = there(File::open(&path))?
            {
                looked += usize::from(look(&path, &mut file)?);
            }
        }
    }
    Ok(looked)
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
