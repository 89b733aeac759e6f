//! From a request to an answer, at the hub's port and at the CDN's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use http::header::{AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_LENGTH, HOST, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::access::{Caller, Part};
use crate::admin::{Effect, Endpoint, LoggedRequest, Mode, RefSpec, Settings, Token};
use crate::answer::{self, Refusal, X_LINKED_ETAG, X_LINKED_SIZE, X_REPO_COMMIT, header};
use crate::api;
use crate::budget::{Budgets, Standing};
use crate::connection::{Client, Cut, Switch};
use crate::counting::{Counting, Subject};
use crate::delivery::{Manner, accepts_gzip, deliver};
use crate::fault::{self, Faults};
use crate::locks::{read, write};
use crate::repository::{Catalogue, Commit, Repository, RepositoryFile};
use crate::route::{Route, encode_part, encode_path, kind, query_value, route};
use crate::signature::{self, Signer};
use crate::throttle::Throttle;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The largest body of a request that is read.
const LARGEST_REQUEST: usize = 4 << 20;

/// Everything that requests share.
pub(crate) struct Shared {
    pub(crate) catalogue: RwLock<Catalogue>,
    pub(crate) tokens: RwLock<Vec<Token>>,
    pub(crate) settings: RwLock<Settings>,
    pub(crate) budgets: Budgets,
    pub(crate) faults: Faults,
    pub(crate) counting: Counting,
    pub(crate) signer: Signer,
    pub(crate) throttle: Arc<Throttle>,
    /// How clients reach the CDN.
    pub(crate) cdn_url: String,
    /// How clients reach the hub; without it, as the request says.
    pub(crate) hub_url: Option<String>,
    pub(crate) scheme: &'static str,
    pub(crate) hub: Switch,
    pub(crate) cdn: Switch,
    /// One change of the settings at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) requests: Mutex<u64>,
}

/// The service at the hub's port.
pub(crate) fn hub_router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(hub).with_state(shared)
}

/// The service at the CDN's port.
pub(crate) fn cdn_router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(cdn).with_state(shared)
}

/// One request on its way.
struct Exchange {
    shared: Arc<Shared>,
    settings: Settings,
    client: Client,
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    caller: Caller,
    route: Route,
    effects: Vec<Effect>,
}

async fn hub(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let route = route(&path, |name| {
        let catalogue = read(&shared.catalogue);
        catalogue.get(name).is_some() || catalogue.moved(name).is_some()
    });
    let (exchange, body) = Exchange::new(shared, client, request, route);
    let switch = &exchange.shared.hub;
    if let Some(response) = exchange.unless_on(switch).await {
        return exchange.finish(response, Subject::default());
    }
    let standing = exchange.charge();
    let struck = exchange.struck().await;
    let (mut response, subject) = match (struck, &standing) {
        (Some(response), _) => (response, Subject::default()),
        (None, Some(standing)) if !standing.allowed => {
            (Refusal::RateLimited.response(), Subject::default())
        }
        _ => exchange.answer(body).await,
    };
    if let Some(standing) = standing
        && !exchange
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Status { .. }))
    {
        let headers = response.headers_mut();
        headers.insert(RATE_LIMIT, header(&standing.rate_limit()));
        headers.insert(RATE_LIMIT_POLICY, header(&standing.policy()));
    }
    exchange.finish(response, subject)
}

async fn cdn(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let file = query_value(request.uri().query(), "file").unwrap_or_default();
    let mut parts = path.split('/').skip(1);
    let repository = parts.next().unwrap_or_default().to_owned();
    let name = read(&shared.catalogue)
        .by_id(&repository)
        .map(|repository| repository.name.clone());
    let route = Route {
        endpoint: Endpoint::Cdn,
        repository: name.unwrap_or_default(),
        revision: parts.next().map(str::to_owned),
        path: file,
    };
    let (exchange, _) = Exchange::new(shared, client, request, route);
    let switch = &exchange.shared.cdn;
    if let Some(response) = exchange.unless_on(switch).await {
        return exchange.finish(response, Subject::default());
    }
    if let Some(response) = exchange.struck().await {
        return exchange.finish(response, Subject::default());
    }
    let (response, subject) = exchange.content_at_cdn();
    exchange.finish(response, subject)
}

