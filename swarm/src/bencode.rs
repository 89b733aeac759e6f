//! Bencoding (BEP 3) in its one canonical form: keys of dictionaries sorted bytewise and unique, numbers without
//! superfluous zeros. Whatever can be decoded is written back as the same bytes. What other clients say is read by [`found`].

pub(crate) mod found;

use std::collections::BTreeMap;

use thiserror::Error;

/// Deepest nesting that is read. An answer of a tracker needs three.
const MAX_DEPTH: usize = 8;

/// Bytes that are no bencoding.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BencodeError {
    /// It ends in the middle of a value.
    #[error("ends in the middle of a value")]
    Short,
    /// Something follows the value.
    #[error("goes on behind its end")]
    Long,
    /// Neither a value nor the end of one.
    #[error("contains a byte that begins no value")]
    Kind,
    /// No number, one that is too large, or one with superfluous zeros.
    #[error("contains a number that is not written as BEP 3 says")]
    Number,
    /// Keys that are not sorted, or one twice.
    #[error("contains a dictionary whose keys are not in order")]
    Order,
    /// More than [`MAX_DEPTH`] levels.
    #[error("is nested more than {MAX_DEPTH} levels deep")]
    Depth,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bencode {
    /// A whole number.
    Integer(i64),
    /// A string of bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Bencode>),
    /// Values by name.
    Dictionary(BTreeMap<Vec<u8>, Bencode>),
}

impl Bencode {
    /// A dictionary of these entries.
    pub(crate) fn dictionary<const N: usize>(entries: [(&str, Self); N]) -> Self {
        let entries = entries.map(|(key, value)| (key.as_bytes().to_vec(), value));
        Self::Dictionary(BTreeMap::from(entries))
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Reads all of `bytes` as one value. Takes some 100 times as much memory as there are bytes in the worst case, so
    /// their number must be bounded.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BencodeError> {
        let mut reader = Reader(bytes);
        let value = reader.value(MAX_DEPTH)?;
        if reader.0.is_empty() {
            Ok(value)
        } else {
            Err(BencodeError::Long)
        }
    }

