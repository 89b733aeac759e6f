//! How members of the cluster prove to the tracker that they are, and the tracker to them.
//!
//! A member appends three parameters to its query, in this order and at the end:
//!
//! ```text
//! &mc_key=<key id, 16 hexadecimal digits>&mc_time=<milliseconds since 1970>&mc_hmac=<64 hexadecimal digits>
//! ```
//!
//! `mc_hmac` is HMAC-SHA256 over `announce?` and all of the query before it, as it is on the wire: torrent, peer id, address,
//! port, event, key and time are in it, and no two readers can understand it differently. The key is derived from the cluster's
//! secret for this purpose only.
//!
//! The answer's last entry is `x-hmac`: HMAC-SHA256 with the same key over `answer`, the request's `mc_hmac`, and all of the
//! answer before that entry. So it is an answer to this request, which bears a time and is accepted once: an earlier answer
//! or that of another tracker does not fit. What is refused is answered unsigned; nothing is learned from that.

use std::fmt::Write as _;

use aws_lc_rs::hmac;

use super::refusal::Refusal;
use crate::discovery::clock::UnixMillis;
use crate::secret::{Key, KeyId, Keyring, Purpose};

/// Length of a signature in bytes.
pub const MAC: usize = 32;

const KEY: &str = "&mc_key=";
const TIME: &str = "&mc_time=";
const HMAC: &str = "&mc_hmac=";
const REQUEST: &[u8] = b"announce?";
const ANSWER: &[u8] = b"answer";
/// What stands in the answer before and behind its signature.
const BEFORE: &[u8] = b"6:x-hmac32:";
const BEHIND: &[u8] = b"e";

/// A query that was signed here, and what is needed to know the answer to it.
pub struct Signed {
    /// What is sent.
    pub query: String,
    key: hmac::Key,
    mac: [u8; MAC],
}

/// Signs a query.
#[must_use]
pub fn sign(mut query: String, key: &Key, sent_at: UnixMillis) -> Signed {
    // Writing to a string does not fail.
    let _ = write!(query, "{KEY}{}{TIME}{}", key.id(), sent_at.0);
    let key = mac_key(key);
    let mac = mac(&key, &[REQUEST, query.as_bytes()]);
    query.push_str(HMAC);
    query.push_str(&hex::encode(mac));
    Signed { query, key, mac }
}

impl Signed {
    /// Whether this is the tracker's answer to the query.
    #[must_use]
    pub fn is_answered_by(&self, answer: &[u8]) -> bool {
        let Some((before, mac)) = answer
            .strip_suffix(BEHIND)
            .and_then(|answer| answer.split_last_chunk::<MAC>())
        else {
            return false;
        };
        before
            .strip_suffix(BEFORE)
            .is_some_and(|content| verified(&self.key, &[ANSWER, &self.mac, content], mac))
    }
}

/// What a query says about its signature.
pub struct Proof<'a> {
    signed: &'a str,
    key: KeyId,
    /// When it was sent, by the sender's clock. To be believed once the signature was checked.
    pub sent_at: UnixMillis,
    /// The signature.
    pub mac: [u8; MAC],
}

impl<'a> Proof<'a> {
    /// Finds it at the end of a query; `None` when the query is not signed.
    pub fn find(query: &'a str) -> Result<Option<Self>, Refusal> {
        let Some((signed, text)) = query.rsplit_once(HMAC) else {
            return Ok(None);
        };
        let mut mac = [0; MAC];
        hex::decode_to_slice(text, &mut mac).map_err(|_| Refusal::Unsound)?;
        let (rest, time) = signed.rsplit_once(TIME).ok_or(Refusal::Unsound)?;
        let (_, text) = rest.rsplit_once(KEY).ok_or(Refusal::Unsound)?;
        let mut id = [0; KeyId::BYTES];
        hex::decode_to_slice(text, &mut id).map_err(|_| Refusal::Unsound)?;
        Ok(Some(Self {
            signed,
            key: id.into(),
            sent_at: UnixMillis(time.parse().map_err(|_| Refusal::Unsound)?),
            mac,
        }))
    }

    /// Checks the signature, and gives what signs the answer. Any valid key will do: a member may not know the newest yet.
    pub fn check(&self, ring: &Keyring) -> Result<AnswerKey, Refusal> {
        let key = mac_key(ring.by_id(self.key).ok_or(Refusal::UnknownKey)?);
        if verified(&key, &[REQUEST, self.signed.as_bytes()], &self.mac) {
            Ok(AnswerKey {
                key,
                request: self.mac,
            })
        } else {
            Err(Refusal::Wrong)
        }
    }
}

/// Signs the answer to one request.
pub struct AnswerKey {
    key: hmac::Key,
    request: [u8; MAC],
}

impl AnswerKey {
    /// Adds the signature to an answer, whose keys must all come before `x-hmac`.
    pub(super) fn sign(&self, answer: &mut Vec<u8>) {
        answer.pop();
        let mac = mac(&self.key, &[ANSWER, &self.request, answer]);
        for part in [BEFORE, &mac, BEHIND] {
            answer.extend_from_slice(part);
        }
    }
}

fn mac_key(key: &Key) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.derive(Purpose::Tracker))
}

