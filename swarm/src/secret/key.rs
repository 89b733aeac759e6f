//! One secret and what is derived from it (HKDF-SHA256, RFC 5869).

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

/// Length of a secret and of every key derived from it, in bytes.
const KEY_BYTES: usize = 32;

/// HKDF's salt: sets our keys apart from those that another program might derive from the same secret.
const SALT: &[u8] = b"modelcache.io";

/// What a derived key is for. None says anything about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Connections between agents over which segments travel.
    PeerLink,
    /// Connections of agents to the coordinator.
    Coordination,
    /// Signatures of announcements on the local network.
    Announcement,
    /// Signatures of what agents say to the tracker and of its answers.
    Tracker,
}

impl Purpose {
    /// HKDF's context.
    fn info(self) -> &'static [u8] {
        match self {
            Self::PeerLink => b"v1 peer link",
            Self::Coordination => b"v1 coordination",
            Self::Announcement => b"v1 announcement",
            Self::Tracker => b"v1 tracker",
        }
    }
}

/// The name of a secret: derived from it, tells nothing about it, and may be shown to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId([u8; Self::BYTES]);

impl KeyId {
    /// Length in bytes.
    pub const BYTES: usize = 8;
    const INFO: &[u8] = b"v1 key id";

    /// As it travels.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl From<[u8; KeyId::BYTES]> for KeyId {
    fn from(bytes: [u8; KeyId::BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Text that is no secret. Never shows any of it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Another length or other characters.
    #[error(
        "is not a secret of 64 hexadecimal digits; make one, for example with 'openssl rand -hex 32'"
    )]
    Malformed,
    /// A secret that anybody would try first.
    #[error(
        "consists of one byte repeated; make a random one, for example with 'openssl rand -hex 32'"
    )]
    Weak,
    /// The library refused; not known to happen.
    #[error("no key can be derived from it")]
    Derivation,
}

/// One secret, as the keys derived from it; the secret itself is not kept. Wiped from memory when dropped.
pub struct Key {
    id: KeyId,
    peer_link: [u8; KEY_BYTES],
    coordination: [u8; KEY_BYTES],
    announcement: [u8; KEY_BYTES],
    tracker: [u8; KEY_BYTES],
}

impl Key {
    /// Reads 64 hexadecimal digits; white space around them is ignored.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim(), &mut *secret).map_err(|_| KeyError::Malformed)?;
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err(KeyError::Weak);
        }
        let root = Salt::new(HKDF_SHA256, SALT).extract(&*secret);
        let mut key = Self {
            id: KeyId(expand(&root, KeyId::INFO)?),
            peer_link: [0; KEY_BYTES],
            coordination: [0; KEY_BYTES],
            announcement: [0; KEY_BYTES],
            tracker: [0; KEY_BYTES],
        };
        key.peer_link = expand(&root, Purpose::PeerLink.info())?;
        key.coordination = expand(&root, Purpose::Coordination.info())?;
        key.announcement = expand(&root, Purpose::Announcement.info())?;
        key.tracker = expand(&root, Purpose::Tracker.info())?;
        Ok(key)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key for one purpose.
    #[must_use]
    pub fn derive(&self, purpose: Purpose) -> &[u8; KEY_BYTES] {
        match purpose {
            Purpose::PeerLink => &self.peer_link,
            Purpose::Coordination => &self.coordination,
            Purpose::Announcement => &self.announcement,
            Purpose::Tracker => &self.tracker,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.id.to_string()).finish()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.peer_link.zeroize();
        self.coordination.zeroize();
        self.announcement.zeroize();
        self.tracker.zeroize();
    }
}

/// The length of what is derived, for the library.
struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(root: &Prk, info: &[u8]) -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    let filled = root
        .expand(&[info], Len(N))
        .and_then(|okm| okm.fill(&mut bytes));
    if filled.is_err() {
        bytes.zeroize();
        return Err(KeyError::Derivation);
    }
    Ok(bytes)
}
