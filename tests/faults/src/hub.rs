//! The stand-in hub of a run and what its admin API makes it do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use modelcache_bench::command::{inside, run};
use modelcache_bench::model::REPOSITORY;
use modelcache_bench::network::{Host, Net};
use modelcache_test_hub::admin::{Effect, Endpoint, Fault};
use serde_json::{Value, json};

use crate::Setup;
use crate::schedule::HubTrouble;
use crate::service::Service;

const ADMIN: &str = "http://127.0.0.1:8082";
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// A share of the requests meets the fault: some come through, as on a bad day of a real hub.
const SHARE: f64 = 0.6;

/// Starts it and waits until it serves; gives the commit too.
pub fn start(setup: &Setup, mut words: Vec<String>) -> Result<(Service, String)> {
    words.extend([
        setup.program("modelcache-hub"),
        "--listen-address".to_owned(),
        "0.0.0.0".to_owned(),
        "--cdn-url".to_owned(),
        format!("http://{}:8081", Host::Hub.address(Net::Lan)),
        "--load".to_owned(),
        format!("{}={REPOSITORY}", setup.model.directory.display()),
    ]);
    let mut hub = Service::start(Host::Hub, words, String::new(), &setup.logs())?;
    let began = Instant::now();
    let info = format!("http://127.0.0.1:8080/api/models/{REPOSITORY}/revision/main");
    let text = loop {
        hub.supervise()?;
        match curl(&[&info]) {
            Ok(text) => break text,
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let info: Value = serde_json::from_str(&text)?;
    let commit = info["sha"].as_str().context("the hub names no commit")?;
    // The rate limit of its own would only come on top of the one that is a fault.
    let plenty = json!({"api": 1_000_000, "resolvers": 1_000_000, "pages": 1_000_000});
    put("settings", &json!({ "anonymous": plenty }))?;
    Ok((hub, commit.to_owned()))
}

/// From now on it answers like this; none: well.
pub fn answer(trouble: Option<HubTrouble>) -> Result<()> {
    let mode = match trouble {
        Some(HubTrouble::Refusing) => "refuse",
        Some(HubTrouble::Silent) => "silent",
        _ => "on",
    };
    put("settings", &json!({"hub": mode, "cdn": mode}))?;
    let faults: Vec<Fault> = trouble.into_iter().flat_map(faults).collect();
    put("faults", &serde_json::to_value(faults)?)
}

fn faults(trouble: HubTrouble) -> Vec<Fault> {
    let content = |effect| Fault::new(effect).on(Endpoint::Cdn);
    let status = |status, retry_after| {
        Fault::new(Effect::Status {
            status,
            retry_after,
            rate_limit_reset: None,
        })
    };
    let mut faults = match trouble {
        HubTrouble::Truncated => vec![
            content(Effect::Truncate {
                after: 100_000,
                reset: false,
            }),
            content(Effect::Truncate {
                after: 300_000,
                reset: true,
            }),
        ],
        HubTrouble::Stalled => vec![content(Effect::Stall {
            after: 200_000,
            milliseconds: 5_000,
        })],
        HubTrouble::WrongBytes => vec![content(Effect::WrongByte { at: 77_777 })],
        HubTrouble::Errors => vec![
            status(500, None).on(Endpoint::Resolve),
            status(503, None).on(Endpoint::Cdn),
        ],
        HubTrouble::RateLimited => vec![status(429, Some(1)).on(Endpoint::Resolve)],
        HubTrouble::Refusing | HubTrouble::Silent => Vec::new(),
    };
    for fault in &mut faults {
        fault.probability = SHARE;
    }
    faults
}

fn put(path: &str, body: &Value) -> Result<()> {
    let url = format!("{ADMIN}/{path}");
    let json = "content-type: application/json";
    let body = body.to_string();
    curl(&["-X", "PUT", "-H", json, "--data", &body, &url]).map(drop)
}

/// From the hub's own host, so that no broken cable is in between. A stopped hub answers when it goes on.
fn curl(words: &[&str]) -> Result<String> {
    let mut command = inside(
        &Host::Hub.namespace(),
        &["curl", "-sSf", "--max-time", "20"],
    );
    run(command.args(words))
}
