use proptest::prelude::*;

use super::*;

fn secret(number: u8) -> HaliSecret {
    HaliSecret::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap()
}

fn seed(number: u8) -> Seed {
    let name = format!("mistral:{number}b:instruct:q4_k_m");
    let revision = "c".repeat(40);
    Seed::new(&name, [number; 20], [number; 32], "Org/Repo", &revision).unwrap()
}

fn seconds(seconds: u64) -> UnixMillis {
    UnixMillis(seconds * 1000)
}

/// Signed by Python, as Go writes it: `python3 swarm/src/discovery/hali/vectors.py`.
const VECTORS: &str = include_str!("../packets.jsonl");

#[test]
fn a_packet_is_byte_for_byte_what_hali_writes() {
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
    // Go cuts off what is less than a second.
    let sent_at = UnixMillis(1_716_019_200_999);
    let packets = encode("node-1", sent_at, 51_234, &seeds, &secret(1));
    let expected = VECTORS.lines().next().unwrap();
    assert_eq!(packets.len(), 1);
    assert_eq!(String::from_utf8_lossy(&packets[0]), expected);
    let read = decode(expected.as_bytes(), &secret(1)).unwrap();
    assert_eq!(
        read,
        Packet {
            node: "node-1".to_owned(),
            sent_at: seconds(1_716_019_200),
            port: 51_234,
            seeds: seeds.into(),
        }
    );
}

#[test]
fn names_that_are_too_long_are_not_kept() {
    for (repository, revision, kept) in [(256, 256, 1), (257, 1, 0), (1, 257, 0)] {
        let seed = Seed {
            repository: "r".repeat(repository),
            revision: "c".repeat(revision),
            ..seed(7)
        };
        let packets = encode("n", seconds(9), 1, &[seed], &secret(1));
        let read = decode(&packets[0], &secret(1)).unwrap();
        assert_eq!(read.seeds.len(), kept, "{repository} {revision}");
    }
}

#[test]
fn what_others_may_write_is_read() {
    let mut vectors = VECTORS.lines().skip(1);
    let mut next = || decode(vectors.next().unwrap().as_bytes(), &secret(1)).unwrap();
    let odd = next();
    assert_eq!((odd.sent_at, odd.port), (seconds(0), 0));
    assert_eq!(odd.node, "<a&b>\u{2028}ü");
    assert_eq!(
        odd.seeds,
        [Seed {
            name: "a:1b:<&>:q8_0".to_owned(),
            info_hash: [0xab; 20],
            info_hash_v2: None,
            repository: "\"\\\t\x7f".to_owned(),
            revision: "é\u{2029}".to_owned(),
        }]
    );
    assert_eq!(next().seeds, []);
}

#[test]
fn only_what_is_signed_is_read() {
    let packet = encode("n", seconds(1), 2, &[seed(7)], &secret(1)).remove(0);
    assert!(decode(&packet, &secret(1)).is_ok());
    assert_eq!(decode(&packet, &secret(2)), Err(Refusal::Wrong));
    let mut moved = packet.clone();
    let at = moved.windows(5).position(|part| part == b"\"p\":2");
    moved[at.unwrap() + 4] = b'3';
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
        (
            r#"{"v":"1","nid":"n","ts":-1,"models":[]}"#,
            Refusal::Malformed,
        ),
        (r#"{"v":"1","models":[]}"#, Refusal::Malformed),
        (
            r#"{"v":"1","nid":"n","nid":"m","models":[]}"#,
            Refusal::Malformed,
        ),
    ] {
        assert_eq!(signed(json), Err(refusal), "{json}");
    }
    let long = format!(r#"{{"v":"1","nid":"{}","models":[]}}"#, "n".repeat(129));
    assert_eq!(signed(&long), Err(Refusal::Malformed));
    for json in [
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
        "[A-Za-z0-9/._-]{0,256}",
    );
    let one = one.prop_filter_map("no name", |(name, v1, v2, repository)| {
        Seed::new(&name, v1, v2, &repository, &"d".repeat(40))
    });
    prop::collection::vec(one, 0..20)
}

proptest! {
    #[test]
    fn packets_are_short_and_say_everything_once(
        node in "[a-z0-9]{1,128}",
        seeds in seeds(),
        sent_at in 0..u64::MAX / 1000,
        port: u16,
    ) {
        let packets = encode(&node, seconds(sent_at), port, &seeds, &secret(1));
        let mut read = Vec::new();
        for packet in packets {
            prop_assert!(packet.len() <= MAX_SENT);
            let one = decode(&packet, &secret(1)).unwrap();
            prop_assert_eq!((&one.node, one.sent_at, one.port), (&node, seconds(sent_at), port));
            read.extend(one.seeds);
        }
        prop_assert_eq!(read, seeds);
    }

    #[test]
    fn anything_may_arrive(bytes: Vec<u8>) {
        prop_assert!(decode(&bytes, &secret(1)).is_err());
    }
}
