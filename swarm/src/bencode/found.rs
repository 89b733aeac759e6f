//! Bencoding as other clients write it: sound, but keys in any order, and something may follow. Nothing is copied.

use thiserror::Error;

/// Lists and dictionaries within each other; what we read has two levels.
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

impl Found<'_> {
    pub(crate) fn integer(self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(value),
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
            b"di1ei1ee",
            &deep,
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
            let mut dictionary = BTreeMap::new();
            for (key, number, bytes) in &entries {
                let inner = Bencode::dictionary([
                    ("bytes", Bencode::Bytes(bytes.clone())),
                    ("number", Bencode::Integer(*number)),
                ]);
                dictionary.insert(key.clone(), inner);
            }
            let out = Bencode::Dictionary(dictionary.clone()).encode();
            let read = Dictionary::read(&out).unwrap();
            for (key, value) in &dictionary {
                let Some(Found::Dictionary(found)) = read.get(key) else {
                    return Err(TestCaseError::fail("no dictionary"));
                };
                let bytes = found.get(b"bytes").map(|found| match found {
                    Found::Bytes(bytes) => Bencode::Bytes(bytes.to_vec()),
                    _ => Bencode::Integer(0),
                });
                prop_assert_eq!(bytes.as_ref(), value.get("bytes"));
                let number = found.get(b"number").and_then(Found::integer).map(Bencode::Integer);
                prop_assert_eq!(number.as_ref(), value.get("number"));
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

    #[test]
    fn fuzz_bencode_of_clients() {
        let corpus = [
            b"d1:ei0e1:md11:ut_metadatai3e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e4:reqqi250e1:v5:othere".to_vec(),
            b"d8:msg_typei0e5:piecei1ee".to_vec(),
            b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx".to_vec(),
            b"d1:ald1:bi1eeli2eeee".to_vec(),
        ];
        crate::fuzz::run("bencode of clients", &corpus, |bytes| {
            if let Ok(read) = Dictionary::read(bytes) {
                for key in [&b"m"[..], b"msg_type", b"piece", b"a"] {
                    if let Some(Found::Dictionary(inner)) = read.get(key) {
                        inner.get(b"ut_metadata");
                    }
                }
            }
        });
    }
}
