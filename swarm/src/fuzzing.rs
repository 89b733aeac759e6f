//! What parses the bytes of others, as fuzz targets: each is given any bytes and panics when something does not hold that must.
//!
//! They are a part of no shipped program. The tests run them on a few thousand changed copies of known inputs
//! (`mutation`), libFuzzer for as long as one likes, led by coverage (`fuzz/` at the root of the repository).

// Targets are tests: they panic.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

#[cfg(test)]
mod mutation;

use std::fmt::Debug;
use std::sync::LazyLock;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bencode::found::{Dictionary, Found};
use crate::coordination::{AgentMessage, CoordinatorMessage};
use crate::discovery::lsd;
use crate::inventory;
use crate::secret::{Key, Keyring};

pub use crate::discovery::hali::packet::fuzzed::hali;
pub use crate::discovery::wire::fuzzed::{announcement, announcement_raw};
pub use crate::engine::fuzzed::{extension, plain_listener, wire};
pub use crate::engine::stranger::fuzzed::stranger;
pub use crate::metainfo::file::fuzzed::torrent;
pub use crate::tracker::fuzzed::{tracker_answer, tracker_query, tracker_signature};
#[cfg(test)]
pub(crate) use mutation::run;

/// The key of those who sign.
pub(crate) static RING: LazyLock<Keyring> = LazyLock::new(|| {
    let secret = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    Keyring::new(Key::parse(secret).unwrap(), None)
});

/// Bencoding as others write it, down to the third level: only what stands there is found.
pub fn bencode(bytes: &[u8]) {
    let Ok(read) = Dictionary::read(bytes) else {
        return;
    };
    let keys = [
        &b"m"[..],
        b"a",
        b"ut_metadata",
        b"msg_type",
        b"piece",
        b"peers",
        b"files",
    ];
    let mut level = vec![read];
    for _ in 0..3 {
        let found = level.iter().flat_map(|one| keys.map(|key| one.get(key)));
        let found: Vec<_> = found.flatten().collect();
        for string in found.iter().filter_map(|one| one.bytes()) {
            let (all, part) = (bytes.as_ptr_range(), string.as_ptr_range());
            assert!(all.start <= part.start && part.end <= all.end);
        }
        level = found
            .into_iter()
            .filter_map(|one| match one {
                Found::Dictionary(inner) => Some(inner),
                _ => None,
            })
            .take(8)
            .collect();
    }
}

/// A packet of local service discovery (BEP 14): within its bounds, and what is written of it is read as the same.
pub fn lsd(bytes: &[u8]) {
    let Ok(search) = lsd::decode(bytes) else {
        return;
    };
    assert!(search.port != 0);
    assert!((1..=32).contains(&search.info_hashes.len()));
    let cookie = search.cookie.as_deref().unwrap_or("none");
    assert!(cookie.len() <= 64);
    let group = (lsd::GROUP.v4, lsd::GROUP.port).into();
    let again = lsd::decode(&lsd::encode(
        group,
        search.port,
        search.info_hashes[0],
        cookie,
    ))
    .unwrap();
    assert_eq!(again.port, search.port);
    assert_eq!(again.info_hashes, search.info_hashes[..1]);
    assert_eq!(again.cookie.as_deref(), Some(cookie));
}