    /// The entry of a dictionary.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Dictionary(entries) => entries.get(key.as_bytes()),
            _ => None,
        }
    }

    /// A number.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// A string.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Integer(value) => out.extend_from_slice(format!("i{value}e").as_bytes()),
            Self::Bytes(bytes) => write_bytes(bytes, out),
            Self::List(values) => {
                out.push(b'l');
                for value in values {
                    value.write(out);
                }
                out.push(b'e');
            }
            Self::Dictionary(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    write_bytes(key, out);
                    value.write(out);
                }
                out.push(b'e');
            }
        }
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A value with at most so many levels of lists and dictionaries.
    fn value(&mut self, levels: usize) -> Result<Bencode, BencodeError> {
        match self.0.first().ok_or(BencodeError::Short)? {
            b'i' => {
                self.skip();
                self.number(b'e').map(Bencode::Integer)
            }
            b'0'..=b'9' => self.string().map(|bytes| Bencode::Bytes(bytes.to_vec())),
            b'l' => {
                self.skip();
                let levels = levels.checked_sub(1).ok_or(BencodeError::Depth)?;
                let mut values = Vec::new();
                while !self.ends()? {
                    values.push(self.value(levels)?);
                }
                Ok(Bencode::List(values))
            }
            b'd' => {
                self.skip();
                let levels = levels.checked_sub(1).ok_or(BencodeError::Depth)?;
                let mut entries = BTreeMap::new();
                while !self.ends()? {
                    let key = self.string()?.to_vec();
                    if entries
                        .last_key_value()
                        .is_some_and(|(last, _)| *last >= key)
                    {
                        return Err(BencodeError::Order);
                    }
                    entries.insert(key, self.value(levels)?);
                }
                Ok(Bencode::Dictionary(entries))
            }
            _ => Err(BencodeError::Kind),
        }
    }

    /// Whether a list or dictionary ends here; its `e` is skipped.
    fn ends(&mut self) -> Result<bool, BencodeError> {
        let ends = *self.0.first().ok_or(BencodeError::Short)? == b'e';
        if ends {
            self.skip();
        }
        Ok(ends)
    }

    fn skip(&mut self) {
        self.0 = self.0.get(1..).unwrap_or_default();
    }

    /// The number up to `end`.
    fn number(&mut self, end: u8) -> Result<i64, BencodeError> {
        // The longest is i64::MIN, of 20 characters.
        let window = self.0.get(..21).unwrap_or(self.0);
        let Some(len) = window.iter().position(|byte| *byte == end) else {
            let cut = window.len() == self.0.len();
            return Err(if cut {
                BencodeError::Short
            } else {
                BencodeError::Number
            });
        };
        let (digits, rest) = self.0.split_at_checked(len).ok_or(BencodeError::Short)?;
        self.0 = rest;
        self.skip();
        let text = std::str::from_utf8(digits).map_err(|_| BencodeError::Number)?;
        let number: i64 = text.parse().map_err(|_| BencodeError::Number)?;
        // There is one way to write it.
        if number.to_string() == text {
            Ok(number)
        } else {
            Err(BencodeError::Number)
        }
    }

    fn string(&mut self) -> Result<&'a [u8], BencodeError> {
        if !self.0.first().ok_or(BencodeError::Short)?.is_ascii_digit() {
            return Err(BencodeError::Kind);
        }
        let len = self.number(b':')?;
        let len = usize::try_from(len).map_err(|_| BencodeError::Number)?;
        let (string, rest) = self.0.split_at_checked(len).ok_or(BencodeError::Short)?;
        self.0 = rest;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_written_as_bep_3_says() {
        let value = Bencode::dictionary([
            (
                "spam",
                Bencode::List(vec![Bencode::Bytes(b"a".to_vec()), Bencode::Integer(-3)]),
            ),
            ("cow", Bencode::Integer(0)),
        ]);
        let bytes = value.encode();
        assert_eq!(bytes, b"d3:cowi0e4:spaml1:ai-3eee");
        assert_eq!(Bencode::decode(&bytes), Ok(value.clone()));
        assert_eq!(value.get("cow").and_then(Bencode::integer), Some(0));
        assert_eq!(value.get("horse"), None);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let deep = [vec![b'l'; 9], vec![b'e'; 9]].concat();
        for (bytes, error) in [
            (&b""[..], BencodeError::Short),
            (b"i1", BencodeError::Short),
            (b"2:a", BencodeError::Short),
            (b"l", BencodeError::Short),
            (b"d1:a", BencodeError::Short),
            (b"i1ei2e", BencodeError::Long),
            (b"x", BencodeError::Kind),
            (b"di1ei2ee", BencodeError::Kind),
            (b"ie", BencodeError::Number),
            (b"i-0e", BencodeError::Number),
            (b"i01e", BencodeError::Number),
            (b"i+1e", BencodeError::Number),
            (b"i9223372036854775808e", BencodeError::Number),
            (b"i1000000000000000000000000e", BencodeError::Number),
            (b"01:a", BencodeError::Number),
            (b"d1:bi1e1:ai1ee", BencodeError::Order),
            (b"d1:ai1e1:ai1ee", BencodeError::Order),
            (&deep, BencodeError::Depth),
        ] {
            assert_eq!(
                Bencode::decode(bytes),
                Err(error),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(
            Bencode::decode(&deep[1..17]).map(|value| value.encode()),
            Ok(deep[1..17].to_vec())
        );
    }

    #[test]
    fn fuzz_bencode() {
        let corpus = [
            b"d8:completei1e10:incompletei2e8:intervali120e5:peers12:abcdefghijkle".to_vec(),
            b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1eeee".to_vec(),
            b"ll1:aei-9223372036854775808ed0:lee".to_vec(),
        ];
        crate::fuzz::run("bencode", &corpus, |bytes| {
            if let Ok(value) = Bencode::decode(bytes) {
                assert_eq!(value.encode(), bytes);
            }
        });
    }

    fn values() -> impl Strategy<Value = Bencode> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Bencode::Integer),
            prop::collection::vec(any::<u8>(), 0..30).prop_map(Bencode::Bytes),
        ];
        leaf.prop_recursive(6, 40, 6, |inner| {
            let key = prop::collection::vec(any::<u8>(), 0..6);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Bencode::List),
                prop::collection::btree_map(key, inner, 0..6).prop_map(Bencode::Dictionary),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_survives(value in values()) {
            prop_assert_eq!(Bencode::decode(&value.encode()), Ok(value));
        }

        #[test]
        fn anything_may_be_read(bytes in prop::collection::vec(prop_oneof![Just(b'd'), Just(b'l'), Just(b'e'), Just(b'i'), Just(b':'), b'0'..=b'9', any::<u8>()], 0..60)) {
            if let Ok(value) = Bencode::decode(&bytes) {
                prop_assert_eq!(value.encode(), bytes);
            }
        }
    }
}
