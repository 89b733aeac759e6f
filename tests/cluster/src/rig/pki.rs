//! The cluster's certificates and kubeconfigs, made once and kept.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::ClusterError;
use crate::rig::paths::{NodeId, Paths};
use crate::run::{command, make_dir, run, write};

/// Users of the control plane: name of the files and subject of the certificate.
const USERS: [(&str, &str); 5] = [
    ("admin", "/O=system:masters/CN=admin"),
    (
        "kubelet-client",
        "/O=system:masters/CN=apiserver-kubelet-client",
    ),
    ("controller-manager", "/CN=system:kube-controller-manager"),
    ("scheduler", "/CN=system:kube-scheduler"),
    ("proxy", "/CN=system:kube-proxy"),
];

const API_NAMES: &str = "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,\
                         DNS:localhost,IP:10.77.0.1,IP:10.96.0.1,IP:127.0.0.1";

/// Makes what the control plane needs and does not have yet.
pub(crate) fn control_plane(paths: &Paths) -> Result<(), ClusterError> {
    let dir = paths.pki();
    make_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
        .map_err(ClusterError::io("protect", &dir))?;
    if !dir.join("ca.crt").exists() {
        let args = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            "ca.key",
        ];
        let more = [
            "-days",
            "3650",
            "-subj",
            "/CN=modelcache-test-ca",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-out",
            "ca.crt",
        ];
        run(command("openssl", &args).args(more).current_dir(&dir))?;
    }
    if !dir.join("sa.pub").exists() {
        run(command(
            "openssl",
            &[
                "ecparam",
                "-name",
                "prime256v1",
                "-genkey",
                "-noout",
                "-out",
                "sa.key",
            ],
        )
        .current_dir(&dir))?;
        run(command(
            "openssl",
            &["ec", "-in", "sa.key", "-pubout", "-out", "sa.pub"],
        )
        .current_dir(&dir))?;
    }
    certificate(&dir, "apiserver", "/CN=kube-apiserver", API_NAMES)?;
    for (name, subject) in USERS {
        certificate(&dir, name, subject, "")?;
        kubeconfig(paths, name)?;
    }
    Ok(())
}

/// Makes what one node needs and does not have yet.
pub(crate) fn node(paths: &Paths, node: NodeId) -> Result<(), ClusterError> {
    let name = node.to_string();
    certificate(
        &paths.pki(),
        &name,
        &format!("/O=system:nodes/CN=system:node:{name}"),
        &format!("DNS:{name},IP:{}", node.address()),
    )?;
    kubeconfig(paths, &name)
}

fn certificate(
    dir: &Path,
    name: &str,
    subject: &str,
    alternatives: &str,
) -> Result<(), ClusterError> {
    let file = |end: &str| format!("{name}.{end}");
    if dir.join(file("crt")).exists() {
        return Ok(());
    }
    let (key, request, extensions, made) = (file("key"), file("csr"), file("ext"), file("crt.new"));
    let mut text =
        "keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n"
            .to_owned();
    if !alternatives.is_empty() {
        let _ = writeln!(text, "subjectAltName={alternatives}");
    }
    write(&dir.join(&extensions), text)?;
    let args = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        &key,
        "-out",
        &request,
        "-subj",
        subject,
    ];
    run(command("openssl", &args).current_dir(dir))?;
    let args = [
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "3650",
        "-extfile",
        &extensions,
        "-out",
        &made,
    ];
    run(command("openssl", &args).current_dir(dir))?;
    // Renamed last: a certificate that is there is whole, even after a crash.
    fs::rename(dir.join(&made), dir.join(file("crt")))
        .map_err(ClusterError::io("rename", &dir.join(&made)))
}

fn kubeconfig(paths: &Paths, user: &str) -> Result<(), ClusterError> {
    let pki = paths.pki();
    let pki = pki.display();
    let path = paths.kubeconfig(user);
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let text = format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: modelcache-test, cluster: {{server: 'https://10.77.0.1:6443', certificate-authority: '{pki}/ca.crt'}}}}]\n\
         users: [{{name: user, user: {{client-certificate: '{pki}/{user}.crt', client-key: '{pki}/{user}.key'}}}}]\n\
         contexts: [{{name: modelcache-test, context: {{cluster: modelcache-test, user: user}}}}]\n\
         current-context: modelcache-test\n"
    );
    write(&path, text)
}
