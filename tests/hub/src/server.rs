//! From a request to an answer, at the hub's port and at the CDN's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use http::header::{AUTHORIZATION, COOKIE, HOST, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::access::{Caller, Part};
use crate::admin::{Effect, Endpoint, LoggedRequest, Mode, RefSpec, Settings};
use crate::answer::{self, Refusal, header};
use crate::api;
use crate::budget::Standing;
use crate::connection::{Client, Cut, Switch};
use crate::counting::Subject;
use crate::fault;
use crate::locks::{lock, read, write};
use crate::repository::Repository;
use crate::route::{Route, kind, query_value, route};
use crate::shared::Shared;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The largest body of a request that is read.
const LARGEST_REQUEST: usize = 4 << 20;

/// The service at the hub's port.
pub(crate) fn hub_router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(hub).with_state(shared)
}

/// The service at the CDN's port.
pub(crate) fn cdn_router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(cdn).with_state(shared)
}

/// One request on its way.
pub(crate) struct Exchange {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
    client: Client,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    caller: Caller,
    pub(crate) route: Route,
    pub(crate) effects: Vec<Effect>,
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
            client: client.ip(),
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
        let payer = self.caller.payer(self.client.ip());
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

    /// Counts and logs, and arms what happens to the body.
    fn finish(&self, mut response: Response, subject: Subject) -> Response {
        let mut cut = None;
        let mut ended = false;
        for effect in &self.effects {
            match effect {
                Effect::Truncate { after, reset } if !response.status().is_redirection() => {
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
            let mut requests = lock(&self.shared.requests);
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
        let secret = |name: &HeaderName| *name == AUTHORIZATION || *name == COOKIE;
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
            client: self.client.ip(),
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

/// Time since 1970.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
