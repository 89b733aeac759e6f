use proptest::prelude::*;

use super::*;

const NOTHING: Vec<Action> = Vec::new();

fn filling(now: Instant) -> Work {
    let mut work = Work::new();
    assert_eq!(
        work.next(
            now,
            Input::Opened {
                full: false,
                published: false
            }
        ),
        [Action::Reserve]
    );
    assert_eq!(
        work.next(now, Input::Reserved),
        [Action::Track, Action::Verify]
    );
    assert_eq!(work.next(now, verified(false)), NOTHING);
    work
}

fn verified(whole: bool) -> Input {
    Input::Verified {
        good: Vec::new(),
        bad: None,
        whole,
    }
}

#[test]
fn a_cold_start_ends_ready() {
    let now = Instant::now();
    let mut work = filling(now);
    assert_eq!(work.view(now).0, Phase::Pending);
    work.next(now, Input::Started);
    assert_eq!(work.view(now).0, Phase::Downloading);
    assert_eq!(
        work.next(now, Input::Committed { full: false }),
        [Action::Verify]
    );
    // Another segment while that pass runs: one more pass afterwards, not two at once.
    assert_eq!(work.next(now, Input::Committed { full: true }), NOTHING);
    assert_eq!(work.view(now).0, Phase::Verifying);
    assert_eq!(work.next(now, verified(false)), [Action::Verify]);
    assert_eq!(work.next(now, verified(true)), [Action::Publish]);
    assert_eq!(work.view(now).0, Phase::Verifying);
    assert_eq!(work.next(now, Input::Published), NOTHING);
    assert_eq!(work.view(now).0, Phase::Ready);
    assert_eq!(work.next(now, Input::ModelsChanged), [Action::Publish]);
}

#[test]
fn published_before_means_ready_without_reserving() {
    let now = Instant::now();
    let mut work = Work::new();
    let opened = Input::Opened {
        full: true,
        published: true,
    };
    assert_eq!(work.next(now, opened), [Action::Track, Action::Publish]);
    work.next(now, Input::Published);
    assert_eq!(work.view(now).0, Phase::Ready);
}

#[test]
fn while_there_is_no_space_it_looks_every_few_seconds_and_tells_it_seldom() {
    let mut now = Instant::now();
    let mut work = Work::new();
    let opened = Input::Opened {
        full: false,
        published: false,
    };
    work.next(now, opened);
    let failed = |number: u32| Input::Failed {
        step: Step::Reserve,
        reason: reasons::NO_SPACE,
        message: format!("{number} missing"),
    };
    let mut words = BTreeSet::new();
    for number in 0..120 {
        assert_eq!(work.next(now, failed(number)), [Action::Withdraw]);
        let (phase, fault) = work.view(now);
        assert_eq!(phase, Phase::Failed);
        words.insert(fault.unwrap().message.clone());
        assert_eq!(work.next(now, Input::Tick), NOTHING);
        now += SPACE_WAIT;
        assert_eq!(work.next(now, Input::Tick), [Action::Reserve]);
        // Still told while it is tried again.
        assert_eq!(work.view(now).0, Phase::Failed);
    }
    // Ten minutes.
    assert_eq!(
        words.into_iter().collect::<Vec<_>>(),
        ["0 missing", "60 missing"]
    );
    assert_eq!(
        work.next(now, Input::Reserved),
        [Action::Track, Action::Verify]
    );
    assert_eq!(work.view(now), (Phase::Pending, None));
}

#[test]
fn a_disk_that_can_be_reserved_but_not_written_is_tried_less_and_less() {
    let mut now = Instant::now();
    let mut work = filling(now);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let failed = Input::Failed {
            step: Step::Open,
            reason: reasons::DISK_ERROR,
            message: "I/O error".to_owned(),
        };
        assert_eq!(work.next(now, failed), [Action::Withdraw]);
        let until = work.view(now).1.unwrap().retry_at.unwrap();
        waits.push((until - now).as_secs());
        now = until;
        assert_eq!(work.next(now, Input::Tick), [Action::Open]);
        let opened = Input::Opened {
            full: false,
            published: false,
        };
        work.next(now, opened);
        work.next(now, Input::Reserved);
        work.next(now, verified(false));
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    work.next(now, Input::Committed { full: false });
    assert_eq!(work.failures, 0);
    assert_eq!(back_off(1000), LONGEST_WAIT);
}

