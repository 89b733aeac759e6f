//! The Secret as an object: what it says, and what it says after a step.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use modelcache_crds::names::{OPERATOR_MANAGER, ROTATE_ANNOTATION, ROTATED_AT_ANNOTATION};
use modelcache_swarm::secret::{CURRENT, Key, KeyError, Keyring, PREVIOUS};
use thiserror::Error;

use super::plan::Stored;

/// Why a Secret holds no keys. Says nothing of what it holds.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ObjectError {
    /// An entry that must be there is not.
    #[error("it has no entry 'current'")]
    Missing,
    /// An entry is no key.
    #[error("its entry '{0}' {1}")]
    Entry(&'static str, KeyError),
}

/// Reads the keys and what the Secret says about itself.
pub fn read(secret: &Secret) -> Result<(Keyring, Stored), ObjectError> {
    let current = entry(secret, CURRENT)?.ok_or(ObjectError::Missing)?;
    let previous = entry(secret, PREVIOUS)?;
    let annotation = |name: &str| secret.metadata.annotations.as_ref()?.get(name);
    let stored = Stored {
        has_previous: previous.is_some(),
        rotated_at: annotation(ROTATED_AT_ANNOTATION).and_then(|text| text.parse().ok()),
        created_at: secret
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        requested: annotation(ROTATE_ANNOTATION).is_some(),
    };
    Ok((Keyring::new(current, previous), stored))
}

fn entry(secret: &Secret, name: &'static str) -> Result<Option<Key>, ObjectError> {
    let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(name)) else {
        return Ok(None);
    };
    std::str::from_utf8(&bytes.0)
        .map_err(|_| KeyError::Malformed)
        .and_then(Key::parse)
        .map(Some)
        .map_err(|error| ObjectError::Entry(name, error))
}

/// A Secret with a first key.
#[must_use]
pub fn first(name: &str, key: String, now: Timestamp) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([
                (
                    "app.kubernetes.io/part-of".to_owned(),
                    "modelcache".to_owned(),
                ),
                (
                    "app.kubernetes.io/managed-by".to_owned(),
                    OPERATOR_MANAGER.to_owned(),
                ),
            ])),
            annotations: Some(BTreeMap::from([(
                ROTATED_AT_ANNOTATION.to_owned(),
                now.to_string(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            CURRENT.to_owned(),
            ByteString(key.into_bytes()),
        )])),
        ..Secret::default()
    }
}

/// The same Secret with a new key; the one it had is the previous one.
#[must_use]
pub fn rotated(mut secret: Secret, key: String, now: Timestamp) -> Secret {
    let data = secret.data.get_or_insert_default();
    if let Some(old) = data.insert(CURRENT.to_owned(), ByteString(key.into_bytes())) {
        data.insert(PREVIOUS.to_owned(), old);
    }
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.remove(ROTATE_ANNOTATION);
    annotations.insert(ROTATED_AT_ANNOTATION.to_owned(), now.to_string());
    secret
}

/// The same Secret without the previous key.
#[must_use]
pub fn retired(mut secret: Secret) -> Secret {
    secret.data.get_or_insert_default().remove(PREVIOUS);
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ids(secret: &Secret) -> Vec<String> {
        let ring = read(secret).unwrap().0;
        ring.keys().map(|key| key.id().to_string()).collect()
    }

    fn id(text: &str) -> String {
        Key::parse(text).unwrap().id().to_string()
    }

    #[test]
    fn a_key_goes_from_current_to_previous_to_nowhere() {
        let mut secret = first("k", OLD.to_owned(), time(1));
        assert_eq!(ids(&secret), [id(OLD)]);
        let says = read(&secret).unwrap().1;
        assert_eq!(
            (says.has_previous, says.rotated_at, says.requested),
            (false, Some(time(1)), false)
        );

        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(ROTATE_ANNOTATION.to_owned(), String::new());
        annotations.insert("theirs".to_owned(), "kept".to_owned());
        assert!(read(&secret).unwrap().1.requested);

        let secret = rotated(secret, NEW.to_owned(), time(2));
        assert_eq!(ids(&secret), [id(NEW), id(OLD)]);
        let says = read(&secret).unwrap().1;
        assert_eq!(
            (says.has_previous, says.rotated_at, says.requested),
            (true, Some(time(2)), false)
        );
        assert!(
            secret
                .metadata
                .annotations
                .as_ref()
                .unwrap()
                .contains_key("theirs")
        );

        let secret = retired(secret);
        assert_eq!(ids(&secret), [id(NEW)]);
        assert_eq!(read(&secret).unwrap().1.rotated_at, Some(time(2)));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_content() {
        assert_eq!(read(&Secret::default()).unwrap_err(), ObjectError::Missing);
        for (name, text) in [(CURRENT, "feedface"), (PREVIOUS, "feedface")] {
            let mut secret = first("k", OLD.to_owned(), time(1));
            let bytes = ByteString(text.as_bytes().to_vec());
            secret
                .data
                .get_or_insert_default()
                .insert(name.to_owned(), bytes);
            let message = read(&secret).unwrap_err().to_string();
            assert!(
                message.contains(name) && !message.contains(text),
                "{message}"
            );
        }
    }
}
