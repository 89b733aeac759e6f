//! One packet of hali's protocol, version 1.
//!
//! Compact JSON with the fields in a fixed order and the signature last: HMAC-SHA256 over the same JSON without it. hali
//! checks that by writing anew what it has read; here the bytes that arrived are checked, before they are looked into.

use serde::{Deserialize, Serialize};

use super::secret::HaliSecret;
use crate::discovery::refusal::Refusal;

/// Longest packet that is read: hali puts all its models into one, and UDP carries no longer one by IPv4.
pub const MAX_PACKET: usize = 65_507;
/// Longest packet that is sent in bytes; what does not fit goes into another.
pub const MAX_SENT: usize = 1_400;
/// Most models that are taken from one packet: no more fit.
const MAX_MODELS: usize = 512;
/// Longest name of a node.
const MAX_NODE: usize = 128;
/// Longest name of a model.
const MAX_NAME: usize = 256;

const BEFORE_SIGNATURE: &[u8] = b",\"sig\":\"";
const AFTER_SIGNATURE: &[u8] = b"\"}";
/// 32 bytes in base64.
const SIGNATURE: usize = 44;

/// A torrent that a node seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// hali's name of the model, four parts.
    name: String,
    /// v1 info hash.
    info_hash: [u8; 20],
    /// v2 info hash, where it is said.
    info_hash_v2: Option<[u8; 32]>,
    /// Repository on the hub, where it is said.
    repository: String,
    /// Revision, where it is said.
    revision: String,
}

