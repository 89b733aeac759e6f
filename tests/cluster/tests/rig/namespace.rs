//! The cluster for one test at a time, and a namespace in it.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use modelcache_test_cluster::{Cluster, ClusterError};

/// Accidents of one test would be failures of another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The rig, or nothing (said loudly) where there is none.
pub fn rig(test: &str) -> Option<(Cluster, MutexGuard<'static, ()>)> {
    let guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match Cluster::from_env() {
        Ok(cluster) if cluster.is_rig() => Some((cluster, guard)),
        Ok(_) => {
            skipped(
                test,
                "it proves the project's own cluster, and KUBECONFIG names another",
            );
            None
        }
        Err(ClusterError::NoCluster) => {
            skipped(test, "no cluster is up");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Said past the test runner, which hides what passing tests print.
fn skipped(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Waits until it is done, for `limit` at most; how long that took.
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < limit,
            "{what} did not happen within {limit:?}"
        );
        thread::sleep(Duration::from_millis(100));
    }
    start.elapsed()
}

/// A namespace of its own that is gone afterwards, also when the test fails.
pub struct Namespace<'a>(&'a Cluster, &'static str);

impl<'a> Namespace<'a> {
    /// Makes it.
    pub fn new(cluster: &'a Cluster, name: &'static str) -> Self {
        let _ = cluster.kubectl(&["delete", "namespace", name, "--ignore-not-found"]);
        cluster.kubectl(&["create", "namespace", name]).unwrap();
        let account = ["-n", name, "get", "serviceaccount", "default"];
        until(
            "the service account of the namespace",
            Duration::from_secs(30),
            || cluster.kubectl(&account).is_ok(),
        );
        Namespace(cluster, name)
    }

    /// What `kubectl` says in it.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, ClusterError> {
        self.0.kubectl(&[&["-n", self.1], args].concat())
    }

    /// A pod with the small image on a node, whose command is `script`; waits until it runs.
    pub fn pod(&self, name: &str, node: &str, image: &str, script: &str) {
        let overrides =
            format!(r#"{{"spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 0}}}}"#);
        let image = format!("--image={image}");
        let overrides = format!("--overrides={overrides}");
        let args = [
            "run",
            name,
            &image,
            "--image-pull-policy=Never",
            "--restart=Never",
            &overrides,
            "--command",
            "--",
            "sh",
            "-c",
            script,
        ];
        self.kubectl(&args).unwrap();
        self.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=30s",
            &format!("pod/{name}"),
        ])
        .unwrap();
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _ = self
            .0
            .kubectl(&["delete", "namespace", self.1, "--wait=false"]);
    }
}
