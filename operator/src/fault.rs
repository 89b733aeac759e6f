//! Why a model is not resolved: the reason for programs, the sentence for people, and when to try again.

use std::time::Duration;

use modelcache_crds::conditions::reasons;
use modelcache_swarm::origin::OriginError;

use crate::secrets::SecretError;
use crate::source::{ListingError, OBJECT_MAX_BYTES, Source};

/// The hub is asked again after at most so long when the fault may pass by itself.
const LONGEST_TRANSIENT: Duration = Duration::from_mins(1);
/// The same for a fault that a person has to remove, at the hub or in the spec.
const LONGEST_PERSON: Duration = Duration::from_mins(1);
/// The same for a Secret, which costs nothing to look for.
const LONGEST_SECRET: Duration = Duration::from_secs(15);
/// A hub that wants to be left alone for longer is asked all the same.
const LONGEST_ASKED_FOR: Duration = Duration::from_mins(15);

/// Why a source is not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The hub knows no such repository, or hides it.
    RepositoryNotFound,
    /// The hub has disabled the repository.
    Disabled,
    /// The repository has no such revision.
    RevisionNotFound,
    /// The repository's terms must be accepted.
    Gated {
        /// The Secret whose token was sent.
        secret: Option<String>,
    },
    /// The hub refuses.
    Unauthorized {
        /// The Secret whose token was sent.
        secret: Option<String>,
    },
    /// The token is not where the spec says, or not for this hub.
    NoToken(SecretError),
    /// The patterns leave nothing.
    NoFilesMatch,
    /// A path would leave the cache.
    UnsafePath(String),
    /// The list of files is too long for one object.
    TooManyFiles {
        /// Number of files.
        files: usize,
        /// Length of the object.
        bytes: usize,
    },
    /// The hub is asked too often.
    RateLimited {
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The hub's certificate is not trusted.
    Certificate(String),
    /// The hub does not answer, or not as it should.
    Unavailable(String),
}

impl Fault {
    /// What an error of the hub means; `secret`: the Secret whose token was sent with the request.
    #[must_use]
    pub fn of_origin(error: &OriginError, secret: Option<&str>) -> Self {
        let secret = secret.map(str::to_owned);
        match error {
            OriginError::RepositoryNotFound { .. } => Self::RepositoryNotFound,
            OriginError::Disabled { .. } => Self::Disabled,
            OriginError::RevisionNotFound { .. } | OriginError::EntryNotFound { .. } => {
                Self::RevisionNotFound
            }
            OriginError::Gated { .. } => Self::Gated { secret },
            OriginError::Unauthorized { .. } => Self::Unauthorized { secret },
            OriginError::RateLimited { retry_after, .. } => Self::RateLimited {
                retry_after: *retry_after,
            },
            OriginError::Certificate { .. } => Self::Certificate(error.to_string()),
            OriginError::UnsafePath { path, .. } => Self::UnsafePath(path.clone()),
            OriginError::Config { .. }
            | OriginError::Unavailable { .. }
            | OriginError::Protocol { .. }
            | OriginError::TooLarge { .. }
            | OriginError::Io { .. } => Self::Unavailable(error.to_string()),
        }
    }

    /// What an error of reading a Secret means.
    #[must_use]
    pub fn of_secret(error: SecretError) -> Self {
        Self::NoToken(error)
    }

    /// What a listing means that makes no object.
    #[must_use]
    pub fn of_listing(error: &ListingError) -> Self {
        match *error {
            ListingError::Empty => Self::NoFilesMatch,
            ListingError::TooLarge { files, bytes } => Self::TooManyFiles { files, bytes },
        }
    }

