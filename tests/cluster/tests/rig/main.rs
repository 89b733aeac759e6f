//! Proves that the test cluster is a cluster: what the project's other tests rest on works, and accidents do what they say.
//!
//! Run through `tests/cluster/cluster exec -- cargo test --release --offline -p modelcache-test-cluster --test rig`. Without a cluster the tests
//! say that they are skipped.

// Helpers of tests are tests too; the linter's own exception ends at functions marked as such.
#![allow(clippy::unwrap_used, clippy::panic)]

mod namespace;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use modelcache_test_cluster::ClusterError;
use namespace::{Namespace, rig, until};

const BUSYBOX: &str = "modelcache.local/busybox:dev";

fn chart() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/chart")
        .display()
        .to_string()
}

#[test]
fn helm_installs_upgrades_and_removes_and_every_node_has_its_own_disk() {
    let Some((cluster, _guard)) = rig("helm and node disks") else {
        return;
    };
    let said = |node: &str| {
        fs::read_to_string(cluster.node_path(node, "/var/lib/proof/said").unwrap())
            .unwrap_or_default()
    };
    let namespace = [
        "-n",
        "proof-helm",
        "--create-namespace",
        "--wait",
        "--timeout",
        "60s",
    ];
    let chart = chart();
    cluster
        .helm(&[&["upgrade", "--install", "proof", &chart], &namespace[..]].concat())
        .unwrap();
    let nodes = cluster.nodes().unwrap();
    assert!(nodes.len() >= 3, "{nodes:?}");
    for node in &nodes {
        assert_eq!(said(node).trim(), format!("{node} one"));
    }
    cluster
        .helm(
            &[
                &[
                    "upgrade",
                    "--install",
                    "proof",
                    &chart,
                    "--set",
                    "message=two",
                ],
                &namespace[..],
            ]
            .concat(),
        )
        .unwrap();
    for node in &nodes {
        until("the upgrade to write", Duration::from_secs(20), || {
            said(node).trim() == format!("{node} two")
        });
    }
    cluster
        .helm(&["uninstall", "proof", "-n", "proof-helm", "--wait"])
        .unwrap();
    assert!(
        cluster
            .kubectl(&["-n", "proof-helm", "get", "daemonset", "proof"])
            .is_err()
    );
    assert_eq!(
        said(&nodes[0]).trim(),
        "node-1 two",
        "removing the release must not touch the disk"
    );
    cluster
        .kubectl(&["delete", "namespace", "proof-helm", "--wait=false"])
        .unwrap();
    for node in &nodes {
        cluster
            .node_exec(node, &["rm", "-r", "/var/lib/proof"])
            .unwrap();
    }
}

#[test]
fn services_answer_by_address_by_name_and_by_node_port() {
    let Some((cluster, _guard)) = rig("services and names") else {
        return;
    };
    let proof = Namespace::new(&cluster, "proof-service");
    proof
        .kubectl(&[
            "apply",
            "-f",
            &format!("{}/tests/service.yaml", env!("CARGO_MANIFEST_DIR")),
        ])
        .unwrap();
    proof
        .kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])
        .unwrap();
    let address = proof
        .kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
        .unwrap();
    let port = proof
        .kubectl(&[
            "get",
            "service",
            "web",
            "-o",
            "jsonpath={.spec.ports[0].nodePort}",
        ])
        .unwrap();
    proof.pod("client", "node-3", BUSYBOX, "sleep 100000");
    let get = |url: &str| {
        proof
            .kubectl(&["exec", "client", "--", "timeout", "5", "wget", "-qO-", url])
            .unwrap()
    };
    assert!(get(&format!("http://{address}/")).starts_with("web-"));
    assert!(get("http://web/").starts_with("web-"));
    assert!(get("http://web.proof-service.svc.cluster.local/").starts_with("web-"));
    let both: std::collections::BTreeSet<String> = (0..20).map(|_| get("http://web/")).collect();
    assert_eq!(both.len(), 2, "both pods should answer: {both:?}");
    let get_on = |node: &str, url: &str| {
        let wget = ["busybox", "timeout", "5", "busybox", "wget", "-qO-", url];
        cluster.node_exec(node, &wget).unwrap()
    };
    for node in ["node-1", "node-2", "node-3"] {
        let answer = get_on(node, &format!("http://{address}/"));
        assert!(answer.starts_with("web-"), "{node}: {answer}");
    }
    let answer = get_on("node-1", &format!("http://10.77.0.12:{port}/"));
    assert!(answer.starts_with("web-"), "{answer}");
    assert!(
        proof
            .kubectl(&["logs", "deployment/web"])
            .unwrap()
            .contains("serving")
    );
    // Servers of tests run beside the control plane, under any name below this one.
    let found = proof
        .kubectl(&[
            "exec",
            "client",
            "--",
            "nslookup",
            "-type=a",
            "hub.modelcache.test",
        ])
        .unwrap();
    assert!(found.contains("10.77.0.1"), "{found}");
}