fn mac(key: &hmac::Key, parts: &[&[u8]]) -> [u8; MAC] {
    let mut mac = [0; MAC];
    for (to, from) in mac.iter_mut().zip(context(key, parts).sign().as_ref()) {
        *to = *from;
    }
    mac
}

/// Compares in constant time.
fn verified(key: &hmac::Key, parts: &[&[u8]], mac: &[u8; MAC]) -> bool {
    hmac::verify(key, &parts.concat(), mac).is_ok()
}

fn context(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Context {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    context
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
    const TIME: UnixMillis = UnixMillis(1_700_000_000_000);

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    fn checked(query: &str, ring: &Keyring) -> Result<AnswerKey, Refusal> {
        Proof::find(query)?.ok_or(Refusal::Missing)?.check(ring)
    }

    fn refusal(query: &str, ring: &Keyring) -> Option<Refusal> {
        checked(query, ring).err()
    }

    #[test]
    fn each_valid_key_is_believed_and_no_other() {
        let both = Keyring::new(key(NEW), Some(key(OLD)));
        let query = "info_hash=x&port=1".to_owned();
        for text in [OLD, NEW] {
            let signed = sign(query.clone(), &key(text), TIME);
            assert_eq!(refusal(&signed.query, &both), None);
            let proof = Proof::find(&signed.query).unwrap().unwrap();
            assert_eq!((proof.sent_at, proof.mac), (TIME, signed.mac));
        }
        let old = sign(query.clone(), &key(OLD), TIME).query;
        let later = Keyring::new(key(NEW), None);
        assert_eq!(refusal(&old, &later), Some(Refusal::UnknownKey));
        assert_eq!(refusal(&query, &both), Some(Refusal::Missing));
        // The name of a valid key does not help who does not have it.
        let forged = old.replace(&key(OLD).id().to_string(), &key(NEW).id().to_string());
        assert_eq!(refusal(&forged, &later), Some(Refusal::Wrong));
    }

    #[test]
    fn a_key_for_something_else_signs_nothing_here() {
        let ring = Keyring::new(key(OLD), None);
        let signed = format!("port=1{KEY}{}{}1", key(OLD).id(), super::TIME);
        let other = hmac::Key::new(hmac::HMAC_SHA256, key(OLD).derive(Purpose::Announcement));
        let mac = mac(&other, &[REQUEST, signed.as_bytes()]);
        let query = format!("{signed}{HMAC}{}", hex::encode(mac));
        assert_eq!(refusal(&query, &ring), Some(Refusal::Wrong));
    }

    #[test]
    fn signatures_that_are_not_written_soundly_are_refused() {
        let ring = Keyring::new(key(OLD), None);
        let sound = sign("port=1".to_owned(), &key(OLD), TIME).query;
        for bad in [
            format!("{sound}0"),
            format!("{sound}&port=2"),
            sound.replace("mc_time", "mc_tim"),
            sound.replace("mc_key", "mc_kei"),
            sound.replace("mc_time=1", "mc_time=x"),
        ] {
            assert_eq!(refusal(&bad, &ring), Some(Refusal::Unsound), "{bad}");
        }
    }

    #[test]
    fn an_answer_fits_its_own_request_only() {
        let ring = Keyring::new(key(OLD), None);
        let one = sign("port=1".to_owned(), &key(OLD), TIME);
        let other = sign(
            "port=1".to_owned(),
            &key(OLD),
            TIME.plus(std::time::Duration::from_millis(1)),
        );
        let mut answer = b"d8:intervali1ee".to_vec();
        assert!(!one.is_answered_by(&answer));
        checked(&one.query, &ring).unwrap().sign(&mut answer);
        assert!(one.is_answered_by(&answer) && !other.is_answered_by(&answer));
        assert!(crate::bencode::Bencode::decode(&answer).is_ok());
        for at in 0..answer.len() {
            let mut changed = answer.clone();
            changed[at] ^= 1;
            assert!(!one.is_answered_by(&changed), "{at}");
            assert!(!one.is_answered_by(&answer[..at]), "{at}");
        }
    }

    #[test]
    fn fuzz_signed_queries() {
        let ring = Keyring::new(key(OLD), None);
        let corpus = [
            sign("port=1".to_owned(), &key(OLD), TIME).query,
            sign("a&b=c".to_owned(), &key(OLD), TIME).query,
        ];
        let sound = corpus.clone();
        let corpus = corpus.map(String::into_bytes);
        crate::fuzz::run("tracker signature", &corpus, |bytes| {
            let query = String::from_utf8_lossy(bytes);
            // Hexadecimal digits may be capitals in the signature itself.
            if checked(&query, &ring).is_ok() {
                assert!(sound.iter().any(|sound| sound.eq_ignore_ascii_case(&query)));
            }
        });
    }

    proptest! {
        #[test]
        fn nothing_in_a_signed_query_can_be_changed(which: prop::sample::Index, byte in 0x21_u8..0x7f) {
            let ring = Keyring::new(key(OLD), None);
            let signed = sign("info_hash=abc&port=1&left=0".to_owned(), &key(OLD), TIME).query;
            let mut bytes = signed.clone().into_bytes();
            let at = which.index(bytes.len());
            prop_assume!(!bytes[at].eq_ignore_ascii_case(&byte));
            bytes[at] = byte;
            prop_assert!(checked(&String::from_utf8(bytes).unwrap(), &ring).is_err());
        }
    }
}
