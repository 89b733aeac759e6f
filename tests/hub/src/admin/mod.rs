//! The admin API's requests and answers: JSON over GET, POST and PUT on the third port.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /healthz` | | `ok` |
//! | `GET /repositories` | | list of [`RepositoryStatus`] |
//! | `POST /repositories` | [`RepositorySpec`] | [`Committed`] |
//! | `POST /commits` | [`CommitSpec`] | [`Committed`] |
//! | `PUT /refs` | [`RefSpec`] | [`Committed`] |
//! | `POST /rename` | [`Rename`] | `{}` |
//! | `PUT /access` | [`AccessSpec`] | `{}` |
//! | `GET`, `PUT /tokens` | list of [`Token`] (`PUT` replaces all) | list of [`Token`] |
//! | `GET`, `PUT /settings` | any fields of [`Settings`]; the others stay | [`Settings`] |
//! | `GET`, `PUT /faults` | list of [`Fault`] (`PUT` replaces all, `[]` clears) | list of [`FaultStatus`] |
//! | `POST /faults` | one [`Fault`], added | list of [`FaultStatus`] |
//! | `GET /counters` | | [`Counters`] |
//! | `POST /counters/reset` | | `{}` |
//! | `GET /requests` | | list of [`LoggedRequest`], oldest first |
//!
//! An error is `{"error": "…"}` with status 400, 404 or 409.

mod content;
mod counters;
mod faults;
mod settings;

pub use content::{
    AccessSpec, CommitSpec, Committed, ContentSpec, FileSpec, Gate, RefSpec, Rename,
    RepositorySpec, RepositoryStatus, Token,
};
pub use counters::{Count, Counters, LoggedRequest, RepositoryCount};
pub use faults::{Effect, Endpoint, Fault, FaultStatus};
pub use settings::{Mode, Quotas, Settings};