#[test]
fn a_pods_token_tells_the_api_server_pod_and_node() {
    let Some((cluster, _guard)) = rig("tokens of pods") else {
        return;
    };
    let proof = Namespace::new(&cluster, "proof-token");
    proof.pod("client", "node-2", BUSYBOX, "sleep 100000");
    let token = proof
        .kubectl(&[
            "exec",
            "client",
            "--",
            "cat",
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
        ])
        .unwrap();
    let token = format!("--token={}", token.trim());
    // Without the administrator's certificate, which would speak louder than the token.
    let words = [
        "env",
        "KUBECONFIG=/dev/null",
        "kubectl",
        "--server=https://10.96.0.1",
        "--insecure-skip-tls-verify",
        &token,
        "auth",
        "whoami",
        "-o",
        "json",
    ];
    let answer = cluster.node_exec("node-2", &words).unwrap();
    assert!(
        answer.contains("system:serviceaccount:proof-token:default"),
        "{answer}"
    );
    assert!(
        answer.contains("authentication.kubernetes.io/node-name") && answer.contains("node-2"),
        "{answer}"
    );
}

#[test]
fn a_power_cut_ends_everything_at_once_and_the_disk_survives() {
    let Some((cluster, _guard)) = rig("power cut") else {
        return;
    };
    let proof = Namespace::new(&cluster, "proof-power");
    let mark = cluster.node_path("node-2", "/var/lib/proof-power").unwrap();
    cluster
        .node_exec("node-2", &["sh", "-c", "echo kept > /var/lib/proof-power"])
        .unwrap();
    let listener = TcpListener::bind("10.77.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    proof.pod(
        "talk",
        "node-2",
        BUSYBOX,
        &format!(
            "while true; do echo beat; sleep 0.1; done | nc 10.77.0.1 {}",
            address.port()
        ),
    );
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();

    cluster.power_cut("node-2").unwrap();
    assert!(matches!(
        cluster.node_exec("node-2", &["true"]),
        Err(ClusterError::NodeDown { .. })
    ));
    assert!(matches!(
        cluster.power_cut("node-2"),
        Err(ClusterError::NodeDown { .. })
    ));
    // Whatever was under way arrives within an instant; after that there must be silence.
    thread::sleep(Duration::from_millis(500));
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let silent = matches!(stream.read(&mut [0; 1]), Ok(0)) || stream.read(&mut [0; 1]).is_err();
    assert!(silent, "a pod still sends after the power cut");
    let not_ready = until("NotReady", Duration::from_mins(1), || {
        let status = cluster.kubectl(&[
            "get",
            "node",
            "node-2",
            "-o",
            "jsonpath={.status.conditions[-1].status}",
        ]);
        status.is_ok_and(|status| status != "True")
    });
    assert_eq!(fs::read_to_string(&mark).unwrap(), "kept\n");

    cluster.boot("node-2").unwrap();
    let start = Instant::now();
    cluster.wait_ready(&["node-2"]).unwrap();
    eprintln!(
        "power cut: NotReady after {not_ready:?}, Ready {:?} after the boot",
        start.elapsed()
    );
    assert!(matches!(
        cluster.boot("node-2"),
        Err(ClusterError::NodeUp { .. })
    ));
    assert_eq!(
        cluster
            .node_exec("node-2", &["cat", "/var/lib/proof-power"])
            .unwrap(),
        "kept\n"
    );
    cluster
        .node_exec("node-2", &["rm", "/var/lib/proof-power"])
        .unwrap();
    proof.pod("again", "node-2", BUSYBOX, "sleep 100000");
}

#[test]
fn partitions_and_cables_stop_exactly_what_they_should() {
    let Some((cluster, _guard)) = rig("partitions and cables") else {
        return;
    };
    let reach = |from: &str, address: &str| {
        cluster
            .node_exec(from, &["busybox", "ping", "-c", "1", "-W", "1", address])
            .is_ok()
    };
    assert!(reach("node-1", "10.77.0.12") && reach("node-1", "10.77.0.13"));
    cluster.partition("node-1", "node-2").unwrap();
    assert!(!reach("node-1", "10.77.0.12") && !reach("node-2", "10.77.0.11"));
    assert!(
        reach("node-1", "10.77.0.13")
            && reach("node-2", "10.77.0.13")
            && reach("node-1", "10.77.0.1")
    );
    cluster.heal().unwrap();
    assert!(reach("node-1", "10.77.0.12"));
    cluster.heal().unwrap();

    cluster.cut("node-3").unwrap();
    assert!(!reach("node-3", "10.77.0.1") && !reach("node-1", "10.77.0.13"));
    cluster.join("node-3").unwrap();
    until("the cable to work again", Duration::from_secs(10), || {
        reach("node-3", "10.77.0.1")
    });
    cluster.wait_ready(&["node-1", "node-2", "node-3"]).unwrap();
}

