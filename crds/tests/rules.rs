//! Every rule of the three types, tried without a cluster on the cases of `tests/rules/*.yaml`.

// All of this is a test, also the functions that the tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use kube::core::cel::{ErrorKind, ValidationErrors, Validator, apply_defaults};
use modelcache_crds::generate::{Definition, definitions};
use modelcache_crds::{ModelCache, ModelCacheNode, ModelSnapshot};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kind: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    object: Option<String>,
    before: Option<Value>,
    spec: Value,
    refused: Option<String>,
    at: Option<String>,
    by: Option<String>,
}

impl Case {
    fn object(&self, kind: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "modelcache.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": self.object.as_deref().unwrap_or("rules")},
            "spec": spec,
        })
    }

    fn by_rule(&self) -> bool {
        self.by.is_none()
    }
}

fn files() -> Vec<File> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            files.push(
                serde_norway::from_str(&text)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            );
        }
    }
    assert_eq!(files.len(), 3, "one file a kind");
    files
}

fn definition(kind: &str) -> Definition {
    definitions()
        .unwrap()
        .into_iter()
        .find(|definition| definition.spec["names"]["kind"] == kind)
        .unwrap_or_else(|| panic!("no such kind: {kind}"))
}

/// What an API server does before it asks the rules: drop nulls (no field is nullable), fill in defaults.
fn received(schema: &Value, object: &Value) -> Value {
    apply_defaults(schema, &without_nulls(object))
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Path and message of each refusal.
fn printed(errors: &ValidationErrors) -> Vec<(String, String)> {
    errors
        .iter()
        .map(|error| {
            assert_eq!(error.kind, ErrorKind::ValidationFailure, "{error:?}");
            (error.field_path.clone(), error.message.clone())
        })
        .collect()
}

#[test]
fn every_case_is_accepted_or_refused_with_its_message() {
    for file in files() {
        let definition = definition(&file.kind);
        let schema = definition.schema();
        for case in file.cases.iter().filter(|case| case.by_rule()) {
            let object = received(schema, &case.object(&file.kind, &case.spec));
            let before = case
                .before
                .as_ref()
                .map(|spec| received(schema, &case.object(&file.kind, spec)));
            let outcome = Validator::new().validate(schema, &object, before.as_ref());
            match (outcome, &case.refused) {
                (Ok(()), None) => {}
                (Err(errors), Some(expected)) => {
                    let printed = printed(&errors);
                    let path = case.at.as_deref().unwrap_or_default();
                    assert!(
                        printed
                            .iter()
                            .any(|(at, message)| at.contains(path) && message.contains(expected)),
                        "{}: refused, but not with '{expected}' at '{path}': {printed:#?}",
                        case.name
                    );
                }
                (Ok(()), Some(expected)) => {
                    panic!("{}: accepted, but '{expected}' was expected", case.name)
                }
                (Err(errors), None) => panic!("{}: {:#?}", case.name, printed(&errors)),
            }
        }
    }
}

#[test]
fn the_types_own_checks_agree() {
    /// Checks one case through the Rust type, as a client would before it writes.
    macro_rules! check {
        ($type:ty, $case:expr, $kind:expr) => {{
            let parse = |spec| -> $type {
                let object = without_nulls(&$case.object($kind, spec));
                serde_json::from_value(object)
                    .unwrap_or_else(|error| panic!("{}: {error}", $case.name))
            };
            let object = parse(&$case.spec);
            match &$case.before {
                None => object.validate_cel(),
                Some(before) => object.validate_cel_update(&parse(before)),
            }
        }};
    }
    for file in files() {
        for case in file.cases.iter().filter(|case| case.by_rule()) {
            let outcome = match file.kind.as_str() {
                "ModelCache" => check!(ModelCache, case, &file.kind),
                "ModelSnapshot" => check!(ModelSnapshot, case, &file.kind),
                "ModelCacheNode" => check!(ModelCacheNode, case, &file.kind),
                other => panic!("no such kind: {other}"),
            };
            assert_eq!(outcome.is_err(), case.refused.is_some(), "{}", case.name);
        }
    }
}

#[test]
fn every_rule_is_refused_by_at_least_one_case() {
    let mut broken = BTreeSet::new();
    let mut all = BTreeSet::new();
    for file in files() {
        let definition = definition(&file.kind);
        let schema = definition.schema();
        collect(schema, &mut all);
        for case in &file.cases {
            let object = received(schema, &case.object(&file.kind, &case.spec));
            let before = case
                .before
                .as_ref()
                .map(|spec| received(schema, &case.object(&file.kind, spec)));
            if let Err(errors) = Validator::new().validate(schema, &object, before.as_ref()) {
                broken.extend(errors.iter().map(|error| error.rule.clone()));
            }
        }
    }
    assert!(all.len() > 20, "{} rules found", all.len());
    let untried: Vec<_> = all.difference(&broken).collect();
    assert!(untried.is_empty(), "no case breaks {untried:#?}");
}

#[test]
fn every_rule_says_what_to_write_instead() {
    let mut messages = 0;
    for definition in definitions().unwrap() {
        visit(definition.schema(), &mut |rule| {
            let message = rule["message"]
                .as_str()
                .or(rule["messageExpression"].as_str())
                .unwrap_or_default();
            assert!(message.len() > 40, "{rule}");
            assert!(!message.contains('\n'), "{rule}");
            messages += 1;
        });
    }
    assert!(messages > 20);
}

fn collect(schema: &Value, rules: &mut BTreeSet<String>) {
    visit(schema, &mut |rule| {
        rules.insert(rule["rule"].as_str().unwrap_or_default().to_owned());
    });
}

fn visit(schema: &Value, found: &mut impl FnMut(&Value)) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "x-kubernetes-validations" {
                    value.as_array().into_iter().flatten().for_each(&mut *found);
                } else {
                    visit(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, found)),
        _ => {}
    }
}