    /// One of the documented reasons.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::RepositoryNotFound | Self::Disabled => reasons::REPOSITORY_NOT_FOUND,
            Self::RevisionNotFound => reasons::REVISION_NOT_FOUND,
            Self::Gated { .. } => reasons::GATED,
            Self::Unauthorized { .. } => reasons::UNAUTHORIZED,
            Self::NoToken(SecretError::OtherEndpoint { .. } | SecretError::BadEndpoint { .. }) => {
                reasons::TOKEN_NOT_FOR_ENDPOINT
            }
            Self::NoToken(_) => reasons::TOKEN_SECRET_MISSING,
            Self::NoFilesMatch => reasons::NO_FILES_MATCH,
            Self::UnsafePath(_) => reasons::UNSAFE_PATH,
            Self::TooManyFiles { .. } => reasons::TOO_MANY_FILES,
            Self::RateLimited { .. } => reasons::RATE_LIMITED,
            Self::Certificate(_) => reasons::ORIGIN_CERTIFICATE,
            Self::Unavailable(_) => reasons::ORIGIN_UNAVAILABLE,
        }
    }

    /// The sentence for people: object, field and remedy. `field` is the model's place in the spec, `spec.models[0]`.
    #[must_use]
    pub fn message(&self, field: &str, model: &str, source: &Source) -> String {
        let Source {
            endpoint,
            repository,
            revision,
            ..
        } = source;
        let hf = format!("{field}.source.huggingFace");
        let what = match self {
            Self::RepositoryNotFound => format!(
                "repository {repository:?} does not exist at {endpoint}, or it is private: check {hf}.repository, or set {hf}.tokenSecret"
            ),
            Self::Disabled => format!(
                "repository {repository:?} is disabled at {endpoint}: choose another in {hf}.repository"
            ),
            Self::RevisionNotFound => format!(
                "repository {repository:?} at {endpoint} has no revision {revision:?}: write an existing branch, tag or commit in {hf}.revision"
            ),
            Self::Gated { secret: None } => format!(
                "repository {repository:?} at {endpoint} is gated: accept its terms there, and name a Secret with an access token of that account in {hf}.tokenSecret"
            ),
            Self::Gated {
                secret: Some(secret),
            } => format!(
                "repository {repository:?} at {endpoint} is gated, and the account of the token in Secret {secret:?} ({hf}.tokenSecret) may not read it: accept its terms there with that account"
            ),
            Self::Unauthorized { secret: None } => format!(
                "{endpoint} does not let us read repository {repository:?} without a token: check {hf}.repository, or name a Secret with an access token in {hf}.tokenSecret"
            ),
            Self::Unauthorized {
                secret: Some(secret),
            } => format!(
                "{endpoint} refuses the token in Secret {secret:?} ({hf}.tokenSecret) for repository {repository:?}: write a valid token with read access into that Secret"
            ),
            Self::NoToken(error) => format!("{hf}.tokenSecret: {error}"),
            Self::NoFilesMatch => format!(
                "no file of repository {repository:?} at revision {revision:?} is left by include {:?} and exclude {:?}: check {hf}.include and {hf}.exclude (patterns match the whole path, * crosses /)",
                source.include, source.exclude
            ),
            Self::UnsafePath(path) => format!(
                "repository {repository:?} has a file whose path {path:?} would leave the cache: nothing of it is taken; choose another repository or revision"
            ),
            Self::TooManyFiles { files, bytes } => format!(
                "{files} files make a ModelSnapshot of {bytes} bytes, and at most {OBJECT_MAX_BYTES} can be stored: choose fewer with {hf}.include or {hf}.exclude"
            ),
            Self::RateLimited { retry_after } => format!(
                "{endpoint} says that it is asked too often (HTTP 429); {}; an access token in {hf}.tokenSecret gives a larger quota",
                match retry_after {
                    Some(wait) =>
                        format!("it is asked again after {} s, as it wants", wait.as_secs()),
                    None => "it is asked again after a while".to_owned(),
                }
            ),
            Self::Certificate(error) => {
                format!(
                    "{error}: check {hf}.endpoint, or put its certificate authority into {hf}.caBundle"
                )
            }
            Self::Unavailable(error) => format!(
                "{error}: it is asked again by itself; check {hf}.endpoint and the operator's way to it"
            ),
        };
        format!("{field} {model:?}: {what}")
    }

    /// How long to wait before the next attempt, after `attempts` of them.
    #[must_use]
    pub fn wait(&self, attempts: u32) -> Duration {
        let (first, longest) = match self {
            // One second more, because the hub's clock counts whole seconds.
            Self::RateLimited {
                retry_after: Some(wait),
            } => return (*wait + Duration::from_secs(1)).min(LONGEST_ASKED_FOR),
            Self::RateLimited { retry_after: None } | Self::Unavailable(_) => {
                (1, LONGEST_TRANSIENT)
            }
            Self::NoToken(_) => (2, LONGEST_SECRET),
            _ => (5, LONGEST_PERSON),
        };
        let doubled = 1_u64 << attempts.saturating_sub(1).min(16);
        Duration::from_secs(first * doubled).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source::new("https://huggingface.co", "org/typo", "main", &[], &[])
    }

    #[test]
    fn a_message_names_object_field_and_remedy() {
        assert_eq!(
            Fault::RepositoryNotFound.message("spec.models[0]", "minilm", &source()),
            "spec.models[0] \"minilm\": repository \"org/typo\" does not exist at https://huggingface.co, or it is \
             private: check spec.models[0].source.huggingFace.repository, or set \
             spec.models[0].source.huggingFace.tokenSecret"
        );
        let refused = Fault::Unauthorized {
            secret: Some("hub".to_owned()),
        };
        let text = refused.message("spec.models[0]", "minilm", &source());
        assert!(
            text.contains("Secret \"hub\"") && text.contains("tokenSecret"),
            "{text}"
        );
        let missing = Fault::of_secret(SecretError::NoSecret {
            namespace: "mc-system".to_owned(),
            name: "hub".to_owned(),
            key: "token".to_owned(),
        });
        let text = missing.message("spec.models[2]", "big", &source());
        for part in [
            "spec.models[2]",
            "tokenSecret",
            "mc-system/hub",
            "\"token\"",
            "create",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_token_for_another_hub_has_a_reason_of_its_own() {
        let fault = Fault::of_secret(SecretError::OtherEndpoint {
            namespace: "mc-system".to_owned(),
            name: "hub".to_owned(),
            allowed: "https://huggingface.co".to_owned(),
            endpoint: "https://mirror.example".to_owned(),
        });
        assert_eq!(fault.reason(), "TokenNotForEndpoint");
        assert_eq!(
            fault.message("spec.models[2]", "big", &source()),
            "spec.models[2] \"big\": spec.models[2].source.huggingFace.tokenSecret: Secret mc-system/hub is for \
             https://huggingface.co, so its token is not sent to https://mirror.example: name another Secret, or have \
             whoever owns this one set its annotation modelcache.io/endpoint to https://mirror.example"
        );
    }

    #[test]
    fn the_hub_is_left_alone_as_long_as_it_wants_and_others_back_off() {
        let asked = Fault::RateLimited {
            retry_after: Some(Duration::from_secs(40)),
        };
        assert_eq!(asked.wait(9), Duration::from_secs(41));
        let forever = Fault::RateLimited {
            retry_after: Some(Duration::from_hours(24)),
        };
        assert_eq!(forever.wait(1), LONGEST_ASKED_FOR);
        let gone = Fault::Unavailable(String::new());
        let waits: Vec<_> = (1..9).map(|n| gone.wait(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(gone.wait(u32::MAX), LONGEST_TRANSIENT);
        assert_eq!(Fault::NoFilesMatch.wait(1), Duration::from_secs(5));
        assert_eq!(Fault::NoFilesMatch.wait(50), LONGEST_PERSON);
    }
}
