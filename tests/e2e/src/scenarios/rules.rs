//! A real API server refuses wrong objects.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{Api, PostParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use modelcache_crds::names::GROUP;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Outcome;
use crate::wait::until;
use crate::world::{RELEASE, SYSTEM, World};

/// Applies every case of `crds/tests/rules` and compares what the API server says with what the case expects.
pub(super) async fn run(world: &World) -> Result<Outcome> {
    world.install(&[]).await?;
    // The operator would plan for these objects, and delete those that nobody asked for.
    let operator = format!("deployment/{RELEASE}-operator");
    world.kubectl(&["-n", SYSTEM, "scale", &operator, "--replicas=0"])?;
    let outcome = try_all(world).await;
    world.kubectl(&["-n", SYSTEM, "scale", &operator, "--replicas=1"])?;
    world.kubectl(&[
        "-n",
        SYSTEM,
        "rollout",
        "status",
        &operator,
        "--timeout=60s",
    ])?;
    outcome
}

async fn try_all(world: &World) -> Result<Outcome> {
    until(
        "the operator to be gone",
        Duration::from_secs(30),
        || async {
            let left = world
                .pods(SYSTEM, "app.kubernetes.io/component=operator")
                .await?;
            ensure!(left.is_empty(), "still there");
            Ok(())
        },
    )
    .await?;
    let directory = world.root.join("crds/tests/rules");
    let mut cases = 0;
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .collect::<std::io::Result<Vec<_>>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        if file
            .path()
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            cases += check_file(world, &file.path()).await?;
        }
    }
    ensure!(
        cases >= 20,
        "only {cases} cases were found in {}",
        directory.display()
    );
    Ok(Outcome::Done(vec![format!("{cases} objects")]))
}

#[derive(Deserialize)]
struct File {
    kind: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(default)]
    object: Option<String>,
    #[serde(default)]
    before: Option<Value>,
    spec: Value,
    #[serde(default)]
    refused: Option<String>,
}

/// Applies every case of a file for no more than a trial (`--dry-run=server`), updates on top of an object that is
/// really written; the number of cases.
async fn check_file(world: &World, file: &std::path::Path) -> Result<usize> {
    let file: File = serde_norway::from_str(&std::fs::read_to_string(file)?)
        .with_context(|| format!("{} is not a file of cases", file.display()))?;
    let resource = ApiResource {
        group: GROUP.to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: format!("{GROUP}/v1alpha1"),
        plural: format!("{}s", file.kind.to_lowercase()),
        kind: file.kind.clone(),
    };
    let api: Api<DynamicObject> = Api::all_with(world.client.clone(), &resource);
    let count = file.cases.len();
    for case in file.cases {
        let name = case.object.clone().unwrap_or_else(|| "rules".to_owned());
        let object =
            |spec: &Value| DynamicObject::new(&name, &resource).data(json!({ "spec": spec }));
        let trial = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let answer = if let Some(before) = &case.before {
            let before = api
                .create(&PostParams::default(), &object(before))
                .await
                .with_context(|| format!("{}: the object before", case.name))?;
            let mut after = object(&case.spec);
            after.metadata.resource_version = before.metadata.resource_version;
            api.replace(&name, &trial, &after).await
        } else {
            api.create(&trial, &object(&case.spec)).await
        };
        if case.before.is_some() {
            world.kubectl(&["delete", &file.kind, &name, "--ignore-not-found"])?;
        }
        match (answer, &case.refused) {
            (Ok(_), None) => {}
            (Ok(_), Some(_)) => bail!("{}: the API server accepts it", case.name),
            (Err(kube::Error::Api(status)), Some(part)) => {
                ensure!(
                    status.message.contains(part),
                    "{}: refused, but with: {}",
                    case.name,
                    status.message
                );
            }
            (Err(error), _) => {
                return Err(error).with_context(|| format!("{}: refused", case.name));
            }
        }
    }
    Ok(count)
}
