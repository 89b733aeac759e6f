//! What a stranger says of its torrent (BEP 9 and 10). Pure, over untrusted bytes.

use thiserror::Error;

use super::super::extensions::{CLIENT, HANDSHAKE_ID, METADATA_ID};
use super::super::metadata::{BLOCK_BYTES as METADATA_BLOCK, DATA, REQUEST};
use super::super::wire;
use super::StrangerError;
use super::blocks::BLOCK_BYTES;
use crate::bencode::Bencode;
use crate::bencode::found::{Dictionary, Found};

/// Longest metadata: 200,000 pieces. hali's have fewer than 10,000 up to 80 GB.
const MAX_METADATA: usize = 4 << 20;
/// Longest name of a file (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// A torrent that cannot be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unusable {
    /// It has none, or much too much to say of it.
    #[error("its metadata would be {0} bytes long")]
    MetadataLength(i64),
    /// Its name is none that a file can have.
    #[error("its name is too long")]
    Name,
    /// It is not one file.
    #[error("it is not one file")]
    NotOneFile,
    /// Its numbers contradict each other, or are none that clients use.
    #[error("its lengths do not fit together")]
    Lengths,
}

/// "I know how to ask for metadata", as an extension message.
pub(super) fn hello() -> Vec<u8> {
    let names = Bencode::dictionary([("ut_metadata", Bencode::Integer(METADATA_ID.into()))]);
    let hello = Bencode::dictionary([("m", names), ("v", Bencode::Bytes(CLIENT.into()))]);
    wire::extended(&[&[HANDSHAKE_ID], &hello.encode()])
}

/// How a stranger is asked for metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// What it calls `ut_metadata`.
    id: u8,
    size: usize,
}

impl Hello {
    /// Reads what follows the byte 20; `None` when it is another message.
    pub(super) fn read(body: &[u8]) -> Result<Option<Self>, StrangerError> {
        let Some((&HANDSHAKE_ID, bytes)) = body.split_first() else {
            return Ok(None);
        };
        let said = Dictionary::read(bytes).ok();
        let number = |of: Dictionary<'_>, key| of.get(key).and_then(Found::integer);
        let names = said.and_then(|said| match said.get(b"m") {
            Some(Found::Dictionary(names)) => Some(names),
            _ => None,
        });
        let id = names.and_then(|names| number(names, b"ut_metadata"));
        let id = id
            .and_then(|id| u8::try_from(id).ok())
            .filter(|id| *id != 0);
        let id = id.ok_or(StrangerError::Speech("it gives no metadata"))?;
        let size = said.and_then(|said| number(said, b"metadata_size"));
        let size = size.unwrap_or_default();
        let sound = usize::try_from(size).ok();
        let sound = sound.filter(|size| (1..=MAX_METADATA).contains(size));
        let size = sound.ok_or(Unusable::MetadataLength(size))?;
        Ok(Some(Self { id, size }))
    }

    /// Length of the metadata in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Asks for the block that comes after the first `here` bytes.
    pub(super) fn ask(&self, here: usize) -> Vec<u8> {
        let piece = i64::try_from(here / METADATA_BLOCK).unwrap_or(i64::MAX);
        let request = Bencode::dictionary([
            ("msg_type", Bencode::Integer(REQUEST)),
            ("piece", Bencode::Integer(piece)),
        ]);
        wire::extended(&[&[self.id], &request.encode()])
    }

    /// The block that comes after the first `here` bytes, if this is it.
    pub(super) fn block<'a>(
        &self,
        body: &'a [u8],
        here: usize,
    ) -> Result<Option<&'a [u8]>, StrangerError> {
        let Some((&METADATA_ID, bytes)) = body.split_first() else {
            return Ok(None);
        };
        let said = Dictionary::read(bytes).ok();
        let number = |key| said.and_then(|said| said.get(key)).and_then(Found::integer);
        let len = METADATA_BLOCK.min(self.size - here.min(self.size));
        let block = bytes.len().checked_sub(len).and_then(|at| bytes.get(at..));
        let piece = i64::try_from(here / METADATA_BLOCK).ok();
        match (number(b"msg_type"), block) {
            // A client that asks us for it, although we said that we have none.
            (Some(REQUEST), _) => Ok(None),
            (Some(DATA), Some(block)) if number(b"piece") == piece => Ok(Some(block)),
            _ => Err(StrangerError::Speech("it does not give its metadata")),
        }
    }
}

/// What a torrent says that it is: nothing to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Name of the file: any bytes, no path.
    pub name: Vec<u8>,
    /// Length of the file in bytes, at least 1.
    pub len: u64,
    /// Piece length in bytes, a multiple of a block's.
    pub(super) piece_bytes: u64,
}

