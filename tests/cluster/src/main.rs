//! `modelcache-cluster`: the test cluster for people. `--help` shows how it is used.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use modelcache_test_cluster::ClusterError;
use modelcache_test_cluster::rig::{NodeId, Rig, binaries};

const EXAMPLES: &str = "\
A first walk:
  cluster up                          three nodes, usable after some ten seconds (the first time builds Kubernetes: ten minutes)
  cluster kubectl get nodes -o wide
  cluster load-image FILE.tar         an OCI archive or the output of `docker save`; there is no registry
  cluster exec -- ./a-test            runs beside the control plane, with KUBECONFIG set: reaches API server, nodes and pods
  cluster power-cut node-2            everything on the node ends at once; `boot node-2` starts it, its disk is kept
  cluster boot 4                      a node that the cluster did not have joins it
  cluster shape node-1 20mbit         limits the node's cable both ways; `shape node-1 off` lifts it
  cluster down                        ends all of it

Nodes are node-1 to node-9, or just their number. Their addresses are 10.77.0.11 to 10.77.0.19; the control plane and everything
that `exec` runs is 10.77.0.1, which pods also know under any name below modelcache.test.
Nothing reaches the machine's own network, and nothing from there reaches the cluster.";

/// A real Kubernetes cluster on this machine: every node has its own kubelet, containerd, network, processes and disk. Needs root.
#[derive(Parser)]
#[command(name = "cluster", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build the cluster's binaries if these versions are not there yet, and print where they are
    Build,
    /// Start a cluster with fresh disks
    Up {
        /// How many nodes, 1 to 9
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
    },
    /// End the cluster; fine when there is none
    Down {
        /// Also forget loaded images, certificates and logs
        #[arg(long)]
        wipe: bool,
    },
    /// Show nodes and where things are
    Status,
    /// Run kubectl as administrator
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl gets
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run helm as administrator
    #[command(disable_help_flag = true)]
    Helm {
        /// What helm gets
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run a command beside the control plane, with KUBECONFIG set
    Exec {
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Run a command inside a node
    On {
        /// The node
        node: String,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Take a node's power away
    PowerCut {
        /// The node
        node: String,
    },
    /// Give a node power, or add one
    Boot {
        /// The node
        node: String,
    },
    /// Take a node out of the cluster for good, with its disk
    Remove {
        /// The node
        node: String,
    },
    /// Pull a node's network cable out
    Cut {
        /// The node
        node: String,
    },
    /// Put a node's network cable back
    Join {
        /// The node
        node: String,
    },
    /// Let nothing pass between two nodes
    Partition {
        /// One node
        one: String,
        /// The other
        other: String,
    },
    /// End all partitions
    Heal,
    /// Limit a node's bandwidth both ways
    Shape {
        /// The node
        node: String,
        /// For example 20mbit or 1gbit; off lifts the limit
        rate: String,
    },
    /// End the API server as a crash would
    StopApi,
    /// Start the API server again
    StartApi,
    /// Give images to all nodes, now and at later boots
    LoadImage {
        /// OCI archives, or what `docker save` writes
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Forget an image: nodes that are made later do not get it
    ForgetImage {
        /// For example modelcache.local/agent:dev
        name: String,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse().action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<(), ClusterError> {
    let rig = Rig::find()?;
    let node = |name: String| NodeId::parse(&name);
    match action {
        Action::Build => println!("{}", binaries::ensure()?.display()),
        Action::Up { nodes } => {
            rig.up(nodes, &|line| println!("{line}"))?;
            println!("Next: tests/cluster/cluster kubectl get nodes -o wide");
        }
        Action::Down { wipe } => println!(
            "{} processes ended, nothing of the cluster is left running.",
            rig.down(wipe)?
        ),
        Action::Status => status(&rig),
        Action::Kubectl { words } => become_command(control(&rig, "kubectl", &words)?)?,
        Action::Helm { words } => become_command(control(&rig, "helm", &words)?)?,
        Action::Exec { words } => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            become_command(rig.control_command(&words)?)?;
        }
        Action::On { node: name, words } => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            become_command(rig.node_command(node(name)?, &words)?)?;
        }
        Action::PowerCut { node: name } => rig.power_cut(node(name)?)?,
        Action::Boot { node: name } => rig.boot(node(name)?)?,
        Action::Remove { node: name } => rig.remove_node(node(name)?)?,
        Action::Cut { node: name } => rig.plug(node(name)?, false)?,
        Action::Join { node: name } => rig.plug(node(name)?, true)?,
        Action::Partition { one, other } => rig.partition(node(one)?, node(other)?)?,
        Action::Heal => rig.heal()?,
        Action::Shape { node: name, rate } => {
            rig.shape(node(name)?, (rate != "off").then_some(rate.as_str()))?;
        }
        Action::StopApi => rig.stop_api_server()?,
        Action::StartApi => rig.start_api_server()?,
        Action::ForgetImage { name } => rig.forget_image(&name)?,
        Action::LoadImage { files } => {
            for name in rig.load_images(&files)? {
                println!("{name}");
            }
        }
    }
    Ok(())
}

fn control(rig: &Rig, program: &str, words: &[String]) -> Result<Command, ClusterError> {
    let program = rig.paths().bin().join(program).display().to_string();
    let words: Vec<&str> = std::iter::once(program.as_str())
        .chain(words.iter().map(String::as_str))
        .collect();
    rig.control_command(&words)
}

/// Goes on as the command: its input, output, signals and exit code are the caller's.
fn become_command(mut command: Command) -> Result<(), ClusterError> {
    let source = command.exec();
    Err(ClusterError::Start {
        command: command.get_program().to_string_lossy().into_owned(),
        source,
    })
}

fn status(rig: &Rig) {
    let paths = rig.paths();
    println!("cluster     {}", if rig.is_up() { "up" } else { "down" });
    for status in rig.nodes() {
        println!(
            "{:<11} {:<10} {}",
            status.node.to_string(),
            if status.power { "running" } else { "no power" },
            status.node.address()
        );
    }
    println!(
        "kubeconfig  {} (works inside `cluster exec`)",
        paths.kubeconfig("admin").display()
    );
    println!("logs        {}", paths.log().display());
    println!("state       {}", paths.state().display());
}
