//! The project's own cluster: real upstream Kubernetes on one Linux machine, every node in namespaces of its own.
//!
//! * `paths`: where things lie and what they are called · `requirements`: what the machine must offer · `binaries`: built from Go modules
//! * `pki`, `control_plane`, `node`, `network`, `cgroups`, `images`: the parts of a cluster, one each
//! * `processes`: what was started, so that nothing else is ever ended
//!
//! [`Rig`] puts them together. Everything that nodes need at run time is copied to the state directory; the checkout may go away.

pub mod binaries;
mod cgroups;
mod control_plane;
mod images;
mod network;
mod node;
mod paths;
mod pki;
mod processes;
mod requirements;

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use paths::{NodeId, Paths, RIG_VARIABLE, cache_root};

use crate::ClusterError;
use crate::run::{make_dir, output, remove, run, wait, write};

/// Sysctls of the whole machine that kubelets change; `down` sets them back.
const SYSCTLS: [&str; 5] = [
    "vm.overcommit_memory",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
];

/// Programs of nodes, written to the state directory.
const SCRIPTS: [(&str, &str); 4] = [
    ("launch.sh", include_str!("../../node/launch.sh")),
    ("node-init.sh", include_str!("../../node/node-init.sh")),
    ("kubelet.sh", include_str!("../../node/kubelet.sh")),
    (
        "import-images.sh",
        include_str!("../../node/import-images.sh"),
    ),
];

/// One cluster on this machine, up or down.
#[derive(Clone, Debug)]
pub struct Rig {
    paths: Paths,
}

/// How a node is doing.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Which node.
    pub node: NodeId,
    /// Whether it has power.
    pub power: bool,
}

impl Rig {
    /// The rig of this user, or the one that `exec` put into the environment.
    pub fn find() -> Result<Rig, ClusterError> {
        let state = match env::var_os(RIG_VARIABLE)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
        {
            Some(state) => state,
            None => cache_root()?.join("cluster/state"),
        };
        Ok(Rig {
            paths: Paths::new(state)?,
        })
    }

    /// Where its things lie.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Brings up nodes 1 to `nodes` and waits until pods can run; `say` is told what has happened.
    pub fn up(&self, nodes: u8, say: &dyn Fn(&str)) -> Result<(), ClusterError> {
        let nodes: Vec<NodeId> = NodeId::all().take(usize::from(nodes)).collect();
        let paths = &self.paths;
        make_dir(paths.state())?;
        let _lock = self.lock()?;
        requirements::check(paths)?;
        if self.is_up() {
            return Err(ClusterError::AlreadyUp);
        }
        // Whatever an earlier run left behind when it was ended half way.
        self.clean()?;
        self.install(&binaries::ensure()?)?;
        let result = self.start(&nodes, say);
        if result.is_err() {
            // Logs stay for whoever looks for the cause; everything else would only be in the way.
            self.clean()?;
        }
        result
    }

    fn start(&self, nodes: &[NodeId], say: &dyn Fn(&str)) -> Result<(), ClusterError> {
        let paths = &self.paths;
        let start = Instant::now();
        let told = |what: &str| say(&format!("{:5.1} s  {what}", start.elapsed().as_secs_f32()));
        self.save_sysctls()?;
        images::ensure_own(paths)?;
        images::update_template(paths)?;
        pki::control_plane(paths)?;
        told("images and certificates");
        network::create_control(paths)?;
        control_plane::start_etcd(paths)?;
        control_plane::start_api_server(paths)?;
        // While the API server starts, the nodes boot as far as they can without it.
        for node in nodes {
            node::create(paths, *node)?;
            node::boot(paths, *node)?;
        }
        told("etcd, API server and nodes started");
        control_plane::wait_for_api_server(paths)?;
        write(&paths.run().join("api-ready"), "")?;
        control_plane::start_controllers(paths)?;
        told("API server ready");
        self.wait_ready(nodes)?;
        told(&format!("{} nodes Ready", nodes.len()));
        let log = paths.log().join("kube-controller-manager.log");
        wait(
            "the default service account",
            Duration::from_mins(1),
            &log,
            || {
                output(control_plane::kubectl(paths).args(["get", "serviceaccount", "default"]))
                    .is_ok_and(|answer| answer.status.success())
            },
        )?;
        write(&paths.run().join("up"), "")?;
        told("pods can run");
        Ok(())
    }

