//! The operator's tracker: whether it is reached, takes this node for a member, and proves that it is the cluster's.

use std::time::Duration;

use modelcache_swarm::secret::{KeyId, Keyring};
use modelcache_swarm::tracker::answer::AnswerError;
use modelcache_swarm::tracker::client::TrackerUrl;
use modelcache_swarm::tracker::client::ask::Failure;
use modelcache_swarm::tracker::client::probe::{Probed, probe};
use modelcache_swarm::tracker::refusal::Refusal;

use super::far::{Learned, clock_of};
use super::finding::Finding;
use super::secret::Proof;

/// Longer than a tracker that was just started believes nobody.
const AGAIN: Duration = Duration::from_secs(12);

/// Asks it as agents do, but about nothing, so that it names this node to nobody.
pub async fn check(url: Option<&TrackerUrl>, ring: &Keyring) -> Learned {
    let Some(url) = url else {
        let why = "give its address with --tracker, if the operator has one (--tracker-listen)";
        return Finding::skipped("tracker", why).into();
    };
    let mut probed = probe(url, ring).await;
    if let Ok(Probed {
        result: Err(failure),
        ..
    }) = &probed
        && refusal(failure) == Some(Refusal::PossiblyReplayed)
    {
        tokio::time::sleep(AGAIN).await;
        probed = probe(url, ring).await;
    }
    match probed {
        Ok(Probed { result, date }) => Learned {
            proof: result.as_ref().ok().copied().map(Proof::Shared),
            finding: judge(url, result),
            clock: clock_of("tracker", date.as_deref()),
        },
        Err(error) => Finding::fail("tracker", error.to_string(), "correct --tracker").into(),
    }
}

/// What the tracker says, if it refuses. Refusals are not signed: another may have said it.
fn refusal(failure: &Failure) -> Option<Refusal> {
    match failure {
        Failure::Answer(AnswerError::Refused(reason)) => Refusal::of_reason(reason),
        _ => None,
    }
}

fn judge(url: &TrackerUrl, result: Result<KeyId, Failure>) -> Finding {
    let failure = match result {
        Ok(key) => {
            let seen = format!("{url}: its answer is signed with key {key}");
            return Finding::ok("tracker", seen);
        }
        Err(failure) => failure,
    };
    let advice = match (&failure, refusal(&failure)) {
        (_, Some(Refusal::UnknownKey | Refusal::Wrong)) => {
            "copy the Secret's entry 'current' here again, or wait a minute if it was just rotated"
        }
        (_, Some(Refusal::Stale)) => "run NTP on this node and on that of the operator",
        (_, Some(Refusal::PossiblyReplayed | Refusal::TooMany | Refusal::Full)) => {
            "try again in a minute; see modelcache_tracker_announces_total of the operator"
        }
        (Failure::Unreachable(_), _) => {
            "does the operator serve it (tracker.enabled, --tracker-listen), and do network policies and firewalls let this node reach its port?"
        }
        (Failure::Answer(AnswerError::Unsigned), _) => {
            "another program answers there, or something in between changes answers; see 'secret, equal', too"
        }
        _ => "is that the tracker of this cluster's operator, of the same release?",
    };
    Finding::fail("tracker", format!("{url}: {failure}"), advice)
}

#[cfg(test)]
mod tests {
    use modelcache_operator::tracker::{SharedTracker, serve};
    use modelcache_swarm::secret::{Key, Keys};
    use modelcache_swarm::tracker::Admission;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::super::finding::Verdict;
    use super::*;

    fn with_key(number: u8) -> Keyring {
        let key = Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap();
        Keyring::new(key, None)
    }

    fn failed(learned: &Learned) -> &str {
        let Verdict::Fail(advice) = &learned.finding.verdict else {
            panic!("{learned:?}");
        };
        advice
    }

    /// The operator's, which believes nobody yet.
    #[tokio::test]
    async fn the_tracker_with_the_same_key_answers_and_one_with_another_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (_setter, keys) = Keys::set_by_hand(with_key(1));
        let tracker = SharedTracker::new(Admission::Private);
        tokio::spawn(serve(listener, tracker, keys, CancellationToken::new()));
        let url = url.parse().unwrap();
        let ring = with_key(1);
        let learned = check(Some(&url), &ring).await;
        assert_eq!(learned.finding.verdict, Verdict::Ok, "{learned:?}");
        assert_eq!(learned.proof, Some(Proof::Shared(ring.current().id())));
        assert!(learned.clock.is_some());

        let learned = check(Some(&url), &with_key(2)).await;
        assert!(failed(&learned).contains("'current'"), "{learned:?}");
        assert_eq!(learned.proof, None);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_told_apart() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let learned = check(Some(&url.parse().unwrap()), &with_key(1)).await;
        assert!(failed(&learned).contains("--tracker-listen"), "{learned:?}");
        let learned = check(None, &with_key(1)).await;
        assert_eq!(learned.finding.verdict, Verdict::Skipped);
    }

    #[test]
    fn each_failure_has_its_remedy() {
        let url = "http://operator:9488".parse().unwrap();
        let refused = |refusal: Refusal| AnswerError::Refused(refusal.to_string()).into();
        for (failure, word) in [
            (refused(Refusal::Stale), "NTP"),
            (refused(Refusal::Wrong), "'current'"),
            (refused(Refusal::TooMany), "in a minute"),
            (refused(Refusal::Unregistered), "release"),
            (AnswerError::Unsigned.into(), "in between"),
            (Failure::Status(404), "release"),
        ] {
            let finding = judge(&url, Err(failure));
            let Verdict::Fail(advice) = &finding.verdict else {
                panic!("{finding:?}");
            };
            assert!(advice.contains(word), "{finding:?}");
            assert!(finding.seen.starts_with("http://operator:9488/announce: "));
        }
    }
}
