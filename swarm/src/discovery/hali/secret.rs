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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TEXT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn the_file_must_be_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        fs::write(&file, format!("{TEXT}\n")).unwrap();
        for mode in [0o644, 0o640, 0o604] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let exposed = HaliSecret::load(&file).unwrap_err();
            assert!(matches!(exposed, SecretError::Exposed { .. }), "{exposed}");
        }
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        for path in [&file, dir.path()] {
            let secret = HaliSecret::load(path).unwrap();
            assert_eq!(format!("{secret:?}"), "HaliSecret");
            let signature = secret.sign(b"x");
            assert!(secret.signed(b"x", signature.as_bytes()));
            assert!(!secret.signed(b"y", signature.as_bytes()));
        }
        let missing = HaliSecret::load(&dir.path().join("none")).unwrap_err();
        assert!(matches!(missing, SecretError::Read { .. }), "{missing}");
    }

    #[test]
    fn of_a_mounted_secret_the_entry_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let version = dir.path().join("..2026");
        fs::create_dir(&version).unwrap();
        fs::write(version.join(FILE), TEXT).unwrap();
        // As the kubelet mounts it for a group: who sees the volume is said by the pod.
        fs::set_permissions(version.join(FILE), Permissions::from_mode(0o440)).unwrap();
        std::os::unix::fs::symlink("..2026", dir.path().join("..data")).unwrap();
        HaliSecret::load(dir.path()).unwrap();
    }

    #[test]
    fn other_texts_are_none_and_are_not_repeated() {
        for text in ["", "0011", &TEXT.replace('f', "g"), &format!("{TEXT}00")] {
            let error = HaliSecret::parse(text).unwrap_err();
            assert_eq!(error, KeyError::Malformed, "{text}");
        }
        assert_eq!(
            HaliSecret::parse(&"77".repeat(32)).unwrap_err(),
            KeyError::Weak
        );
        HaliSecret::parse(&format!(" {}\n", TEXT.to_uppercase())).unwrap();
    }
}
