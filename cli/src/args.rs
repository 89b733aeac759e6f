//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// How the models of ModelCaches stand on the nodes of a cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-modelcache",
    bin_name = "kubectl modelcache",
    version,
    max_term_width = 100,
    after_help = "Exit codes:\n  \
        0  done; with watch and wait: the ModelCache is Ready\n  \
        1  the cluster could not be asked\n  \
        2  wrong arguments\n  \
        3  the ModelCache does not get on by itself: it failed, or is suspended\n  \
        4  the time was up\n  \
        5  there is no such ModelCache\n\n\
        Examples:\n  \
        kubectl modelcache status                      everything at a glance\n  \
        kubectl modelcache watch minilm                live, until it is Ready or failed\n  \
        kubectl modelcache wait minilm --timeout 10m   in scripts\n  \
        kubectl modelcache status minilm -o json       for programs\n  \
        kubectl modelcache rotate-secret               a new key for the cluster"
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How the cluster is reached.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// How the cluster is reached.
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    /// File to read instead of $KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context to use instead of the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how things stand: per model and node the phase, how much is there, from where it came, and why it does not get on.
    Status(StatusArgs),
    /// Show live how a ModelCache comes, until it is Ready or failed.
    ///
    /// On a terminal the picture is drawn anew at each change; elsewhere a line is printed for each step of a node.
    Watch(WatchArgs),
    /// Wait without a word until a ModelCache is Ready, failed, or the time is up; the exit code tells which.
    Wait(WaitArgs),
    /// Ask the operator for a new key, by which agents know each other and the operator.
    ///
    /// Sets an annotation on the Secret; the operator follows within seconds. The old key stays valid beside the new one
    /// for a while (the chart's key.overlap), so that nothing restarts and no transfer is dropped. Asked again within that
    /// time, the next key comes after it.
    RotateSecret(RotateArgs),
}

/// Arguments of `rotate-secret`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Namespace of the operator.
    #[arg(short, long, default_value = "modelcache-system")]
    pub namespace: String,
    /// Name of the Secret.
    #[arg(long, value_name = "NAME", default_value = modelcache_crds::names::DEFAULT_KEY_SECRET)]
    pub secret: String,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Name of the ModelCache; without it, all.
    pub name: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Go on at each change, until interrupted.
    #[arg(short, long)]
    pub watch: bool,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Name of the ModelCache.
    pub name: String,
    /// Form of the output; json prints an object a line at each change.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Name of the ModelCache; need not exist yet.
    pub name: String,
    /// How long to wait, for example 90s, 10m or 2h; without it, for ever.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Reads `90s`, `10m`, `2h` or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let error = || "write a number and s, m or h, for example 90s, 10m or 2h".to_owned();
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| error())?;
    let seconds = match unit {
        "" | "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    seconds.map(Duration::from_secs).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_teaches() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for word in [
            "status",
            "watch",
            "wait",
            "rotate-secret",
            "Exit codes",
            "kubectl modelcache watch minilm",
        ] {
            assert!(help.contains(word), "{word}\n{help}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        for bad in [
            "",
            "m",
            "1d",
            "-1s",
            "1.5m",
            "99999999999999999999h",
            "9999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