impl Exchange {
    fn new(shared: Arc<Shared>, client: Client, request: Request, route: Route) -> (Self, Body) {
        let (parts, body) = request.into_parts();
        let caller = Caller::new(&parts.headers, &read(&shared.tokens));
        let aimed = fault::Request {
            endpoint: route.endpoint,
            repository: Some(route.repository.as_str()).filter(|name| !name.is_empty()),
            path: Some(route.path.as_str()).filter(|path| !path.is_empty()),
            client: client.address.ip(),
            method: parts.method.as_str(),
            ranged: parts.headers.contains_key(RANGE),
        };
        let effects = shared.faults.strike(&aimed);
        let settings = read(&shared.settings).clone();
        let exchange = Self {
            settings,
            shared,
            client,
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers,
            caller,
            route,
            effects,
        };
        (exchange, body)
    }

    /// The answer of a port that is not on.
    async fn unless_on(&self, switch: &Switch) -> Option<Response> {
        match switch.mode() {
            Mode::On | Mode::Refuse | Mode::Drop => None,
            Mode::Unavailable => Some(Refusal::Unavailable.response()),
            Mode::Silent => {
                switch.left(Mode::Silent).await;
                self.client.end(false);
                Some(Refusal::Unavailable.response())
            }
        }
    }

    fn charge(&self) -> Option<Standing> {
        let quotas = match self.caller {
            Caller::User(_) => &self.settings.user,
            Caller::Anonymous | Caller::Stranger => &self.settings.anonymous,
        };
        let payer = self.caller.payer(self.client.address.ip().to_canonical());
        let kind = kind(&self.path, self.route.endpoint)?;
        Some(self.shared.budgets.charge(
            payer,
            kind,
            quotas,
            self.settings.window_seconds,
            Instant::now(),
        ))
    }

    /// What happens before or instead of an answer.
    async fn struck(&self) -> Option<Response> {
        let mut delay = Duration::from_millis(self.settings.latency_milliseconds);
        let mut instead = None;
        for effect in &self.effects {
            match effect {
                Effect::SlowStart { milliseconds } => delay += Duration::from_millis(*milliseconds),
                Effect::Status {
                    status,
                    retry_after,
                    rate_limit_reset,
                } if instead.is_none() => {
                    instead = Some(faulty(*status, *retry_after, *rate_limit_reset));
                }
                Effect::Disconnect { reset } => {
                    self.client.end(*reset);
                    instead = Some(Refusal::Unavailable.response());
                }
                _ => {}
            }
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        instead
    }

    async fn answer(&self, body: Body) -> (Response, Subject) {
        if self.caller == Caller::Stranger {
            return (Refusal::Token.response(), Subject::default());
        }
        match self.route.endpoint {
            Endpoint::Whoami => {
                return (
                    api::whoami(&self.caller).unwrap_or_else(|refusal| refusal.response()),
                    Subject::default(),
                );
            }
            Endpoint::Other if self.path == "/api/agent-harnesses" => {
                return (api::agent_harnesses(), Subject::default());
            }
            Endpoint::Other => return (Refusal::Address.response(), Subject::default()),
            _ => {}
        }
        if let Some(to) = read(&self.shared.catalogue).moved(&self.route.repository) {
            return (self.renamed(to), Subject::default());
        }
        let repository = read(&self.shared.catalogue)
            .get(&self.route.repository)
            .cloned();
        let Some(repository) = repository else {
            let known = matches!(self.caller, Caller::User(_));
            return (Refusal::Repository { known }.response(), Subject::default());
        };
        let mut subject = Subject {
            repository: Some(repository.id.clone()),
            ..Subject::default()
        };
        let response = match self.answer_about(&repository, body, &mut subject).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(),
        };
        (response, subject)
    }

    async fn answer_about(
        &self,
        repository: &Repository,
        body: Body,
        subject: &mut Subject,
    ) -> Result<Response, Refusal> {
        let endpoint = self.route.endpoint;
        let files = matches!(
            endpoint,
            Endpoint::Resolve | Endpoint::ResolveCache | Endpoint::AuthCheck
        );
        self.caller
            .may_read(repository, if files { Part::Files } else { Part::Metadata })?;
        let query = self.query.as_deref();
        match endpoint {
            Endpoint::Refs => return Ok(api::refs(repository, query)),
            Endpoint::AuthCheck => return Ok(answer::json(&serde_json::json!({}))),
            _ => {}
        }
        let revision = self.route.revision.as_deref().unwrap_or("main");
        let commit = repository
            .resolve(revision)
            .ok_or_else(|| Refusal::Revision(revision.to_owned()))?;
        match endpoint {
            Endpoint::Info => Ok(api::info(repository, commit, query)),
            Endpoint::Tree => api::tree(
                repository,
                commit,
                revision,
                &self.route.path,
                query,
                &self.settings,
                &self.base(),
            ),
            Endpoint::PathsInfo => {
                let body = axum::body::to_bytes(body, LARGEST_REQUEST).await;
                api::paths_info(
                    commit,
                    &body.map_err(|error| Refusal::Request(error.to_string()))?,
                )
            }
            _ => self.resolve(repository, commit, subject),
        }
    }

