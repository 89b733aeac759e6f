//! Metrics in the form in which Prometheus reads them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// The `Content-Type` of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of some registries in the Prometheus text format, version 0.0.4.
#[must_use]
pub fn encode<'a>(registries: impl IntoIterator<Item = &'a Registry>) -> String {
    let mut open_metrics = String::new();
    for registry in registries {
        // Writing to a string does not fail.
        let _ = text::encode(&mut open_metrics, registry);
    }
    prometheus(&open_metrics)
}

/// `OpenMetrics` as Prometheus' older text format, which every scraper and `promtool check metrics` read: there a
/// counter's HELP and TYPE bear the suffix `_total` too, and there is neither UNIT nor EOF.
fn prometheus(open_metrics: &str) -> String {
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

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Unit;

    use super::*;

    #[test]
    fn counters_bear_their_suffix_everywhere_and_registries_follow_each_other() {
        let (mut one, mut two) = (Registry::default(), Registry::default());
        one.register("read", "Bytes read", Counter::<u64>::default());
        two.register_with_unit("size", "Size", Unit::Bytes, Gauge::<i64>::default());
        assert_eq!(
            encode([&one, &two]),
            "# HELP read_total Bytes read.\n# TYPE read_total counter\nread_total 0\n\
             # HELP size_bytes Size.\n# TYPE size_bytes gauge\nsize_bytes 0\n"
        );
    }
}
