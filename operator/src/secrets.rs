//! Access tokens, read from Secrets in the operator's own namespace when they are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{self, BoxFuture};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};
use modelcache_crds::names::ENDPOINT_ANNOTATION;
use thiserror::Error;

use crate::endpoint::Endpoint;

/// A token that was read is believed for so long.
const FRESH: Duration = Duration::from_mins(1);

/// One that is missing, or that the hub refuses, is looked for again after this time.
const FRESH_FAILURE: Duration = Duration::from_secs(5);

/// The client repeats by itself for many minutes; a pass cannot wait for that.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: String,
    /// Key within it.
    pub key: String,
}

/// A token and the hub to which it is to be sent. Nobody gets a token without saying where to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenUse {
    /// Where the token is.
    pub secret: SecretRef,
    /// Base URL of the hub, as in [`crate::source::Source`].
    pub endpoint: String,
}

/// An access token. Not shown by `Debug`, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// From the text of a Secret, without the line end that many have.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The token itself, for the hub and the agents only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Why there is no token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SecretError {
    /// No such Secret.
    #[error(
        "there is no Secret {namespace}/{name}: create it with the access token under key {key:?}"
    )]
    NoSecret {
        /// Namespace of the operator.
        namespace: String,
        /// Name that was asked for.
        name: String,
        /// Key that was asked for.
        key: String,
    },
    /// The Secret has no such key.
    #[error("Secret {namespace}/{name} has no key {key:?}: add it with the access token")]
    NoKey {
        /// Namespace of the operator.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// Key that was asked for.
        key: String,
    },
    /// What stands under the key cannot be a token.
    #[error(
        "key {key:?} of Secret {namespace}/{name} is empty or no text: write the access token there, and nothing else"
    )]
    NoToken {
        /// Namespace of the operator.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// Key that was asked for.
        key: String,
    },
    /// It is for another hub.
    #[error(
        "Secret {namespace}/{name} is for {allowed}, so its token is not sent to {endpoint}: name another Secret, or have whoever owns this one set its annotation {ENDPOINT_ANNOTATION} to {endpoint}"
    )]
    OtherEndpoint {
        /// Namespace of the operator.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// The hub that it is for.
        allowed: String,
        /// The hub that it was asked for.
        endpoint: String,
    },
    /// Nobody can say for which hub it is.
    #[error(
        "annotation {ENDPOINT_ANNOTATION} of Secret {namespace}/{name} is no base URL of a hub, so its token is sent nowhere: write for example https://huggingface.co"
    )]
    BadEndpoint {
        /// Namespace of the operator.
        namespace: String,
        /// Name of the Secret.
        name: String,
    },
    /// It holds the cluster's keys.
    #[error(
        "Secret {namespace}/{name} holds the cluster's keys, which are for no hub: name another"
    )]
    Reserved {
        /// Namespace of the operator.
        namespace: String,
        /// Name that was asked for.
        name: String,
    },
    /// The API server did not give it.
    #[error("Secret {namespace}/{name} cannot be read: {message}")]
    Unreadable {
        /// Namespace of the operator.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// What the API server said.
        message: String,
    },
}

/// Reads tokens.
pub trait ReadSecret: Send + Sync + 'static {
    /// The token for that use, read now.
    fn read<'a>(&'a self, wanted: &'a TokenUse) -> BoxFuture<'a, Result<Token, SecretError>>;
}

/// Reads Secrets from the API server.
pub struct SecretReader {
    api: Api<Secret>,
    namespace: String,
    reserved: String,
    default_endpoint: Endpoint,
}

impl SecretReader {
    /// Reads from `namespace`, the operator's own; never the Secret `reserved`, which holds the cluster's keys. A Secret
    /// that says nothing of hubs is for `default_endpoint`.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        reserved: &str,
        default_endpoint: Endpoint,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            reserved: reserved.to_owned(),
            default_endpoint,
        }
    }

    /// Whether what is in the Secret may be sent to the hub: who may write a ModelCache must not choose where to.
    fn allow(&self, object: &Secret, wanted: &TokenUse) -> Result<(), SecretError> {
        let (namespace, name) = (&self.namespace, &wanted.secret.name);
        let allowed = match object.annotations().get(ENDPOINT_ANNOTATION) {
            None => self.default_endpoint.clone(),
            Some(text) => text.parse().map_err(|_| SecretError::BadEndpoint {
                namespace: namespace.clone(),
                name: name.clone(),
            })?,
        };
        match wanted.endpoint.parse() {
            Ok(endpoint) if allowed.covers(&endpoint) => Ok(()),
            _ => Err(SecretError::OtherEndpoint {
                namespace: namespace.clone(),
                name: name.clone(),
                allowed: allowed.to_string(),
                endpoint: wanted.endpoint.clone(),
            }),
        }
    }
}

