//! The command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use modelcache_daemon::log::LogFormat;
use modelcache_swarm::discovery::named::{NamedPeer, NamedPeerError};
use modelcache_swarm::discovery::service::GROUP;
use modelcache_swarm::link::Mode;
use modelcache_swarm::tracker::client::TrackerUrl;

/// Fills this node's model cache and shares it with the other nodes of the cluster.
///
/// The chart runs it on every node: an init container gives the cache directory to the agent's user ('prepare'), then the
/// agent works without any privilege ('run').
#[derive(Debug, Parser)]
#[command(name = "modelcache-agent", version, max_term_width = 100)]
pub struct Cli {
    /// How log lines look.
    #[arg(
        long,
        global = true,
        env = "MODELCACHE_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text
    )]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Give the cache directory to the agent's user; needs root with the capability CHOWN, and nothing else.
    ///
    /// Changes the owner of the directory itself, makes nothing and touches nothing below it. Example:
    ///
    ///   modelcache-agent prepare --cache-dir /var/lib/modelcache --uid 65532 --gid 65532
    #[command(verbatim_doc_comment)]
    Prepare(PrepareArgs),
    /// Work: hold what this node's ModelCacheNode asks for, and serve it to the other nodes.
    ///
    /// Reads its own ModelCacheNode (named like the node) and the snapshots it names, follows the orders of the
    /// operator's coordinator, writes the status of its own object, and nothing else in the cluster. Each option can be
    /// given by the environment variable that is named with it. `RUST_LOG` chooses what is logged, for example
    /// `RUST_LOG=info,modelcache_agent=debug`. The BitTorrent library stays at `error` and the Kubernetes client silent
    /// unless they are named: `RUST_LOG=info,librqbit=debug,kube_client=debug`.
    ///
    /// See how a node stands: kubectl get modelcachenodes; kubectl describe modelcachenode NODE
    Run(Box<RunArgs>),
    /// Show which nodes and BitTorrent clients announce themselves on this network, whether they can be reached, and why
    /// others are not believed.
    ///
    /// Only listens and announces nothing; other nodes are heard, not the one that it runs on. Agents announce themselves
    /// when they run with --announce, each every 25 to 40 seconds. Example:
    ///
    ///   modelcache-agent peers --key /etc/modelcache/key
    #[command(verbatim_doc_comment)]
    Peers(Box<PeersArgs>),
    /// Test what this node needs, say what is wrong and what to do: the secret, the cache's disk, multicast and broadcast on
    /// the local network, peers dialled both ways, the coordinator, the hub, and the clock.
    ///
    /// It works beside the agent of the node and without one. In a pod of the chart it knows the agent's settings by its
    /// environment; options take their place. The exit status is 1 when a check fails. Examples:
    ///
    ///   kubectl exec -n modelcache-system ds/modelcache-agent -- modelcache-agent doctor
    ///   modelcache-agent doctor --key /etc/modelcache/key --peer 10.0.0.7:9492 -o json
    #[command(verbatim_doc_comment)]
    Doctor(Box<DoctorArgs>),
}

