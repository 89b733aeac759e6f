//! The cluster's shared secret: what its members are known by.
//!
//! Two keys may be valid at once, so that one can follow the other without anybody being locked out. A secret is never
//! used itself: each use has a key of its own, derived from it ([`Purpose`]), and the secret's name ([`KeyId`]) is
//! derived as well, so that it can be sent and logged.
//!
//! Where the secret comes from: [`files`](Keyring::load), followed while the program runs by [`Keys`].

mod files;
mod key;
mod keys;

use std::sync::Arc;

pub(crate) use files::read_other;
pub use files::{CURRENT, PREVIOUS, SecretError};
pub use key::{Key, KeyError, KeyId, Purpose};
pub use keys::{KeySetter, Keys};

/// The keys that are valid: the one to use, and for a while the one before it.
#[derive(Clone, Debug)]
pub struct Keyring {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
}

impl Keyring {
    /// A ring of `current` and, while one key follows another, `previous`.
    #[must_use]
    pub fn new(current: Key, previous: Option<Key>) -> Self {
        let previous = previous.filter(|key| key.id() != current.id());
        Self {
            current: Arc::new(current),
            previous: previous.map(Arc::new),
        }
    }

    /// The key to use where there is a choice.
    #[must_use]
    pub fn current(&self) -> &Key {
        &self.current
    }

    /// All valid keys, the current one first. While keys change, another member may know only the second: who sends
    /// something that is not negotiated must offer both.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        std::iter::once(&self.current).chain(&self.previous)
    }

    /// The valid key of this name.
    #[must_use]
    pub fn by_id(&self, id: KeyId) -> Option<&Arc<Key>> {
        self.keys().find(|key| key.id() == id)
    }

    /// The names of the valid keys, for the log.
    fn names(&self) -> String {
        let names: Vec<_> = self.keys().map(|key| key.id().to_string()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests;
