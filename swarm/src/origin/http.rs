//! Requests to the hub: by-hand redirects, the token only where it belongs, and refusals in words.

use std::error::Error as StdError;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, DATE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};
use url::Url;

use super::error::OriginError;
use super::headers;
use crate::coordination::OriginAccess;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence within an answer, its first byte included.
const READ_TIMEOUT: Duration = Duration::from_secs(12);
const MAX_REDIRECTS: usize = 5;

/// What stays as it is in one element of a path (RFC 3986's unreserved characters).
const ELEMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &ELEMENT.remove(b'/');

/// What a request is about, for its error message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) repository: &'a str,
    pub(super) revision: &'a str,
    pub(super) path: Option<&'a str>,
}

/// A successful answer and where it came from in the end.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) url: Url,
    /// Whether `url` is not what was asked for.
    pub(super) redirected: bool,
}

/// Connections to one hub with one token.
pub(super) struct Http {
    client: Client,
    endpoint: Url,
    token: Option<HeaderValue>,
}

impl Http {
    pub(super) fn new(access: &OriginAccess) -> Result<Self, OriginError> {
        let endpoint = endpoint(&access.endpoint)?;
        let token = access
            .token
            .as_deref()
            .map(str::trim)
            .filter(|token| !token.is_empty());
        let token = token.map(authorization).transpose()?;
        let authorities = access
            .ca_bundle
            .as_deref()
            .map(authorities)
            .transpose()?
            .unwrap_or_default();
        let builder = || {
            Client::builder()
                .user_agent(concat!("modelcache/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                // One connection a range in flight: a single one may be slowed down by the storage host.
                .http1_only()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
        };
        let client = builder()
            .tls_certs_merge(authorities.clone())
            .build()
            // Without any system certificates the first does not build, even for a hub on plain HTTP.
            .or_else(|_| builder().tls_certs_only(authorities).build())
            .map_err(|error| config(format!("no HTTP client: {}", chain(&error))))?;
        Ok(Self {
            client,
            endpoint,
            token,
        })
    }

    /// The endpoint as it may be shown.
    pub(super) fn endpoint(&self) -> String {
        shown(&self.endpoint).trim_end_matches('/').to_owned()
    }

    /// `{endpoint}/api/models/{repository}/{kind}/{revision}`.
    pub(super) fn api_url(&self, repository: &str, kind: &str, revision: &str) -> Url {
        self.url(&format!(
            "api/models/{}/{kind}/{}",
            utf8_percent_encode(repository, PATH),
            utf8_percent_encode(revision, ELEMENT),
        ))
    }

    /// `{endpoint}/{repository}/resolve/{commit}/{path}`.
    pub(super) fn file_url(&self, repository: &str, commit: &str, path: &str) -> Url {
        self.url(&format!(
            "{}/resolve/{}/{}",
            utf8_percent_encode(repository, PATH),
            utf8_percent_encode(commit, ELEMENT),
            utf8_percent_encode(path, PATH),
        ))
    }

    fn url(&self, below: &str) -> Url {
        let mut url = self.endpoint.clone();
        let path = format!("{}/{below}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    pub(super) fn is_own_origin(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// One GET, with the bytes `first..=last` asked for when `range` is given, following redirects. Anything but a
    /// 2xx in the end is an error.
    pub(super) async fn get(
        &self,
        url: &Url,
        range: Option<(u64, u64)>,
        subject: Subject<'_>,
    ) -> Result<Answer, OriginError> {
        let mut at = url.clone();
        for hop in 0..=MAX_REDIRECTS {
            let mut request = self
                .client
                .get(at.clone())
                .header(ACCEPT_ENCODING, "identity");
            if let Some((first, last)) = range {
                request = request.header(RANGE, format!("bytes={first}-{last}"));
            }
            if self.is_own_origin(&at)
                && let Some(token) = &self.token
            {
                request = request.header(AUTHORIZATION, token.clone());
            }
            let response = request.send().await.map_err(|error| network(error, &at))?;
            match response.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => at = redirect(&at, response.headers())?,
                status if status.is_success() => {
                    return Ok(Answer {
                        response,
                        url: at,
                        redirected: hop > 0,
                    });
                }
                status => return Err(self.refusal(status, response.headers(), &at, subject)),
            }
        }
        Err(protocol(
            url,
            format!("it redirects more than {MAX_REDIRECTS} times"),
        ))
    }

    /// Whether anybody answers at the endpoint itself: the status, and the header `Date`.
    pub(super) async fn knock(&self) -> Result<(u16, Option<String>), OriginError> {
        let asked = self.client.head(self.endpoint.clone()).send().await;
        let response = asked.map_err(|error| network(error, &self.endpoint))?;
        let date = headers::text(response.headers(), DATE.as_str()).map(str::to_owned);
        Ok((response.status().as_u16(), date))
    }

    /// What a status other than success means.
    fn refusal(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        url: &Url,
        subject: Subject<'_>,
    ) -> OriginError {
        let repository = subject.repository.to_owned();
        let endpoint = self.endpoint();
        let code = headers::text(headers, "x-error-code").unwrap_or_default();
        let message = headers::text(headers, "x-error-message").unwrap_or_default();
        match status {
            StatusCode::TOO_MANY_REQUESTS => OriginError::RateLimited {
                retry_after: headers::retry_after(headers),
                url: shown(url),
            },
            StatusCode::REQUEST_TIMEOUT => unavailable(url, "HTTP 408".to_owned()),
            _ if status.is_server_error() => unavailable(url, format!("HTTP {}", status.as_u16())),
            // A storage host knows signatures, not repositories; a new signature comes from the hub.
            _ if !self.is_own_origin(url) => unavailable(
                url,
                format!("the storage host refuses with HTTP {}", status.as_u16()),
            ),
            _ if message.starts_with("Access to this resource is disabled") => {
                OriginError::Disabled {
                    repository,
                    endpoint,
                }
            }
            _ if message.starts_with("Invalid credentials") => OriginError::Unauthorized {
                repository,
                endpoint,
                remedy:
                    "the token is not valid; make a new one on the hub and put it into the Secret"
                        .to_owned(),
            },
            _ if code == "GatedRepo" => OriginError::Gated {
                repository,
                endpoint,
            },
            _ if code == "RevisionNotFound" => OriginError::RevisionNotFound {
                repository,
                endpoint,
                revision: subject.revision.to_owned(),
            },
            _ if code == "EntryNotFound" => not_found(url, subject),
            _ if code == "RepoNotFound" => OriginError::RepositoryNotFound {
                repository,
                endpoint,
            },
            StatusCode::NOT_FOUND if subject.path.is_some() => not_found(url, subject),
            // The hub hides private repositories behind 401 from those who say nothing of themselves.
            StatusCode::UNAUTHORIZED if self.token.is_none() => OriginError::RepositoryNotFound {
                repository,
                endpoint,
            },
            StatusCode::NOT_FOUND => OriginError::RepositoryNotFound {
                repository,
                endpoint,
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => OriginError::Unauthorized {
                repository,
                endpoint,
                remedy: if self.token.is_some() {
                    "the token has no access to it; give one that has".to_owned()
                } else {
                    "give a token that has access to it".to_owned()
                },
            },
            _ => protocol(url, format!("HTTP {}", status.as_u16())),
        }
    }
}

fn not_found(url: &Url, subject: Subject<'_>) -> OriginError {
    OriginError::EntryNotFound {
        repository: subject.repository.to_owned(),
        path: subject.path.unwrap_or_default().to_owned(),
        url: shown(url),
    }
}

/// Where a redirect leads. An answer over TLS does not send us to plain HTTP.
fn redirect(from: &Url, headers: &HeaderMap) -> Result<Url, OriginError> {
    let target = headers
        .get(LOCATION)
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
        .and_then(|location| from.join(location).ok())
        .ok_or_else(|| protocol(from, "it redirects to nowhere".to_owned()))?;
    match (from.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => Ok(target),
        (_, scheme) => Err(protocol(
            from,
            format!("it redirects to a {scheme} address"),
        )),
    }
}

/// The endpoint, if it is one that can be used.
fn endpoint(text: &str) -> Result<Url, OriginError> {
    let url = Url::parse(text.trim()).map_err(|error| {
        config(format!(
            "the endpoint is not a URL ({error}): write one such as https://huggingface.co"
        ))
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(config(
            "the endpoint must begin with https:// or http://".to_owned(),
        ));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(config(
            "the endpoint must hold no user, password, query or fragment: give credentials as a token".to_owned(),
        ));
    }
    Ok(url)
}

fn authorization(token: &str) -> Result<HeaderValue, OriginError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        config(
            "the token holds characters that no token has: check the Secret's content".to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn authorities(pem: &str) -> Result<Vec<Certificate>, OriginError> {
    let error = || config("the CA bundle holds no usable PEM certificate".to_owned());
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| error())?;
    if certificates.is_empty() {
        return Err(error());
    }
    Ok(certificates)
}

/// A URL as it may be shown: without user, query and fragment, where secrets and signatures stand.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn config(message: String) -> OriginError {
    OriginError::Config { message }
}

pub(super) fn protocol(url: &Url, message: String) -> OriginError {
    OriginError::Protocol {
        url: shown(url),
        message,
    }
}

pub(super) fn unavailable(url: &Url, message: String) -> OriginError {
    OriginError::Unavailable {
        url: shown(url),
        message,
    }
}

/// A request that got no answer, or not all of it.
pub(super) fn network(error: reqwest::Error, url: &Url) -> OriginError {
    let error = error.without_url();
    let message = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        chain(&error)
    };
    if is_untrusted(&error) {
        OriginError::Certificate {
            url: shown(url),
            message,
        }
    } else {
        unavailable(url, message)
    }
}

/// An error and its causes in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

/// Whether the server's certificate was refused, somewhere below this error.
fn is_untrusted(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An I/O error hides what it wraps from `source` of itself.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(inner) = inner
            && is_untrusted(inner)
        {
            return true;
        }
        if matches!(
            error.downcast_ref(),
            Some(
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::NoCertificatesPresented
                    | rustls::Error::UnsupportedNameType
            )
        ) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(endpoint: &str) -> OriginAccess {
        OriginAccess {
            endpoint: endpoint.to_owned(),
            token: None,
            ca_bundle: None,
        }
    }

    #[test]
    fn urls_are_encoded() {
        let http = Http::new(&access("https://mirror.example/hf/")).unwrap();
        assert_eq!(http.endpoint(), "https://mirror.example/hf");
        assert_eq!(
            http.api_url("org/name", "revision", "refs/pr/1").as_str(),
            "https://mirror.example/hf/api/models/org/name/revision/refs%2Fpr%2F1"
        );
        assert_eq!(
            http.file_url("org/name", "c0ffee", "späß/#1 +%20?.bin")
                .as_str(),
            "https://mirror.example/hf/org/name/resolve/c0ffee/sp%C3%A4%C3%9F/%231%20%2B%2520%3F.bin"
        );
    }

    #[test]
    fn unusable_configuration_is_refused_and_shows_no_secret() {
        for endpoint in [
            "huggingface.co",
            "ftp://hub",
            "https://u:hf_secret@hub",
            "https://hub?token=hf_secret",
            "",
        ] {
            let error = Http::new(&access(endpoint)).map(|_| ()).unwrap_err();
            assert!(matches!(error, OriginError::Config { .. }), "{error}");
            assert!(!error.to_string().contains("hf_secret"), "{error}");
        }
        let mut bad_token = access("https://hub");
        bad_token.token = Some("hf_secret\nmore".to_owned());
        let error = Http::new(&bad_token).map(|_| ()).unwrap_err();
        assert!(!error.to_string().contains("hf_secret"), "{error}");
        let mut bad_bundle = access("https://hub");
        bad_bundle.ca_bundle = Some("no certificate".to_owned());
        assert!(Http::new(&bad_bundle).is_err());
        let mut trimmed = access("https://hub");
        trimmed.token = Some("hf_secret\n".to_owned());
        assert!(Http::new(&trimmed).is_ok());
    }

    #[test]
    fn redirects_do_not_leave_tls() {
        let to = |from: &str, location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            redirect(&Url::parse(from).unwrap(), &headers).map(|url| url.to_string())
        };
        assert_eq!(to("https://a/b/c", "/d?e").unwrap(), "https://a/d?e");
        assert_eq!(to("https://a/b", "https://c/d").unwrap(), "https://c/d");
        assert_eq!(to("http://a/b", "http://c/d").unwrap(), "http://c/d");
        assert!(to("https://a/b", "http://c/d").is_err());
        assert!(to("http://a/b", "file:///etc/passwd").is_err());
    }

    #[test]
    fn shown_urls_hold_no_signature() {
        let url = Url::parse("https://user:pw@cdn.example:8443/x/y?X-Amz-Signature=abc#f").unwrap();
        assert_eq!(shown(&url), "https://cdn.example:8443/x/y");
    }
}