impl Described {
    /// Reads an info dictionary (BEP 3).
    pub(super) fn read(info: &[u8]) -> Result<Self, Unusable> {
        let info = Dictionary::read(info).map_err(|_| Unusable::NotOneFile)?;
        let natural = |key| {
            let number = info.get(key).and_then(Found::integer);
            number.and_then(|number| u64::try_from(number).ok())
        };
        let bytes = |key| info.get(key).and_then(Found::bytes);
        let (Some(name), Some(len), None) =
            (bytes(b"name"), natural(b"length"), info.get(b"files"))
        else {
            return Err(Unusable::NotOneFile);
        };
        if name.len() > MAX_NAME {
            return Err(Unusable::Name);
        }
        let piece_bytes = natural(b"piece length").unwrap_or_default();
        let pieces = bytes(b"pieces").map_or(0, <[u8]>::len) as u64;
        let fit = len > 0
            && piece_bytes > 0
            && piece_bytes % BLOCK_BYTES == 0
            && u32::try_from(piece_bytes).is_ok()
            && len.div_ceil(piece_bytes).checked_mul(20) == Some(pieces);
        if !fit {
            return Err(Unusable::Lengths);
        }
        Ok(Self {
            name: name.to_owned(),
            len,
            piece_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(entries: &[(&str, Bencode)]) -> Vec<u8> {
        let entries = entries.iter();
        let entries = entries.map(|(key, value)| (key.as_bytes().to_vec(), value.clone()));
        Bencode::Dictionary(entries.collect()).encode()
    }

    fn one_file(len: i64, piece: i64, pieces: usize) -> Vec<u8> {
        info(&[
            ("length", Bencode::Integer(len)),
            ("name", Bencode::Bytes(b"../../a".to_vec())),
            ("piece length", Bencode::Integer(piece)),
            ("pieces", Bencode::Bytes(vec![7; pieces * 20])),
        ])
    }

    #[test]
    fn one_file_whose_lengths_fit_is_of_use() {
        let found = Described::read(&one_file(100_000, 32 << 10, 4)).unwrap();
        let expected = Described {
            name: b"../../a".to_vec(),
            len: 100_000,
            piece_bytes: 32 << 10,
        };
        assert_eq!(found, expected);
        for (len, piece, pieces) in [
            (0, 32 << 10, 0),
            (100_000, 0, 4),
            (100_000, 25_000, 4),
            (100_000, 32 << 10, 3),
            (100_000, 32 << 10, 5),
            (100_000, 1 << 40, 1),
            (i64::MAX, 16 << 10, 9),
        ] {
            let refused = Described::read(&one_file(len, piece, pieces));
            assert_eq!(refused, Err(Unusable::Lengths), "{len} {piece} {pieces}");
        }
        for (len, refused) in [(255, false), (256, true)] {
            let named = info(&[
                ("length", Bencode::Integer(1)),
                ("name", Bencode::Bytes(vec![b'a'; len])),
                ("piece length", Bencode::Integer(16 << 10)),
                ("pieces", Bencode::Bytes(vec![7; 20])),
            ]);
            let found = Described::read(&named);
            assert_eq!(found == Err(Unusable::Name), refused, "{found:?}");
        }
        let many = [
            ("files", Bencode::List(Vec::new())),
            ("length", Bencode::Integer(1)),
            ("name", Bencode::Bytes(b"a".to_vec())),
        ];
        for bad in [info(&many), one_file(-1, 32 << 10, 1), b"le".to_vec()] {
            assert_eq!(Described::read(&bad), Err(Unusable::NotOneFile));
        }
    }

    #[test]
    fn metadata_is_asked_for_as_the_stranger_calls_it() {
        let read = |text: &str| Hello::read(text.as_bytes());
        let hello = read("\0d1:md11:ut_metadatai3ee13:metadata_sizei20000ee").unwrap();
        let hello = hello.unwrap();
        assert_eq!(hello.size(), 20_000);
        assert_eq!(
            hello.ask(16_384)[4..],
            *b"\x14\x03d8:msg_typei0e5:piecei1ee"
        );
        assert_eq!(read("\x02d1:mdee").unwrap(), None);
        for bad in [
            "\0d1:md11:ut_metadatai0ee13:metadata_sizei20000ee",
            "\0d1:md11:ut_metadatai3ee13:metadata_sizei4194305ee",
            "\0d1:md11:ut_metadatai3ee13:metadata_sizei-1ee",
            "\0d1:md11:ut_metadatai3eee",
            "\0d1:mdee",
            "\0",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let data = |piece, len| {
            let head = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei20000ee");
            [&[1][..], head.as_bytes(), &vec![9; len]].concat()
        };
        let last = data(1, 3616);
        assert_eq!(hello.block(&last, 16_384).unwrap(), Some(&[9; 3616][..]));
        assert_eq!(hello.block(b"\x02whatever", 0).unwrap(), None);
        assert_eq!(
            hello.block(b"\x01d8:msg_typei0e5:piecei0ee", 0).unwrap(),
            None
        );
        for bad in [
            data(0, 3616),
            data(1, 10),
            b"\x01d8:msg_typei2e5:piecei1ee".to_vec(),
        ] {
            assert!(hello.block(&bad, 16_384).is_err());
        }
    }

    proptest! {
        #[test]
        fn anything_may_arrive(bytes: Vec<u8>, here in 0_usize..40_000) {
            let _ = Described::read(&bytes);
            let _ = Hello::read(&[&[0][..], &bytes].concat());
            let hello = Hello { id: 3, size: 20_000 };
            if let Ok(Some(block)) = hello.block(&[&[1][..], &bytes].concat(), here) {
                prop_assert!(here + block.len() <= hello.size.max(here));
            }
        }
    }
}
