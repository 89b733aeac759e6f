//! The cluster's own binaries, built from Go modules whose exact versions are part of this program.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;
use std::{env, fs};

use sha2::{Digest, Sha256};

use crate::ClusterError;
use crate::rig::paths::cache_root;
use crate::rig::requirements::installed;
use crate::run::{command, make_dir, remove, run, write};

/// Version of Kubernetes that the module `kubernetes` requires; a test compares the two.
const KUBERNETES: &str = "1.36.4";

/// Version of containerd that the module `containerd` requires; a test compares the two.
const CONTAINERD: &str = "2.2.1";

/// A Go module of which binaries are built.
struct Module {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// Packages to build.
    packages: &'static [&'static str],
    /// Where the binaries go, below the directory of binaries.
    into: &'static str,
    /// How long it takes on two cores with nothing cached, for whoever waits.
    minutes: &'static str,
}

macro_rules! module_files {
    ($name:literal) => {
        &[
            (
                "go.mod",
                include_str!(concat!("../../go/", $name, "/go.mod")),
            ),
            (
                "go.sum",
                include_str!(concat!("../../go/", $name, "/go.sum")),
            ),
        ]
    };
}

const MODULES: [Module; 7] = [
    Module {
        name: "kubernetes",
        files: module_files!("kubernetes"),
        packages: &[
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubelet",
            "k8s.io/kubernetes/cmd/kube-proxy",
            "k8s.io/kubernetes/cmd/kubectl",
        ],
        into: "",
        minutes: "5 minutes",
    },
    Module {
        name: "etcd",
        files: module_files!("etcd"),
        packages: &["go.etcd.io/etcd/server/v3"],
        into: "etcd",
        minutes: "20 seconds",
    },
    Module {
        name: "containerd",
        files: module_files!("containerd"),
        packages: &[
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
        ],
        into: "",
        minutes: "1 minute",
    },
    Module {
        name: "cni",
        files: module_files!("cni"),
        packages: &[
            "github.com/containernetworking/plugins/plugins/main/bridge",
            "github.com/containernetworking/plugins/plugins/main/loopback",
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "github.com/containernetworking/plugins/plugins/meta/portmap",
        ],
        into: "cni",
        minutes: "10 seconds",
    },
    Module {
        name: "coredns",
        files: module_files!("coredns"),
        packages: &["github.com/coredns/coredns"],
        into: "",
        minutes: "2 minutes",
    },
    Module {
        name: "helm",
        files: module_files!("helm"),
        packages: &["helm.sh/helm/v4/cmd/helm"],
        into: "",
        minutes: "2 minutes",
    },
    Module {
        name: "pause",
        files: &[
            ("go.mod", include_str!("../../go/pause/go.mod")),
            ("main.go", include_str!("../../go/pause/main.go")),
        ],
        packages: &["."],
        into: "pause",
        minutes: "1 second",
    },
];

/// The directory of the binaries, which are built first if they are not there. Says what it builds; silent when there is nothing to do.
pub fn ensure() -> Result<PathBuf, ClusterError> {
    let bin = directory()?;
    if bin.join("complete").exists() {
        return Ok(bin);
    }
    if !installed("go") {
        return Err(ClusterError::Unsuitable {
            what: "the cluster's binaries are built with Go, which is not installed".to_owned(),
            remedy: "install Go 1.26 or newer (1.21 or newer fetches that by itself)".to_owned(),
        });
    }
    eprintln!(
        "Building Kubernetes {KUBERNETES}, etcd, containerd, CoreDNS, Helm and CNI plugins into {}:",
        bin.display()
    );
    eprintln!(
        "once for these versions, about 10 minutes on two cores when Go has none of it cached."
    );
    make_dir(&bin.join("cni"))?;
    let start = Instant::now();
    for module in &MODULES {
        build(module, &bin)?;
    }
    remove(&bin.join("source"))?;
    write(&bin.join("complete"), "")?;
    eprintln!(
        "All binaries built in {:.0} s.",
        start.elapsed().as_secs_f32()
    );
    Ok(bin)
}

