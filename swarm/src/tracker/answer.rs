//! What the tracker answers: bencoded dictionaries (BEP 3, 7, 23, 48).
//!
//! All clients are answered; what is read is only what our own tracker writes, in the compact form and signed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;

use super::proof::Signed;
use super::query::{Form, PeerId};
use super::swarms::Counts;
use super::{INTERVAL, MIN_INTERVAL};
use crate::bencode::Bencode;
use crate::bencode::found::Dictionary;
use crate::compact::compact;
use crate::discovery::announcement::ContentId;

/// Longest answer that is read, in bytes: one with [`MAX_PEERS`] and a signature has at most 3,800.
pub const MAX_ANSWER: usize = 8_192;
/// Most peers in one answer, whatever is asked for.
pub const MAX_PEERS: usize = 200;
/// Longest reason of a failure that is shown, in characters.
const MAX_REASON: usize = 200;

/// A peer in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it calls itself, where that is told.
    pub id: Option<PeerId>,
}

/// The answer to an announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// After what time the client is to announce again.
    pub interval: Duration,
    /// Sooner it must not.
    pub min_interval: Duration,
    /// Peers that lack nothing.
    pub complete: u32,
    /// The others.
    pub incomplete: u32,
    /// Some of them, at most [`MAX_PEERS`].
    pub peers: Vec<Listed>,
}

/// Why an answer says nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AnswerError {
    /// The tracker gives a reason.
    #[error("the tracker refuses: {0}")]
    Refused(String),
    /// Anybody may have written it.
    #[error(
        "the answer is not signed with the cluster's key: it comes from somebody else, or was changed on its way"
    )]
    Unsigned,
    /// It is signed, and makes no sense.
    #[error("the answer is not as this release writes it: run the same release on all nodes")]
    Malformed,
}

