//! The three definitions as YAML: for the chart, and plain for `kubectl apply --server-side`.
//!
//! What the derive macros make of the Rust types is cleaned of what an API server does not know or would take
//! differently, see [`definitions`].

use std::path::PathBuf;

use kube::CustomResourceExt;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{ModelCache, ModelCacheNode, ModelSnapshot};

/// A definition could not be written as YAML.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// A type has no definition in JSON.
    #[error("the definition of {kind} does not serialize: {source}")]
    Json {
        /// Which type.
        kind: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// JSON did not become YAML.
    #[error("the definition {name} does not serialize as YAML: {source}")]
    Yaml {
        /// Which definition.
        name: String,
        /// Why.
        source: serde_norway::Error,
    },
}

/// One `CustomResourceDefinition`.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Name of the object: `<plural>.<group>`.
    pub name: String,
    /// Plural of the kind, which is also the name of its file.
    pub plural: String,
    /// Its `spec`.
    pub spec: Value,
}

impl Definition {
    /// The schema of the one version.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.spec["versions"][0]["schema"]["openAPIV3Schema"]
    }
}

/// Formats of integers, numbers and strings that an API server knows and we use.
const FORMATS: [&str; 4] = ["int32", "int64", "double", "date-time"];

/// The three definitions, cleaned:
///
/// * `nullable` goes: then the API server drops a `null` that a person wrote, and the rules need not think of it;
/// * `format`s unknown to the API server go, because it warns of each;
/// * empty values go.
pub fn definitions() -> Result<Vec<Definition>, GenerateError> {
    [
        ("ModelCache", serde_json::to_value(ModelCache::crd())),
        ("ModelSnapshot", serde_json::to_value(ModelSnapshot::crd())),
        (
            "ModelCacheNode",
            serde_json::to_value(ModelCacheNode::crd()),
        ),
    ]
    .into_iter()
    .map(|(kind, crd)| {
        let mut crd = crd.map_err(|source| GenerateError::Json { kind, source })?;
        let mut spec = crd["spec"].take();
        clean(&mut spec);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Definition {
            name: text(&crd["metadata"]["name"]),
            plural: text(&spec["names"]["plural"]),
            spec,
        })
    })
    .collect()
}

/// All definitions in one stream, for `kubectl apply --server-side -f`.
pub fn plain(definitions: &[Definition]) -> Result<String, GenerateError> {
    let mut out = String::from(
        "# The API of ModelCache. Generated from the Rust types by crdgen; install with\n\
         #   kubectl apply --server-side -f deploy/crds.yaml\n",
    );
    for definition in definitions {
        out.push_str("---\n");
        out.push_str(&head(definition));
        out.push_str("  labels:\n    app.kubernetes.io/part-of: modelcache\n");
        out.push_str(&spec_yaml(definition)?);
    }
    Ok(out)
}

/// One definition as a template of the chart.
pub fn template(definition: &Definition) -> Result<String, GenerateError> {
    Ok(format!(
        "{{{{- /* Generated from the Rust types by crdgen. */ -}}}}\n\
         {{{{- if .Values.crds.enabled }}}}\n\
         {head}\
         \x20 labels:\n\
         \x20   {{{{- include \"modelcache.labels\" . | nindent 4 }}}}\n\
         \x20 {{{{- if .Values.crds.keep }}}}\n\
         \x20 annotations:\n\
         \x20   helm.sh/resource-policy: keep\n\
         \x20 {{{{- end }}}}\n\
         {spec}\
         {{{{- end }}}}\n",
        head = head(definition),
        spec = escaped(&spec_yaml(definition)?),
    ))
}

/// Every generated file, by its path in the repository.
pub fn files() -> Result<Vec<(PathBuf, String)>, GenerateError> {
    let definitions = definitions()?;
    let mut files = vec![(PathBuf::from("deploy/crds.yaml"), plain(&definitions)?)];
    for definition in &definitions {
        let path = format!(
            "charts/modelcache/templates/crds/{}.yaml",
            definition.plural
        );
        files.push((path.into(), template(definition)?));
    }
    Ok(files)
}

