//! Which node a connection speaks for.

use futures_util::future::BoxFuture;
use thiserror::Error;

/// Why a bearer token was not accepted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AuthenticateError {
    /// The token proves nothing that would let its bearer in.
    #[error("{0}")]
    Refused(String),
    /// Nobody could be asked about the token; it may be good.
    #[error("the token cannot be checked now, try again: {0}")]
    Unavailable(String),
}

/// Tells the node that a bearer token is bound to.
pub trait Authenticate: Send + Sync + 'static {
    /// Name of the Node whose agent bears `token`.
    fn node_of<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<String, AuthenticateError>>;
}
