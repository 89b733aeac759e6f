//! What is said to clients who know extension messages (BEP 10).

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::metadata::{Metadata, TooMany};
use super::pex::Exchange;
use super::wire;
use crate::bencode::Bencode;
use crate::bencode::found::{Dictionary, Found};

pub(super) const HANDSHAKE_ID: u8 = 0;
/// What our side calls `ut_metadata`.
pub(super) const METADATA_ID: u8 = 1;
/// How we introduce ourselves to clients.
pub(super) const CLIENT: &str = concat!("ModelCache/", env!("CARGO_PKG_VERSION"));
/// What our side calls `ut_pex`. What comes under that number is not read.
const PEX_ID: u8 = 2;

/// What one client says and is told by extension messages.
#[derive(Debug)]
pub(super) struct Extensions {
    metadata: Metadata,
    /// Absent: clients of this torrent are not told of each other.
    pex: Option<Exchange>,
}

impl Extensions {
    pub(super) fn new(info: Arc<[u8]>, pex: Option<Exchange>) -> Self {
        Self {
            metadata: Metadata::new(info),
            pex,
        }
    }

    /// The message with which we say what we know: nothing but this, and that we want nothing.
    pub(super) fn hello(&self, requests: usize) -> Vec<u8> {
        let number = |value| Bencode::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        let id = |id: u8| Bencode::Integer(id.into());
        let names = if self.pex.is_some() {
            Bencode::dictionary([("ut_metadata", id(METADATA_ID)), ("ut_pex", id(PEX_ID))])
        } else {
            Bencode::dictionary([("ut_metadata", id(METADATA_ID))])
        };
        let hello = Bencode::dictionary([
            ("m", names),
            ("metadata_size", number(self.metadata.len())),
            ("reqq", number(requests)),
            // BEP 21.
            ("upload_only", number(1)),
            ("v", Bencode::Bytes(CLIENT.into())),
        ]);
        wire::extended(&[&[HANDSHAKE_ID], &hello.encode()])
    }

    /// Takes note of an extension message: what follows the byte 20. What makes no sense is passed over.
    pub(super) fn hear(&mut self, body: &[u8]) -> Result<(), TooMany> {
        let Some((id, bytes)) = body.split_first() else {
            return Ok(());
        };
        if ![HANDSHAKE_ID, METADATA_ID].contains(id) {
            return Ok(());
        }
        let Ok(said) = Dictionary::read(bytes) else {
            return Ok(());
        };
        if *id == METADATA_ID {
            return self.metadata.hear(said);
        }
        let number = |of: Dictionary<'_>, key| of.get(key).and_then(Found::integer);
        if let Some(Found::Dictionary(names)) = said.get(b"m") {
            if let Some(id) = number(names, b"ut_metadata") {
                self.metadata.named(id);
            }
            if let (Some(pex), Some(id)) = (&mut self.pex, number(names, b"ut_pex")) {
                pex.named(id);
            }
        }
        if let (Some(pex), Some(port)) = (&mut self.pex, number(said, b"p")) {
            pex.listens(port);
        }
        Ok(())
    }

    /// Whether the client waits for an answer.
    pub(super) fn is_asked(&self) -> bool {
        self.metadata.is_asked()
    }

    /// When there may be something to say that nobody asked for.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pex.as_ref().and_then(Exchange::due)
    }

    /// Appends the answer to the next request to `out`, if there is one.
    pub(super) fn answer(&mut self, out: &mut Vec<u8>) -> bool {
        self.metadata.answer(out)
    }

    /// Appends what nobody asked for, if it is time. `elsewhere` says where else a torrent can be had, if clients may be told.
    pub(super) fn tell(
        &mut self,
        now: Instant,
        elsewhere: impl FnOnce([u8; 20]) -> Option<Vec<SocketAddr>>,
        out: &mut Vec<u8>,
    ) {
        if let Some(pex) = &mut self.pex {
            let info_hash = pex.info_hash();
            if let Some(message) = pex.message(now, || elsewhere(info_hash)) {
                out.extend(wire::extended(&[&message]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pex::Roster;
    use super::super::wire::EXTENDED;
    use super::*;

    const HELLO: &[u8] = b"\0d1:md11:ut_metadatai3e6:ut_pexi4ee1:pi6881ee";

    fn extensions(pex: bool) -> (Extensions, Roster) {
        let roster = Roster::default();
        let client = "10.0.0.1".parse().unwrap();
        let pex = pex.then(|| Exchange::new(roster.clone(), [7; 20], client));
        (Extensions::new(vec![0; 31_235].into(), pex), roster)
    }

    #[test]
    fn what_we_say_first_can_be_read() {
        for pex in [false, true] {
            let hello = extensions(pex).0.hello(250);
            assert_eq!(hello[4..6], [EXTENDED, HANDSHAKE_ID]);
            let said = Dictionary::read(&hello[6..]).unwrap();
            let number = |key: &[u8]| said.get(key).and_then(Found::integer);
            assert_eq!(number(b"metadata_size"), Some(31_235));
            assert_eq!(number(b"reqq"), Some(250));
            assert_eq!(number(b"upload_only"), Some(1));
            let Some(Found::Dictionary(names)) = said.get(b"m") else {
                panic!("no names");
            };
            assert_eq!(names.get(b"ut_metadata"), Some(Found::Integer(1)));
            let expected = pex.then_some(Found::Integer(2));
            assert_eq!(names.get(b"ut_pex"), expected);
        }
    }

    #[test]
    fn a_client_is_told_where_else_the_torrent_is() {
        let there = || Some(vec!["10.0.0.2:9".parse().unwrap()]);
        for (pex, hello, told) in [
            (true, HELLO, true),
            (false, HELLO, false),
            (true, b"\0d1:md6:ut_pexi0eee", false),
            (true, b"\0d1:md11:ut_metadatai3eee", false),
            (true, b"\0d1:m1:xe", false),
        ] {
            let (mut extensions, _) = extensions(pex);
            extensions.hear(hello).unwrap();
            assert_eq!(extensions.due().is_some(), told);
            let mut out = Vec::new();
            let asked = |hash| {
                assert_eq!(hash, [7; 20]);
                there()
            };
            extensions.tell(Instant::now(), asked, &mut out);
            assert_eq!(!out.is_empty(), told, "{}", hello.escape_ascii());
            if told {
                assert_eq!(out[4..6], [EXTENDED, 4]);
            }
        }
    }
}
