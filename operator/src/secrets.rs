//! Access tokens, read from Secrets in the operator's own namespace when they are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{self, BoxFuture};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use thiserror::Error;

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
    /// The token at that place, read now.
    fn read<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Token, SecretError>>;
}

/// Reads Secrets from the API server.
pub struct SecretReader {
    api: Api<Secret>,
    namespace: String,
    reserved: String,
}

impl SecretReader {
    /// Reads from `namespace`, the operator's own; never the Secret `reserved`, which holds the cluster's keys: who
    /// may write a ModelCache must not have them sent to a hub of his choice.
    #[must_use]
    pub fn new(client: Client, namespace: &str, reserved: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            reserved: reserved.to_owned(),
        }
    }
}

impl ReadSecret for SecretReader {
    fn read<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Token, SecretError>> {
        Box::pin(async move {
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
            token(object.as_ref(), &self.namespace, secret)
        })
    }
}

/// The token in a Secret.
fn token(
    object: Option<&Secret>,
    namespace: &str,
    secret: &SecretRef,
) -> Result<Token, SecretError> {
    let SecretRef { name, key } = secret.clone();
    let namespace = namespace.to_owned();
    let Some(object) = object else {
        return Err(SecretError::NoSecret {
            namespace,
            name,
            key,
        });
    };
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
pub type Tokens = BTreeMap<SecretRef, Result<Token, SecretError>>;

/// Remembers tokens for a while, so that not each pass reads each Secret.
pub struct TokenCache {
    reader: Arc<dyn ReadSecret>,
    known: BTreeMap<SecretRef, (Instant, Result<Token, SecretError>)>,
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

    /// The tokens at `wanted`, read anew where they are old; those in `doubted` do not work and are read anew sooner.
    pub async fn get(
        &mut self,
        wanted: &BTreeSet<SecretRef>,
        doubted: &BTreeSet<SecretRef>,
    ) -> Tokens {
        self.known.retain(|secret, _| wanted.contains(secret));
        let stale = wanted.iter().filter(|secret| {
            let Some((read, token)) = self.known.get(*secret) else {
                return true;
            };
            let fresh = if token.is_err() || doubted.contains(*secret) {
                FRESH_FAILURE
            } else {
                FRESH
            };
            read.elapsed() >= fresh
        });
        let reader = &self.reader;
        let reads = stale.map(|secret| async move { (secret, reader.read(secret).await) });
        let read = future::join_all(reads).await;
        let now = Instant::now();
        for (secret, mut token) in read {
            // A token that was there is not gone because the API server is away.
            if let (Err(SecretError::Unreadable { .. }), Some((_, old))) =
                (&token, self.known.get(secret))
            {
                token.clone_from(old);
            }
            self.known.insert(secret.clone(), (now, token));
        }
        self.known
            .iter()
            .map(|(secret, (_, token))| (secret.clone(), token.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use std::sync::Mutex;

    fn place() -> SecretRef {
        SecretRef {
            name: "hub".to_owned(),
            key: "token".to_owned(),
        }
    }

    fn object(key: &str, value: &[u8]) -> Secret {
        Secret {
            data: Some([(key.to_owned(), ByteString(value.to_vec()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn what_is_missing_is_said_with_namespace_name_and_key() {
        let read = |object: Option<Secret>| token(object.as_ref(), "mc-system", &place());
        assert_eq!(
            read(Some(object("token", b"hf_abc\n"))).unwrap(),
            Token::new("hf_abc")
        );
        for object in [
            None,
            Some(object("other", b"hf_abc")),
            Some(object("token", b" \n")),
            Some(object("token", b"two words")),
            Some(object("token", &[0xff])),
        ] {
            let message = read(object).unwrap_err().to_string();
            assert!(message.contains("mc-system/hub"), "{message}");
            assert!(message.contains("\"token\""), "{message}");
            assert!(!message.contains("hf_abc") && !message.contains("two words"));
        }
    }

    #[tokio::test]
    async fn the_clusters_keys_are_no_access_token() {
        let nobody = tower::service_fn(|_: axum::http::Request<kube::client::Body>| async {
            Err::<axum::http::Response<axum::body::Body>, _>("asked")
        });
        let reader = SecretReader::new(Client::new(nobody, "ns"), "ns", "hub");
        let error = reader.read(&place()).await.unwrap_err();
        assert!(matches!(error, SecretError::Reserved { .. }), "{error}");
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", Token::new("hf_secret")).contains("secret"));
    }

    struct Scripted(Mutex<Vec<Result<Token, SecretError>>>);

    impl ReadSecret for Scripted {
        fn read<'a>(&'a self, _: &'a SecretRef) -> BoxFuture<'a, Result<Token, SecretError>> {
            Box::pin(async { self.0.lock().unwrap().pop().expect("one read too many") })
        }
    }

    #[tokio::test]
    async fn a_token_is_read_once_while_it_is_fresh() {
        let reader = Scripted(Mutex::new(vec![Ok(Token::new("hf_a"))]));
        let mut cache = TokenCache::new(Arc::new(reader));
        let wanted = BTreeSet::from([place()]);
        for _ in 0..3 {
            let tokens = cache.get(&wanted, &BTreeSet::new()).await;
            assert_eq!(tokens[&place()], Ok(Token::new("hf_a")));
        }
        assert!(
            cache
                .get(&BTreeSet::new(), &BTreeSet::new())
                .await
                .is_empty()
        );
    }
}
