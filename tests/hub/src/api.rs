//! The answers under `/api/`: a model's data, lists of files, refs, users.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::response::Response;
use http::HeaderValue;
use http::header::LINK;
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::access::Caller;
use crate::admin::{Gate, Settings};
use crate::answer::{self, Refusal, header};
use crate::file::RepositoryFile;
use crate::repository::{Commit, Repository};
use crate::route::{encode_part, encode_path, query_value};

/// Nothing here depends on the clock, so that answers are repeatable.
const DATE: &str = "2026-01-01T00:00:00.000Z";

/// `GET /api/models/{repository}[/revision/{revision}]`.
#[must_use]
pub fn info(repository: &Repository, commit: &Commit, query: Option<&str>) -> Response {
    let blobs = flag(query, "blobs");
    let sibling = |file: &Arc<RepositoryFile>| {
        let mut sibling = json!({ "rfilename": file.path });
        if blobs {
            sibling["size"] = file.size.into();
            sibling["blobId"] = file.oid.clone().into();
            if let Some(lfs) = &file.lfs {
                sibling["lfs"] = json!({ "sha256": lfs.sha256, "size": file.size, "pointerSize": lfs.pointer_size });
            }
        }
        sibling
    };
    let author = repository
        .name
        .split_once('/')
        .map(|(namespace, _)| namespace);
    let gated: Value = if repository.gated == Gate::Open {
        false.into()
    } else {
        "manual".into()
    };
    let used = commit
        .files
        .values()
        .fold(0, |sum: u64, file| sum.saturating_add(file.size));
    answer::json(&json!({
        "_id": repository.id,
        "id": repository.name,
        "modelId": repository.name,
        "author": author,
        "sha": commit.id,
        "createdAt": DATE,
        "lastModified": DATE,
        "private": repository.private,
        "disabled": repository.disabled,
        "gated": gated,
        "downloads": 0,
        "likes": 0,
        "tags": ["license:apache-2.0"],
        "cardData": { "license": "apache-2.0" },
        "usedStorage": used,
        "siblings": commit.files.values().map(sibling).collect::<Vec<_>>(),
    }))
}

/// `GET /api/models/{repository}/tree/{revision}[/{path}]`. `base` is the address to build the link to the next page.
pub fn tree(
    repository: &Repository,
    commit: &Commit,
    revision: &str,
    path: &str,
    query: Option<&str>,
    settings: &Settings,
    base: &str,
) -> Result<Response, Refusal> {
    let (recursive, expand) = (flag(query, "recursive"), flag(query, "expand"));
    let entries = entries(commit, path, recursive, expand);
    if entries.is_empty() && !path.is_empty() {
        return Err(Refusal::Entry {
            path: path.to_owned(),
            commit: commit.id.clone(),
        });
    }
    let most = if expand {
        settings.expanded_page_size
    } else {
        settings.page_size
    }
    .max(1);
    let limit = query_value(query, "limit")
        .and_then(|limit| limit.parse().ok())
        .unwrap_or(most)
        .clamp(1, most);
    let start = match query_value(query, "cursor") {
        None => 0,
        Some(cursor) => {
            read_cursor(&cursor).ok_or_else(|| Refusal::Request("Invalid cursor".to_owned()))?
        }
    };
    let page = entries.iter().skip(start).take(limit).collect::<Vec<_>>();
    let mut response = answer::json(&page);
    let next = start + page.len();
    if next < entries.len() {
        let mut address = format!(
            "{base}/api/models/{}/tree/{}",
            repository.name,
            encode_part(revision)
        );
        if !path.is_empty() {
            address = format!("{address}/{}", encode_path(path));
        }
        let link = format!(
            "<{address}?expand={expand}&recursive={recursive}&limit={limit}&cursor={}>; rel=\"next\"",
            hex::encode(format!("next:{next}"))
        );
        response.headers_mut().insert(LINK, header(&link));
    }
    Ok(response)
}

