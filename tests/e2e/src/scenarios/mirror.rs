//! A mirror of the hub inside the company: an address of its own, a certificate of the company's own authority, a token that
//! is for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use modelcache_crds::names::ENDPOINT_ANNOTATION;
use modelcache_test_hub::admin::RepositorySpec;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::{Outcome, cold};
use crate::hub::{HOSTS, Hub};
use crate::wait::until;
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
    let endpoint = format!("https://{}:8080", HOSTS[0]);
    let secret = |annotations: serde_json::Value| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": {"token": TOKEN},
            "metadata": {"name": "mirror", "namespace": SYSTEM, "annotations": annotations},
        })
        .to_string()
    };
    world.apply(&secret(json!({}))).await?;
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
                "repository": "org/mirrored", "endpoint": endpoint,
                "tokenSecret": {"name": "mirror"}, "caBundle": authority,
            }}}]},
        })
        .to_string()
    };
    // The token goes to no hub of which its Secret says nothing.
    world.apply(&cache(&authority.pem())).await?;
    let message = world
        .reason(
            "mirror",
            "Resolved",
            "False",
            "TokenNotForEndpoint",
            Duration::from_secs(40),
        )
        .await?;
    for part in [ENDPOINT_ANNOTATION, &endpoint] {
        ensure!(message.contains(part), "no {part} in: {message}");
    }
    ensure!(
        hub.requests("org/mirrored").await? == 0,
        "the hub was asked all the same"
    );
    // Another authority does not do, and the message says which field to mend.
    world
        .apply(&cache(&self::authority("Somebody else")?.pem()))
        .await?;
    until(
        "the operator to see the other authority",
        Duration::from_secs(20),
        || async {
            let seen = world.status("mirror").await?.observed_generation;
            ensure!(seen == Some(2), "it saw generation {seen:?}");
            Ok(())
        },
    )
    .await?;
    world
        .apply(&secret(json!({(ENDPOINT_ANNOTATION): endpoint})))
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
