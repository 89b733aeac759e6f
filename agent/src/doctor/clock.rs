//! Whether this node's clock agrees with others': announcements are believed only while it does.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use modelcache_swarm::discovery::clock::UnixMillis;
use modelcache_swarm::discovery::window::Tolerance;

use super::finding::Finding;

/// Clocks that NTP keeps differ by far less.
const UNUSUAL: Duration = Duration::from_secs(3);

/// Whose clock it is.
#[derive(Clone, Debug)]
pub enum Whose {
    /// That of a node, which believes or refuses our announcements.
    Peer(String),
    /// That of a server.
    Server(&'static str),
}

/// One look at two clocks.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Whose clock was compared with ours.
    pub whose: Whose,
    /// What it showed.
    pub theirs: UnixMillis,
    /// What ours showed.
    pub ours: UnixMillis,
    /// How far the two looks may be apart.
    pub blur: Duration,
}

/// What an HTTP server's header `Date` says. It has whole seconds.
#[must_use]
pub fn http_date(text: &str) -> Option<UnixMillis> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    let moment = PARSER.parse_timestamp(text).ok()?;
    u64::try_from(moment.as_millisecond()).ok().map(UnixMillis)
}

/// What a reading means.
#[must_use]
pub fn judge(reading: &Reading) -> Finding {
    let apart = Duration::from_millis(reading.theirs.0.abs_diff(reading.ours.0));
    let least = apart.saturating_sub(reading.blur);
    let seconds = apart.as_secs_f64();
    let word = if reading.ours < reading.theirs {
        "behind"
    } else {
        "ahead"
    };
    let (name, peer) = match &reading.whose {
        Whose::Peer(name) => (name.as_str(), true),
        Whose::Server(name) => (*name, false),
    };
    let check = format!("clock, {name}");
    let seen = format!("this node is {seconds:.1} s {word}");
    let Tolerance { ahead, .. } = Tolerance::default();
    // One of the two sees the other's announcements come from the future.
    if peer && least > ahead {
        return Finding::fail(
            check,
            seen,
            "announcements are refused as stale: run NTP on all nodes",
        );
    }
    if least > UNUSUAL {
        return Finding::warn(
            check,
            seen,
            &format!(
                "announcements are refused from {} s on: run NTP on all nodes",
                ahead.as_secs()
            ),
        );
    }
    Finding::ok(check, seen)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn found(whose: Whose, theirs: u64, blur: u64) -> Finding {
        judge(&Reading {
            whose,
            theirs: UnixMillis(theirs),
            ours: UnixMillis(100_000),
            blur: Duration::from_millis(blur),
        })
    }

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        let peer = || Whose::Peer("node-b".to_owned());
        for theirs in [98_000, 100_000, 102_500] {
            assert_eq!(found(peer(), theirs, 0).verdict, Verdict::Ok, "{theirs}");
        }
        let behind = found(peer(), 107_000, 0);
        assert!(matches!(behind.verdict, Verdict::Warn(_)), "{behind:?}");
        assert_eq!(behind.seen, "this node is 7.0 s behind");
        for theirs in [89_000, 111_000] {
            let off = found(peer(), theirs, 0);
            assert!(matches!(off.verdict, Verdict::Fail(_)), "{off:?}");
        }
        // Nobody's announcements depend on the hub's clock.
        let hub = found(Whose::Server("hub"), 1_000, 0);
        assert!(matches!(hub.verdict, Verdict::Warn(_)), "{hub:?}");
        assert!(hub.seen.ends_with("ahead"), "{hub:?}");
    }

    #[test]
    fn what_was_not_measured_exactly_is_not_blamed() {
        let slow = found(Whose::Server("hub"), 96_500, 1_000);
        assert_eq!(slow.verdict, Verdict::Ok);
    }

    #[test]
    fn dates_of_servers_are_read() {
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date, Some(UnixMillis(784_111_777_000)));
        for text in ["", "yesterday", "Sun, 06 Nov 1894 08:49:37 GMT"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }
}