impl Seed {
    /// A seed of our own. `None` when a text has characters that hali would write in another way than we do: then nobody
    /// would find the signature right.
    #[must_use]
    pub fn new(
        name: &str,
        info_hash: [u8; 20],
        info_hash_v2: [u8; 32],
        repository: &str,
        revision: &str,
    ) -> Option<Self> {
        let plain = |text: &str| {
            let sound = |b: u8| b.is_ascii_alphanumeric() || b":._-/".contains(&b);
            text.len() <= MAX_NAME && text.bytes().all(sound)
        };
        let sound = is_name(name) && [name, repository, revision].into_iter().all(plain);
        sound.then(|| Self {
            name: name.to_owned(),
            info_hash,
            info_hash_v2: Some(info_hash_v2),
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// Its v1 info hash.
    #[must_use]
    pub fn info_hash(&self) -> [u8; 20] {
        self.info_hash
    }
}

/// Whether it has four parts, none of which leads out of a directory.
fn is_name(name: &str) -> bool {
    let parts = name.split(':');
    name.len() <= MAX_NAME
        && parts.clone().count() == 4
        && parts
            .into_iter()
            .all(|part| !part.is_empty() && part != ".." && !part.contains(['/', '\\']))
}

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it: 1 to 128 characters, chosen by the sender.
    pub node: String,
    /// When, in seconds since 1970.
    pub sent_at: i64,
    /// Where the sender listens, on the address that the packet came from; 0: it does not say.
    pub port: u16,
    /// What it seeds.
    pub seeds: Vec<Seed>,
}

/// The same as JSON; the order of the fields matters.
#[derive(Serialize, Deserialize)]
struct Message {
    v: String,
    nid: String,
    #[serde(default)]
    ts: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    p: i64,
    models: Option<Vec<Model>>,
}

#[derive(Serialize, Deserialize)]
struct Model {
    id: String,
    ih: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ih2: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    repo: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    rev: String,
}

// What serde calls takes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl From<&Seed> for Model {
    fn from(seed: &Seed) -> Self {
        Self {
            id: seed.name.clone(),
            ih: hex::encode(seed.info_hash),
            ih2: seed.info_hash_v2.map(hex::encode).unwrap_or_default(),
            repo: seed.repository.clone(),
            rev: seed.revision.clone(),
        }
    }
}

impl Model {
    /// `None` for what hali passes over too: no sound name or no v1 info hash.
    fn seed(self) -> Option<Seed> {
        let mut info_hash = [0; 20];
        hex::decode_to_slice(&self.ih, &mut info_hash).ok()?;
        let mut v2 = [0; 32];
        let has_v2 = hex::decode_to_slice(&self.ih2, &mut v2).is_ok();
        is_name(&self.id).then_some(Seed {
            name: self.id,
            info_hash,
            info_hash_v2: has_v2.then_some(v2),
            repository: self.repo,
            revision: self.rev,
        })
    }
}

/// As many signed packets as it takes to say that all `seeds` are at `port` of this node.
#[must_use]
pub fn encode(
    node: &str,
    sent_at: i64,
    port: u16,
    seeds: &[Seed],
    secret: &HaliSecret,
) -> Vec<Vec<u8>> {
    let write = |models| {
        let message = Message {
            v: "1".to_owned(),
            nid: node.to_owned(),
            ts: sent_at,
            p: i64::from(port),
            models: Some(models),
        };
        // Texts and numbers only: this cannot fail.
        serde_json::to_vec(&message).unwrap_or_default()
    };
    let signed_len = |json: &[u8]| {
        let signature = BEFORE_SIGNATURE.len() + SIGNATURE + AFTER_SIGNATURE.len();
        (json.len() + signature).saturating_sub(1)
    };
    let mut packets = Vec::new();
    let mut rest = seeds;
    while !rest.is_empty() {
        let mut count = 1;
        let mut json = write(rest.iter().take(1).map(Model::from).collect());
        while count < rest.len() {
            let more = write(rest.iter().take(count + 1).map(Model::from).collect());
            if signed_len(&more) > MAX_SENT {
                break;
            }
            json = more;
            count += 1;
        }
        packets.push(sign(&json, secret));
        rest = rest.get(count..).unwrap_or_default();
    }
    packets
}

/// Puts the signature at the end of a JSON object.
fn sign(json: &[u8], secret: &HaliSecret) -> Vec<u8> {
    let inside = json.strip_suffix(b"}").unwrap_or(json);
    let signature = secret.sign(json);
    [
        inside,
        BEFORE_SIGNATURE,
        signature.as_bytes(),
        AFTER_SIGNATURE,
    ]
    .concat()
}

/// Reads a packet of somebody who has the secret.
pub fn decode(packet: &[u8], secret: &HaliSecret) -> Result<Packet, Refusal> {
    if packet.len() > MAX_PACKET || !packet.starts_with(b"{") {
        return Err(Refusal::Malformed);
    }
    let (inside, signature) = packet
        .strip_suffix(AFTER_SIGNATURE)
        .and_then(|rest| rest.split_at_checked(rest.len().checked_sub(SIGNATURE)?))
        .and_then(|(rest, signature)| Some((rest.strip_suffix(BEFORE_SIGNATURE)?, signature)))
        .ok_or(Refusal::Missing)?;
    if !secret.signed(&[inside, b"}"].concat(), signature) {
        return Err(Refusal::Wrong);
    }
    let message: Message = serde_json::from_slice(packet).map_err(|_| Refusal::Malformed)?;
    if message.v != "1" {
        return Err(Refusal::Version);
    }
    let port = u16::try_from(message.p).map_err(|_| Refusal::Malformed)?;
    if !(1..=MAX_NODE).contains(&message.nid.len()) {
        return Err(Refusal::Malformed);
    }
    let models = message.models.unwrap_or_default();
    Ok(Packet {
        node: message.nid,
        sent_at: message.ts,
        port,
        seeds: models
            .into_iter()
            .take(MAX_MODELS)
            .filter_map(Model::seed)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(number: u8) -> HaliSecret {
        HaliSecret::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap()
    }

    fn seed(number: u8) -> Seed {
        let name = format!("mistral:{number}b:instruct:q4_k_m");
        Seed::new(
            &name,
            [number; 20],
            [number; 32],
            "Org/Repo",
            &"c".repeat(40),
        )
        .unwrap()
    }

    /// What Go's `encoding/json` and `crypto/hmac` make of hali's structures.
    const OF_GO: &[u8] = include_bytes!("packet.json");

    #[test]
    fn a_packet_is_byte_for_byte_what_go_writes() {
        let seeds = [
            Seed::new(
                "mistral:7b:instruct:q4_k_m",
                [0x11; 20],
                [0x22; 32],
                "Org/Repo",
                "abc",
            )
            .unwrap(),
            Seed {
                name: "tiny:1b:base:q8_0".to_owned(),
                info_hash: [0x33; 20],
                info_hash_v2: None,
                repository: String::new(),
                revision: String::new(),
            },
        ];
        let packets = encode("node-1", 1_716_019_200, 51_234, &seeds, &secret(1));
        let expected = OF_GO.strip_suffix(b"\n").unwrap();
        assert_eq!(
            String::from_utf8_lossy(&packets[0]),
            String::from_utf8_lossy(expected)
        );
        let read = decode(expected, &secret(1)).unwrap();
        assert_eq!(
            (read.node.as_str(), read.sent_at, read.port),
            ("node-1", 1_716_019_200, 51_234)
        );
        assert_eq!(read.seeds, seeds);
    }

    #[test]
    fn only_what_is_signed_is_read() {
        let packet = encode("n", 1, 2, &[seed(7)], &secret(1)).remove(0);
        assert!(decode(&packet, &secret(1)).is_ok());
        assert_eq!(decode(&packet, &secret(2)), Err(Refusal::Wrong));
        let mut moved = packet.clone();
        let at = moved
            .windows(5)
            .position(|part| part == b"\"p\":2")
            .unwrap();
        moved[at + 4] = b'3';
        assert_eq!(decode(&moved, &secret(1)), Err(Refusal::Wrong));
        let unsigned = br#"{"v":"1","nid":"n","ts":1,"p":2,"models":[]}"#;
        assert_eq!(decode(unsigned, &secret(1)), Err(Refusal::Missing));
        let signed = |json: &str| decode(&sign(json.as_bytes(), &secret(1)), &secret(1));
        for (json, refusal) in [
            (r#"{"v":"2","nid":"n","models":[]}"#, Refusal::Version),
            (r#"{"v":"1","nid":"","models":[]}"#, Refusal::Malformed),
            (
                r#"{"v":"1","nid":"n","p":65536,"models":[]}"#,
                Refusal::Malformed,
            ),
            (
                r#"{"v":"1","nid":"n","p":-1,"models":[]}"#,
                Refusal::Malformed,
            ),
            (r#"{"v":"1","models":[]}"#, Refusal::Malformed),
        ] {
            assert_eq!(signed(json), Err(refusal), "{json}");
        }
        for json in [
            r#"{"v":"1","nid":"n","models":null}"#,
            r#"{"v":"1","nid":"n","new":{"a":[1]},"models":[{"id":"a:b:c","ih":"00"}]}"#,
            r#"{"v":"1","nid":"n","models":[{"id":"a:b:c:..","ih":"0000000000000000000000000000000000000000"}]}"#,
        ] {
            assert_eq!(signed(json).unwrap().seeds, [], "{json}");
        }
    }

    #[test]
    fn what_hali_would_write_in_another_way_is_not_sent() {
        for odd in [
            "a:b:c:<d>",
            "a:b:c:d&",
            "a:b:c:ü",
            "a:b:c:\u{2028}",
            "a:b:c",
            "a:b:c:../x",
        ] {
            assert_eq!(Seed::new(odd, [0; 20], [0; 32], "r", "r"), None, "{odd}");
        }
    }

    fn seeds() -> impl Strategy<Value = Vec<Seed>> {
        let one = (
            "[a-z0-9._-]{1,20}:[0-9.]{1,4}b:base:q[0-9]_k",
            any::<[u8; 20]>(),
            any::<[u8; 32]>(),
            "[A-Za-z0-9/._-]{0,60}",
        );
        let one = one.prop_filter_map("no name", |(name, v1, v2, repository)| {
            Seed::new(&name, v1, v2, &repository, &"d".repeat(40))
        });
        prop::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn packets_are_short_and_say_everything_once(seeds in seeds(), sent_at: i64, port: u16) {
            let packets = encode("node", sent_at, port, &seeds, &secret(1));
            let mut read = Vec::new();
            for packet in packets {
                prop_assert!(packet.len() <= MAX_SENT);
                let one = decode(&packet, &secret(1)).unwrap();
                prop_assert_eq!((one.sent_at, one.port), (sent_at, port));
                read.extend(one.seeds);
            }
            prop_assert_eq!(read, seeds);
        }

        #[test]
        fn anything_may_arrive(bytes: Vec<u8>) {
            prop_assert!(decode(&bytes, &secret(1)).is_err());
        }
    }

    /// What arrives, and what it would be with a right signature.
    #[test]
    fn fuzz_hali_packets() {
        let secret = secret(1);
        let corpus = [
            OF_GO.to_vec(),
            encode("node", 9, 8, &[seed(1), seed(2)], &secret).remove(0),
            br#"{"v":"1","nid":"n","ts":1,"p":2,"models":[{"id":"a:b:c:d","ih":"0011"}]}"#.to_vec(),
        ];
        crate::fuzz::run("hali packets", &corpus, |bytes| {
            let _ = decode(bytes, &secret);
            if let Ok(packet) = decode(&sign(bytes, &secret), &secret) {
                assert!((1..=MAX_NODE).contains(&packet.node.len()));
                assert!(packet.seeds.len() <= MAX_MODELS);
                assert!(packet.seeds.iter().all(|seed| is_name(&seed.name)));
            }
        });
    }
}
