//! Answers that are no content: JSON, redirects and the hub's errors with its own headers and words.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

/// The commit that an answer is about.
pub const X_REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
/// The hash of the file, on a redirect too.
pub const X_LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
/// The size of the file, on a redirect too.
pub const X_LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const X_ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const X_ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// Why the hub refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such repository, or a private one; who sends no token cannot tell.
    Repository {
        /// Whether the client sent a token.
        known: bool,
    },
    /// No such revision.
    Revision(String),
    /// No such file in the commit.
    Entry {
        /// The file.
        path: String,
        /// The commit.
        commit: String,
    },
    /// A gated repository without access.
    Gated {
        /// Which repository.
        repository: String,
        /// Whether the client sent a token.
        known: bool,
    },
    /// A disabled repository.
    Disabled,
    /// A token that nobody has.
    Token,
    /// The budget is used up.
    RateLimited,
    /// No such address.
    Address,
    /// The hub is off.
    Unavailable,
    /// A request that makes no sense.
    Request(String),
}

impl Refusal {
    /// The answer.
    #[must_use]
    pub fn response(&self) -> Response {
        let (status, code, message) = match self {
            Self::Repository { known: false } => {
                (401, Some("RepoNotFound"), "Repository not found".to_owned())
            }
            Self::Repository { known: true } => {
                (404, Some("RepoNotFound"), "Repository not found".to_owned())
            }
            Self::Revision(revision) => (
                404,
                Some("RevisionNotFound"),
                format!("Invalid rev id: {revision}"),
            ),
            Self::Entry { path, .. } => {
                (404, Some("EntryNotFound"), format!("{path} does not exist"))
            }
            Self::Gated {
                repository,
                known: false,
            } => (
                401,
                Some("GatedRepo"),
                format!(
                    "Access to model {repository} is restricted. You must have access to it and be authenticated to \
                     access it. Please log in."
                ),
            ),
            Self::Gated {
                repository,
                known: true,
            } => (
                403,
                Some("GatedRepo"),
                format!(
                    "Access to model {repository} is restricted and you are not in the authorized list."
                ),
            ),
            Self::Disabled => (403, None, "Access to this resource is disabled.".to_owned()),
            Self::Token => (
                401,
                None,
                "Invalid credentials in Authorization header".to_owned(),
            ),
            Self::RateLimited => (429, None, "We had to rate limit your requests.".to_owned()),
            Self::Address => (
                404,
                None,
                "Sorry, we can't find the page you are looking for.".to_owned(),
            ),
            Self::Unavailable => (503, None, "Service Unavailable".to_owned()),
            Self::Request(message) => (400, None, message.clone()),
        };
        let mut response = json(&serde_json::json!({ "error": message }));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if let Some(code) = code {
            headers.insert(X_ERROR_CODE, HeaderValue::from_static(code));
        }
        headers.insert(X_ERROR_MESSAGE, header(&message));
        if let Self::Entry { commit, .. } = self {
            headers.insert(X_REPO_COMMIT, header(commit));
        }
        response
    }
}

/// A JSON answer.
pub fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            let kind = HeaderValue::from_static("application/json; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// A text answer.
#[must_use]
pub fn text(status: StatusCode, message: &str) -> Response {
    let mut response = Response::new(Body::from(message.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// A redirect; relative when `location` is a path.
#[must_use]
pub fn redirect(status: StatusCode, location: &str) -> Response {
    let mut response = text(
        status,
        &format!(
            "{}. Redirecting to {location}",
            status.canonical_reason().unwrap_or("")
        ),
    );
    response.headers_mut().insert(LOCATION, header(location));
    response
}

/// A header value; what does not fit into one becomes `?`.
#[must_use]
pub fn header(value: &str) -> HeaderValue {
    let fit = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    HeaderValue::from_str(&value.chars().map(fit).collect::<String>())
        .unwrap_or(HeaderValue::from_static("?"))
}
