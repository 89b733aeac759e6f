//! A mirror of the hub inside the company: an address of its own, a certificate of the company's own authority, a token.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modelcache_test_hub::admin::RepositorySpec;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::{Outcome, cold};
use crate::hub::{HOSTS, Hub};
use crate::world::{SYSTEM, World};

const TOKEN: &str = "hf_mirror5555555555555555555555555";

pub(super) async fn run(world: &World) -> Result<Outcome> {
    let authority = authority("The company")?;
    let key = KeyPair::generate()?;
    let certificate =
        CertificateParams::new(HOSTS.map(str::to_owned))?.signed_by(&key, &authority)?;
    let hub = Hub::start_tls(world, &certificate.pem(), &key.serialize_pem()).await?;
    hub.token(TOKEN, &["org/mirrored"]).await?;
    // The default hub is one that cannot be reached: only the model's own endpoint counts.
    world.install(&["hub.endpoint=http://192.0.2.1"]).await?;
    world
        .apply(
            &json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "mirror", "namespace": SYSTEM}, "stringData": {"token": TOKEN},
            })
            .to_string(),
        )
        .await?;
    let repo = hub
        .add_repository(RepositorySpec {
            private: true,
            files: cold::model(20_000_000, 9_300),
            ..RepositorySpec::new("org/mirrored")
        })
        .await?;
    let cache = |authority: &str| {
        json!({
            "apiVersion": "modelcache.io/v1alpha1", "kind": "ModelCache", "metadata": {"name": "mirror"},
            "spec": {"models": [{"name": "model", "source": {"huggingFace": {
                "repository": "org/mirrored", "endpoint": format!("https://{}:8080", HOSTS[0]),
                "tokenSecret": {"name": "mirror"}, "caBundle": authority,
            }}}]},
        })
        .to_string()
    };
    // Another authority does not do, and the message says which field to mend.
    world
        .apply(&cache(&self::authority("Somebody else")?.pem()))
        .await?;
    let message = world
        .reason(
            "mirror",
            "Resolved",
            "False",
            "OriginCertificate",
            Duration::from_secs(40),
        )
        .await?;
    ensure!(message.contains("caBundle"), "no remedy in: {message}");
    world.apply(&cache(&authority.pem())).await?;
    world.ready("mirror", Duration::from_mins(2)).await?;
    world.check_files("mirror", &repo).await?;
    Ok(Outcome::Done(vec![
        "private repository of an HTTPS mirror with its own authority".to_owned(),
    ]))
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate()?;
    CertifiedIssuer::self_signed(parameters, key).context("cannot make a certificate")
}
