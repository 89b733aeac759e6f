//! Which call an address means.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::admin::Endpoint;
use crate::budget::Kind;

/// What stays as it is in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A call at the hub's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its kind.
    pub endpoint: Endpoint,
    /// The repository's name, when there is one.
    pub repository: String,
    /// The revision, when there is one.
    pub revision: Option<String>,
    /// The path behind the revision; may be empty.
    pub path: String,
}

/// Reads a path. `exists` tells whether a name of two parts is a repository: `a/tree` could also be the tree of `a`.
#[must_use]
pub fn route(path: &str, exists: impl Fn(&str) -> bool) -> Route {
    let parts: Vec<String> = path
        .split('/')
        .skip(1)
        .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts[..] {
        ["api", "whoami-v2"] => bare(Endpoint::Whoami),
        ["api", "models", ref rest @ ..] if !rest.is_empty() => model(rest, &exists),
        ["api", "resolve-cache", "models", ref rest @ ..] => cached(rest),
        ["api", ..] => bare(Endpoint::Other),
        [first, "resolve", revision, ref path @ ..] if !path.is_empty() => {
            file(Endpoint::Resolve, first.to_owned(), revision, path)
        }
        [first, second, "resolve", revision, ref path @ ..] if !path.is_empty() => file(
            Endpoint::Resolve,
            format!("{first}/{second}"),
            revision,
            path,
        ),
        _ => bare(Endpoint::Other),
    }
}

/// Which budget a request at the hub's port is charged to; nothing for the second half of a redirect.
#[must_use]
pub fn kind(path: &str, endpoint: Endpoint) -> Option<Kind> {
    match endpoint {
        Endpoint::ResolveCache => None,
        Endpoint::Resolve => Some(Kind::Resolvers),
        _ if path.starts_with("/api/") => Some(Kind::Api),
        _ => Some(Kind::Pages),
    }
}

/// Encodes a path for an address; `/` stays.
#[must_use]
pub fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// Encodes one value of a query, or one part of a path.
#[must_use]
pub fn encode_part(text: &str) -> String {
    utf8_percent_encode(text, PATH)
        .to_string()
        .replace('/', "%2F")
}