/// Messages between agents and coordinator, and between agents: what is understood survives the wire.
pub fn coordination(bytes: &[u8]) {
    survives::<AgentMessage>(bytes);
    survives::<CoordinatorMessage>(bytes);
    survives::<inventory::Question>(bytes);
    survives::<inventory::Answer>(bytes);
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&message).unwrap();
        assert_eq!(serde_json::from_slice::<T>(&again).unwrap(), message);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::coordination::{Held, Member, OriginAccess, PROTOCOL};
    use crate::discovery::announcement::ContentId;
    use crate::inventory::{Answer, Question};
    use crate::segment::PieceHashes;

    #[test]
    fn fuzz_bencode() {
        let corpus = [
            b"d1:ei0e1:md11:ut_metadatai3e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e4:reqqi250e1:v5:othere".to_vec(),
            b"d8:msg_typei0e5:piecei1ee".to_vec(),
            b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx".to_vec(),
            b"d1:ald1:bi1eeli2eeee".to_vec(),
            b"d8:completei1e10:incompletei2e8:intervali120e5:peers12:abcdefghijkle".to_vec(),
            b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei-9223372036854775808eeee".to_vec(),
        ];
        run("bencode", &corpus, bencode);
    }

    #[test]
    fn fuzz_lsd() {
        let hash = "AB".repeat(20);
        let packet =
            |group, number| lsd::encode(group, 9493, ContentId([number; 20]), "0123456789abcdef");
        let corpus = [
            packet((lsd::GROUP.v4, 6771).into(), 1),
            packet((lsd::GROUP.v6, 6771).into(), 0xab),
            format!("BT-SEARCH * HTTP/1.2\r\nHOST: x\r\nPORT: 51413\r\nINFOHASH: {hash}\r\nInfohash:{hash}\r\n\r\n\r\n")
                .into_bytes(),
        ];
        run("lsd", &corpus, lsd);
    }

    fn address() -> SocketAddr {
        "[fd00::1]:9492".parse().unwrap()
    }

    fn held() -> Held {
        Held {
            segment: 3,
            pieces: PieceHashes::new(vec![[7; 20]; 2]),
            verified: true,
        }
    }

    /// One of each kind.
    fn of_agents() -> [AgentMessage; 8] {
        let snapshot = "tiny-0123abcd".to_owned();
        [
            AgentMessage::Hello {
                protocol: PROTOCOL,
                node: "node-a".to_owned(),
                peer_address: address(),
                resumes: true,
            },
            AgentMessage::Track {
                snapshot: snapshot.clone(),
                segments: 9,
                held: vec![held()],
            },
            AgentMessage::Untrack {
                snapshot: snapshot.clone(),
            },
            AgentMessage::Have {
                snapshot: snapshot.clone(),
                held: held(),
            },
            AgentMessage::Verified {
                snapshot: snapshot.clone(),
                segments: vec![1, 2],
            },
            AgentMessage::FetchFailed {
                snapshot: snapshot.clone(),
                segment: 1,
                message: "no".to_owned(),
                rate_limited: true,
                retry_after_seconds: Some(5),
            },
            AgentMessage::TakeFailed {
                snapshot: snapshot.clone(),
                segment: 1,
                holder: "node-b".to_owned(),
                message: "\u{e4}\"\n".to_owned(),
            },
            AgentMessage::Corrupt {
                snapshot: snapshot.clone(),
                segments: vec![1],
                message: "no".to_owned(),
            },
        ]
    }

    /// One of each kind.
    fn of_coordinators() -> [CoordinatorMessage; 6] {
        let snapshot = "tiny-0123abcd".to_owned();
        let access = OriginAccess {
            endpoint: "http://hub".to_owned(),
            token: None,
            ca_bundle: Some("pem".to_owned()),
        };
        [
            CoordinatorMessage::Origin {
                snapshot: snapshot.clone(),
                access,
            },
            CoordinatorMessage::Fetch {
                snapshot: snapshot.clone(),
                segment: 7,
            },
            CoordinatorMessage::Take {
                snapshot: snapshot.clone(),
                segment: 7,
                pieces: held().pieces,
                holder: "node-b".to_owned(),
                address: address(),
            },
            CoordinatorMessage::Discard {
                snapshot: snapshot.clone(),
                segments: vec![0],
            },
            CoordinatorMessage::Members {
                snapshot,
                members: vec![Member {
                    node: "node-b".to_owned(),
                    address: address(),
                }],
            },
            CoordinatorMessage::Refused {
                message: "no".to_owned(),
            },
        ]
    }

    #[test]
    fn fuzz_coordination() {
        let answer = Answer {
            held: (0..20).collect(),
            fetching: vec![4],
            reaches_hub: true,
            coordinated: false,
            pieces: vec![held()],
        };
        let question = Question { wants: vec![1, 2] };
        let mut corpus = vec![json(&answer), json(&question)];
        corpus.extend(of_agents().iter().map(json));
        corpus.extend(of_coordinators().iter().map(json));
        run("coordination", &corpus, coordination);
    }

    fn json(message: &impl Serialize) -> Vec<u8> {
        serde_json::to_vec(message).unwrap()
    }
}
