//! What is logged.

use modelcache_daemon::log::{self, LogFormat};

/// The environment variable that says what is logged.
const VARIABLE: &str = "RUST_LOG";

/// Begins to log to the standard error. What means nothing keeps no agent from its work.
pub fn start(format: LogFormat) {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let (filter, problem) = log::filter_or_usual(&wanted);
    log::start(filter, format);
    if let Some(problem) = problem {
        tracing::warn!(
            "{VARIABLE}={wanted:?}: {problem}; write for example info,modelcache_agent=debug. Logging info"
        );
    }
}
