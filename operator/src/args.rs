//! The command line.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use jiff::SignedDuration;
use kube::core::Selector;
use modelcache_daemon::log::LogFormat;

use crate::agents::node_selector;
use crate::endpoint::Endpoint;

/// Shorter than this no key and no overlap may be: kubelets need as long to bring a changed Secret to their nodes.
const SHORTEST_KEY: SignedDuration = SignedDuration::from_mins(2);

/// The operator of ModelCache.
#[derive(Debug, Parser)]
#[command(
    name = "modelcache-operator",
    version,
    about = "Plans which nodes of a Kubernetes cluster hold which models, and coordinates who fetches and who gives them.",
    long_about = "Plans which nodes of a Kubernetes cluster hold which models, and coordinates who fetches and who gives \
                  them.\n\nIt reads ModelCaches and Nodes, asks the hub which files a model has, and writes \
                  ModelSnapshots, ModelCacheNodes, volumes, ready labels and statuses. Agents keep a connection to it \
                  and are told what to fetch from the hub and what to take from each other. It holds no state of its \
                  own: it can be killed at any moment and goes on where it was.\n\nUsually it is installed by the Helm \
                  chart; outside a cluster it uses the current context of the kubeconfig.",
    after_help = "Example, against the cluster of the current kubeconfig:\n  \
                  modelcache-operator run --namespace modelcache-system --hub-endpoint https://huggingface.co"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator until it is told to stop (SIGTERM or SIGINT).
    Run(RunArgs),
}

/// Settings of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Base URL of the hub for models whose source names no endpoint, and for access tokens whose Secret names none (annotation
    /// modelcache.io/endpoint): no token is sent anywhere else.
    #[arg(
        long,
        env = "MODELCACHE_HUB_ENDPOINT",
        value_name = "URL",
        default_value = "https://huggingface.co"
    )]
    pub hub_endpoint: Endpoint,

    /// Where agents connect for coordination.
    #[arg(
        long,
        env = "MODELCACHE_COORDINATOR_LISTEN",
        value_name = "IP:PORT",
        default_value = "[::]:9489"
    )]
    pub coordinator_listen: SocketAddr,

    /// Where metrics (/metrics) and probes (/healthz, /readyz) are served.
    #[arg(
        long,
        env = "MODELCACHE_METRICS_LISTEN",
        value_name = "IP:PORT",
        default_value = "[::]:9490"
    )]
    pub metrics_listen: SocketAddr,

    /// Where the HTTP tracker answers (/announce, /scrape), by which agents find each other without a coordinator too, also in
    /// other subnets; absent: nowhere. It serves agents that know the cluster's key, about the snapshots of this cluster.
    #[arg(long, env = "MODELCACHE_TRACKER_LISTEN", value_name = "IP:PORT")]
    pub tracker_listen: Option<SocketAddr>,

    /// Let the tracker serve any BitTorrent client besides, about torrents that are no snapshots of this cluster.
    #[arg(long, env = "MODELCACHE_TRACKER_PUBLIC", requires = "tracker_listen")]
    pub tracker_public: bool,

    /// Service account of the agents, in the operator's namespace; nobody else is let in to coordination.
    #[arg(
        long,
        env = "MODELCACHE_AGENT_SERVICE_ACCOUNT",
        value_name = "NAME",
        default_value = "modelcache-agent"
    )]
    pub agent_service_account: String,

    /// Where agents keep models on their nodes: what volumes show. Must be the same as the agents' --cache-dir.
    #[arg(
        long,
        env = "MODELCACHE_CACHE_DIR",
        value_name = "DIRECTORY",
        default_value = modelcache_crds::names::DEFAULT_CACHE_DIR,
        value_parser = directory
    )]
    pub cache_dir: String,

    /// Labels of the nodes on which agents run, as key=value,key=value: the nodeSelector of their pods. No other node
    /// is asked to hold a model, whatever pools select. Empty: every Linux node. Affinity and taints are not looked at:
    /// where they keep agents away from nodes with these labels, pools must leave those nodes out.
    #[arg(
        long,
        env = "MODELCACHE_AGENT_NODE_SELECTOR",
        value_name = "LABELS",
        default_value = "kubernetes.io/os=linux",
        value_parser = node_selector
    )]
    pub agent_node_selector: Selector,

    /// Secret in the operator's namespace with the cluster's keys, by which agents know each other and the operator.
    /// Made when it is absent, never overwritten.
    #[arg(
        long,
        env = "MODELCACHE_KEY_SECRET",
        value_name = "NAME",
        default_value = modelcache_crds::names::DEFAULT_KEY_SECRET
    )]
    pub key_secret: String,

    /// After what time a key is followed by a new one, for example 720h; absent: only on request, by the annotation
    /// modelcache.io/rotate on the Secret or `kubectl modelcache rotate-secret`.
    #[arg(long, env = "MODELCACHE_KEY_ROTATION", value_name = "TIME", value_parser = duration)]
    pub key_rotation: Option<SignedDuration>,

    /// How long a key stays valid beside the one that follows it: long enough for every kubelet to bring the new one
    /// (a minute or two), and for you to bring it to machines outside of the cluster.
    #[arg(
        long,
        env = "MODELCACHE_KEY_OVERLAP",
        value_name = "TIME",
        default_value = "1h",
        value_parser = duration
    )]
    pub key_overlap: SignedDuration,

    /// The operator's namespace: where Secrets with access tokens and the agents' service account are. Absent: that of
    /// the pod it runs in, or of the current context.
    #[arg(long, env = "MODELCACHE_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// Form of the log.
    #[arg(
        long,
        env = "MODELCACHE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// What to log, as directives; for example `debug`, or `info,modelcache_operator=debug`. The Kubernetes client is silent unless
    /// it is named: `info,kube_client=debug`.
    #[arg(
        long,
        env = "MODELCACHE_LOG",
        value_name = "DIRECTIVES",
        default_value = "info"
    )]
    pub log: String,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    match text.parse() {
        Ok(duration) if duration >= SHORTEST_KEY => Ok(duration),
        _ => Err("write a time of at least 2 minutes, for example 10m or 720h".to_owned()),
    }
}

