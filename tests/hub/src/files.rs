//! Where files come from: `resolve`, `resolve-cache` and the CDN.

use std::sync::Arc;

use axum::response::Response;
use http::header::{ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_TYPE, RANGE};
use http::{HeaderValue, Method, StatusCode};

use crate::admin::{Effect, Endpoint};
use crate::answer::{self, Refusal, X_LINKED_ETAG, X_LINKED_SIZE, X_REPO_COMMIT, header};
use crate::counting::Subject;
use crate::delivery::{Manner, accepts_gzip, deliver};
use crate::file::RepositoryFile;
use crate::locks::read;
use crate::repository::{Commit, Repository};
use crate::route::{encode_part, encode_path, query_value};
use crate::server::{Exchange, unix_time};
use crate::signature;
use crate::throttle::Throttle;

impl Exchange {
    /// `resolve` and `resolve-cache`.
    pub(crate) fn resolve(
        &self,
        repository: &Repository,
        commit: &Commit,
        subject: &mut Subject,
    ) -> Result<Response, Refusal> {
        let path = &self.route.path;
        let Some(file) = commit.files.get(path) else {
            return Err(Refusal::Entry {
                path: path.clone(),
                commit: commit.id.clone(),
            });
        };
        subject.path = Some(path.clone());
        let first_hop = self.route.endpoint == Endpoint::Resolve;
        let redirect_all = self.effects.contains(&Effect::RelativeRedirect);
        let mut response =
            if first_hop && (redirect_all || (file.lfs.is_none() && self.settings.resolve_cache)) {
                let location = format!(
                    "/api/resolve-cache/models/{}/{}/{}?etag=%22{}%22",
                    repository.name,
                    commit.id,
                    encode_path(path),
                    file.etag()
                );
                answer::redirect(StatusCode::TEMPORARY_REDIRECT, &location)
            } else if file.lfs.is_some() {
                answer::redirect(
                    StatusCode::FOUND,
                    &self.cdn_address(repository, commit, file),
                )
            } else {
                let manner = Manner::of(&self.effects);
                let manner = if self.settings.gzip_traps {
                    manner.compressing(file, &self.headers)
                } else {
                    manner
                };
                subject.content = true;
                deliver(file, &self.headers, manner, self.throttle())
            };
        let headers = response.headers_mut();
        headers.insert(X_REPO_COMMIT, header(&commit.id));
        if response.status().is_redirection() {
            let headers = response.headers_mut();
            headers.insert(X_LINKED_SIZE, file.size.into());
            headers.insert(X_LINKED_ETAG, header(&format!("\"{}\"", file.etag())));
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        Ok(response)
    }

    pub(crate) fn content_at_cdn(&self) -> (Response, Subject) {
        let catalogue = read(&self.shared.catalogue);
        let found = catalogue
            .get(&self.route.repository)
            .and_then(|repository| {
                let commit = repository.commits.get(self.route.revision.as_deref()?)?;
                Some((
                    repository.id.clone(),
                    commit.files.get(&self.route.path)?.clone(),
                ))
            });
        drop(catalogue);
        let Some((repository, file)) = found else {
            return (
                storage_error(StatusCode::NOT_FOUND, "NoSuchKey"),
                Subject::default(),
            );
        };
        let mut subject = Subject {
            repository: Some(repository),
            path: Some(file.path.clone()),
            content: false,
        };
        if let Err(refusal) = self.check_signature() {
            let code = match refusal {
                signature::Refusal::Forged => "SignatureDoesNotMatch",
                signature::Refusal::Expired => "AccessDenied",
            };
            return (storage_error(StatusCode::FORBIDDEN, code), subject);
        }
        if file.size > self.settings.largest_unranged
            && !self.headers.contains_key(RANGE)
            && self.method == Method::GET
        {
            return (
                storage_error(StatusCode::BAD_REQUEST, "EntityTooLarge"),
                subject,
            );
        }
        subject.content = true;
        let trap = self.settings.gzip_traps && accepts_gzip(&self.headers);
        let manner = Manner::of(&self.effects).ignoring_range(trap);
        let mut response = deliver(&file, &self.headers, manner, self.throttle());
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let disposition = format!("inline; filename*=UTF-8''{}", encode_part(name));
        response
            .headers_mut()
            .insert(CONTENT_DISPOSITION, header(&disposition));
        (response, subject)
    }

    fn check_signature(&self) -> Result<(), signature::Refusal> {
        let query = self.query.as_deref();
        let expires = query_value(query, "Expires")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let signature = query_value(query, "Signature").unwrap_or_default();
        let address = format!("{}?{}", self.path, encode_part(&self.route.path));
        self.shared
            .signer
            .check(&address, expires, &signature, unix_time().as_secs())
    }

    fn cdn_address(
        &self,
        repository: &Repository,
        commit: &Commit,
        file: &RepositoryFile,
    ) -> String {
        let path = format!("/{}/{}/{}", repository.id, commit.id, file.etag());
        let name = encode_part(&file.path);
        let expires = unix_time().as_secs() + self.settings.url_lifetime_seconds;
        let signature = self.shared.signer.sign(&format!("{path}?{name}"), expires);
        format!(
            "{}{path}?file={name}&Expires={expires}&Key-Pair-Id=modelcache&Signature={signature}",
            self.shared.cdn_url
        )
    }

    fn throttle(&self) -> Option<Arc<Throttle>> {
        (self.method != Method::HEAD).then(|| self.shared.throttle.clone())
    }
}

/// An error in the way of an object store.
fn storage_error(status: StatusCode, code: &str) -> Response {
    let body =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code></Error>");
    let mut response = answer::text(status, &body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
