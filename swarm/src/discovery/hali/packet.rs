//! One packet of hali's protocol, version 1.
//!
//! Compact JSON with the fields in a fixed order and the signature last: HMAC-SHA256 over the same JSON without it. hali
//! checks that by writing anew what it has read; here the bytes that arrived are checked, before they are looked into.

use serde::{Deserialize, Serialize};

use super::secret::HaliSecret;
use crate::discovery::clock::UnixMillis;
use crate::discovery::refusal::Refusal;

/// Longest packet that is read: hali puts all its models into one, and UDP carries no longer one by IPv4.
pub const MAX_PACKET: usize = 65_507;
/// Longest packet that is sent in bytes; what does not fit goes into another.
pub const MAX_SENT: usize = 1_400;
/// Most models that are taken from one packet; with all their fields only half as many fit.
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

    /// hali's name of the model.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Repository on the hub; empty where it is not said.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Revision; empty where it is not said.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
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
    /// When, to the second.
    pub sent_at: UnixMillis,
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
    ts: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    p: u16,
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
fn is_zero(number: &u16) -> bool {
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
        let sound = is_name(&self.id) && self.repo.len() <= MAX_NAME && self.rev.len() <= MAX_NAME;
        sound.then_some(Seed {
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
    sent_at: UnixMillis,
    port: u16,
    seeds: &[Seed],
    secret: &HaliSecret,
) -> Vec<Vec<u8>> {
    let write = |models| {
        let message = Message {
            v: "1".to_owned(),
            nid: node.to_owned(),
            ts: sent_at.0 / 1000,
            p: port,
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
    if !(1..=MAX_NODE).contains(&message.nid.len()) {
        return Err(Refusal::Malformed);
    }
    let models = message.models.unwrap_or_default();
    Ok(Packet {
        node: message.nid,
        sent_at: UnixMillis(message.ts.saturating_mul(1000)),
        port: message.p,
        seeds: models
            .into_iter()
            .take(MAX_MODELS)
            .filter_map(Model::seed)
            .collect(),
    })
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
#[cfg(test)]
mod tests;