fn directory(text: &str) -> Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    if trimmed.starts_with('/') {
        Ok(trimmed.to_owned())
    } else {
        Err(format!(
            "write an absolute path below the root, for example {}",
            modelcache_crds::names::DEFAULT_CACHE_DIR
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn where_agents_run_can_be_said_and_left_open() {
        let selector = |arguments: &[&str]| {
            let words = ["modelcache-operator", "run"].iter().chain(arguments);
            let Command::Run(args) = Cli::try_parse_from(words).unwrap().command;
            args.agent_node_selector.to_string()
        };
        assert_eq!(selector(&[]), "kubernetes.io/os=linux");
        assert_eq!(selector(&["--agent-node-selector=b=c,a="]), "a=,b=c");
        // What the chart writes when its value is null.
        assert_eq!(selector(&["--agent-node-selector="]), "");
    }

    #[test]
    fn what_cannot_be_an_endpoint_a_time_or_a_directory_is_refused() {
        for (text, right) in [("http://hub:8080/", true), ("https://user@hub", false)] {
            let words = ["modelcache-operator", "run", "--hub-endpoint", text];
            assert_eq!(Cli::try_parse_from(words).is_ok(), right, "{text}");
        }
        for bad in ["", "5", "119s", "-1h", "1 fortnight"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("720h"), Ok(SignedDuration::from_hours(720)));
        assert_eq!(directory("/var/lib/x/").unwrap(), "/var/lib/x");
        for bad in ["", "/", "var"] {
            assert!(directory(bad).is_err(), "{bad}");
        }
    }
}
