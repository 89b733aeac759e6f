//! Who asks, and what they may read.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::admin::{Gate, Token};
use crate::answer::Refusal;
use crate::budget::Payer;
use crate::repository::Repository;

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Anonymous,
    /// The owner of a token.
    User(Token),
    /// A token that nobody has.
    Stranger,
}

/// What of a repository is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its data and lists.
    Metadata,
    /// Its files.
    Files,
}

impl Caller {
    /// From the request's headers.
    #[must_use]
    pub fn new(headers: &HeaderMap, tokens: &[Token]) -> Self {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Self::Anonymous;
        };
        let token = value
            .to_str()
            .ok()
            .and_then(|value| value.strip_prefix("Bearer "));
        let owner = token.and_then(|token| tokens.iter().find(|known| known.token == token.trim()));
        owner.map_or(Self::Stranger, |token| Self::User(token.clone()))
    }

    /// Whose budget pays.
    #[must_use]
    pub fn payer(&self, address: IpAddr) -> Payer {
        match self {
            Self::User(token) => Payer::User(token.user.clone()),
            Self::Anonymous | Self::Stranger => Payer::Address(address),
        }
    }

    /// What the log says instead of the token.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        match self {
            Self::Anonymous => None,
            Self::User(token) => Some(token.user.clone()),
            Self::Stranger => Some("unknown token".to_owned()),
        }
    }

    /// Whether this caller may read that part of a repository.
    pub fn may_read(&self, repository: &Repository, part: Part) -> Result<(), Refusal> {
        if *self == Self::Stranger {
            return Err(Refusal::Token);
        }
        let known = matches!(self, Self::User(_));
        let listed =
            matches!(self, Self::User(token) if token.repositories.contains(&repository.name));
        if repository.private && !listed {
            return Err(Refusal::Repository { known });
        }
        if repository.disabled {
            return Err(Refusal::Disabled);
        }
        let closed = match repository.gated {
            Gate::Open => false,
            Gate::Files => part == Part::Files,
            Gate::Everything => true,
        };
        if closed && !listed {
            return Err(Refusal::Gated {
                repository: repository.name.clone(),
                known,
            });
        }
        Ok(())
    }
}
