//! Bencoding (BEP 3): what is written here is canonical, with the keys of dictionaries sorted bytewise and unique. What others
//! write is read by [`found`].

pub(crate) mod found;

use std::collections::BTreeMap;

/// A value to be written.
#[derive(Clone, Debug)]
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

#[cfg(test)]
mod tests {
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
        assert_eq!(value.encode(), b"d3:cowi0e4:spaml1:ai-3eee");
    }
}