impl Answer {
    /// Nobody is there.
    pub(super) fn nobody() -> Self {
        Self {
            interval: INTERVAL,
            min_interval: MIN_INTERVAL,
            complete: 0,
            incomplete: 0,
            peers: Vec::new(),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self, form: Form) -> Vec<u8> {
        let mut entries = BTreeMap::from([
            (b"complete".to_vec(), number(self.complete)),
            (b"incomplete".to_vec(), number(self.incomplete)),
            (b"interval".to_vec(), seconds(self.interval)),
            (b"min interval".to_vec(), seconds(self.min_interval)),
        ]);
        match form {
            Form::Compact => {
                let [v4, v6] = compact(self.peers.iter().map(|peer| peer.address));
                entries.insert(b"peers".to_vec(), Bencode::Bytes(v4));
                if !v6.is_empty() {
                    entries.insert(b"peers6".to_vec(), Bencode::Bytes(v6));
                }
            }
            Form::Dictionaries { ids } => {
                let peers = self.peers.iter().map(|peer| dictionary(peer, ids));
                entries.insert(b"peers".to_vec(), Bencode::List(peers.collect()));
            }
        }
        Bencode::Dictionary(entries).encode()
    }

    /// Reads the tracker's answer to `request`.
    pub fn read(bytes: &[u8], request: &Signed) -> Result<Self, AnswerError> {
        if !request.is_answered_by(bytes) {
            return Err(reason(bytes).map_or(AnswerError::Unsigned, AnswerError::Refused));
        }
        Self::decode(bytes).ok_or(AnswerError::Malformed)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_ANSWER {
            return None;
        }
        let answer = Dictionary::read(bytes).ok()?;
        let number = |key: &[u8]| u32::try_from(answer.get(key)?.integer()?).ok();
        let seconds = |key: &[u8]| number(key).map(|seconds| Duration::from_secs(seconds.into()));
        let (v4, rest) = answer.get(b"peers")?.bytes()?.as_chunks::<6>();
        if !rest.is_empty() {
            return None;
        }
        let v6 = match answer.get(b"peers6") {
            Some(peers) => peers.bytes()?,
            None => &[],
        };
        let (v6, rest) = v6.as_chunks::<18>();
        if !rest.is_empty() || v4.len() + v6.len() > MAX_PEERS {
            return None;
        }
        let v4 = v4.iter().filter_map(address::<4, 6>);
        let v6 = v6.iter().filter_map(address::<16, 18>);
        Some(Self {
            interval: seconds(b"interval")?,
            min_interval: seconds(b"min interval")?,
            complete: number(b"complete")?,
            incomplete: number(b"incomplete")?,
            peers: v4
                .chain(v6)
                .map(|address| Listed { address, id: None })
                .collect(),
        })
    }
}

/// What a client is told that gets no answer.
#[must_use]
pub fn failure(reason: &str) -> Vec<u8> {
    let reason = Bencode::Bytes(reason.as_bytes().to_vec());
    Bencode::dictionary([("failure reason", reason)]).encode()
}

/// The answer to a scrape (BEP 48).
#[must_use]
pub(super) fn scrape(torrents: &BTreeMap<ContentId, Counts>) -> Vec<u8> {
    let files = torrents.iter().map(|(torrent, counts)| {
        let counts = Bencode::dictionary([
            ("complete", number(counts.complete)),
            ("downloaded", number(counts.completed)),
            ("incomplete", number(counts.incomplete)),
        ]);
        (torrent.0.to_vec(), counts)
    });
    let files = Bencode::Dictionary(files.collect());
    Bencode::dictionary([("files", files)]).encode()
}

/// The reason of a failure, as it may be logged: anybody can have written it.
fn reason(bytes: &[u8]) -> Option<String> {
    if bytes.len() > MAX_ANSWER {
        return None;
    }
    let answer = Dictionary::read(bytes).ok()?;
    let reason = String::from_utf8_lossy(answer.get(b"failure reason")?.bytes()?).into_owned();
    let printable = reason.chars().filter(|character| !character.is_control());
    Some(printable.take(MAX_REASON).collect())
}

fn number(number: u32) -> Bencode {
    Bencode::Integer(number.into())
}

fn seconds(time: Duration) -> Bencode {
    Bencode::Integer(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn dictionary(peer: &Listed, with_id: bool) -> Bencode {
    let mut entries = BTreeMap::from([
        (
            b"ip".to_vec(),
            Bencode::Bytes(peer.address.ip().to_string().into_bytes()),
        ),
        (
            b"port".to_vec(),
            Bencode::Integer(peer.address.port().into()),
        ),
    ]);
    if let Some(id) = peer.id.filter(|_| with_id) {
        entries.insert(b"peer id".to_vec(), Bencode::Bytes(id.0.to_vec()));
    }
    Bencode::Dictionary(entries)
}

/// An address of `HOST` bytes and two for the port, which is not 0.
fn address<const HOST: usize, const LEN: usize>(bytes: &[u8; LEN]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; HOST]>,
{
    let (host, port) = bytes.split_first_chunk::<HOST>()?;
    let port = u16::from_be_bytes(*port.first_chunk()?);
    (port != 0).then(|| SocketAddr::new((*host).into(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::clock::UnixMillis;
    use crate::secret::{Key, Keyring};
    use crate::tracker::proof::{Proof, sign};

    const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn peer(text: &str) -> Listed {
        Listed {
            address: text.parse().unwrap(),
            id: Some(PeerId(*b"-XX0000-abcdefghijkl")),
        }
    }

    fn answer() -> Answer {
        Answer {
            interval: Duration::from_mins(2),
            min_interval: Duration::from_secs(30),
            complete: 3,
            incomplete: 4,
            peers: vec![peer("10.1.2.3:258"), peer("[fd00::1]:9492")],
        }
    }

    fn request() -> Signed {
        sign(
            "port=1".to_owned(),
            &Key::parse(SECRET).unwrap(),
            UnixMillis(1),
        )
    }

    fn signed(mut bytes: Vec<u8>, request: &Signed) -> Vec<u8> {
        let ring = Keyring::new(Key::parse(SECRET).unwrap(), None);
        let proof = Proof::find(&request.query).unwrap().unwrap();
        proof.check(&ring).unwrap().sign(&mut bytes);
        bytes
    }

    #[test]
    fn answers_are_written_as_the_beps_say() {
        let shown = |form| answer().encode(form).escape_ascii().to_string();
        let head = "d8:completei3e10:incompletei4e8:intervali120e12:min intervali30e";
        assert_eq!(
            shown(Form::Compact),
            format!(
                "{head}5:peers6:\\n\\x01\\x02\\x03\\x01\\x026:peers618:\\xfd{}\\x01%\\x14e",
                "\\x00".repeat(14)
            )
        );
        assert_eq!(
            shown(Form::Dictionaries { ids: true }),
            format!(
                "{head}5:peersld2:ip8:10.1.2.37:peer id20:-XX0000-abcdefghijkl4:porti258ee\
                 d2:ip7:fd00::17:peer id20:-XX0000-abcdefghijkl4:porti9492eeee"
            )
        );
        assert_eq!(
            shown(Form::Dictionaries { ids: false }),
            format!("{head}5:peersld2:ip8:10.1.2.34:porti258eed2:ip7:fd00::14:porti9492eeee")
        );
        assert_eq!(failure("no"), b"d14:failure reason2:noe");
        let counts = Counts {
            complete: 1,
            incomplete: 2,
            completed: 3,
        };
        assert_eq!(
            scrape(&BTreeMap::from([(ContentId([b'a'; 20]), counts)])),
            b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi3e10:incompletei2eeee"
        );
    }

    #[test]
    fn only_signed_answers_are_believed() {
        let request = request();
        let bytes = answer().encode(Form::Compact);
        assert_eq!(Answer::read(&bytes, &request), Err(AnswerError::Unsigned));
        assert!(Answer::read(&signed(bytes, &request), &request).is_ok());
        let refused = Answer::read(&failure("be\x1b[31m gone"), &request);
        assert_eq!(refused, Err(AnswerError::Refused("be[31m gone".to_owned())));
        let long = Answer::read(&failure(&"x".repeat(5_000)), &request);
        assert_eq!(long, Err(AnswerError::Refused("x".repeat(MAX_REASON))));
        assert_eq!(
            Answer::read(&failure(&"x".repeat(MAX_ANSWER)), &request),
            Err(AnswerError::Unsigned)
        );
    }

    #[test]
    fn signed_answers_of_another_shape_are_malformed() {
        let request = request();
        let many = Answer {
            peers: vec![peer("10.1.2.3:4"); MAX_PEERS + 1],
            ..answer()
        };
        for bytes in [
            b"de".to_vec(),
            failure("no"),
            answer().encode(Form::Dictionaries { ids: false }),
            many.encode(Form::Compact),
            Bencode::dictionary([("peers", Bencode::Bytes(vec![0; 7]))]).encode(),
        ] {
            let bytes = signed(bytes, &request);
            assert_eq!(Answer::read(&bytes, &request), Err(AnswerError::Malformed));
        }
        let most = Answer {
            peers: vec![peer("[fd00::1]:4"); MAX_PEERS],
            ..answer()
        };
        let bytes = signed(most.encode(Form::Compact), &request);
        assert!(bytes.len() <= 3_800, "{}", bytes.len());
        assert_eq!(
            Answer::read(&bytes, &request).unwrap().peers.len(),
            MAX_PEERS
        );
    }

    proptest! {
        #[test]
        fn answers_survive(
            v4 in prop::collection::vec((any::<std::net::Ipv4Addr>(), 1_u16..), 0..90),
            v6 in prop::collection::vec((any::<std::net::Ipv6Addr>(), 1_u16..), 0..90),
            numbers: [u32; 4],
        ) {
            let v4 = v4.into_iter().map(|(host, port)| SocketAddr::new(host.into(), port));
            let v6 = v6.into_iter().map(|(host, port)| SocketAddr::new(host.into(), port));
            let [interval, min_interval, complete, incomplete] = numbers;
            let answer = Answer {
                interval: Duration::from_secs(interval.into()),
                min_interval: Duration::from_secs(min_interval.into()),
                complete,
                incomplete,
                peers: v4.chain(v6).map(|address| Listed { address, id: None }).collect(),
            };
            let request = request();
            let bytes = signed(answer.encode(Form::Compact), &request);
            prop_assert_eq!(Answer::read(&bytes, &request), Ok(answer));
        }
    }
}
