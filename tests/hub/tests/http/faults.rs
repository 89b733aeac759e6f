//! Faults on demand.

use modelcache_test_hub::admin::{Effect, Endpoint, Fault, Mode, Settings};
use modelcache_test_hub::content::synthetic;
use std::time::{Duration, Instant};

use crate::{MIB, client, get, hub, ranged, signed, text};

#[tokio::test]
async fn faults_of_the_body() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    let set = |effect| hub.set_faults(vec![Fault::new(effect).on(Endpoint::Cdn).times(1)]);
    let ask = || ranged(&location, "bytes=100000-299999").send();

    for reset in [false, true] {
        set(Effect::Truncate {
            after: 70_001,
            reset,
        });
        hub.reset_counters();
        let mut response = ask().await.unwrap();
        assert_eq!(text(response.headers(), "content-length"), "200000");
        let (mut received, mut failed) = (0, false);
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => received += chunk.len() as u64,
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        assert!(failed, "reset: {reset}");
        assert_eq!(
            (received, hub.counters().repository_bytes("org/a")),
            (70_001, 70_001),
            "reset: {reset}"
        );
    }

    set(Effect::IgnoreRange);
    assert_eq!(ask().await.unwrap().status(), 200);

    set(Effect::ShiftContentRange { by: 7 });
    assert_eq!(
        text(ask().await.unwrap().headers(), "content-range"),
        "bytes 100007-300006/3145733"
    );

    set(Effect::WrongByte { at: 3 });
    let body = ask().await.unwrap().bytes().await.unwrap();
    let right = synthetic(1, 100_000, 200_000);
    let wrong: Vec<usize> = (0..right.len())
        .filter(|&index| body[index] != right[index])
        .collect();
    assert_eq!(wrong, [3]);

    set(Effect::Stall {
        after: 1000,
        milliseconds: 2_000,
    });
    let start = Instant::now();
    let mut response = ask().await.unwrap();
    let mut received = 0;
    while received < 1000 {
        received += response.chunk().await.unwrap().unwrap().len();
    }
    // Nearly as long as the stall, so that a busy machine does not decide.
    assert!(start.elapsed() < Duration::from_millis(1_900));
    assert_eq!(received, 1000);
    assert_eq!(response.bytes().await.unwrap().len(), 199_000);
    assert!(start.elapsed() >= Duration::from_secs(2));

    set(Effect::Gzip);
    let response = ask().await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "content-encoding")
        ),
        (200, "gzip")
    );

    let ok = ask().await.unwrap();
    assert_eq!(
        ok.bytes().await.unwrap(),
        right,
        "every fault ended after one time"
    );
}

#[tokio::test]
async fn faults_instead_of_an_answer() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    let url = format!("{}/org/a/resolve/main/sub/model.bin", hub.url());
    let status = |status, retry_after, rate_limit_reset| Effect::Status {
        status,
        retry_after,
        rate_limit_reset,
    };
    hub.set_faults(vec![
        Fault::new(status(429, Some(7), None))
            .on(Endpoint::Resolve)
            .times(1),
        Fault::new(status(429, None, Some(9)))
            .on(Endpoint::Resolve)
            .times(1)
            .after(1),
        Fault::new(status(429, None, None))
            .on(Endpoint::Resolve)
            .times(1)
            .after(2),
        Fault::new(status(503, None, None))
            .on(Endpoint::Resolve)
            .times(1)
            .after(3),
        Fault::new(status(403, None, None))
            .on(Endpoint::Cdn)
            .times(1),
    ]);
    let response = get(&url).await;
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "retry-after")
        ),
        (429, "7")
    );
    assert!(response.headers().get("ratelimit").is_none());
    let response = get(&url).await;
    assert_eq!(
        (
            response.status().as_u16(),
            text(response.headers(), "ratelimit")
        ),
        (429, "\"resolvers\";r=0;t=9")
    );
    let response = get(&url).await;
    assert!(
        response.headers().get("ratelimit").is_none()
            && response.headers().get("retry-after").is_none()
    );
    assert_eq!(
        (
            response.status().as_u16(),
            get(&url).await.status().as_u16()
        ),
        (429, 503)
    );
    assert_eq!(
        (
            get(&url).await.status().as_u16(),
            get(&location).await.status().as_u16()
        ),
        (302, 403)
    );
    assert_eq!(get(&location).await.status(), 200);

    hub.set_faults(vec![
        Fault::new(Effect::Disconnect { reset: false }).times(1),
        Fault::new(Effect::SlowStart { milliseconds: 300 })
            .times(1)
            .after(1),
        Fault::new(Effect::RelativeRedirect)
            .on(Endpoint::Resolve)
            .times(1)
            .after(2),
    ]);
    assert!(client().get(&url).send().await.is_err());
    let start = Instant::now();
    assert_eq!(get(&url).await.status(), 302);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let response = get(&url).await;
    assert_eq!(response.status(), 307);
    let next = format!("{}{}", hub.url(), text(response.headers(), "location"));
    assert_eq!(get(&next).await.status(), 302);
}

