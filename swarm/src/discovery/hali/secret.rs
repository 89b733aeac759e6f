//! hali's own secret: what its machines sign announcements with. It has nothing to do with the cluster's.

use std::fmt;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::{KeyError, SecretError, read_other};

/// The file of hali's that holds it, and the entry of a mounted Secret.
pub const FILE: &str = "lan.secret";

/// 32 bytes that all of them have. The library wipes it from memory when it is dropped.
#[derive(Clone)]
pub struct HaliSecret(hmac::Key);

impl HaliSecret {
    /// Reads it from a file that only this user may read, or from the entry [`FILE`] of a Secret mounted at `path`. Blocks.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        read_other(path, FILE, Self::parse)
    }

    /// Reads 64 hexadecimal digits; white space around them is ignored.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), &mut *secret).map_err(|_| KeyError::Malformed)?;
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err(KeyError::Weak);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &*secret)))
    }

    /// The signature of these bytes, in base64.
    pub(super) fn sign(&self, bytes: &[u8]) -> String {
        STANDARD.encode(hmac::sign(&self.0, bytes))
    }

    /// Whether that is the signature of these bytes.
    pub(super) fn signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let decoded = STANDARD.decode(signature);
        decoded.is_ok_and(|tag| hmac::verify(&self.0, bytes, &tag).is_ok())
    }
}

impl fmt::Debug for HaliSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HaliSecret")
    }
}
