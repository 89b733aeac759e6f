//! `modelcache-agent doctor` in a pod of the chart, as its help says it: it knows by itself what the agent there knows.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::world::{RELEASE, SYSTEM, World};

/// What it prints.
#[derive(Deserialize)]
struct Report {
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    check: String,
    status: String,
}

/// Runs it beside an agent and requires that nothing fails, and that what takes settings was not left out.
pub(super) fn finds_nothing_wrong(world: &World) -> Result<String> {
    let agents = format!("ds/{RELEASE}-agent");
    let output = world.cluster.kubectl_output(&[
        "exec",
        "-n",
        SYSTEM,
        &agents,
        "--",
        "modelcache-agent",
        "doctor",
        // Nobody announces himself here.
        "--seconds=3",
        "--output=json",
    ])?;
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_str(&said)
        .with_context(|| format!("doctor does not answer: {said}{log}"))?;
    let count = |status: &str, named: &dyn Fn(&str) -> bool| {
        let checks = report.checks.iter();
        checks
            .filter(|one| one.status == status && named(&one.check))
            .count()
    };
    ensure!(
        output.status.success() && count("fail", &|_| true) == 0,
        "doctor finds something wrong: {said}{log}"
    );
    for name in [
        "secret, file",
        "secret, equal",
        "disk, files",
        "own port",
        "coordinator",
        "hub",
    ] {
        let tested = count("ok", &|check| check == name) == 1;
        ensure!(tested, "doctor did not test {name}: {said}");
    }
    let peers = |way: &str| {
        count("ok", &|check| {
            check.starts_with("peer ") && check.ends_with(way)
        })
    };
    let [from, to] = ["from here", "to here"].map(peers);
    ensure!(from > 0 && to > 0, "doctor dialled no peer: {said}");
    Ok(format!(
        "doctor: {} checks ok, none fails, {from} peers dialled",
        count("ok", &|_| true)
    ))
}