#[tokio::test]
async fn switched_off_and_on() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    let url = format!("{}/api/models/org/a", hub.url());
    let keep_alive = client();
    assert_eq!(keep_alive.get(&url).send().await.unwrap().status(), 200);
    let both = |mode| Settings {
        hub: mode,
        cdn: mode,
        ..Settings::default()
    };

    hub.set_settings(both(Mode::Refuse)).await;
    assert!(keep_alive.get(&url).send().await.unwrap_err().is_connect());
    assert!(
        client()
            .get(&location)
            .send()
            .await
            .unwrap_err()
            .is_connect()
    );

    hub.set_settings(both(Mode::Drop)).await;
    let error = client().get(&url).send().await.unwrap_err();
    assert!(!error.is_timeout());

    hub.set_settings(both(Mode::Unavailable)).await;
    assert_eq!(
        (
            get(&url).await.status().as_u16(),
            get(&location).await.status().as_u16()
        ),
        (503, 503)
    );

    hub.set_settings(both(Mode::Silent)).await;
    let waiting = client()
        .get(&url)
        .timeout(Duration::from_millis(300))
        .send()
        .await;
    assert!(waiting.unwrap_err().is_timeout());

    hub.set_settings(Settings {
        cdn: Mode::Refuse,
        ..Settings::default()
    })
    .await;
    assert_eq!(keep_alive.get(&url).send().await.unwrap().status(), 200);
    assert!(
        client()
            .get(&location)
            .send()
            .await
            .unwrap_err()
            .is_connect()
    );

    hub.set_settings(Settings::default()).await;
    assert_eq!(
        (
            get(&url).await.status().as_u16(),
            get(&location).await.status().as_u16()
        ),
        (200, 200)
    );
}

#[tokio::test]
async fn switching_off_cuts_a_download_and_the_cap_slows_it() {
    let (hub, commit) = hub().await;
    let location = signed(&hub, &commit).await;
    hub.set_settings(Settings {
        bytes_per_second: Some(1_000_000),
        ..Settings::default()
    })
    .await;
    let start = Instant::now();
    let part = |range: &str| ranged(&location, range).send();
    let (one, two) = tokio::join!(part("bytes=0-199999"), part("bytes=200000-399999"));
    let (one, two) = tokio::join!(one.unwrap().bytes(), two.unwrap().bytes());
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 400_000);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(390),
        "{took:?} for 400 kB at 1 MB/s"
    );

    hub.reset_counters();
    let mut response = get(&location).await;
    response.chunk().await.unwrap();
    hub.set_settings(Settings {
        cdn: Mode::Refuse,
        bytes_per_second: Some(1_000_000),
        ..Settings::default()
    })
    .await;
    let rest = response.bytes().await;
    assert!(rest.is_err());
    let sent = hub.counters().repository_bytes("org/a");
    assert!(sent > 0 && sent < 3 * MIB, "{sent}");
}
