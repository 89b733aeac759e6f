//! Authentication of agents by the API server's TokenReview.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::authenticate::{Authenticate, AuthenticateError};

/// Audience of the tokens that agents show to the coordinator.
pub const AUDIENCE: &str = "modelcache.io/coordinator";

/// Key under which the API server tells the node that a pod's token is bound to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A good token is believed this long without asking again; the API server itself remembers about as long.
const GOOD_FOR: Duration = Duration::from_mins(1);

/// A bad token is refused this long without asking again.
const BAD_FOR: Duration = Duration::from_secs(5);

/// Answers remembered at once; one agent needs one.
const REMEMBERED: usize = 8192;

/// Reviews under way at once, so that strangers cannot load the API server through us.
const REVIEWS: usize = 16;

/// An answer of the API server: the node, or why the token is refused.
type Answer = Result<String, String>;

/// Asks the API server who bears a token, and lets only our agents in.
pub struct TokenReviewer {
    client: Client,
    audience: String,
    username: String,
    answers: Mutex<HashMap<[u8; 32], (Instant, Answer)>>,
    reviews: Semaphore,
}

impl TokenReviewer {
    /// Accepts tokens for `audience` ([`AUDIENCE`]) of the service account `name` in `namespace`.
    #[must_use]
    pub fn new(client: Client, audience: &str, namespace: &str, name: &str) -> Self {
        Self {
            client,
            audience: audience.to_owned(),
            username: format!("system:serviceaccount:{namespace}:{name}"),
            answers: Mutex::default(),
            reviews: Semaphore::new(REVIEWS),
        }
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, answer) = answers.get(key)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn remember(&self, key: [u8; 32], answer: &Answer) {
        let now = Instant::now();
        let keep = if answer.is_ok() { GOOD_FOR } else { BAD_FOR };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= REMEMBERED {
            answers.retain(|_, (until, _)| *until > now);
        }
        if answers.len() < REMEMBERED {
            answers.insert(key, (now + keep, answer.clone()));
        }
    }

    async fn review(&self, token: &str) -> Result<Answer, AuthenticateError> {
        let unavailable =
            |error: &dyn std::fmt::Display| AuthenticateError::Unavailable(error.to_string());
        let _turn = self.reviews.acquire().await.map_err(|e| unavailable(&e))?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                // Without an audience the API server would check against its own and let API tokens in.
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(judge(
            answer.status.as_ref(),
            &self.audience,
            &self.username,
        ))
    }
}

impl Authenticate for TokenReviewer {
    fn node_of<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<String, AuthenticateError>> {
        Box::pin(async move {
            let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
            let answer = if let Some(answer) = self.remembered(&key) {
                answer
            } else {
                let answer = self.review(token).await?;
                self.remember(key, &answer);
                answer
            };
            answer.map_err(AuthenticateError::Refused)
        })
    }
}

/// Reads the API server's answer. Its own error text is for our log only and never holds the token.
fn judge(status: Option<&TokenReviewStatus>, audience: &str, username: &str) -> Answer {
    let status = status.ok_or("the API server did not say anything about the token")?;
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("no reason given");
        return Err(format!("the API server does not accept the token: {why}"));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|one| one == audience) {
        return Err(format!("the token is not meant for audience {audience}"));
    }
    let user = status.user.as_ref().ok_or("the token has no user")?;
    let name = user.username.as_deref().unwrap_or_default();
    if name != username {
        return Err(format!("the token belongs to {name}, not to {username}"));
    }
    match user.extra.as_ref().and_then(|extra| extra.get(NODE_NAME)) {
        Some(names) if names.len() == 1 && !names[0].is_empty() => Ok(names[0].clone()),
        _ => Err(format!(
            "the token is bound to no node ({NODE_NAME} is missing): it must be a projected token of a pod"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;

    const USER: &str = "system:serviceaccount:modelcache-system:modelcache-agent";

    fn good() -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![AUDIENCE.to_owned()]),
            error: None,
            user: Some(UserInfo {
                username: Some(USER.to_owned()),
                extra: Some([(NODE_NAME.to_owned(), vec!["node-1".to_owned()])].into()),
                ..UserInfo::default()
            }),
        }
    }

    fn judged(change: impl FnOnce(&mut TokenReviewStatus)) -> Answer {
        let mut status = good();
        change(&mut status);
        judge(Some(&status), AUDIENCE, USER)
    }

    /// Refused, with these words in the reason.
    #[track_caller]
    fn refused(answer: &Answer, words: &str) {
        match answer {
            Err(reason) => assert!(reason.contains(words), "{reason}"),
            Ok(node) => panic!("let in as {node}"),
        }
    }

    #[test]
    fn an_agent_on_its_node_is_let_in() {
        assert_eq!(judged(|_| {}), Ok("node-1".to_owned()));
        let more = judged(|s| s.audiences = Some(vec!["other".to_owned(), AUDIENCE.to_owned()]));
        assert_eq!(more, Ok("node-1".to_owned()));
    }

    #[test]
    fn a_token_that_the_api_server_does_not_accept_is_refused() {
        refused(&judge(None, AUDIENCE, USER), "did not say anything");
        refused(
            &judged(|s| s.authenticated = Some(false)),
            "no reason given",
        );
        refused(&judged(|s| s.authenticated = None), "does not accept");
        let expired = judged(|s| {
            s.authenticated = Some(false);
            s.error = Some("expired".to_owned());
        });
        refused(&expired, "expired");
    }

    #[test]
    fn a_token_for_another_audience_is_refused() {
        refused(&judged(|s| s.audiences = None), "not meant for");
        refused(&judged(|s| s.audiences = Some(vec![])), "not meant for");
        let other = judged(|s| s.audiences = Some(vec!["other".to_owned()]));
        refused(&other, "not meant for");
        let longer = judged(|s| s.audiences = Some(vec![format!("{AUDIENCE}/more")]));
        refused(&longer, "not meant for");
    }

    #[test]
    fn a_token_of_somebody_else_is_refused() {
        let name = |name: Option<&str>| {
            let name = name.map(str::to_owned);
            judged(|s| s.user.as_mut().unwrap().username = name)
        };
        refused(&judged(|s| s.user = None), "has no user");
        refused(&name(None), "belongs to");
        refused(&name(Some("somebody")), "belongs to somebody");
        let elsewhere = "system:serviceaccount:default:modelcache-agent";
        refused(&name(Some(elsewhere)), elsewhere);
    }

    #[test]
    fn a_token_bound_to_no_single_node_is_refused() {
        let nodes = |names: Vec<&str>| {
            let names = names.into_iter().map(str::to_owned).collect();
            let extra = [(NODE_NAME.to_owned(), names)].into();
            judged(|s| s.user.as_mut().unwrap().extra = Some(extra))
        };
        refused(
            &judged(|s| s.user.as_mut().unwrap().extra = None),
            "bound to no node",
        );
        let other = judged(|s| {
            let extra = [("other".to_owned(), vec!["node-1".to_owned()])].into();
            s.user.as_mut().unwrap().extra = Some(extra);
        });
        refused(&other, "bound to no node");
        refused(&nodes(vec![]), "bound to no node");
        refused(&nodes(vec![""]), "bound to no node");
        refused(&nodes(vec!["node-1", "node-2"]), "bound to no node");
    }
}