/// Options of `prepare`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// Root of the cache; must exist (hostPath of type `DirectoryOrCreate`).
    #[arg(
        long,
        env = "MODELCACHE_CACHE_DIR",
        default_value = "/var/lib/modelcache"
    )]
    pub cache_dir: PathBuf,
    /// User that the agent runs as.
    #[arg(long, env = "MODELCACHE_UID", default_value_t = 65532)]
    pub uid: u32,
    /// Group that the agent runs as.
    #[arg(long, env = "MODELCACHE_GID", default_value_t = 65532)]
    pub gid: u32,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of this node; its ModelCacheNode bears the same (from fieldRef spec.nodeName).
    #[arg(long, env = "MODELCACHE_NODE_NAME")]
    pub node_name: String,
    /// Address under which other nodes reach this one (from fieldRef status.hostIP).
    #[arg(long, env = "MODELCACHE_NODE_IP")]
    pub node_ip: IpAddr,
    /// Root of the cache; must belong to the user that the agent runs as (see 'prepare').
    #[arg(
        long,
        env = "MODELCACHE_CACHE_DIR",
        default_value = "/var/lib/modelcache"
    )]
    pub cache_dir: PathBuf,
    /// The operator's coordinator, as ws://host:port (the path /v1/coordinate is added when there is none).
    #[arg(long, env = "MODELCACHE_COORDINATOR", value_name = "URL")]
    pub coordinator: String,
    /// Service account token for the coordinator, projected with the audience modelcache.io/coordinator.
    #[arg(
        long,
        env = "MODELCACHE_TOKEN_FILE",
        default_value = "/var/run/secrets/modelcache/token"
    )]
    pub token_file: PathBuf,
    /// How members of the cluster know each other.
    #[command(flatten)]
    pub key: KeyArgs,
    /// How bytes travel between nodes. Members always prove to each other that they have the cluster's secret.
    #[arg(
        long,
        env = "MODELCACHE_PEER_LINKS",
        value_enum,
        default_value_t = PeerLinks::Encrypted
    )]
    pub peer_links: PeerLinks,
    /// Port on which other nodes take segments from this one.
    #[arg(long, env = "MODELCACHE_PEER_PORT", default_value_t = 9492)]
    pub peer_port: u16,
    /// Where other nodes listen, as HOST:PORT, for times without a coordinator; HOST may be a DNS name that stands for many,
    /// such as that of the agents' headless Service. Resolved every minute. May be given several times.
    #[arg(
        long,
        env = "MODELCACHE_PEERS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub peer: Vec<NamedPeer>,
    /// What machines that are no nodes may take.
    #[command(flatten)]
    pub plain: PlainArgs,
    /// Announce this node on the local network, signed with the cluster's secret, and hear the others; needs the node's
    /// own network (hostNetwork), because pod networks carry no multicast.
    #[arg(long, env = "MODELCACHE_ANNOUNCE")]
    pub announce: bool,
    /// How the local network is used.
    #[command(flatten)]
    pub lan: LanArgs,
    /// The operator's tracker, as http://host:port (the path /announce is added when there is none): tells it what this node
    /// has and wants, and learns from it who else does.
    #[arg(long, env = "MODELCACHE_TRACKER", value_name = "URL")]
    pub tracker: Option<TrackerUrl>,
    /// Where metrics (/metrics) and probes (/healthz, /readyz) are served.
    #[arg(
        long,
        env = "MODELCACHE_METRICS_LISTEN",
        default_value = "0.0.0.0:9491"
    )]
    pub metrics_listen: SocketAddr,
}

/// What machines that are no nodes of the cluster may take, and who is told.
#[derive(Clone, Debug, Args)]
pub struct PlainArgs {
    /// Port on which BitTorrent clients that are no nodes of the cluster take files, unencrypted, of models whose ModelCache
    /// allows it and that the hub gives to everybody. 0: none. Their magnet links are shown at /torrents beside the metrics.
    #[arg(long, env = "MODELCACHE_PLAIN_PORT", default_value_t = 0)]
    pub plain_port: u16,
    /// Tell machines that run hali on the local network which GGUF files they can take from the plain port, and take from them
    /// files of public models that neither the hub nor a node gives: a file with hali's own secret that only this user may
    /// read (64 hex digits; 'lan.secret' in hali's data directory), or the directory where a Secret with the entry lan.secret is
    /// mounted. Read at the start only. Needs --announce and --plain-port.
    #[arg(long, env = "MODELCACHE_HALI_SECRET_FILE", value_name = "PATH")]
    pub hali_secret_file: Option<PathBuf>,
    /// How the DHT is used.
    #[command(flatten)]
    pub dht: DhtArgs,
}

