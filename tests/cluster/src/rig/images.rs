//! Container images without a registry: archives that every node's containerd imports, and a template disk so that a fresh node has them at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use sha2::{Digest, Sha256};

use crate::ClusterError;
use crate::rig::node;
use crate::rig::paths::{NodeId, Paths};
use crate::run::{command, make_dir, remove, run, write};

/// The script that packs a root file system; the one with which the project's own images are made.
const PACK: &str = include_str!("../../../../deploy/images/pack");

/// Commands of the small test image, all of them links to one static busybox.
const BUSYBOX_COMMANDS: &str = "[ awk base64 cat chmod chown cp cut date dd df dirname du echo env expr false find grep head hostname \
    httpd id ip kill ln ls md5sum mkdir mktemp mount mv nc nslookup od ping printf ps pwd readlink rm rmdir sed seq sh sha256sum \
    sleep sort stat sync tail tar tee test time timeout top touch tr true umount uname uniq vi wc wget which whoami xargs";

/// Makes images of the cluster's own (the sandbox of every pod, a small one for tests) if they are not there.
pub(crate) fn ensure_own(paths: &Paths) -> Result<(), ClusterError> {
    let pause = paths.bin().join("pause");
    own(
        paths,
        "pause",
        "FROM scratch\nCOPY rootfs/ /\nENTRYPOINT [\"/pause\"]\n",
        &pause,
        "pause",
        &[],
    )?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|file| file.exists());
    let busybox = busybox.ok_or_else(|| ClusterError::Unsuitable {
        what: "there is no static busybox".to_owned(),
        remedy: "run tests/cluster/packages".to_owned(),
    })?;
    let commands: Vec<&str> = BUSYBOX_COMMANDS.split_whitespace().collect();
    own(
        paths,
        "busybox",
        "FROM scratch\nCOPY rootfs/ /\nENTRYPOINT [\"/bin/sh\"]\n",
        &busybox,
        "bin/busybox",
        &commands,
    )
}

