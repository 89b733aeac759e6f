//! The form in which Prometheus reads them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// OpenMetrics as Prometheus' older text format, which every scraper and `promtool check metrics` read: there a counter's
/// HELP and TYPE bear the suffix `_total` too, and there is neither UNIT nor EOF.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let counters: BTreeSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len() + 256);
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let described = ["# HELP ", "# TYPE "].iter().find_map(|kind| {
            let (name, rest) = line.strip_prefix(kind)?.split_once(' ')?;
            counters.contains(name).then_some((kind, name, rest))
        });
        // Writing to a string does not fail.
        let _ = match described {
            Some((kind, name, rest)) => writeln!(text, "{kind}{name}_total {rest}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}
