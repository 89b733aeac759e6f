//! Connections between members of the cluster: mutually authenticated by its secret, and encrypted.
//!
//! The handshake is `Noise_NNpsk0_25519_AESGCM_SHA256` (the Noise Protocol Framework): both ends prove that they have a
//! key that is derived from the secret for this very purpose, and fresh key pairs give every connection keys of its own
//! that later knowledge of the secret does not reveal. What it adds to the bytes on the wire is in [`handshake`] and
//! [`stream`]. A [`Link`] is itself a stream, over any other, so what speaks over it need not know.
//!
//! With [`Mode::Authenticated`] the bytes after the handshake travel as they are: for networks that nobody can listen
//! in on or change, where processor time matters more. The mode is part of what is authenticated, and an end that was
//! told to encrypt accepts nothing less.
//!
//! A link does not outlive its key: when that is no longer valid, it ends with an error ([`GRACE`] says when). Who wants
//! to go on without one makes a new link while both keys are valid ([`Security::replaced`]).

mod crypto;
mod handshake;
mod lobby;
mod stream;
mod wire;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;

use crate::secret::{KeyId, Keys, Purpose};

pub use lobby::{Lobby, Visit};
pub use stream::Link;
pub use wire::Wire;

/// Time for a handshake; it takes one round trip.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a link between agents goes on when its key is no longer valid, so that a segment which is under way then comes to its
/// end; it begins no other. Other links end at once.
pub const GRACE: Duration = Duration::from_mins(1);

/// What happens to the bytes after the handshake. Ordered by strength.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// They travel as they are.
    Authenticated,
    /// They are encrypted, and a change on the way ends the connection.
    #[default]
    Encrypted,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that opened it.
    Dialed,
    /// The one that listened.
    Accepted,
}

/// Why there is no link.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Nothing, or not enough, came in time.
    #[error("no handshake within {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// It waited longest among too many, and had to make room.
    #[error("closed to make room: too many connections of which nothing is known")]
    Displaced,
    /// The ends have no key in common.
    #[error(
        "the two ends have no key in common: give both the same secret, and a rotated one a minute to arrive"
    )]
    UnknownKey,
    /// The other end names a key that it cannot prove to have.
    #[error("the other end does not have the key that it names")]
    WrongKey,
    /// One end asks for less than the other is told to insist on.
    #[error("one end is set to encrypt and the other only to authenticate: set both alike")]
    TooWeak,
    /// The other end speaks something else.
    #[error(
        "the other end does not speak this protocol; is it a member of the cluster, of the same version?"
    )]
    Malformed,
    /// The connection broke.
    #[error("the connection ended during the handshake: {0}")]
    Io(#[from] io::Error),
    /// The library failed on our own side.
    #[error("the handshake failed on our side: {0}")]
    Crypto(#[from] snow::Error),
}

impl LinkError {
    /// One word, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Displaced => "displaced",
            Self::UnknownKey => "unknown_key",
            Self::WrongKey => "wrong_key",
            Self::TooWeak => "too_weak",
            Self::Malformed => "malformed",
            Self::Io(_) => "closed",
            Self::Crypto(_) => "failed",
        }
    }
}

/// The word for a handshake that made a link, beside those of [`LinkError::label`].
pub const OK: &str = "ok";

/// Called after each handshake with one word on how it ended.
pub type OnHandshake = Arc<dyn Fn(Side, &'static str) + Send + Sync>;

/// How links are made: with which keys, for what, and how strong.
#[derive(Clone)]
pub struct Security {
    keys: Keys,
    purpose: Purpose,
    mode: Mode,
    /// How long a link goes on when its key is no longer valid.
    grace: Duration,
    on_handshake: OnHandshake,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("keys", &self.keys)
            .field("purpose", &self.purpose)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Security {
    /// Links for `purpose` by the keys that are valid at the time, as `mode` says.
    #[must_use]
    pub fn new(keys: Keys, purpose: Purpose, mode: Mode) -> Self {
        Self {
            keys,
            purpose,
            mode,
            grace: match purpose {
                Purpose::PeerLink => GRACE,
                Purpose::Coordination | Purpose::Announcement | Purpose::Tracker => Duration::ZERO,
            },
            on_handshake: Arc::new(|_, _| {}),
        }
    }

    /// The same with another [`GRACE`].
    #[cfg(test)]
    pub(crate) fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// The same, with `on_handshake` told of each handshake.
    #[must_use]
    pub fn counted(self, on_handshake: OnHandshake) -> Self {
        Self {
            on_handshake,
            ..self
        }
    }

    /// Makes a link of a stream that this end opened.
    pub async fn dial<S>(&self, stream: S) -> Result<Link<S>, LinkError>
    where
        S: Wire,
    {
        let result = timeout(HANDSHAKE_TIMEOUT, handshake::dial(stream, self)).await;
        self.told(Side::Dialed, result.unwrap_or(Err(LinkError::Timeout)))
    }

    /// Makes a link of a stream that the other end opened.
    pub async fn accept<S>(&self, stream: S) -> Result<Link<S>, LinkError>
    where
        S: Wire,
    {
        let result = self.answer(stream, || ()).await;
        self.told(Side::Accepted, result)
    }

    /// The same for a stream that takes up a place: it gives that up when the handshake has ended, and ends when the
    /// place is needed for another.
    pub async fn receive<S>(&self, stream: S, place: Visit) -> Result<Link<S>, LinkError>
    where
        S: Wire,
    {
        let result = tokio::select! {
            biased;
            result = self.answer(stream, || place.spoke()) => result,
            () = place.displaced() => Err(LinkError::Displaced),
        };
        self.told(Side::Accepted, result)
    }

    async fn answer<S>(&self, stream: S, on_hello: impl FnOnce()) -> Result<Link<S>, LinkError>
    where
        S: Wire,
    {
        let accepted = handshake::accept(stream, self, on_hello);
        let result = timeout(HANDSHAKE_TIMEOUT, accepted).await;
        result.unwrap_or(Err(LinkError::Timeout))
    }

    /// Whether links are made with this key now.
    #[must_use]
    pub fn uses(&self, key: KeyId) -> bool {
        self.keys.now().current().id() == key
    }

    /// Whether this key is valid now. On a link of one that is not, nothing new may begin.
    #[must_use]
    pub fn knows(&self, key: KeyId) -> bool {
        self.keys.now().by_id(key).is_some()
    }

    /// Waits until links are made with another key than at the time of the call.
    pub fn replaced(&self) -> impl Future<Output = ()> + Send + use<> {
        self.keys.replaced()
    }

    /// Waits until a link of this key must end.
    fn outlived(&self, key: KeyId) -> impl Future<Output = ()> + Send + use<> {
        let (retired, grace) = (self.keys.retired(key), self.grace);
        async move {
            retired.await;
            tokio::time::sleep(grace).await;
        }
    }

    fn told<T>(&self, side: Side, result: Result<T, LinkError>) -> Result<T, LinkError> {
        let word = result.as_ref().map_or_else(LinkError::label, |_| OK);
        (self.on_handshake)(side, word);
        result
    }
}

#[cfg(test)]
mod tests;
