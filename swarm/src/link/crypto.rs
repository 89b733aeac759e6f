//! The primitives of `Noise_NNpsk0_25519_AESGCM_SHA256`, taken from the library that also does TLS here: it uses the
//! processor's instructions for AES and encrypts from one buffer into another without a copy.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest;
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

/// Length of X25519's keys of both kinds, in bytes (RFC 7748).
const X25519_BYTES: usize = 32;
/// Length of an AEAD's tag, in bytes.
pub(super) const TAG_BYTES: usize = MAX_TAG_LEN;

/// Where snow finds the primitives.
pub(super) struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRandom))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::<Curve25519>::default()),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::<Sha256>::default()),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::<AesGcm>::default()),
            CipherChoice::ChaChaPoly => None,
        }
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        aws_lc_rs::rand::fill(dest).map_err(|_| Error::Rng)
    }
}

/// One key pair; there is none until it is set or generated.
#[derive(Default)]
struct Curve25519 {
    key: Option<PrivateKey>,
    private: Zeroizing<[u8; X25519_BYTES]>,
    public: [u8; X25519_BYTES],
}

impl Dh for Curve25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        X25519_BYTES
    }

    fn priv_len(&self) -> usize {
        X25519_BYTES
    }

    /// A key that the library refuses leaves none, and with none no agreement succeeds.
    fn set(&mut self, private: &[u8]) {
        self.key = None;
        let Ok(key) = PrivateKey::from_private_key(&X25519, private) else {
            return;
        };
        let Ok(public) = key.compute_public_key() else {
            return;
        };
        let (Ok(private), Ok(public)) = (private.try_into(), public.as_ref().try_into()) else {
            return;
        };
        *self.private = private;
        self.public = public;
        self.key = Some(key);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; X25519_BYTES]);
        rng.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        self.key.as_ref().map(|_| ()).ok_or(Error::Dh)
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let key = self.key.as_ref().ok_or(Error::Dh)?;
        let public = public.get(..X25519_BYTES).ok_or(Error::Dh)?;
        let public = UnparsedPublicKey::new(&X25519, public);
        agreement::agree(key, public, Error::Dh, |shared| {
            let out = out.get_mut(..shared.len()).ok_or(Error::Dh)?;
            out.copy_from_slice(shared);
            Ok(())
        })
    }
}

struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        digest::SHA256_OUTPUT_LEN
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = self.0.clone().finish();
        for (out, byte) in out.iter_mut().zip(digest.as_ref()) {
            *out = *byte;
        }
    }
}

/// AES-256-GCM with Noise's nonce: four zero bytes and the counter (Noise, section 12.4).
#[derive(Default)]
struct AesGcm(Option<LessSafeKey>);

impl AesGcm {
    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        // snow counts up, and ends the connection before the counter would come round.
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = UnboundKey::new(&AES_256_GCM, key)
            .ok()
            .map(LessSafeKey::new);
    }

    /// Returns 0, with nothing of the text in `out`, when the library refuses; callers compare the length.
    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let sealed = self
            .0
            .as_ref()
            .zip(out.split_at_mut_checked(plaintext.len()));
        let Some((key, (ciphertext, rest))) = sealed else {
            return 0;
        };
        let Some(tag) = rest.get_mut(..TAG_BYTES) else {
            return 0;
        };
        let (nonce, aad) = (Self::nonce(nonce), Aad::from(authtext));
        match key.seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &[], tag) {
            Ok(()) => plaintext.len() + TAG_BYTES,
            Err(_) => 0,
        }
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        let (ciphertext, tag) = ciphertext
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(Error::Decrypt)?;
        let out = out.get_mut(..ciphertext.len()).ok_or(Error::Decrypt)?;
        let (nonce, aad) = (Self::nonce(nonce), Aad::from(authtext));
        key.open_separate_gather(nonce, aad, ciphertext, tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(ciphertext.len())
    }
}

#[cfg(test)]
mod tests {
    use snow::Builder;

    use super::*;

    /// A published test vector of the very pattern (cacophony, `Noise_NNpsk0_25519_AESGCM_SHA256`).
    const PROLOGUE: &str = "4a6f686e2047616c74";
    const PSK: &str = "54686973206973206d7920417573747269616e20706572737065637469766521";
    const DIALER: &str = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
    const LISTENER: &str = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
    const MESSAGES: [(&str, &str); 4] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79447c37a89fc17813788d30df2d59501d6066f5f8aecc3406bbd9829f2d24a531b1",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088432f29d79368ef9de4e1ae7a362fb05bf0ad668e026bf5714554497b3a720461",
        ),
        (
            "462e20412e20486179656b",
            "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6",
        ),
        (
            "4361726c204d656e676572",
            "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0",
        ),
    ];

    #[test]
    fn the_primitives_give_the_published_messages() {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let psk: [u8; 32] = bytes(PSK).try_into().unwrap();
        let (prologue, dialer, listener) = (bytes(PROLOGUE), bytes(DIALER), bytes(LISTENER));
        let build = |ephemeral| {
            Builder::with_resolver(
                "Noise_NNpsk0_25519_AESGCM_SHA256".parse().unwrap(),
                Box::new(Primitives),
            )
            .psk(0, &psk)
            .unwrap()
            .prologue(&prologue)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(ephemeral)
        };
        let mut initiator = build(&dialer).build_initiator().unwrap();
        let mut responder = build(&listener).build_responder().unwrap();
        let (mut sent, mut got) = ([0; 200], [0; 200]);
        for (number, (payload, ciphertext)) in MESSAGES[..2].iter().enumerate() {
            let (from, to) = if number == 0 {
                (&mut initiator, &mut responder)
            } else {
                (&mut responder, &mut initiator)
            };
            let len = from.write_message(&bytes(payload), &mut sent).unwrap();
            assert_eq!(hex::encode(&sent[..len]), *ciphertext);
            let len = to.read_message(&sent[..len], &mut got).unwrap();
            assert_eq!(hex::encode(&got[..len]), *payload);
        }
        let mut initiator = initiator.into_transport_mode().unwrap();
        let mut responder = responder.into_transport_mode().unwrap();
        for (number, (payload, ciphertext)) in MESSAGES[2..].iter().enumerate() {
            let (from, to) = if number == 0 {
                (&mut initiator, &mut responder)
            } else {
                (&mut responder, &mut initiator)
            };
            let len = from.write_message(&bytes(payload), &mut sent).unwrap();
            assert_eq!(hex::encode(&sent[..len]), *ciphertext);
            let len = to.read_message(&sent[..len], &mut got).unwrap();
            assert_eq!(hex::encode(&got[..len]), *payload);
        }
    }
}