#[test]
fn a_shaped_cable_is_as_slow_as_asked_in_both_directions() {
    const BYTES: usize = 3_000_000;
    let Some((cluster, _guard)) = rig("shaped cables") else {
        return;
    };
    let listener = TcpListener::bind("10.77.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let send = || {
        let script = format!("head -c {BYTES} /dev/zero | busybox nc 10.77.0.1 {port}");
        thread::scope(|scope| {
            scope.spawn(|| cluster.node_exec("node-1", &["sh", "-c", &script]).unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let start = Instant::now();
            let mut taken = Vec::new();
            stream.read_to_end(&mut taken).unwrap();
            assert_eq!(taken.len(), BYTES);
            start.elapsed()
        })
    };
    let receive = || {
        let script = format!("busybox nc 10.77.0.1 {port} < /dev/null | wc -c");
        thread::scope(|scope| {
            let receiver =
                scope.spawn(|| cluster.node_exec("node-1", &["sh", "-c", &script]).unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let start = Instant::now();
            stream.write_all(&vec![0; BYTES]).unwrap();
            drop(stream);
            assert_eq!(receiver.join().unwrap().trim(), BYTES.to_string());
            start.elapsed()
        })
    };
    cluster.shape("node-1", Some("20mbit")).unwrap();
    let slow = [send(), receive()];
    cluster.shape("node-1", None).unwrap();
    let fast = [send(), receive()];
    eprintln!("{BYTES} bytes out and in: {slow:?} at 20 Mbit/s, {fast:?} unshaped");
    for time in slow {
        // 3 MB at 20 Mbit/s is 1.2 s.
        assert!((0.9..3.0).contains(&time.as_secs_f64()), "{time:?}");
    }
    for time in fast {
        assert!(time.as_secs_f64() < 0.6, "{time:?}");
    }
    assert!(cluster.shape("node-1", Some("quick")).is_err());
}

#[test]
fn a_node_and_an_image_that_come_later_are_used_like_the_others() {
    let Some((cluster, _guard)) = rig("late nodes and images") else {
        return;
    };
    let proof = Namespace::new(&cluster, "proof-join");
    let late = "node-9";
    let image = "modelcache.local/proof:dev";
    // A copy of the small image under another name.
    let ctr = |words: &[&str]| {
        cluster
            .node_exec(
                "node-1",
                &[&["ctr", "-n", "k8s.io", "images"], words].concat(),
            )
            .unwrap()
    };
    ctr(&["tag", "--force", BUSYBOX, image]);
    ctr(&["export", "/var/lib/proof.tar", image]);
    let archive = cluster.node_path("node-1", "/var/lib/proof.tar").unwrap();
    assert_eq!(
        cluster.load_images(std::slice::from_ref(&archive)).unwrap(),
        [image]
    );
    proof.pod("second", "node-2", image, "sleep 100000");

    cluster.boot(late).unwrap();
    let start = Instant::now();
    cluster.wait_ready(&[late]).unwrap();
    eprintln!("a new node was Ready after {:?}", start.elapsed());
    proof.pod("late", late, image, "sleep 100000");
    let address = proof
        .kubectl(&["get", "pod", "second", "-o", "jsonpath={.status.podIP}"])
        .unwrap();
    proof
        .kubectl(&["exec", "late", "--", "ping", "-c", "1", "-W", "2", &address])
        .unwrap();
    cluster.remove_node(late).unwrap();
    assert!(!cluster.nodes().unwrap().contains(&late.to_owned()));
    cluster.forget_image(image).unwrap();
    fs::remove_file(archive).unwrap();
}

#[test]
fn the_api_server_can_be_away_for_a_while() {
    let Some((cluster, _guard)) = rig("API server away") else {
        return;
    };
    cluster.stop_api_server().unwrap();
    assert!(
        cluster
            .kubectl(&["--request-timeout=2s", "get", "nodes"])
            .is_err()
    );
    cluster.start_api_server().unwrap();
    assert!(cluster.nodes().unwrap().len() >= 3);
    cluster.wait_ready(&["node-1", "node-2", "node-3"]).unwrap();
}
