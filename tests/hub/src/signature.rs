//! Signed, expiring addresses of file contents at the CDN.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Signs addresses with a key of its own, so that addresses of an earlier run are void.
pub struct Signer {
    keyed: Hmac<Sha256>,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The signature does not belong to the address.
    Forged,
    /// The time in the address has passed.
    Expired,
}

impl Signer {
    /// With a random key.
    #[must_use]
    pub fn new() -> Self {
        let key: [u8; 64] = rand::random();
        Self {
            keyed: Hmac::new(&key.into()),
        }
    }

    /// The signature of an address that is good until `expires` (Unix seconds), lower-case hex.
    #[must_use]
    pub fn sign(&self, address: &str, expires: u64) -> String {
        hex::encode(self.mac(address, expires).finalize().into_bytes())
    }

    /// Checks an address at the time `now` (Unix seconds).
    pub fn check(
        &self,
        address: &str,
        expires: u64,
        signature: &str,
        now: u64,
    ) -> Result<(), Refusal> {
        let digest = hex::decode(signature).map_err(|_| Refusal::Forged)?;
        self.mac(address, expires)
            .verify_slice(&digest)
            .map_err(|_| Refusal::Forged)?;
        if now > expires {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    fn mac(&self, address: &str, expires: u64) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(address.as_bytes());
        mac.update(b"\n");
        mac.update(&expires.to_be_bytes());
        mac
    }
}

impl Default for Signer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_address_in_its_time_is_good() {
        let signer = Signer::new();
        let signature = signer.sign("/a/b?file=x", 100);
        assert_eq!(signer.check("/a/b?file=x", 100, &signature, 100), Ok(()));
        assert_eq!(
            signer.check("/a/b?file=x", 100, &signature, 101),
            Err(Refusal::Expired)
        );
        assert_eq!(
            signer.check("/a/b?file=y", 100, &signature, 1),
            Err(Refusal::Forged)
        );
        assert_eq!(
            signer.check("/a/b?file=x", 101, &signature, 1),
            Err(Refusal::Forged)
        );
        assert_eq!(
            signer.check("/a/b?file=x", 100, "00", 1),
            Err(Refusal::Forged)
        );
        assert_eq!(
            Signer::new().check("/a/b?file=x", 100, &signature, 1),
            Err(Refusal::Forged)
        );
    }
}
