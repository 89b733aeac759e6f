//! What nodes tell each other about a snapshot while there is no coordinator that could tell them.
//!
//! Asked over the port at which segments are given: a handshake with [`topic`] as info hash, then one question and one
//! answer. An answer is as trustworthy as what the same node tells the coordinator: every blob is proven later.

use serde::{Deserialize, Serialize};

use crate::coordination::Held;
use crate::verify::piece_hash;

/// Segments whose piece hashes may be asked for at once.
pub const MAX_WANTS: usize = 16;

/// Longest question in bytes.
pub(crate) const MAX_QUESTION_BYTES: usize = 1 << 10;

/// Longest answer in bytes: the piece hashes of [`MAX_WANTS`] segments of 64 MiB in the smallest pieces, and the rest.
pub(crate) const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Longest set of segments in bytes: far more than any snapshot has.
const MAX_SET_BYTES: usize = 64 << 10;

/// The info hash under which a snapshot is asked about.
#[must_use]
pub fn topic(snapshot: &str) -> [u8; 20] {
    let name = format!("modelcache inventory of {snapshot}");
    piece_hash(name.as_bytes())
}

/// What a node wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Segments whose piece hashes are asked for, at most [`MAX_WANTS`].
    pub wants: Vec<u32>,
}

/// How a node stands with a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What it holds durably and serves.
    pub held: Segments,
    /// What it is getting from the hub at this moment.
    pub fetching: Vec<u32>,
    /// Whether it can get more from there: it knows the way and the hub answers.
    pub reaches_hub: bool,
    /// Whether it is connected to the coordinator.
    pub coordinated: bool,
    /// Those of the question that it holds.
    pub pieces: Vec<Held>,
}

/// A set of segments. Serialized as one string of hex, a bit a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments(Vec<u8>);

impl Segments {
    /// Whether it is among them.
    #[must_use]
    pub fn contains(&self, segment: u32) -> bool {
        let byte = self.0.get(segment as usize / 8).copied().unwrap_or(0);
        byte & (0x80 >> (segment % 8)) != 0
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }
}

impl FromIterator<u32> for Segments {
    fn from_iter<I: IntoIterator<Item = u32>>(segments: I) -> Self {
        let mut bytes = Vec::new();
        for segment in segments {
            let at = segment as usize / 8;
            if bytes.len() <= at {
                bytes.resize(at + 1, 0);
            }
            if let Some(byte) = bytes.get_mut(at) {
                *byte |= 0x80 >> (segment % 8);
            }
        }
        Self(bytes)
    }
}

impl Serialize for Segments {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Segments {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > 2 * MAX_SET_BYTES {
            return Err(serde::de::Error::custom("too many segments"));
        }
        hex::decode(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::segment::PieceHashes;

    #[test]
    fn the_longest_messages_fit() {
        let wants = vec![u32::MAX; MAX_WANTS];
        let question = serde_json::to_vec(&Question {
            wants: wants.clone(),
        });
        assert!(question.unwrap().len() <= MAX_QUESTION_BYTES);
        let pieces = |segment| Held {
            segment,
            pieces: PieceHashes::new(vec![[7; 20]; (64 << 20) / (16 << 10)]),
            verified: false,
        };
        let answer = Answer {
            held: (0..100_000).collect(),
            fetching: wants.clone(),
            reaches_hub: false,
            coordinated: false,
            pieces: wants.into_iter().map(pieces).collect(),
        };
        assert!(serde_json::to_vec(&answer).unwrap().len() <= MAX_ANSWER_BYTES);
    }

    #[test]
    fn each_snapshot_has_a_topic_of_its_own() {
        assert_eq!(topic("a"), topic("a"));
        assert_ne!(topic("a"), topic("b"));
    }

    proptest! {
        #[test]
        fn a_set_survives_the_wire(segments in prop::collection::btree_set(0_u32..3000, 0..50)) {
            let set: Segments = segments.iter().copied().collect();
            let text = serde_json::to_string(&set).unwrap();
            let back: Segments = serde_json::from_str(&text).unwrap();
            let found: BTreeSet<u32> = (0..4000).filter(|one| back.contains(*one)).collect();
            prop_assert_eq!(back.count() as usize, segments.len());
            prop_assert_eq!(found, segments);
        }

        #[test]
        fn no_set_takes_more_memory_than_a_snapshot_can_need(excess in 1_usize..1000) {
            let longest = "0".repeat(2 * MAX_SET_BYTES);
            prop_assert!(serde_json::from_value::<Segments>(longest.clone().into()).is_ok());
            let longer = longest + &"00".repeat(excess);
            prop_assert!(serde_json::from_value::<Segments>(longer.into()).is_err());
        }

        #[test]
        fn anything_may_arrive(text in ".{0,40}") {
            let _ = serde_json::from_str::<Answer>(&text);
            let _ = serde_json::from_value::<Segments>(text.into());
        }
    }
}