/// One image of a single static program, which also answers to the names of its links.
fn own(
    paths: &Paths,
    name: &str,
    containerfile: &str,
    program: &Path,
    place: &str,
    links: &[&str],
) -> Result<(), ClusterError> {
    let reference = format!("modelcache.local/{name}:dev");
    let mut key = Sha256::new();
    key.update(fs::read(program).map_err(ClusterError::io("read", program))?);
    key.update(format!("{containerfile}{place}{links:?}{PACK}"));
    let key = hex::encode(key.finalize());
    let key_file = paths.images().join(format!("{}.key", slug(&reference)));
    if fs::read_to_string(&key_file).is_ok_and(|known| known == key) {
        return Ok(());
    }
    let context = paths.state().join("image");
    remove(&context)?;
    let target = context.join("rootfs").join(place);
    let dir = target.parent().unwrap_or(&context);
    for sub in ["etc", "tmp", "proc", "sys", "dev", "var", "run"] {
        make_dir(&context.join("rootfs").join(sub))?;
    }
    make_dir(dir)?;
    fs::copy(program, &target).map_err(ClusterError::io("copy", program))?;
    run(&mut command(
        "chmod",
        &["1777", &context.join("rootfs/tmp").display().to_string()],
    ))?;
    write(
        &context.join("rootfs/etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    write(
        &context.join("rootfs/etc/group"),
        "root:x:0:\nnogroup:x:65534:\n",
    )?;
    for link in links {
        let link = dir.join(link);
        std::os::unix::fs::symlink("busybox", &link).map_err(ClusterError::io("link", &link))?;
    }
    write(&context.join("Containerfile"), containerfile)?;
    write(&context.join("pack"), PACK)?;
    let archive = context.join("image.tar");
    run(command(
        "python3",
        &["pack", "Containerfile", ".", "image.tar", &reference],
    )
    .current_dir(&context))?;
    remember(paths, &archive)?;
    write(&key_file, key)?;
    remove(&context)
}

/// Keeps a copy of an archive for boots to come; true when it is new.
fn remember(paths: &Paths, archive: &Path) -> Result<bool, ClusterError> {
    let name = slug(&references(archive)?.join(" "));
    let digest = digest(archive)?;
    let (copy, mark) = (
        paths.images().join(format!("{name}.tar")),
        paths.images().join(format!("{name}.digest")),
    );
    if copy.exists() && fs::read_to_string(&mark).is_ok_and(|known| known.trim() == digest) {
        return Ok(false);
    }
    // The digest goes first: an archive without one is taken for new and written again.
    remove(&mark)?;
    let new = paths.images().join(format!("{name}.new"));
    fs::copy(archive, &new).map_err(ClusterError::io("copy", archive))?;
    fs::rename(&new, &copy).map_err(ClusterError::io("rename", &new))?;
    write(&mark, format!("{digest}\n"))?;
    Ok(true)
}

/// Remembers archives and gives them to all nodes that have power. Returns what was loaded.
pub(crate) fn load(paths: &Paths, archives: &[PathBuf]) -> Result<Vec<String>, ClusterError> {
    make_dir(&paths.images())?;
    let mut loaded = Vec::new();
    for archive in archives {
        remember(paths, archive)?;
        loaded.extend(references(archive)?);
    }
    let script = paths.conf().join("import-images.sh").display().to_string();
    thread::scope(|scope| {
        let nodes: Vec<_> = NodeId::all()
            .filter(|node| node::process(paths, *node).is_some())
            .collect();
        let imports: Vec<_> = nodes
            .into_iter()
            .map(|id| {
                let script = &script;
                scope.spawn(move || {
                    let done = paths.disk(id).join("images").display().to_string();
                    run(&mut node::inside(
                        paths,
                        id,
                        &[script, "/run/containerd/containerd.sock", &done],
                    )?)
                })
            })
            .collect();
        for import in imports {
            import.join().map_err(|_| ClusterError::NotUp)??;
        }
        Ok::<(), ClusterError>(())
    })?;
    Ok(loaded)
}

/// Forgets an image: later nodes do not get it. Nodes that run keep what they have.
pub(crate) fn forget(paths: &Paths, reference: &str) -> Result<(), ClusterError> {
    for end in ["digest", "tar"] {
        let file = paths.images().join(format!("{}.{end}", slug(reference)));
        if !file.exists() {
            return Err(ClusterError::Argument {
                what: format!(
                    "no image {reference} was loaded: {} lists them",
                    paths.images().display()
                ),
            });
        }
        remove(&file)?;
    }
    Ok(())
}

/// Brings the template disk up to date: a containerd of its own imports what it does not have yet.
pub(crate) fn update_template(paths: &Paths) -> Result<(), ClusterError> {
    let template = paths.template();
    if digests(&paths.images()).is_subset(&digests(&template.join("images"))) {
        return Ok(());
    }
    // What a newer image of the same name replaced is collected by containerd's own garbage collection at its next start.
    make_dir(&template)?;
    // The path of a socket must be short, which that of the state directory need not be.
    let run_dir = std::env::temp_dir().join(paths.cgroup());
    remove(&run_dir)?;
    make_dir(&run_dir)?;
    let socket = run_dir.join("containerd.sock");
    let config = format!(
        "version = 3\nroot = \"{root}/containerd\"\nstate = \"{run}/state\"\n\
         disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n\
         [grpc]\n  address = \"{socket}\"\n[ttrpc]\n  address = \"{socket}.ttrpc\"\n",
        root = template.display(),
        run = run_dir.display(),
        socket = socket.display(),
    );
    write(&run_dir.join("config.toml"), config)?;
    let script = r#"set -e
        "$BIN/containerd" -c "$RUN_DIR/config.toml" > "$STATE/log/template.log" 2>&1 < /dev/null &
        pid=$!
        status=0
        "$STATE/conf/import-images.sh" "$RUN_DIR/containerd.sock" "$STATE/template/images" || status=$?
        kill "$pid"
        wait "$pid" || true
        exit $status"#;
    // In namespaces of its own, so that nothing of it is left whatever happens.
    let words = [
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "bash",
        "-c",
        script,
    ];
    let mut builder = command("unshare", &words);
    builder
        .env("BIN", paths.bin())
        .env("STATE", paths.state())
        .env("RUN_DIR", &run_dir);
    let path = std::env::var("PATH").unwrap_or_default();
    builder.env(
        "PATH",
        format!("{}:{path}:/usr/sbin:/sbin", paths.bin().display()),
    );
    let result = run(&mut builder);
    remove(&run_dir)?;
    result.map(drop)
}

/// Fills the disk of a fresh node from the template. Content and unpacked layers are never written again, so links do for them.
pub(crate) fn seed(paths: &Paths, disk: &Path) -> Result<(), ClusterError> {
    let (from, to) = (paths.template(), disk.join("varlib"));
    make_dir(&to)?;
    if !from.join("containerd").exists() {
        return Ok(());
    }
    let (from_text, to_text, disk_text) = (
        from.display().to_string(),
        to.display().to_string(),
        disk.display().to_string(),
    );
    run(&mut command(
        "cp",
        &["-al", &format!("{from_text}/containerd"), &to_text],
    ))?;
    // Databases are written in place: each node has copies.
    let script = r#"find "$0/containerd" -name '*.db' | while read -r file; do cp "$file" "$file.copy" && mv "$file.copy" "$file" || exit 1; done"#;
    run(&mut command("sh", &["-c", script, &to_text]))?;
    run(&mut command(
        "cp",
        &["-a", &format!("{from_text}/images"), &disk_text],
    ))
    .map(drop)
}

/// The digests of a directory of archives, or of what was imported from it, with their names.
fn digests(dir: &Path) -> BTreeSet<(String, String)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return BTreeSet::new();
    };
    let files = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "digest"));
    files
        .filter_map(|path| {
            Some((
                path.file_stem()?.to_str()?.to_owned(),
                fs::read_to_string(&path).ok()?,
            ))
        })
        .collect()
}