impl ReadSecret for SecretReader {
    fn read<'a>(&'a self, wanted: &'a TokenUse) -> BoxFuture<'a, Result<Token, SecretError>> {
        Box::pin(async move {
            let secret = &wanted.secret;
            let unreadable = |message: String| SecretError::Unreadable {
                namespace: self.namespace.clone(),
                name: secret.name.clone(),
                message,
            };
            if secret.name == self.reserved {
                return Err(SecretError::Reserved {
                    namespace: self.namespace.clone(),
                    name: secret.name.clone(),
                });
            }
            let read = self.api.get_opt(&secret.name);
            let object = tokio::time::timeout(READ_TIMEOUT, read)
                .await
                .map_err(|_| unreadable("the API server did not answer in time".to_owned()))?
                .map_err(|error| unreadable(error.to_string()))?;
            let object = object.ok_or_else(|| SecretError::NoSecret {
                namespace: self.namespace.clone(),
                name: secret.name.clone(),
                key: secret.key.clone(),
            })?;
            self.allow(&object, wanted)?;
            token(&object, &self.namespace, secret)
        })
    }
}

/// The token in a Secret.
fn token(object: &Secret, namespace: &str, secret: &SecretRef) -> Result<Token, SecretError> {
    let SecretRef { name, key } = secret.clone();
    let namespace = namespace.to_owned();
    let Some(bytes) = object.data.as_ref().and_then(|data| data.get(&key)) else {
        return Err(SecretError::NoKey {
            namespace,
            name,
            key,
        });
    };
    match std::str::from_utf8(&bytes.0).map(Token::new) {
        Ok(token) if !token.0.is_empty() && token.0.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(token)
        }
        _ => Err(SecretError::NoToken {
            namespace,
            name,
            key,
        }),
    }
}

/// The tokens that models name, or why they are missing.
pub type Tokens = BTreeMap<TokenUse, Result<Token, SecretError>>;

/// Remembers tokens for a while, so that not each pass reads each Secret.
pub struct TokenCache {
    reader: Arc<dyn ReadSecret>,
    known: BTreeMap<TokenUse, (Instant, Result<Token, SecretError>)>,
}

impl TokenCache {
    /// Nothing known yet.
    #[must_use]
    pub fn new(reader: Arc<dyn ReadSecret>) -> Self {
        Self {
            reader,
            known: BTreeMap::new(),
        }
    }

