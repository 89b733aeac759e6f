//! Origin client, engine and uploader against the stand-in hub: a whole model from the hub to one node, and from that
//! node to another, under the faults that a real hub shows.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use modelcache_swarm::engine::{Engine, Served, Take, Uploader};
use modelcache_swarm::metainfo;
use modelcache_swarm::origin::{OriginClient, OriginError};
use modelcache_swarm::plan;
use modelcache_swarm::snapshot::Snapshot;
use modelcache_test_hub::admin::{
    Effect, Endpoint, Fault, FileSpec, Mode, RefSpec, RepositorySpec, Settings,
};

use support::{
    Memory, REPOSITORY, Shelf, client, fetch, hub, members, model, snapshot, without_hashes,
    wrong_blobs,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_from_the_hub_once_and_goes_on_to_a_peer() {
    let hub = hub(Settings::default()).await;
    let commit = hub.add_repository(&model()).unwrap();
    let client = client(&hub, Some("hf_verysecret"));
    hub.set_ref(&RefSpec {
        repository: REPOSITORY.to_owned(),
        name: "refs/pr/1".to_owned(),
        target: commit.clone(),
    })
    .unwrap();
    for revision in ["main", "refs/pr/1", &commit] {
        assert_eq!(client.resolve(REPOSITORY, revision).await.unwrap(), commit);
    }
    let snapshot = snapshot(&client, "main").await.unwrap();
    assert_eq!(snapshot.files.len(), 1205);
    hub.reset_counters();

    let received = AtomicU64::new(0);
    let fetched = fetch(&client, &snapshot, &received).await.unwrap();
    assert_eq!(wrong_blobs(&snapshot, &without_hashes(&fetched)), []);
    let distinct: u64 = snapshot.blobs().iter().map(|(_, size)| size).sum();
    assert_eq!(received.load(Ordering::Relaxed), distinct);
    let counters = hub.counters();
    assert_eq!(counters.repository_bytes(REPOSITORY), distinct);
    assert_eq!(counters.leaked_tokens, 0);
    let large = &counters.repositories[REPOSITORY].files["model.safetensors"];
    // One for each segment, and what finds out where the file lies.
    let blob = snapshot
        .files
        .iter()
        .find(|file| file.path == "model.safetensors");
    let blob = blob.unwrap().blob;
    let segments = plan::cut(&snapshot);
    let parts = segments.iter().flat_map(|segment| &segment.extents);
    let parts = parts.filter(|extent| extent.blob == blob).count() as u64;
    assert!(
        (parts..=parts + 4).contains(&large.requests),
        "{} requests for {parts} segments",
        large.requests
    );

    let mut shelf = HashMap::new();
    for (segment, io, hashes) in &fetched {
        let piece_bytes = snapshot.sizes.piece_bytes;
        let hash = metainfo::info_hash(
            &snapshot.name,
            segment.index,
            segment.len(),
            piece_bytes,
            hashes,
        );
        let served = Served {
            len: segment.len(),
            piece_bytes,
            io: io.clone(),
            metadata: None,
        };
        shelf.insert(hash, served);
    }
    let uploader = Uploader::bind(
        "127.0.0.1:0".parse().unwrap(),
        members(),
        Arc::new(Shelf(shelf)),
        Arc::new(|_, _| ()),
    )
    .await
    .unwrap();
    let engine = Engine::start(members()).unwrap();
    let mut taken = Vec::new();
    for (segment, _, pieces) in fetched {
        let io = Memory::new(segment.len());
        let take = Take {
            snapshot: snapshot.name.clone(),
            index: segment.index,
            len: segment.len(),
            piece_bytes: snapshot.sizes.piece_bytes,
            pieces,
            holder: uploader.local_addr(),
            io: io.clone(),
        };
        engine.take(take, |_| ()).await.unwrap();
        taken.push((segment, io));
    }
    assert_eq!(wrong_blobs(&snapshot, &taken), []);
}

/// Faults that pass, or that a retry gets over.
#[tokio::test(flavor = "multi_thread")]
async fn passing_faults_are_got_over() {
    let status = |status| Effect::Status {
        status,
        retry_after: None,
        rate_limit_reset: None,
    };
    let faults = [
        Fault::new(status(503)).times(2),
        Fault::new(status(500)).on(Endpoint::Tree).times(2),
        Fault::new(status(403)).on(Endpoint::Cdn).times(2),
        Fault::new(Effect::Disconnect { reset: false }).times(2),
        Fault::new(Effect::Disconnect { reset: true }).times(2),
        Fault::new(Effect::Truncate {
            after: 100_000,
            reset: false,
        })
        .on(Endpoint::Cdn)
        .times(3),
        Fault::new(Effect::Truncate {
            after: 77_777,
            reset: true,
        })
        .on(Endpoint::Cdn)
        .times(3),
        Fault::new(Effect::Stall {
            after: 50_000,
            milliseconds: 3000,
        })
        .on(Endpoint::Cdn)
        .times(2),
        Fault::new(Effect::SlowStart { milliseconds: 2000 }).times(3),
        Fault::new(Effect::RelativeRedirect).on(Endpoint::Resolve),
        Fault::new(Effect::IgnoreRange).path("many/*"),
    ];
    let hub = hub(Settings::default()).await;
    hub.add_repository(&model()).unwrap();
    for fault in faults {
        let name = format!("{fault:?}");
        hub.set_faults(vec![fault]);
        let client = client(&hub, Some("hf_verysecret"));
        let snapshot = snapshot(&client, "main").await.expect(&name);
        let fetched = fetch(&client, &snapshot, &AtomicU64::new(0))
            .await
            .expect(&name);
        assert_eq!(
            wrong_blobs(&snapshot, &without_hashes(&fetched)),
            [],
            "{name}"
        );
        assert!(hub.faults()[0].happened > 0, "{name}");
    }
    assert_eq!(hub.counters().leaked_tokens, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_lived_addresses_are_renewed() {
    let hub = hub(Settings {
        url_lifetime_seconds: 1,
        bytes_per_second: Some(8_000_000),
        ..Settings::default()
    })
    .await;
    hub.add_repository(&model()).unwrap();
    let client = client(&hub, None);
    let snapshot = snapshot(&client, "main").await.unwrap();
    let fetched = fetch(&client, &snapshot, &AtomicU64::new(0)).await.unwrap();
    assert_eq!(wrong_blobs(&snapshot, &without_hashes(&fetched)), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn lasting_faults_are_named() {
    let hub = hub(Settings::default()).await;
    hub.add_repository(&model()).unwrap();
    let snapshot = snapshot(&client(&hub, None), "main").await.unwrap();
    let limited = Effect::Status {
        status: 429,
        retry_after: None,
        rate_limit_reset: Some(7),
    };
    let cases = [
        (Fault::new(limited), "RateLimited"),
        (Fault::new(Effect::Gzip), "Protocol"),
        (
            Fault::new(Effect::IgnoreRange).on(Endpoint::Cdn),
            "Protocol",
        ),
        (Fault::new(Effect::ShiftContentRange { by: 1 }), "Protocol"),
        (
            Fault::new(Effect::Status {
                status: 404,
                retry_after: None,
                rate_limit_reset: None,
            })
            .on(Endpoint::Resolve),
            "EntryNotFound",
        ),
        (
            Fault::new(Effect::Status {
                status: 502,
                retry_after: None,
                rate_limit_reset: None,
            }),
            "Unavailable",
        ),
    ];
    for (fault, expected) in cases {
        hub.set_faults(vec![fault]);
        let result = fetch(&client(&hub, None), &snapshot, &AtomicU64::new(0)).await;
        let error = format!("{:?}", result.map(|_| ()).unwrap_err());
        assert!(error.starts_with(expected), "{expected}: {error}");
        if expected == "RateLimited" {
            assert!(error.contains("Some(8s)"), "{error}");
        }
    }
    hub.set_faults(vec![
        Fault::new(Effect::WrongByte { at: 12_345 }).path("model.safetensors"),
    ]);
    let fetched = fetch(&client(&hub, None), &snapshot, &AtomicU64::new(0))
        .await
        .unwrap();
    assert_eq!(wrong_blobs(&snapshot, &without_hashes(&fetched)).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_off_or_silent_ends_in_an_error_soon() {
    let hub = hub(Settings::default()).await;
    hub.add_repository(&model()).unwrap();
    for mode in [Mode::Refuse, Mode::Drop, Mode::Silent, Mode::Unavailable] {
        hub.set_settings(Settings {
            hub: mode,
            ..hub.settings()
        })
        .await;
        let started = Instant::now();
        let error = client(&hub, None)
            .resolve(REPOSITORY, "main")
            .await
            .unwrap_err();
        assert!(
            matches!(error, OriginError::Unavailable { .. }),
            "{mode:?}: {error}"
        );
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{mode:?}: {:?}",
            started.elapsed()
        );
    }
}

/// Everything that is needed of a repository.
async fn all(client: &OriginClient, repository: &str, revision: &str) -> Result<(), OriginError> {
    let commit = client.resolve(repository, revision).await?;
    let files = client.tree(repository, &commit).await?;
    let snapshot = Snapshot {
        name: "s".to_owned(),
        repository: repository.to_owned(),
        revision: revision.to_owned(),
        commit,
        sizes: plan::sizes(1),
        files,
    };
    fetch(client, &snapshot, &AtomicU64::new(0))
        .await
        .map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn access_is_refused_in_the_right_words() {
    let hub = hub(Settings::default()).await;
    hub.add_repository(&RepositorySpec::new("org/gated").text("a", "b").gated())
        .unwrap();
    hub.add_repository(&RepositorySpec::new("org/private").text("a", "b").private())
        .unwrap();
    hub.add_repository(&RepositorySpec::new("org/open").text("a", "b"))
        .unwrap();
    let with = |token| client(&hub, token);
    let good = Some("hf_verysecret");

    all(&with(good), "org/gated", "main").await.unwrap();
    all(&with(good), "org/private", "main").await.unwrap();
    all(&with(None), "org/open", "main").await.unwrap();
    for (token, repository, revision, expected) in [
        (None, "org/gated", "main", "Gated"),
        (None, "org/private", "main", "RepositoryNotFound"),
        (None, "org/absent", "main", "RepositoryNotFound"),
        (good, "org/absent", "main", "RepositoryNotFound"),
        (None, "org/open", "absent", "RevisionNotFound"),
        (Some("hf_wrong"), "org/open", "main", "Unauthorized"),
        (Some("hf_wrong"), "org/gated", "main", "Unauthorized"),
    ] {
        let error = all(&with(token), repository, revision).await.unwrap_err();
        let text = format!("{error:?} {error}");
        assert!(
            text.starts_with(expected),
            "{token:?} {repository} {revision}: {text}"
        );
        assert!(!text.contains("hf_"), "{text}");
    }
    // The list of a gated repository is public; that its files are not shows before anything is fetched.
    for (token, may) in [(None, false), (good, true)] {
        let client = with(token);
        let commit = client.resolve("org/gated", "main").await.unwrap();
        let files = client.tree("org/gated", &commit).await.unwrap();
        let answer = client.readable("org/gated", &commit, &files).await;
        assert!(
            may == answer.is_ok() && (may || matches!(answer, Err(OriginError::Gated { .. }))),
            "{answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_repositories_are_followed() {
    let hub = hub(Settings::default()).await;
    let commit = hub
        .add_repository(&RepositorySpec::new("org/old").file(FileSpec::synthetic("w", 1, 100_000)))
        .unwrap();
    hub.rename("org/old", "org/new").unwrap();
    let client = client(&hub, None);
    assert_eq!(client.resolve("org/old", "main").await.unwrap(), commit);
    assert_eq!(client.tree("org/old", &commit).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_leaves_the_cache_is_refused_by_name() {
    let hub = hub(Settings::default()).await;
    let evil = RepositorySpec::new("org/evil")
        .text("good", "x")
        .text("../../evil", "x");
    let commit = hub.add_repository(&evil).unwrap();
    let error = client(&hub, None)
        .tree("org/evil", &commit)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, OriginError::UnsafePath { path, .. } if path == "../../evil"),
        "{error}"
    );
}