/// How the DHT is used.
#[derive(Clone, Debug, Args)]
pub struct DhtArgs {
    /// UDP port of a node of the DHT (BEP 5) that announces files at the plain port, of models whose ModelCache allows that
    /// too. It runs only while there are such. IPv4 only. 0: none.
    #[arg(long, env = "MODELCACHE_DHT_PORT", default_value_t = 0)]
    pub dht_port: u16,
    /// Nodes of the DHT that are asked first, as HOST:PORT with commas between; empty: none, so that files are announced
    /// only to nodes that come by themselves.
    #[arg(
        long,
        env = "MODELCACHE_DHT_BOOTSTRAP",
        value_name = "HOST:PORT",
        default_value = DHT_BOOTSTRAP
    )]
    pub dht_bootstrap: Bootstrap,
}

/// The public DHT's well-known nodes.
const DHT_BOOTSTRAP: &str =
    "router.bittorrent.com:6881,dht.transmissionbt.com:6881,dht.libtorrent.org:25401";

/// Any number of nodes of the DHT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bootstrap(pub Vec<NamedPeer>);

impl FromStr for Bootstrap {
    type Err = NamedPeerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text.split(',').filter(|part| !part.is_empty());
        named.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Where the cluster's secret is.
#[derive(Clone, Debug, Args)]
pub struct KeyArgs {
    /// The cluster's secret: the directory where the Secret is mounted (files 'current' and, for a while, 'previous'), or
    /// a file with one key that only this user may read. Changes are followed.
    #[arg(
        long,
        env = "MODELCACHE_KEY",
        value_name = "PATH",
        default_value = "/var/run/secrets/modelcache-key"
    )]
    pub key: PathBuf,
}

/// How bytes travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeerLinks {
    /// Encrypted; whoever asks for less is refused.
    Encrypted,
    /// As they are, after both ends have proved to be members: for networks in which nobody can listen or interfere.
    Authenticated,
}

impl From<PeerLinks> for Mode {
    fn from(links: PeerLinks) -> Self {
        match links {
            PeerLinks::Encrypted => Self::Encrypted,
            PeerLinks::Authenticated => Self::Authenticated,
        }
    }
}

/// Options of `peers`.
#[derive(Debug, Args)]
pub struct PeersArgs {
    /// How members of the cluster know each other.
    #[command(flatten)]
    pub key: KeyArgs,
    /// How many seconds to listen. The default hears every node that is there.
    #[arg(long, default_value_t = 55, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// How the local network is used.
    #[command(flatten)]
    pub lan: LanArgs,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// How members of the cluster know each other.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Root of the cache; files are written below it and removed again, beside an agent that uses it.
    #[arg(
        long,
        env = "MODELCACHE_CACHE_DIR",
        default_value = "/var/lib/modelcache"
    )]
    pub cache_dir: PathBuf,
    /// Address of this node; only its family counts, and where its own agent is dialled.
    #[arg(long, env = "MODELCACHE_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// Port on which other nodes take segments from this one.
    #[arg(long, env = "MODELCACHE_PEER_PORT", default_value_t = 9492)]
    pub peer_port: u16,
    /// How bytes travel between nodes; the same on all nodes.
    #[arg(
        long,
        env = "MODELCACHE_PEER_LINKS",
        value_enum,
        default_value_t = PeerLinks::Encrypted
    )]
    pub peer_links: PeerLinks,
    /// A node to dial, beside those that announce themselves; HOST may be a DNS name that stands for many. May be given
    /// several times.
    #[arg(
        long,
        env = "MODELCACHE_PEERS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub peer: Vec<NamedPeer>,
    /// The operator's coordinator, as ws://host:port.
    #[arg(long, env = "MODELCACHE_COORDINATOR", value_name = "URL")]
    pub coordinator: Option<String>,
    /// The operator's tracker, as http://host:port; absent: not looked at.
    #[arg(long, env = "MODELCACHE_TRACKER", value_name = "URL")]
    pub tracker: Option<TrackerUrl>,
    /// The hub's endpoint, as ModelCaches name it.
    #[arg(long, env = "MODELCACHE_HUB_ENDPOINT", value_name = "URL")]
    pub hub: Option<String>,
    /// File with certificate authorities that the hub's certificate may be signed by, beside the system's (PEM).
    #[arg(long, value_name = "FILE")]
    pub hub_ca: Option<PathBuf>,
    /// How many seconds to listen on the local network. The default hears every node that is there.
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// How the local network is used.
    #[command(flatten)]
    pub lan: LanArgs,
    /// How findings are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// How the local network is used; the same on all nodes.