    /// Ends everything of this rig; fine when nothing runs. With `wipe` node disks and images go too.
    pub fn down(&self, wipe: bool) -> Result<usize, ClusterError> {
        if !self.paths.state().exists() {
            return Ok(0);
        }
        let _lock = self.lock()?;
        let ended = self.clean()?;
        if wipe {
            for part in ["images", "template", "log", "pki", "kubeconfig", "conf"] {
                remove(&self.paths.state().join(part))?;
            }
        }
        Ok(ended)
    }

    fn clean(&self) -> Result<usize, ClusterError> {
        let paths = &self.paths;
        let ended = processes::kill_all(&paths.run(), &paths.log())?;
        network::remove_all(paths)?;
        cgroups::remove_all(paths);
        self.restore_sysctls();
        for part in ["run", "etcd", "nodes", "image"] {
            remove(&paths.state().join(part))?;
        }
        Ok(ended)
    }

    /// Whether the cluster is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let record = processes::Daemon::record(&self.paths.run(), "etcd");
        self.paths.run().join("up").exists()
            && processes::Process::read(&record).is_some_and(processes::Process::alive)
    }

    fn require_up(&self) -> Result<(), ClusterError> {
        if self.is_up() {
            Ok(())
        } else {
            Err(ClusterError::NotUp)
        }
    }

    /// Writes everything that runs into the state directory.
    fn install(&self, bin: &Path) -> Result<(), ClusterError> {
        let paths = &self.paths;
        for dir in [paths.run(), paths.log(), paths.conf(), paths.images()] {
            make_dir(&dir)?;
        }
        // Logs are appended to, so that a boot does not hide what led to the power cut; each `up` begins anew.
        remove(&paths.log())?;
        make_dir(&paths.log())?;
        remove(&paths.bin())?;
        std::os::unix::fs::symlink(bin, paths.bin())
            .map_err(ClusterError::io("link", &paths.bin()))?;
        for (name, text) in SCRIPTS {
            let path = paths.conf().join(name);
            write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .map_err(ClusterError::io("make executable", &path))?;
        }
        write(&paths.conf().join("resolv.conf"), "")?;
        let runc =
            run(Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin:/sbin command -v runc"]))?;
        let containerd = include_str!("../../node/containerd.toml");
        let containerd = containerd
            .replace("@RUNC@", runc.trim())
            .replace("@BIN@", &paths.bin().display().to_string());
        write(&paths.conf().join("containerd.toml"), containerd)
    }

    /// One change at a time; the lock goes away with its holder.
    fn lock(&self) -> Result<File, ClusterError> {
        let path = self.paths.state().join("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(ClusterError::io("open", &path))?;
        file.lock().map_err(ClusterError::io("lock", &path))?;
        Ok(file)
    }

    fn save_sysctls(&self) -> Result<(), ClusterError> {
        let values: Vec<String> = SYSCTLS
            .iter()
            .filter_map(|name| {
                Some(format!(
                    "{name}={}",
                    fs::read_to_string(sysctl(name)).ok()?.trim()
                ))
            })
            .collect();
        write(&self.paths.state().join("sysctls"), values.join("\n"))
    }

    fn restore_sysctls(&self) {
        let saved = self.paths.state().join("sysctls");
        for line in fs::read_to_string(&saved).unwrap_or_default().lines() {
            if let Some((name, value)) = line.split_once('=') {
                let _ = fs::write(sysctl(name), value);
            }
        }
        let _ = fs::remove_file(saved);
    }

    /// Waits until all these nodes are Ready.
    pub fn wait_ready(&self, nodes: &[NodeId]) -> Result<(), ClusterError> {
        let names = nodes
            .iter()
            .map(|node| format!("node/{node}"))
            .collect::<Vec<_>>()
            .join(" ");
        let format = "jsonpath={range .items[?(@.status.conditions[-1].status==\"True\")]}node/{.metadata.name} {end}";
        wait(
            &format!("Ready on {names}"),
            Duration::from_mins(2),
            &self.paths.log(),
            || {
                let answer = output(
                    control_plane::kubectl(&self.paths).args(["get", "nodes", "-o", format]),
                );
                let ready = answer
                    .map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned())
                    .unwrap_or_default();
                names
                    .split(' ')
                    .all(|name| ready.split(' ').any(|other| other == name))
            },
        )
    }

    /// All nodes of the cluster, with and without power.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let exists = NodeId::all().filter(|node| node::exists(&self.paths, *node));
        exists
            .map(|node| NodeStatus {
                node,
                power: node::process(&self.paths, node).is_some(),
            })
            .collect()
    }

    /// Gives a node power; one that was not part of the cluster joins it.
    pub fn boot(&self, node: NodeId) -> Result<(), ClusterError> {
        let _lock = self.lock()?;
        self.require_up()?;
        if node::process(&self.paths, node).is_some() {
            return Err(ClusterError::NodeUp {
                node: node.to_string(),
            });
        }
        if !node::exists(&self.paths, node) {
            node::create(&self.paths, node)?;
        }
        node::boot(&self.paths, node)
    }

    /// Takes a node out of the cluster for good, with its disk and its Node object.
    pub fn remove_node(&self, node: NodeId) -> Result<(), ClusterError> {
        let _lock = self.lock()?;
        self.require_node(node)?;
        node::remove(&self.paths, node)?;
        run(control_plane::kubectl(&self.paths).args([
            "delete",
            "node",
            &node.to_string(),
            "--ignore-not-found",
        ]))
        .map(drop)
    }

    /// Takes a node's power away.
    pub fn power_cut(&self, node: NodeId) -> Result<(), ClusterError> {
        self.require_up()?;
        node::power_cut(&self.paths, node)
    }

    /// Pulls a node's cable out (`plugged` false) or puts it back.
    pub fn plug(&self, node: NodeId, plugged: bool) -> Result<(), ClusterError> {
        self.require_node(node)?;
        network::plug(&self.paths, node, plugged)
    }

    /// A command that writes what passes a node's cable, until it is interrupted.
    pub fn capture_command(&self, node: NodeId) -> Result<Command, ClusterError> {
        self.require_node(node)?;
        Ok(network::capture(&self.paths, node))
    }

    /// Lets nothing pass between two nodes.
    pub fn partition(&self, one: NodeId, other: NodeId) -> Result<(), ClusterError> {
        self.require_node(one)?;
        self.require_node(other)?;
        network::partition(&self.paths, one, other)
    }

    /// Ends all partitions.
    pub fn heal(&self) -> Result<(), ClusterError> {
        self.require_up()?;
        network::heal(&self.paths)
    }

    /// Limits what a node can send and receive, for example `20mbit`; `None` lifts the limit.
    pub fn shape(&self, node: NodeId, rate: Option<&str>) -> Result<(), ClusterError> {
        self.require_node(node)?;
        network::shape(&self.paths, node, rate)
    }

    fn require_node(&self, node: NodeId) -> Result<(), ClusterError> {
        self.require_up()?;
        if node::exists(&self.paths, node) {
            Ok(())
        } else {
            Err(ClusterError::NoSuchNode {
                name: node.to_string(),
            })
        }
    }

    /// Ends the API server as a crash would.
    pub fn stop_api_server(&self) -> Result<(), ClusterError> {
        self.require_up()?;
        control_plane::stop_api_server(&self.paths)
    }

    /// Starts the API server again and waits until it answers.
    pub fn start_api_server(&self) -> Result<(), ClusterError> {
        self.require_up()?;
        let record = processes::Daemon::record(&self.paths.run(), control_plane::API_SERVER);
        if !processes::Process::read(&record).is_some_and(processes::Process::alive) {
            control_plane::start_api_server(&self.paths)?;
        }
        control_plane::wait_for_api_server(&self.paths)
    }

    /// Gives images to all nodes, now and at later boots. Returns their names.
    pub fn load_images(&self, archives: &[PathBuf]) -> Result<Vec<String>, ClusterError> {
        make_dir(self.paths.state())?;
        let _lock = self.lock()?;
        images::load(&self.paths, archives)
    }

    /// Forgets an image: nodes that are made later do not get it.
    pub fn forget_image(&self, reference: &str) -> Result<(), ClusterError> {
        let _lock = self.lock()?;
        images::forget(&self.paths, reference)
    }

    /// A command inside a node.
    pub fn node_command(&self, node: NodeId, words: &[&str]) -> Result<Command, ClusterError> {
        self.require_node(node)?;
        node::inside(&self.paths, node, words)
    }

    /// Where a path of a node lies outside of it.
    pub fn node_path(&self, node: NodeId, path: &Path) -> Result<PathBuf, ClusterError> {
        node::outside(&self.paths, node, path)
    }

    /// A command beside the control plane: it reaches the API server, all nodes and all pods, and finds `kubectl`, `helm` and the cluster.
    pub fn control_command(&self, words: &[&str]) -> Result<Command, ClusterError> {
        self.require_up()?;
        let mut command = network::inside(&self.paths.control_namespace(), words);
        let path = env::var("PATH").unwrap_or_default();
        command.env(
            "PATH",
            format!("{}:{path}:/usr/sbin:/sbin", self.paths.bin().display()),
        );
        command
            .env("KUBECONFIG", self.paths.kubeconfig("admin"))
            .env(RIG_VARIABLE, self.paths.state());
        Ok(command)
    }
}

fn sysctl(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}