    /// The tokens for `wanted`, read anew where they are old; those in `doubted` do not work and are read anew sooner.
    pub async fn get(
        &mut self,
        wanted: &BTreeSet<TokenUse>,
        doubted: &BTreeSet<TokenUse>,
    ) -> Tokens {
        self.known.retain(|one, _| wanted.contains(one));
        let stale = wanted.iter().filter(|one| {
            let Some((read, token)) = self.known.get(*one) else {
                return true;
            };
            let fresh = if token.is_err() || doubted.contains(*one) {
                FRESH_FAILURE
            } else {
                FRESH
            };
            read.elapsed() >= fresh
        });
        let reader = &self.reader;
        let reads = stale.map(|one| async move { (one, reader.read(one).await) });
        let read = future::join_all(reads).await;
        let now = Instant::now();
        for (one, mut token) in read {
            // A token that was there is not gone because the API server is away.
            if let (Err(SecretError::Unreadable { .. }), Some((_, old))) =
                (&token, self.known.get(one))
            {
                token.clone_from(old);
            }
            self.known.insert(one.clone(), (now, token));
        }
        self.known
            .iter()
            .map(|(one, (_, token))| (one.clone(), token.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::{Request, Response};
    use k8s_openapi::ByteString;
    use std::sync::Mutex;

    const HUB: &str = "https://hub.example";

    fn wanted(endpoint: &str) -> TokenUse {
        TokenUse {
            secret: SecretRef {
                name: "hub".to_owned(),
                key: "token".to_owned(),
            },
            endpoint: endpoint.to_owned(),
        }
    }

    fn object(key: &str, value: &[u8]) -> Secret {
        Secret {
            data: Some([(key.to_owned(), ByteString(value.to_vec()))].into()),
            ..Secret::default()
        }
    }

    /// What the operator makes of it when the API server gives this Secret, or none.
    async fn read(object: Option<Secret>, endpoint: &str) -> Result<Token, SecretError> {
        let (status, answer) = match object {
            Some(object) => (200, serde_json::to_vec(&object).unwrap()),
            None => (404, br#"{"code": 404, "reason": "NotFound"}"#.to_vec()),
        };
        let server = tower::service_fn(move |_: Request<kube::client::Body>| {
            let answer = Response::builder()
                .status(status)
                .body(Body::from(answer.clone()));
            async move { answer }
        });
        let client = Client::new(server, "mc-system");
        let default = "https://hub.example".parse().unwrap();
        let reader = SecretReader::new(client, "mc-system", "keys", default);
        reader.read(&wanted(endpoint)).await
    }

    #[tokio::test]
    async fn what_is_missing_is_said_with_namespace_name_and_key() {
        assert_eq!(
            read(Some(object("token", b"hf_abc\n")), HUB).await,
            Ok(Token::new("hf_abc"))
        );
        for object in [
            None,
            Some(object("other", b"hf_abc")),
            Some(object("token", b" \n")),
            Some(object("token", b"two words")),
            Some(object("token", &[0xff])),
        ] {
            let message = read(object, HUB).await.unwrap_err().to_string();
            assert!(message.contains("mc-system/hub"), "{message}");
            assert!(message.contains("\"token\""), "{message}");
            assert!(!message.contains("hf_abc") && !message.contains("two words"));
        }
    }

    #[tokio::test]
    async fn a_token_is_given_for_no_hub_but_that_of_its_secret() {
        let mirror = "https://mirror.example/hf";
        let allowed: [(Option<&str>, &[&str], &[&str]); 2] = [
            (None, &[HUB, "https://HUB.example:443/"], &[mirror]),
            (Some(mirror), &[mirror], &[HUB]),
        ];
        for (annotation, right, wrong) in allowed {
            let mut secret = object("token", b"hf_abc");
            if let Some(annotation) = annotation {
                secret
                    .annotations_mut()
                    .insert(ENDPOINT_ANNOTATION.to_owned(), annotation.to_owned());
            }
            for endpoint in right {
                let token = read(Some(secret.clone()), endpoint).await;
                assert_eq!(token, Ok(Token::new("hf_abc")), "{endpoint}");
            }
            let never = ["http://hub.example", "https://hub.example.evil", "no URL"];
            for endpoint in wrong.iter().chain(&never) {
                let error = read(Some(secret.clone()), endpoint).await.unwrap_err();
                assert!(matches!(error, SecretError::OtherEndpoint { .. }));
                let message = error.to_string();
                let own = annotation.unwrap_or(HUB);
                for part in ["mc-system/hub", own, endpoint, ENDPOINT_ANNOTATION] {
                    assert!(message.contains(part), "{part}: {message}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_token_for_what_is_no_hub_is_given_for_none() {
        let mut secret = object("token", b"hf_abc");
        let annotation = ENDPOINT_ANNOTATION.to_owned();
        secret
            .annotations_mut()
            .insert(annotation, "https://me:secret@hub.example".to_owned());
        let error = read(Some(secret), HUB).await.unwrap_err();
        assert!(matches!(error, SecretError::BadEndpoint { .. }));
        let message = error.to_string();
        assert!(message.contains("mc-system/hub") && !message.contains("secret@"));
    }

    #[tokio::test]
    async fn the_clusters_keys_are_no_access_token() {
        let nobody = tower::service_fn(|_: Request<kube::client::Body>| async {
            Err::<Response<Body>, _>("asked")
        });
        let default = HUB.parse().unwrap();
        let reader = SecretReader::new(Client::new(nobody, "ns"), "ns", "hub", default);
        let error = reader.read(&wanted(HUB)).await.unwrap_err();
        assert!(matches!(error, SecretError::Reserved { .. }), "{error}");
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", Token::new("hf_secret")).contains("secret"));
    }

    struct Scripted(Mutex<Vec<Result<Token, SecretError>>>);

    impl ReadSecret for Scripted {
        fn read<'a>(&'a self, _: &'a TokenUse) -> BoxFuture<'a, Result<Token, SecretError>> {
            Box::pin(async { self.0.lock().unwrap().pop().expect("one read too many") })
        }
    }

    #[tokio::test]
    async fn a_token_is_read_once_while_it_is_fresh() {
        let reader = Scripted(Mutex::new(vec![Ok(Token::new("hf_a"))]));
        let mut cache = TokenCache::new(Arc::new(reader));
        let wanted = BTreeSet::from([wanted(HUB)]);
        for _ in 0..3 {
            let tokens = cache.get(&wanted, &BTreeSet::new()).await;
            assert!(tokens.values().eq([&Ok(Token::new("hf_a"))]));
        }
        assert!(
            cache
                .get(&BTreeSet::new(), &BTreeSet::new())
                .await
                .is_empty()
        );
    }
}