#[derive(Clone, Debug, Args)]
pub struct LanArgs {
    /// Multicast group of the announcements.
    #[arg(long, env = "MODELCACHE_LAN_GROUP", default_value_t = GROUP.v4)]
    pub lan_group: Ipv4Addr,
    /// Multicast group of the announcements by IPv6.
    #[arg(long, env = "MODELCACHE_LAN_GROUP_V6", default_value_t = GROUP.v6)]
    pub lan_group_v6: Ipv6Addr,
    /// UDP port of the announcements.
    #[arg(long, env = "MODELCACHE_LAN_PORT", default_value_t = GROUP.port)]
    pub lan_port: u16,
    /// How far announcements travel: 1 stays on the link, each more crosses one router that forwards multicast.
    #[arg(long, env = "MODELCACHE_LAN_TTL", default_value_t = GROUP.ttl)]
    pub lan_ttl: u8,
    /// Only on interfaces with these names (patterns such as 'eth*'); default: all but virtual ones.
    #[arg(
        long,
        env = "MODELCACHE_LAN_INTERFACES",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub lan_interfaces: Vec<String>,
    /// Never on interfaces with these names.
    #[arg(
        long,
        env = "MODELCACHE_LAN_EXCLUDE",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub lan_exclude: Vec<String>,
}

/// The coordinator's address with its path.
#[must_use]
pub fn coordinator_url(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    if rest.trim_end_matches('/').contains('/') {
        text.to_owned()
    } else {
        format!("{}/v1/coordinate", text.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_teaches() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        let run = command.find_subcommand_mut("run").unwrap();
        let help = run.render_long_help().to_string();
        for word in [
            "--node-name",
            "MODELCACHE_NODE_IP",
            "--metrics-listen",
            "kubectl describe",
            "9492",
        ] {
            assert!(help.contains(word), "{word}\n{help}");
        }
    }

    #[test]
    fn the_first_nodes_of_the_dht_may_be_many_or_none() {
        let parse = |text: &str| text.parse::<Bootstrap>();
        assert_eq!(parse(DHT_BOOTSTRAP).map(|nodes| nodes.0.len()), Ok(3));
        assert_eq!(parse(""), Ok(Bootstrap::default()));
        let one = "10.0.0.1:6881".parse().unwrap();
        assert_eq!(parse("10.0.0.1:6881,"), Ok(Bootstrap(vec![one])));
        assert!(parse("10.0.0.1:6881,dht").is_err());
    }

    #[test]
    fn doctor_and_peers_take_from_the_environment_what_run_does() {
        let command = Cli::command();
        let variables = |name: &str| -> std::collections::BTreeMap<_, _> {
            let options = command.find_subcommand(name).unwrap().get_arguments();
            options
                .map(|option| (option.get_id().clone(), option.get_env()))
                .collect()
        };
        let run = variables("run");
        for name in ["doctor", "peers"] {
            let common = variables(name);
            let common = common.iter().filter(|(id, _)| run.contains_key(*id));
            for (id, variable) in common {
                assert!(variable.is_some(), "{name}: {id}");
                assert_eq!(run[id], *variable, "{name}: {id}");
            }
        }
    }

    #[test]
    fn the_path_of_the_coordinator_is_added_when_there_is_none() {
        let whole = "ws://operator:9489/v1/coordinate";
        for text in ["ws://operator:9489", "ws://operator:9489/", whole] {
            assert_eq!(coordinator_url(text), whole);
        }
    }
}