fn head(definition: &Definition) -> String {
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: {}\n",
        definition.name
    )
}

fn spec_yaml(definition: &Definition) -> Result<String, GenerateError> {
    let document = Map::from_iter([("spec".to_owned(), definition.spec.clone())]);
    serde_norway::to_string(&document).map_err(|source| GenerateError::Yaml {
        name: definition.name.clone(),
        source,
    })
}

/// Text that Helm's templates leave as it is.
fn escaped(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}

/// Removes what an API server does not know, everywhere in a definition.
fn clean(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A property may bear any of these names; only schema keywords have these kinds of values.
            map.retain(|key, value| match key.as_str() {
                "nullable" => !value.is_boolean(),
                "title" => !value.is_string(),
                "format" => value.as_str().is_none_or(|f| FORMATS.contains(&f)),
                _ => !value.is_null(),
            });
            map.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_api_server_does_not_know_is_removed() {
        let mut value = json!({
            "properties": {
                "format": {"type": "integer", "format": "uint64", "nullable": true, "default": null},
                "title": {"type": "integer", "format": "int64", "title": "Title"},
            }
        });
        clean(&mut value);
        assert_eq!(
            value,
            json!({"properties": {
                "format": {"type": "integer"},
                "title": {"type": "integer", "format": "int64"},
            }})
        );
    }

    #[test]
    fn the_definitions_are_those_of_the_documentation() {
        let definitions = definitions().unwrap();
        let names: Vec<_> = definitions.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "modelcaches.modelcache.io",
                "modelsnapshots.modelcache.io",
                "modelcachenodes.modelcache.io"
            ]
        );
        for definition in &definitions {
            assert_eq!(definition.spec["scope"], "Cluster", "{}", definition.name);
            let text = definition.spec.to_string();
            assert!(
                !text.contains("nullable") && !text.contains("uint"),
                "{text}"
            );
        }
        assert_eq!(
            definitions[2].spec["versions"][0]["selectableFields"],
            json!([{"jsonPath": ".spec.nodeName"}])
        );
    }

    #[test]
    fn defaults_are_in_the_schema() {
        let definitions = definitions().unwrap();
        let spec = &definitions[0].schema()["properties"]["spec"]["properties"];
        assert_eq!(spec["source"]["default"], "PeersFirst");
        assert_eq!(spec["suspend"]["default"], false);
        assert_eq!(spec["nodePools"]["default"], json!([]));
        assert_eq!(spec["volumeClaims"]["default"], json!([]));
        let hub = &spec["models"]["items"]["properties"]["source"]["properties"]["huggingFace"]["properties"];
        assert_eq!(hub["revision"]["default"], "main");
        assert_eq!(hub["tokenSecret"]["properties"]["key"]["default"], "token");
        let pool = &spec["nodePools"]["items"]["properties"];
        assert_eq!(pool["nodeSelector"]["default"], json!({}));
        assert_eq!(pool["tolerableFailures"]["default"], 0);
    }

    #[test]
    fn lists_that_several_writers_merge_have_keys() {
        let definitions = definitions().unwrap();
        let keys = |value: &Value| value["x-kubernetes-list-map-keys"].clone();
        let cache = &definitions[0].schema()["properties"];
        assert_eq!(
            keys(&cache["spec"]["properties"]["models"]),
            json!(["name"])
        );
        assert_eq!(
            keys(&cache["status"]["properties"]["conditions"]),
            json!(["type"])
        );
        let node = &definitions[2].schema()["properties"];
        assert_eq!(
            keys(&node["status"]["properties"]["snapshots"]),
            json!(["name"])
        );
    }

    #[test]
    fn the_generated_files_are_up_to_date() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        for (path, text) in files().unwrap() {
            let there = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
            assert!(
                there == text,
                "{} is stale; run: cargo run --release -p modelcache-crds --bin crdgen",
                path.display()
            );
        }
    }

    #[test]
    fn a_template_survives_braces() {
        assert_eq!(escaped("a {{ b"), "a {{ \"{{\" }} b");
    }
}