/// The decoded value of one field of a query.
#[must_use]
pub fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs
        .into_iter()
        .find(|(key, _)| *key == name)?
        .1
        .replace('+', " ");
    Some(percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

fn bare(endpoint: Endpoint) -> Route {
    Route {
        endpoint,
        repository: String::new(),
        revision: None,
        path: String::new(),
    }
}

fn file(endpoint: Endpoint, repository: String, revision: &str, path: &[&str]) -> Route {
    Route {
        endpoint,
        repository,
        revision: Some(revision.to_owned()),
        path: path.join("/"),
    }
}

fn model(parts: &[&str], exists: &impl Fn(&str) -> bool) -> Route {
    if let [first, second, rest @ ..] = parts {
        let both = format!("{first}/{second}");
        if let Some(call) = model_call(rest)
            && (exists(&both) || model_call(&parts[1..]).is_none())
        {
            return Route {
                repository: both,
                ..call
            };
        }
    }
    match model_call(&parts[1..]) {
        Some(call) => Route {
            repository: parts[0].to_owned(),
            ..call
        },
        None => bare(Endpoint::Other),
    }
}

/// What stands behind a repository's name.
fn model_call(parts: &[&str]) -> Option<Route> {
    let with = |endpoint, revision: Option<&str>, path: &[&str]| Route {
        endpoint,
        repository: String::new(),
        revision: revision.map(str::to_owned),
        path: path.join("/").trim_matches('/').to_owned(),
    };
    Some(match parts {
        [] => with(Endpoint::Info, None, &[]),
        ["revision", revision] => with(Endpoint::Info, Some(revision), &[]),
        ["tree", revision, path @ ..] => with(Endpoint::Tree, Some(revision), path),
        ["paths-info", revision] => with(Endpoint::PathsInfo, Some(revision), &[]),
        ["refs"] => with(Endpoint::Refs, None, &[]),
        ["auth-check"] => with(Endpoint::AuthCheck, None, &[]),
        _ => return None,
    })
}

/// `{namespace}/{name}/{commit}/{path}` or `{name}/{commit}/{path}`: the commit tells where the name ends.
fn cached(parts: &[&str]) -> Route {
    let commit = |part: &str| part.len() == 40 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match parts {
        [first, second, id, path @ ..] if commit(id) => file(
            Endpoint::ResolveCache,
            format!("{first}/{second}"),
            id,
            path,
        ),
        [name, id, path @ ..] if commit(id) => {
            file(Endpoint::ResolveCache, (*name).to_owned(), id, path)
        }
        _ => bare(Endpoint::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let commit = "0123456789012345678901234567890123456789";
        let cases: [(&str, Endpoint, &str, Option<&str>, &str); 15] = [
            ("/api/models/org/a", Endpoint::Info, "org/a", None, ""),
            ("/api/models/gpt2", Endpoint::Info, "gpt2", None, ""),
            (
                "/api/models/org/a/revision/refs%2Fpr%2F1",
                Endpoint::Info,
                "org/a",
                Some("refs/pr/1"),
                "",
            ),
            (
                "/api/models/gpt2/revision/main",
                Endpoint::Info,
                "gpt2",
                Some("main"),
                "",
            ),
            (
                "/api/models/org/a/tree/main",
                Endpoint::Tree,
                "org/a",
                Some("main"),
                "",
            ),
            (
                "/api/models/org/a/tree/main/x/y",
                Endpoint::Tree,
                "org/a",
                Some("main"),
                "x/y",
            ),
            (
                "/api/models/gpt2/tree/main/x",
                Endpoint::Tree,
                "gpt2",
                Some("main"),
                "x",
            ),
            ("/api/models/gpt2/refs", Endpoint::Refs, "gpt2", None, ""),
            ("/api/models/org/refs", Endpoint::Info, "org/refs", None, ""),
            (
                "/api/models/org/a/paths-info/main",
                Endpoint::PathsInfo,
                "org/a",
                Some("main"),
                "",
            ),
            (
                "/org/a/resolve/dev%2Fx/d/a%20%23%25%2B%C3%A9",
                Endpoint::Resolve,
                "org/a",
                Some("dev/x"),
                "d/a #%+é",
            ),
            (
                "/gpt2/resolve/main/x",
                Endpoint::Resolve,
                "gpt2",
                Some("main"),
                "x",
            ),
            (
                "/api/resolve-cache/models/org/a/0123456789012345678901234567890123456789/d/x",
                Endpoint::ResolveCache,
                "org/a",
                Some(commit),
                "d/x",
            ),
            ("/api/whoami-v2", Endpoint::Whoami, "", None, ""),
            ("/org/a", Endpoint::Other, "", None, ""),
        ];
        for (path, endpoint, repository, revision, rest) in cases {
            let expected = Route {
                endpoint,
                repository: repository.into(),
                revision: revision.map(str::to_owned),
                path: rest.into(),
            };
            assert_eq!(route(path, |name| name == "org/refs"), expected, "{path}");
        }
    }

    #[test]
    fn queries_and_encoding() {
        let query = Some("recursive=True&cursor=a%3Db&x=1+2");
        assert_eq!(query_value(query, "recursive").as_deref(), Some("True"));
        assert_eq!(query_value(query, "cursor").as_deref(), Some("a=b"));
        assert_eq!(query_value(query, "x").as_deref(), Some("1 2"));
        assert_eq!(query_value(query, "y"), None);
        assert_eq!(encode_path("d/a #%+é?"), "d/a%20%23%25%2B%C3%A9%3F");
        assert_eq!(encode_part("d/a"), "d%2Fa");
    }
}
