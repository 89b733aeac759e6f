//! What is logged, and how.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

pub use tracing_subscriber::filter::ParseError;

/// What libraries say too loudly for any level that is asked for in general. What librqbit (and the crates whose names
/// begin with it) warns of, peers that went, is in our reports of takes; what the Kubernetes client calls an error is in
/// our warnings, and is tried again. A directive for the same target replaces these.
const QUIET: &str = "librqbit=error,kube_client=off";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The filter that directives mean, for example `info,modelcache_agent=debug`; the usual one if there are none.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    match directives.trim() {
        "" => Ok(usual_filter()),
        // Of two directives for one target the later one counts.
        some => EnvFilter::try_new(format!("{QUIET},{some}")),
    }
}

/// The same; of directives that mean nothing what is wrong with them, and the usual filter in their place.
#[must_use]
pub fn filter_or_usual(directives: &str) -> (EnvFilter, Option<ParseError>) {
    match filter(directives) {
        Ok(filter) => (filter, None),
        Err(problem) => (usual_filter(), Some(problem)),
    }
}

/// What is logged when nobody says anything.
fn usual_filter() -> EnvFilter {
    EnvFilter::new(format!("{QUIET},info"))
}

/// Begins to log to the standard error.
pub fn start(filter: EnvFilter, format: LogFormat) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(directives: &str) -> Vec<String> {
        let text = filter(directives).unwrap().to_string();
        let mut directives: Vec<String> = text.split(',').map(str::to_owned).collect();
        directives.sort();
        directives
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_asked_for() {
        for usual in ["", " ", "info"] {
            assert_eq!(
                meant(usual),
                ["info", "kube_client=off", "librqbit=error"],
                "{usual:?}"
            );
        }
        assert_eq!(
            meant("warn,modelcache_agent=debug"),
            [
                "kube_client=off",
                "librqbit=error",
                "modelcache_agent=debug",
                "warn"
            ]
        );
        assert_eq!(
            meant("info,librqbit=trace,kube_client=warn"),
            ["info", "kube_client=warn", "librqbit=trace"]
        );
    }

    #[test]
    fn what_means_nothing_is_refused_or_the_usual_holds() {
        let loud = "modelcache_agent=loud";
        assert!(filter(loud).is_err());
        let (instead, problem) = filter_or_usual(loud);
        assert!(problem.is_some());
        assert_eq!(instead.to_string(), usual_filter().to_string());
        let (quiet, problem) = filter_or_usual("warn");
        assert!(problem.is_none());
        assert_eq!(quiet.to_string(), filter("warn").unwrap().to_string());
    }
}