    /// `resolve` and `resolve-cache`.
    fn resolve(
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
            headers.insert(
                http::header::ACCEPT_RANGES,
                HeaderValue::from_static("bytes"),
            );
        }
        Ok(response)
    }

    fn content_at_cdn(&self) -> (Response, Subject) {
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

    fn renamed(&self, to: &str) -> Response {
        let from = format!("/{}", self.route.repository);
        let path = self.path.replacen(&from, &format!("/{to}"), 1);
        let query = self
            .query
            .as_ref()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        answer::redirect(StatusCode::TEMPORARY_REDIRECT, &format!("{path}{query}"))
    }

    /// The address that the client used, for links to further pages.
    fn base(&self) -> String {
        let host = || {
            self.headers
                .get(HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or("localhost")
        };
        self.shared
            .hub_url
            .clone()
            .unwrap_or_else(|| format!("{}://{}", self.shared.scheme, host()))
    }

    fn throttle(&self) -> Option<Arc<Throttle>> {
        (self.method != Method::HEAD).then(|| self.shared.throttle.clone())
    }

    /// Counts and logs, and arms what happens to the body.
    fn finish(&self, mut response: Response, subject: Subject) -> Response {
        let mut cut = None;
        let mut ended = false;
        for effect in &self.effects {
            match effect {
                Effect::Truncate { after, reset }
                    if subject.content || !response.status().is_success() =>
                {
                    cut = Some(Cut {
                        after: *after,
                        reset: *reset,
                    });
                }
                Effect::Truncate { after, reset } if self.route.endpoint != Endpoint::Resolve => {
                    cut = Some(Cut {
                        after: *after,
                        reset: *reset,
                    });
                }
                Effect::Disconnect { .. } => ended = true,
                Effect::MoveRef { name, commit } => {
                    let spec = RefSpec {
                        repository: self.route.repository.clone(),
                        name: name.clone(),
                        target: commit.clone(),
                    };
                    if let Err(error) = write(&self.shared.catalogue).set_ref(&spec) {
                        tracing::warn!(%error, "cannot move the ref");
                    }
                }
                _ => {}
            }
        }
        let id = {
            let mut requests = crate::locks::lock(&self.shared.requests);
            *requests += 1;
            format!("Root=1-{:08x}", *requests)
        };
        response.headers_mut().insert(X_REQUEST_ID, header(&id));
        let counted = Subject {
            content: subject.content && response.status().is_success(),
            repository: subject.repository.or_else(|| {
                read(&self.shared.catalogue)
                    .get(&self.route.repository)
                    .map(|repository| repository.id.clone())
            }),
            path: subject.path,
        };
        let logged = self.logged(if ended { 0 } else { response.status().as_u16() });
        tracing::debug!(
            status = logged.status,
            method = logged.method,
            target = logged.target,
            "request"
        );
        let meter = self.shared.counting.request(logged, &counted);
        self.client
            .begin(meter, cut.filter(|_| self.method != Method::HEAD));
        response
    }

    fn logged(&self, status: u16) -> LoggedRequest {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let secret = |name: &HeaderName| *name == AUTHORIZATION || *name == http::header::COOKIE;
        let mut headers: BTreeMap<String, String> = self
            .headers
            .iter()
            .filter(|(name, _)| !secret(name))
            .map(|(name, value)| (name.as_str().to_owned(), text(value)))
            .collect();
        if let Some(label) = self.caller.label() {
            headers.insert(AUTHORIZATION.as_str().to_owned(), label);
        }
        let query = self
            .query
            .as_deref()
            .map(|query| query.split("&Signature=").next().unwrap_or_default());
        LoggedRequest {
            time: u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX),
            client: self.client.address.ip().to_canonical(),
            endpoint: self.route.endpoint,
            method: self.method.to_string(),
            target: query.map_or_else(
                || self.path.clone(),
                |query| format!("{}?{query}", self.path),
            ),
            headers,
            status,
            body_bytes: 0,
        }
    }
}

fn faulty(status: u16, retry_after: Option<u64>, rate_limit_reset: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = answer::json(&serde_json::json!({ "error": status.canonical_reason() }));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if let Some(seconds) = rate_limit_reset {
        headers.insert(
            RATE_LIMIT,
            header(&format!("\"resolvers\";r=0;t={seconds}")),
        );
    }
    response
}

/// An error in the way of an object store.
fn storage_error(status: StatusCode, code: &str) -> Response {
    let body =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code></Error>");
    let mut response = answer::text(status, &body);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    );
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, body.len().into());
    response
}

fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
