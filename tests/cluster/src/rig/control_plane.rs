//! etcd, API server, controllers, scheduler and DNS: processes in the control plane's network namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::ClusterError;
use crate::rig::network::inside;
use crate::rig::paths::Paths;
use crate::rig::processes::{Daemon, Process};
use crate::run::{make_dir, output, remove, run, wait, write};

/// The record and log name of the API server.
pub(crate) const API_SERVER: &str = "kube-apiserver";

/// Starts etcd, empty.
pub(crate) fn start_etcd(paths: &Paths) -> Result<(), ClusterError> {
    let data = paths.state().join("etcd");
    remove(&data)?;
    make_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))
        .map_err(ClusterError::io("protect", &data))?;
    let data = format!("--data-dir={}", data.display());
    start(
        paths,
        "etcd",
        &[
            "etcd",
            "--name=rig",
            &data,
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=rig=http://127.0.0.1:2380",
            // The cluster is thrown away with its data: waiting for the disk would only make it slower.
            "--unsafe-no-fsync",
        ],
    )
}

/// Starts the API server and waits until it answers.
pub(crate) fn start_api_server(paths: &Paths) -> Result<(), ClusterError> {
    let pki = paths.pki();
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    let flags = [
        file("client-ca-file", "ca.crt"),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("kubelet-client-certificate", "kubelet-client.crt"),
        file("kubelet-client-key", "kubelet-client.key"),
        file("kubelet-certificate-authority", "ca.crt"),
        file("service-account-key-file", "sa.pub"),
        file("service-account-signing-key-file", "sa.key"),
    ];
    let mut words = vec![
        "kube-apiserver",
        "--bind-address=10.77.0.1",
        "--advertise-address=10.77.0.1",
        "--secure-port=6443",
        "--etcd-servers=http://127.0.0.1:2379",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ];
    words.extend(flags.iter().map(String::as_str));
    start(paths, API_SERVER, &words)
}

/// Waits until the API server answers that it is ready.
pub(crate) fn wait_for_api_server(paths: &Paths) -> Result<(), ClusterError> {
    let log = paths.log().join(format!("{API_SERVER}.log"));
    wait(
        "the API server's answer",
        Duration::from_secs(90),
        &log,
        || {
            output(kubectl(paths).args(["get", "--raw", "/readyz"]))
                .is_ok_and(|answer| answer.status.success())
        },
    )
}

/// Ends the API server as a crash would.
pub(crate) fn stop_api_server(paths: &Paths) -> Result<(), ClusterError> {
    match Process::read(&Daemon::record(&paths.run(), API_SERVER)) {
        Some(process) => process.kill(&paths.log()),
        None => Err(ClusterError::NotUp),
    }
}

/// Starts the rest. The API server must be ready: the controllers exit at once while its first roles are missing.
pub(crate) fn start_controllers(paths: &Paths) -> Result<(), ClusterError> {
    let users = |name: &str| {
        let conf = paths.kubeconfig(name);
        [
            "kubeconfig",
            "authentication-kubeconfig",
            "authorization-kubeconfig",
        ]
        .map(|flag| format!("--{flag}={}", conf.display()))
    };
    let pki = paths.pki();
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    let mut flags = users("controller-manager").to_vec();
    flags.extend([
        file("root-ca-file", "ca.crt"),
        file("service-account-private-key-file", "sa.key"),
        file("cluster-signing-cert-file", "ca.crt"),
        file("cluster-signing-key-file", "ca.key"),
    ]);
    let mut words = vec![
        "kube-controller-manager",
        "--bind-address=127.0.0.1",
        "--use-service-account-credentials",
        // The default of 50 s before a dead node is noticed would make every test of it a minute longer.
        "--node-monitor-grace-period=20s",
        "--node-monitor-period=2s",
        "--leader-elect=false",
        // At the default of 20 requests a second the start of all controllers alone takes five seconds.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ];
    words.extend(flags.iter().map(String::as_str));
    start(paths, "kube-controller-manager", &words)?;

    let flags = users("scheduler");
    let mut words = vec![
        "kube-scheduler",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ];
    words.extend(flags.iter().map(String::as_str));
    start(paths, "kube-scheduler", &words)?;

    run(kubectl(paths).args([
        "create",
        "clusterrolebinding",
        "node-proxier",
        "--clusterrole=system:node-proxier",
        "--user=system:kube-proxy",
    ]))?;
    let corefile = paths.conf().join("Corefile");
    let text = include_str!("../../node/Corefile")
        .replace("@STATE@", &paths.state().display().to_string());
    write(&corefile, text)?;
    start(
        paths,
        "coredns",
        &["coredns", "-conf", &corefile.display().to_string()],
    )
}

/// `kubectl` as administrator, where the API server can be reached.
pub(crate) fn kubectl(paths: &Paths) -> std::process::Command {
    let mut command = inside(
        &paths.control_namespace(),
        &[&paths.bin().join("kubectl").display().to_string()],
    );
    command.env("KUBECONFIG", paths.kubeconfig("admin"));
    command
}

fn start(paths: &Paths, name: &str, words: &[&str]) -> Result<(), ClusterError> {
    let mut command: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    command[0] = paths.bin().join(words[0]).display().to_string();
    let daemon = Daemon {
        name,
        run: paths.run(),
        log: paths.log(),
        launcher: paths.conf().join("launch.sh"),
        before: vec![
            "nsenter".to_owned(),
            format!("--net=/run/netns/{}", paths.control_namespace()),
            "--".to_owned(),
        ],
        command,
        environment: vec![("HOME", paths.state().display().to_string())],
    };
    daemon.start().map(drop)
}
