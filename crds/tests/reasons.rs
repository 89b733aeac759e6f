//! The documented reasons are those that operator and agents give: none that nothing gives, none that is only in the code.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use modelcache_crds::conditions::reasons;

/// A directory of the workspace.
fn directory(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Name and text of every source file below a directory, without its tests.
fn sources(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let of_tests = ["tests", "tests.rs", "fixtures.rs"].contains(&name);
        if path.is_dir() && !of_tests {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") && !of_tests {
            let text = fs::read_to_string(&path).unwrap();
            let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
            found.push((path, text[..end].to_owned()));
        }
    }
    found
}

fn givers() -> Vec<(PathBuf, String)> {
    let all = ["operator/src", "agent/src"].map(|path| sources(&directory(path)));
    let all: Vec<_> = all.into_iter().flatten().collect();
    assert!(all.len() > 30, "only {} files were found", all.len());
    all
}

/// Whether the text has the word and it does not go on.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let next = text[at + word.len()..].chars().next();
        !next.is_some_and(|next| next == '_' || next.is_ascii_alphanumeric())
    })
}

/// Names and values of the constants of the module.
fn constants() -> Vec<(String, String)> {
    let text = fs::read_to_string(directory("crds/src/conditions.rs")).unwrap();
    let module = text.split_once("pub mod reasons {").unwrap().1;
    let module = module.split_once("\n}\n").unwrap().0;
    let constants: Vec<_> = module
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub const "))
        .filter_map(|line| line.split_once(": &str = \""))
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches("\";").to_owned()))
        .collect();
    assert!(!constants.is_empty());
    constants
}

#[test]
fn all_are_listed() {
    let values: Vec<_> = constants().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, reasons::ALL);
}

#[test]
fn each_documented_reason_is_given() {
    let givers = givers();
    for (name, value) in constants() {
        let word = format!("reasons::{name}");
        assert!(
            givers.iter().any(|(_, text)| has_word(text, &word)),
            "{value} is documented, but neither operator nor agent uses {word}"
        );
    }
}

#[test]
fn no_reason_is_given_that_is_not_documented() {
    for (path, text) in givers() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let gives = code.to_lowercase().contains("reason") && !code.contains("#[error");
            let literal = code.split('"').nth(1).is_some_and(|text| {
                text.starts_with(|c: char| c.is_ascii_uppercase())
                    && text.len() > 2
                    && text.chars().all(|c| c.is_ascii_alphanumeric())
            });
            assert!(
                !(gives && literal),
                "{}:{}: write a constant of modelcache_crds::conditions::reasons: {line}",
                path.display(),
                number + 1
            );
        }
    }
}