/// Image references that an archive holds: an OCI layout's or those of `docker save`.
fn references(archive: &Path) -> Result<Vec<String>, ClusterError> {
    let path = archive.display().to_string();
    let list = run(&mut command("tar", &["-tf", &path]))?;
    let member = |name: &str| {
        list.lines()
            .find(|line| line.trim_start_matches("./") == name)
    };
    let read = |name: &str| -> Result<serde_json::Value, ClusterError> {
        let text = run(&mut command("tar", &["-xOf", &path, name]))?;
        serde_json::from_str(&text).map_err(|error| ClusterError::Argument {
            what: format!("{name} in {path} is not JSON: {error}"),
        })
    };
    let names = match (member("index.json"), member("manifest.json")) {
        (Some(index), _) => oci_references(&read(index)?),
        (None, Some(manifest)) => docker_references(&read(manifest)?),
        (None, None) => Vec::new(),
    };
    if names.is_empty() {
        return Err(ClusterError::Argument {
            what: format!(
                "{path} holds no named image: give an OCI layout or the output of `docker save NAME:TAG`"
            ),
        });
    }
    Ok(names)
}

fn oci_references(index: &serde_json::Value) -> Vec<String> {
    let manifests = index["manifests"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let names = manifests.iter().filter_map(|manifest| {
        let annotations = &manifest["annotations"];
        annotations["io.containerd.image.name"]
            .as_str()
            .or_else(|| annotations["org.opencontainers.image.ref.name"].as_str())
    });
    names.map(str::to_owned).collect()
}

fn docker_references(manifest: &serde_json::Value) -> Vec<String> {
    let images = manifest.as_array().map(Vec::as_slice).unwrap_or_default();
    images
        .iter()
        .flat_map(|image| image["RepoTags"].as_array().into_iter().flatten())
        .filter_map(|tag| tag.as_str().map(str::to_owned))
        .collect()
}

/// A file name that says which images an archive holds.
fn slug(references: &str) -> String {
    references
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

fn digest(path: &Path) -> Result<String, ClusterError> {
    let mut file = fs::File::open(path).map_err(ClusterError::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(ClusterError::io("read", path))? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_come_out_of_both_kinds_of_archive() {
        let oci = json!({"manifests": [{"annotations": {"io.containerd.image.name": "modelcache.local/agent:dev", "org.opencontainers.image.ref.name": "dev"}}]});
        assert_eq!(oci_references(&oci), ["modelcache.local/agent:dev"]);
        let docker = json!([{"Config": "x.json", "RepoTags": ["a/b:1", "a/b:2"]}]);
        assert_eq!(docker_references(&docker), ["a/b:1", "a/b:2"]);
        assert!(oci_references(&json!({})).is_empty());
    }

    #[test]
    fn a_file_name_keeps_images_apart() {
        assert_eq!(
            slug("modelcache.local/agent:dev"),
            "modelcache.local_agent_dev"
        );
    }
}
