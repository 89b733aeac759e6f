//! Fuzz target of what machines with hali send, see [`crate::fuzzing`].

// Targets are tests: they panic.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::sync::LazyLock;

use super::*;

static SECRET: LazyLock<HaliSecret> =
    LazyLock::new(|| HaliSecret::parse(&"000102030405060708090a0b0c0d0e0f".repeat(2)).unwrap());

/// A packet as it arrives, and what it would be with a sound signature: within its bounds, and written anew it says the same.
pub fn hali(bytes: &[u8]) {
    let _ = decode(bytes, &SECRET);
    let Ok(packet) = decode(&sign(bytes, &SECRET), &SECRET) else {
        return;
    };
    assert!((1..=MAX_NODE).contains(&packet.node.len()));
    assert!(packet.seeds.len() <= MAX_MODELS);
    assert!(packet.seeds.iter().all(|seed| is_name(&seed.name)));
    let Packet {
        node,
        sent_at,
        port,
        seeds,
    } = packet;
    for again in encode(&node, sent_at, port, &seeds, &SECRET) {
        let again = decode(&again, &SECRET).unwrap();
        assert_eq!(again.node, node);
        assert!(again.seeds.iter().all(|seed| seeds.contains(seed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::run;

    #[test]
    fn fuzz_hali() {
        let seed = |number: u8| {
            let name = format!("mistral:{number}b:instruct:q4_k_m");
            Seed::new(
                &name,
                [number; 20],
                [number; 32],
                "Org/Repo",
                &"c".repeat(40),
            )
            .unwrap()
        };
        let sent_at = UnixMillis(9_000);
        let corpus = [
            encode("node", sent_at, 8, &[seed(1), seed(2)], &SECRET).remove(0),
            encode("<&>\u{2028}\"", sent_at, 0, &[seed(3)], &SECRET).remove(0),
            br#"{"v":"1","nid":"n","ts":1,"p":2,"models":[{"id":"a:b:c:d","ih":"0011"}]}"#.to_vec(),
            br#"{"v":"1","nid":"n","ts":18446744073709551615,"models":null}"#.to_vec(),
        ];
        run("hali", &corpus, hali);
    }
}
