//! What is logged, and how.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// The environment variable that says what is logged.
const VARIABLE: &str = "RUST_LOG";

/// What is logged when nobody says anything.
const DEFAULT: &str = "info";

/// What libraries say too loudly for any level that is asked for in general. What librqbit (and the crates whose names
/// begin with it) warns of, peers that went, is in our reports of takes; what the Kubernetes client calls an error is in
/// our warnings. A directive for the same target replaces these.
const QUIET: &str = "librqbit=error,kube_client=off";

/// Begins to log to the standard error.
pub fn start(format: LogFormat) {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let (filter, refused) = filter(&wanted);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    if let Some(problem) = refused {
        tracing::warn!(
            "{VARIABLE}={wanted:?}: {problem}; write for example info,modelcache_agent=debug. Logging {DEFAULT}"
        );
    }
}

/// The filter for what is wanted, and what is wrong with it if it means nothing.
fn filter(wanted: &str) -> (EnvFilter, Option<String>) {
    let wanted = match wanted.trim() {
        "" => DEFAULT,
        some => some,
    };
    // Of two directives for one target the later one counts.
    match EnvFilter::try_new(format!("{QUIET},{wanted}")) {
        Ok(filter) => (filter, None),
        Err(error) => (
            EnvFilter::new(format!("{QUIET},{DEFAULT}")),
            Some(error.to_string()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(wanted: &str) -> Vec<String> {
        let text = filter(wanted).0.to_string();
        let mut directives: Vec<String> = text.split(',').map(str::to_owned).collect();
        directives.sort();
        directives
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_asked_for() {
        for nothing in ["", " ", "info"] {
            assert_eq!(
                directives(nothing),
                ["info", "kube_client=off", "librqbit=error"],
                "{nothing:?}"
            );
        }
        assert_eq!(
            directives("warn,modelcache_agent=debug"),
            [
                "kube_client=off",
                "librqbit=error",
                "modelcache_agent=debug",
                "warn"
            ]
        );
        assert_eq!(
            directives("info,librqbit=trace,kube_client=warn"),
            ["info", "kube_client=warn", "librqbit=trace"]
        );
    }

    #[test]
    fn what_means_nothing_is_said_and_the_default_holds() {
        let (filter, refused) = filter("modelcache_agent=loud");
        assert!(refused.is_some());
        assert_eq!(filter.to_string(), super::filter("").0.to_string());
    }
}