/// Where binaries of exactly these versions and settings lie.
pub fn directory() -> Result<PathBuf, ClusterError> {
    let mut hash = Sha256::new();
    for module in &MODULES {
        for (name, text) in module.files {
            hash.update(format!("{} {name} {}\n", module.name, text.len()));
            hash.update(text);
        }
        hash.update(format!(
            "{:?} {} {}\n",
            module.packages,
            module.into,
            link_flags(module.name)
        ));
    }
    let key = hex::encode(hash.finalize());
    Ok(cache_root()?
        .join("cluster")
        .join(format!("kubernetes-{KUBERNETES}-{}", &key[..12])))
}

fn build(module: &Module, bin: &std::path::Path) -> Result<(), ClusterError> {
    let mark = bin.join(format!(".built-{}", module.name));
    if mark.exists() {
        return Ok(());
    }
    eprint!("  {:<11} (up to {}) … ", module.name, module.minutes);
    let start = Instant::now();
    let source = bin.join("source").join(module.name);
    make_dir(&source)?;
    for (name, text) in module.files {
        write(&source.join(name), text)?;
    }
    // A directory takes several binaries under their own names; a module with one gets the name that is wanted.
    let target = match (module.packages, module.into) {
        ([_], name) if !name.is_empty() => bin.join(name),
        (_, dir) => bin.join(dir).join(""),
    };
    let mut go = command(
        "go",
        &[
            "build",
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            &link_flags(module.name),
            "-o",
        ],
    );
    go.arg(&target)
        .args(module.packages)
        .current_dir(&source)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "")
        .env("GOWORK", "off");
    run(&mut go)?;
    remove(&source)?;
    write(&mark, "")?;
    eprintln!("{:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// Upstream's own builds write the version in the same way.
fn link_flags(module: &str) -> String {
    match module {
        "kubernetes" => {
            let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
            let mut flags = "-s -w".to_owned();
            for place in [
                "k8s.io/component-base/version",
                "k8s.io/client-go/pkg/version",
            ] {
                let _ = write!(
                    flags,
                    " -X {place}.gitVersion=v{KUBERNETES} -X {place}.gitMajor=1 -X {place}.gitMinor={minor} -X {place}.gitTreeState=clean"
                );
            }
            flags
        }
        "containerd" => {
            format!("-s -w -X github.com/containerd/containerd/v2/version.Version=v{CONTAINERD}")
        }
        _ => "-s -w".to_owned(),
    }
}

/// `kubectl` or `helm`: what the caller's PATH offers, else the one built for the rig.
pub(crate) fn client(program: &str) -> PathBuf {
    let from_path = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path)
            .map(|dir| dir.join(program))
            .find(|file| file.is_file())
    });
    let built = || {
        directory()
            .ok()
            .map(|dir| dir.join(program))
            .filter(|file| fs::metadata(file).is_ok())
    };
    from_path
        .or_else(built)
        .unwrap_or_else(|| PathBuf::from(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_is_shown_is_the_version_that_is_built() {
        let kubernetes = MODULES
            .iter()
            .find(|module| module.name == "kubernetes")
            .unwrap();
        assert!(
            kubernetes.files[0]
                .1
                .contains(&format!("k8s.io/kubernetes v{KUBERNETES}"))
        );
        let staging = format!(
            "k8s.io/api => k8s.io/api v0.{}",
            KUBERNETES.trim_start_matches("1.")
        );
        assert!(kubernetes.files[0].1.contains(&staging));
        let containerd = MODULES
            .iter()
            .find(|module| module.name == "containerd")
            .unwrap();
        assert!(containerd.files[0].1.contains(&format!(
            "github.com/containerd/containerd/v2 v{CONTAINERD}"
        )));
    }

    #[test]
    fn every_package_that_is_built_is_pinned_as_a_tool_of_its_module() {
        for module in MODULES.iter().filter(|module| module.name != "pause") {
            for package in module.packages {
                assert!(
                    module.files[0].1.contains(package),
                    "{package} is not in the go.mod of {}",
                    module.name
                );
            }
        }
    }
}
