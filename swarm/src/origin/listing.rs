//! Metadata: which commit a revision is, and which files a commit has.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::error::OriginError;
use super::headers;
use super::http::{Http, Subject, network, protocol, shown};
use super::retry::Patience;
use crate::segment::BlobId;
use crate::snapshot::{SnapshotFile, is_safe_path};

/// Largest metadata answer in bytes. The hub's pages have 1,000 entries; model information lists every file.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Most entries of a listing, directories included.
const MAX_ENTRIES: usize = 200_000;

#[derive(Deserialize)]
struct ModelInfo {
    sha: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

pub(super) async fn resolve(
    http: &Http,
    repository: &str,
    revision: &str,
) -> Result<String, OriginError> {
    let url = http.api_url(repository, "revision", revision);
    let subject = Subject {
        repository,
        revision,
        path: None,
    };
    let (info, _): (ModelInfo, _) = get(http, &url, subject).await?;
    info.sha
        .filter(|sha| is_commit(sha))
        .ok_or_else(|| protocol(&url, "it names no commit".to_owned()))
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) async fn tree(
    http: &Http,
    repository: &str,
    commit: &str,
) -> Result<Vec<SnapshotFile>, OriginError> {
    let subject = Subject {
        repository,
        revision: commit,
        path: None,
    };
    let mut url = http.api_url(repository, "tree", commit);
    url.set_query(Some("recursive=true&expand=false"));
    let mut pages = HashSet::new();
    let mut files = BTreeMap::new();
    let mut entries = 0;
    loop {
        let (page, next): (Vec<Entry>, _) = get(http, &url, subject).await?;
        entries += page.len();
        if entries > MAX_ENTRIES {
            return Err(OriginError::TooLarge {
                url: shown(&url),
                message: format!("more than {MAX_ENTRIES} files and directories"),
            });
        }
        for entry in page.into_iter().filter(|entry| entry.r#type == "file") {
            let file = file(entry, repository, &url)?;
            if let Some(twice) = files.insert(file.path.clone(), file) {
                return Err(protocol(
                    &url,
                    format!("it lists the path {:?} twice", twice.path),
                ));
            }
        }
        let Some(next) = next else {
            // The map's order is bytewise by path.
            return Ok(files.into_values().collect());
        };
        let next = next_url(http, &url, &next)?;
        if !pages.insert(std::mem::replace(&mut url, next)) {
            return Err(protocol(&url, "its pages go in a circle".to_owned()));
        }
    }
}

/// The next page. It is asked for with the token, so it must be the hub's own.
fn next_url(http: &Http, url: &Url, next: &str) -> Result<Url, OriginError> {
    url.join(next)
        .ok()
        .filter(|next| http.is_own_origin(next))
        .ok_or_else(|| {
            protocol(
                url,
                "its next page is on another host; a mirror must rewrite the Link header to its own address"
                    .to_owned(),
            )
        })
}

fn file(entry: Entry, repository: &str, url: &Url) -> Result<SnapshotFile, OriginError> {
    if !is_safe_path(&entry.path) {
        return Err(OriginError::UnsafePath {
            repository: repository.to_owned(),
            path: entry.path,
        });
    }
    let bad_hash = || {
        protocol(
            url,
            format!("it lists the file {:?} without a usable hash", entry.path),
        )
    };
    if !is_commit(&entry.oid) {
        return Err(bad_hash());
    }
    let (blob, size) = match &entry.lfs {
        Some(lfs) => (format!("sha256:{}", lfs.oid), lfs.size),
        None => (format!("git:{}", entry.oid), entry.size),
    };
    let blob: BlobId = blob.parse().map_err(|_| bad_hash())?;
    Ok(SnapshotFile {
        path: entry.path,
        size,
        blob,
        git_oid: entry.oid,
    })
}

/// Asks for the first byte of a file and does not read on.
pub(super) async fn readable(
    http: &Http,
    repository: &str,
    commit: &str,
    path: &str,
) -> Result<(), OriginError> {
    let url = http.file_url(repository, commit, path);
    let subject = Subject {
        repository,
        revision: commit,
        path: Some(path),
    };
    let mut patience = Patience::new();
    loop {
        match http.get(&url, Some((0, 0)), subject).await {
            Ok(_) => return Ok(()),
            Err(error) => patience.after(error, false).await?,
        }
    }
}

/// One JSON answer and the link to the next page, with retries.
async fn get<T: DeserializeOwned>(
    http: &Http,
    url: &Url,
    subject: Subject<'_>,
) -> Result<(T, Option<String>), OriginError> {
    let mut patience = Patience::new();
    loop {
        match get_once(http, url, subject).await {
            Ok(answer) => return Ok(answer),
            Err(error) => patience.after(error, false).await?,
        }
    }
}

async fn get_once<T: DeserializeOwned>(
    http: &Http,
    url: &Url,
    subject: Subject<'_>,
) -> Result<(T, Option<String>), OriginError> {
    let answer = http.get(url, None, subject).await?;
    let mut response = answer.response;
    if headers::is_encoded(response.headers()) {
        return Err(protocol(
            url,
            "it sends a compressed body although none was asked for".to_owned(),
        ));
    }
    let next = headers::next_page(response.headers());
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| network(error, url))?
    {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(OriginError::TooLarge {
                url: shown(url),
                message: format!("more than {MAX_ANSWER_BYTES} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    let value = serde_json::from_slice(&body)
        .map_err(|error| protocol(url, format!("no JSON of the expected form: {error}")))?;
    Ok((value, next))
}