#[test]
fn a_wrong_hash_is_told_at_once_and_until_those_segments_are_proven() {
    let now = Instant::now();
    let mut work = filling(now);
    work.next(now, Input::Committed { full: true });
    let corrupt = Input::Verified {
        good: vec![0],
        bad: Some((vec![1, 2], "model.bin is wrong".to_owned())),
        whole: false,
    };
    work.next(now, corrupt);
    let told = |work: &Work| work.view(now).1.map(|fault| fault.reason);
    assert_eq!(told(&work), Some(reasons::HASH_MISMATCH));
    work.next(
        now,
        Input::TransferFailed {
            reason: reasons::ORIGIN_UNAVAILABLE,
            message: String::new(),
            retry_after: None,
        },
    );
    work.next(now, Input::Committed { full: false });
    assert_eq!(told(&work), Some(reasons::HASH_MISMATCH));
    let good = |segments: &[u32]| Input::Verified {
        good: segments.to_vec(),
        bad: None,
        whole: false,
    };
    work.next(now, good(&[1]));
    assert_eq!(told(&work), Some(reasons::HASH_MISMATCH));
    work.next(now, good(&[2]));
    assert_eq!(told(&work), None);
}

#[test]
fn a_failed_transfer_is_told_only_when_nothing_comes_in_afterwards() {
    let now = Instant::now();
    let mut work = filling(now);
    work.next(now, Input::Started);
    let failed = |message: &str| Input::TransferFailed {
        reason: reasons::RATE_LIMITED,
        message: message.to_owned(),
        retry_after: Some(Duration::from_mins(1)),
    };
    work.next(now, failed("first"));
    assert_eq!(work.view(now), (Phase::Downloading, None));
    // The patience does not begin anew with each failure.
    let later = now + PATIENCE;
    work.next(later, failed("second"));
    let (phase, fault) = work.view(later);
    assert_eq!(phase, Phase::Failed);
    assert_eq!(fault.unwrap().message, "second");
    assert_eq!(
        fault.unwrap().retry_at,
        Some(later + Duration::from_mins(1))
    );
    work.next(later, Input::Committed { full: false });
    assert_eq!(work.view(later), (Phase::Downloading, None));
}

#[test]
fn a_disk_that_fails_while_filling_begins_again_from_the_journal() {
    let now = Instant::now();
    let mut work = filling(now);
    let failed = || Input::Failed {
        step: Step::Open,
        reason: reasons::DISK_ERROR,
        message: "I/O error".to_owned(),
    };
    assert_eq!(work.next(now, failed()), [Action::Withdraw]);
    assert_eq!(work.next(now, failed()), NOTHING);
    assert!(!work.takes_orders());
    assert_eq!(work.next(now + FIRST_WAIT, Input::Tick), [Action::Open]);
    let opened = Input::Opened {
        full: false,
        published: false,
    };
    assert_eq!(work.next(now, opened), [Action::Reserve]);
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        any::<(bool, bool)>().prop_map(|(full, published)| Input::Opened { full, published }),
        Just(Input::Reserved),
        Just(Input::Started),
        any::<bool>().prop_map(|full| Input::Committed { full }),
        any::<(bool, bool)>().prop_map(|(bad, whole)| Input::Verified {
            good: vec![0],
            bad: (bad && !whole).then(|| (vec![0, 1], "wrong".to_owned())),
            whole,
        }),
        Just(Input::Recheck),
        Just(Input::Discarded),
        Just(Input::ModelsChanged),
        Just(Input::Failed {
            step: Step::Open,
            reason: reasons::DISK_ERROR,
            message: String::new()
        }),
        Just(Input::TransferFailed {
            reason: reasons::GATED,
            message: String::new(),
            retry_after: None
        }),
        Just(Input::Tick),
    ]
}

proptest! {
    #[test]
    fn never_ready_but_by_publishing(inputs in prop::collection::vec(any_input(), 0..60)) {
        let mut now = Instant::now();
        let mut work = Work::new();
        for input in inputs {
            now += Duration::from_secs(3);
            let publishing = work.stage() == Stage::Publishing;
            let actions = work.next(now, input);
            prop_assert_ne!(work.stage(), Stage::Ready);
            // Made visible only on the way through Publishing.
            if actions.contains(&Action::Publish) {
                prop_assert_eq!(work.stage(), Stage::Publishing);
            }
            let _ = publishing;
            prop_assert_eq!(work.view(now).0 == Phase::Failed, work.view(now).1.is_some());
        }
    }

    #[test]
    fn left_alone_it_always_gets_out_of_waiting(inputs in prop::collection::vec(any_input(), 0..60)) {
        let now = Instant::now();
        let mut work = Work::new();
        for input in inputs {
            work.next(now, input);
        }
        let actions = work.next(now + LONGEST_WAIT, Input::Tick);
        let waiting = matches!(work.stage(), Stage::Waiting { .. });
        prop_assert!(!waiting, "{actions:?}");
    }
}