/// The body of `POST /api/models/{repository}/paths-info/{revision}`.
#[derive(Debug, Deserialize)]
struct PathsInfo {
    paths: OneOrMany,
    #[serde(default)]
    expand: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// `POST /api/models/{repository}/paths-info/{revision}`, with a JSON or a form body. Unknown paths are left out.
pub fn paths_info(commit: &Commit, body: &[u8]) -> Result<Response, Refusal> {
    let (paths, expand) = match serde_json::from_slice::<PathsInfo>(body) {
        Ok(PathsInfo {
            paths: OneOrMany::One(path),
            expand,
        }) => (vec![path], expand),
        Ok(PathsInfo {
            paths: OneOrMany::Many(paths),
            expand,
        }) => (paths, expand),
        Err(_) => form_paths(body)?,
    };
    let directories = directories(commit);
    let describe = |path: &String| {
        let file = commit
            .files
            .get(path)
            .map(|file| file_entry(file, commit, expand));
        file.or_else(|| {
            directories
                .contains(path.as_str())
                .then(|| directory_entry(path, commit, expand))
        })
    };
    Ok(answer::json(
        &paths.iter().filter_map(describe).collect::<Vec<_>>(),
    ))
}

fn form_paths(body: &[u8]) -> Result<(Vec<String>, bool), Refusal> {
    let form = std::str::from_utf8(body).unwrap_or_default();
    let paths: Vec<String> = form
        .split('&')
        .filter(|pair| pair.starts_with("paths="))
        .filter_map(|pair| query_value(Some(pair), "paths"))
        .collect();
    if paths.is_empty() {
        return Err(Refusal::Request(
            "Expected a body with \"paths\"".to_owned(),
        ));
    }
    Ok((paths, flag(Some(form), "expand")))
}

/// `GET /api/models/{repository}/refs`.
#[must_use]
pub fn refs(repository: &Repository, query: Option<&str>) -> Response {
    let list = |prefix: &str| -> Vec<Value> {
        let refs = repository
            .refs
            .iter()
            .filter_map(|(name, commit)| Some((name.strip_prefix(prefix)?, name, commit)));
        refs.map(
            |(short, name, commit)| json!({ "name": short, "ref": name, "targetCommit": commit }),
        )
        .collect()
    };
    let mut refs = json!({
        "branches": list("refs/heads/"),
        "tags": list("refs/tags/"),
        "converts": list("refs/convert/"),
    });
    if flag(query, "include_pull_requests")
        || query_value(query, "include_prs").as_deref() == Some("1")
    {
        refs["pullRequests"] = list("refs/pr/").into();
    }
    answer::json(&refs)
}

/// `GET /api/whoami-v2`.
pub fn whoami(caller: &Caller) -> Result<Response, Refusal> {
    let Caller::User(token) = caller else {
        return Err(Refusal::Token);
    };
    Ok(answer::json(&json!({
        "type": "user",
        "id": hex::encode(&Sha1::digest(&token.user)[..12]),
        "name": token.user,
        "fullname": token.user,
        "isPro": false,
        "orgs": [],
        "auth": { "type": "access_token", "accessToken": { "displayName": "test", "role": "read" } },
    })))
}

/// `GET /api/agent-harnesses`: asked for once a day by newer clients.
#[must_use]
pub fn agent_harnesses() -> Response {
    let mut response = answer::json(&json!({ "standardEnvVars": [], "harnesses": {} }));
    response.headers_mut().insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("max-age=86400"),
    );
    response
}

/// Clients write booleans as `true`, `True` or `1`.
fn flag(query: Option<&str>, name: &str) -> bool {
    query_value(query, name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}

fn read_cursor(cursor: &str) -> Option<usize> {
    String::from_utf8(hex::decode(cursor).ok()?)
        .ok()?
        .strip_prefix("next:")?
        .parse()
        .ok()
}

/// Everything below `path`, in an order that no client should depend on: the hub promises none.
fn entries(commit: &Commit, path: &str, recursive: bool, expand: bool) -> Vec<Value> {
    let prefix = if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    };
    let wanted = |entry: &str| {
        entry
            .strip_prefix(&prefix)
            .is_some_and(|rest| recursive || !rest.contains('/'))
    };
    let directories = directories(commit);
    let directories = directories.iter().filter(|path| wanted(path));
    let files = commit.files.values().filter(|file| wanted(&file.path));
    let mut entries: Vec<([u8; 4], Value)> = directories
        .map(|path| (order(path), directory_entry(path, commit, expand)))
        .chain(files.map(|file| (order(&file.path), file_entry(file, commit, expand))))
        .collect();
    entries.sort_by_key(|(order, _)| *order);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn order(path: &str) -> [u8; 4] {
    let digest = Sha1::digest(path);
    [digest[0], digest[1], digest[2], digest[3]]
}

fn directories(commit: &Commit) -> BTreeSet<&str> {
    let parents = |path: &'_ str| {
        path.match_indices('/')
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
    };
    commit
        .files
        .keys()
        .flat_map(|path| parents(path).into_iter().map(|index| &path[..index]))
        .collect()
}

fn file_entry(file: &RepositoryFile, commit: &Commit, expand: bool) -> Value {
    let mut entry =
        json!({ "type": "file", "oid": file.oid, "size": file.size, "path": file.path });
    if let Some(lfs) = &file.lfs {
        entry["lfs"] =
            json!({ "oid": lfs.sha256, "size": file.size, "pointerSize": lfs.pointer_size });
    }
    expanded(entry, commit, expand)
}

fn directory_entry(path: &str, commit: &Commit, expand: bool) -> Value {
    let oid = hex::encode(Sha1::digest(format!("{} {path}", commit.id)));
    expanded(
        json!({ "type": "directory", "oid": oid, "size": 0, "path": path }),
        commit,
        expand,
    )
}

fn expanded(mut entry: Value, commit: &Commit, expand: bool) -> Value {
    if expand {
        entry["lastCommit"] = json!({ "id": commit.id, "title": "Upload", "date": DATE });
        if entry["type"] == "file" {
            entry["securityFileStatus"] = json!({ "status": "safe" });
        }
    }
    entry
}
