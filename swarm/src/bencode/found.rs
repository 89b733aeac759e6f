//! Bencoding as others write it: sound, but keys in any order, and something may follow. Nothing is copied, so what is read takes
//! no memory, and time in proportion to its length.

use thiserror::Error;

/// Values within each other; what we read has three levels.
const MAX_DEPTH: usize = 8;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not bencoded as it should be")]
pub(crate) struct Unsound;

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Integer(i64),
    Bytes(&'a [u8]),
    /// From its `l` to its `e`; nothing that we read is in one.
    List,
    Dictionary(Dictionary<'a>),
}

impl<'a> Found<'a> {
    pub(crate) fn integer(self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// What stands between the `d` and the `e` of a dictionary: keys and values, sound but in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dictionary<'a>(&'a [u8]);

impl<'a> Dictionary<'a> {
    /// Reads the dictionary at the start of `bytes`; what follows it is left alone.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Unsound> {
        match value(bytes, MAX_DEPTH)? {
            (Found::Dictionary(dictionary), _) => Ok(dictionary),
            _ => Err(Unsound),
        }
    }

    /// The first value of a key.
    pub(crate) fn get(self, wanted: &[u8]) -> Option<Found<'a>> {
        let mut rest = self.0;
        while !rest.is_empty() {
            let (key, after) = string(rest).ok()?;
            let (found, after) = value(after, MAX_DEPTH).ok()?;
            if key == wanted {
                return Some(found);
            }
            rest = after;
        }
        None
    }
}

/// The value at the start of `bytes`, and what follows it.
fn value(bytes: &[u8], depth: usize) -> Result<(Found<'_>, &[u8]), Unsound> {
    let depth = depth.checked_sub(1).ok_or(Unsound)?;
    match bytes.split_first() {
        Some((b'i', rest)) => {
            let (digits, rest) = split_at_byte(rest, b'e')?;
            Ok((Found::Integer(number(digits)?), rest))
        }
        Some((b'l', mut rest)) => loop {
            if let Some(rest) = rest.strip_prefix(b"e") {
                return Ok((Found::List, rest));
            }
            rest = value(rest, depth)?.1;
        },
        Some((b'd', inside)) => {
            let mut rest = inside;
            loop {
                if let Some(after) = rest.strip_prefix(b"e") {
                    let entries = &inside[..inside.len() - rest.len()];
                    return Ok((Found::Dictionary(Dictionary(entries)), after));
                }
                rest = value(string(rest)?.1, depth)?.1;
            }
        }
        _ => string(bytes).map(|(string, rest)| (Found::Bytes(string), rest)),
    }
}

/// The string at the start of `bytes`, and what follows it.
fn string(bytes: &[u8]) -> Result<(&[u8], &[u8]), Unsound> {
    let (digits, rest) = split_at_byte(bytes, b':')?;
    let len = usize::try_from(number(digits)?).map_err(|_| Unsound)?;
    rest.split_at_checked(len).ok_or(Unsound)
}

fn split_at_byte(bytes: &[u8], byte: u8) -> Result<(&[u8], &[u8]), Unsound> {
    // No number that we read is longer.
    let near = bytes.get(..24).unwrap_or(bytes);
    let at = near.iter().position(|one| *one == byte);
    let (before, after) = bytes.split_at(at.ok_or(Unsound)?);
    Ok((before, after.get(1..).unwrap_or_default()))
}

/// A number without leading zeros, plus sign or white space.
fn number(digits: &[u8]) -> Result<i64, Unsound> {
    let text = std::str::from_utf8(digits).map_err(|_| Unsound)?;
    let value: i64 = text.parse().map_err(|_| Unsound)?;
    if value.to_string() == text {
        Ok(value)
    } else {
        Err(Unsound)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::Bencode;
    use super::*;

    #[test]
    fn what_clients_write_is_read() {
        let bytes =
            b"d1:ei0e1:md11:ut_metadatai3e6:ut_pexi1ee1:pi6881e1:v5:other4:yourl1:ai1eeeREST";
        let read = Dictionary::read(bytes).unwrap();
        assert_eq!(read.get(b"p"), Some(Found::Integer(6881)));
        assert_eq!(read.get(b"v"), Some(Found::Bytes(b"other")));
        assert_eq!(read.get(b"your"), Some(Found::List));
        assert_eq!(read.get(b"none"), None);
        let Some(Found::Dictionary(names)) = read.get(b"m") else {
            panic!("no m");
        };
        assert_eq!(names.get(b"ut_metadata").and_then(Found::integer), Some(3));
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        let deep = [&b"d1:a"[..], &b"l".repeat(50_000)].concat();
        let levels = |count| [&b"d1:a"[..], &b"l".repeat(count), &b"e".repeat(count + 1)].concat();
        assert!(Dictionary::read(&levels(MAX_DEPTH - 1)).is_ok());
        for bad in [
            &b""[..],
            b"le",
            b"i1e",
            b"d",
            b"d1:a",
            b"d1:ai1e",
            b"d1:ai01ee",
            b"d1:ai-0ee",
            b"d1:ai+1ee",
            b"d1:ai99999999999999999999ee",
            b"d-1:ai1ee",
            b"d9999999999:ai1ee",
            b"d01:ai1ee",
            b"d1:ai1000000000000000000000000ee",
            b"d1:ai9223372036854775808ee",
            b"di1ei1ee",
            &deep,
            &levels(MAX_DEPTH),
        ] {
            assert_eq!(Dictionary::read(bad), Err(Unsound), "{bad:?}");
        }
    }

    fn written() -> impl Strategy<Value = Vec<(Vec<u8>, i64, Vec<u8>)>> {
        prop::collection::vec((any::<Vec<u8>>(), any::<i64>(), any::<Vec<u8>>()), 0..6)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in written()) {
            let dictionary: BTreeMap<_, _> = entries
                .into_iter()
                .map(|(key, number, bytes)| (key, (number, bytes)))
                .collect();
            let inner = dictionary.iter().map(|(key, (number, bytes))| {
                let inner = Bencode::dictionary([
                    ("bytes", Bencode::Bytes(bytes.clone())),
                    ("number", Bencode::Integer(*number)),
                ]);
                (key.clone(), inner)
            });
            let out = Bencode::Dictionary(inner.collect()).encode();
            let read = Dictionary::read(&out).unwrap();
            for (key, value) in &dictionary {
                let Some(Found::Dictionary(found)) = read.get(key) else {
                    return Err(TestCaseError::fail("no dictionary"));
                };
                prop_assert_eq!(found.get(b"bytes").and_then(Found::bytes), Some(&value.1[..]));
                prop_assert_eq!(found.get(b"number").and_then(Found::integer), Some(value.0));
            }
            for cut in 0..out.len() {
                prop_assert!(Dictionary::read(&out[..cut]).is_err());
            }
        }

        #[test]
        fn anything_may_arrive(bytes: Vec<u8>) {
            if let Ok(read) = Dictionary::read(&bytes) {
                read.get(b"m");
            }
        }
    }
}
