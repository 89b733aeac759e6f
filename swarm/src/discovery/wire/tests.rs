use proptest::prelude::*;

use super::*;

fn key(first: u8) -> Key {
    let mut secret = [7; 32];
    secret[0] = first;
    Key::parse(&hex::encode(secret)).unwrap()
}

fn ring() -> Keyring {
    Keyring::new(key(1), Some(key(2)))
}

fn sample() -> Announcement {
    Announcement {
        node: NodeName::new("node-1").unwrap(),
        boot: UnixMillis(0x0102_0304_0506_0708),
        sequence: 3,
        sent_at: UnixMillis(0x0102_0304_0506_0709),
        listening: Listening::new([
            "10.0.0.1:9492".parse().unwrap(),
            "[fd00::1]:9492".parse().unwrap(),
        ])
        .unwrap(),
        delivery: Delivery {
            broadcast: true,
            deaf: false,
        },
        body: Body::Page(Page::all(5, &[ContentId([0xab; 20])]).remove(0)),
    }
}

fn addresses() -> impl Strategy<Value = Vec<SocketAddr>> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
    let address = (prop_oneof![v4, v6], any::<u16>()).prop_map(SocketAddr::from);
    prop::collection::vec(address, 0..12)
}

fn bodies() -> impl Strategy<Value = Body> {
    let contents = prop::collection::vec(any::<[u8; 20]>().prop_map(ContentId), 0..150);
    let pages = (any::<u32>(), contents, any::<prop::sample::Index>()).prop_map(
        |(generation, contents, which)| {
            let pages = Page::all(generation, &contents);
            Body::Page(which.get(&pages).clone())
        },
    );
    prop_oneof![4 => pages, 1 => Just(Body::Goodbye)]
}

fn announcements() -> impl Strategy<Value = Announcement> {
    (
        "[A-Za-z0-9._-]{1,253}",
        any::<[u64; 3]>(),
        addresses(),
        any::<[bool; 2]>(),
        bodies(),
    )
        .prop_map(|(name, numbers, addresses, delivery, body)| {
            let sound = "192.0.2.1:1".parse().unwrap();
            Announcement {
                node: NodeName::new(&name).unwrap(),
                boot: UnixMillis(numbers[0]),
                sequence: numbers[1],
                sent_at: UnixMillis(numbers[2]),
                listening: Listening::new(addresses.into_iter().chain([sound])).unwrap(),
                delivery: Delivery {
                    broadcast: delivery[0],
                    deaf: delivery[1],
                },
                body,
            }
        })
}

/// Nodes of other releases must read the same: the layout is written out here byte by byte.
#[test]
fn the_layout_is_as_documented() {
    let mut expected = b"\x06node-1".to_vec();
    expected.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3]);
    expected.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 9]);
    expected.extend_from_slice(&[2, 4, 10, 0, 0, 1, 0x25, 0x14]);
    expected.extend_from_slice(&[
        6, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x25, 0x14,
    ]);
    expected.extend_from_slice(&[0, 0, 0, 5, 0, 1, 1]);
    expected.extend_from_slice(&[0xab; 20]);

    let key = key(1);
    let signed = encode(&sample(), &key);
    let (content, mac) = signed.split_at(signed.len() - 32);
    assert_eq!(&content[..5], b"MCA\x01\x03");
    assert_eq!(&content[5..13], key.id().as_bytes());
    assert_eq!(content[13..], expected);
    let expected = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, key.derive(Purpose::Announcement)),
        content,
    );
    assert_eq!(mac, expected.as_ref());
}

#[test]
fn only_valid_keys_are_believed() {
    let ring = ring();
    for current_or_previous in [1, 2] {
        let bytes = encode(&sample(), &key(current_or_previous));
        assert_eq!(decode(&bytes, &ring), Ok(sample()));
    }
    let foreign = encode(&sample(), &key(3));
    assert_eq!(decode(&foreign, &ring), Err(Refusal::UnknownKey));
    let mut unsigned = encode(&sample(), &key(1));
    unsigned[4] &= !SIGNED;
    assert_eq!(decode(&unsigned, &ring), Err(Refusal::Missing));
    // The name of a valid key does not help whoever has not got it.
    let mut forged = foreign;
    forged[5..13].copy_from_slice(key(1).id().as_bytes());
    assert_eq!(decode(&forged, &ring), Err(Refusal::Wrong));
}

#[test]
fn other_versions_and_other_programs_are_told_apart() {
    let mut bytes = encode(&sample(), &key(1));
    bytes[3] = 2;
    assert_eq!(decode(&bytes, &ring()), Err(Refusal::Version));
    bytes[0] = b'x';
    assert_eq!(decode(&bytes, &ring()), Err(Refusal::Malformed));
}

#[test]
fn nothing_longer_than_a_packet_is_read_or_sent() {
    let contents = vec![ContentId([1; 20]); 100];
    let longest = Announcement {
        node: NodeName::new(&"x".repeat(253)).unwrap(),
        listening: Listening::new(
            (1..=8).map(|port| SocketAddr::new("fd00::1".parse().unwrap(), port)),
        )
        .unwrap(),
        body: Body::Page(Page::all(1, &contents).remove(0)),
        ..sample()
    };
    let bytes = encode(&longest, &key(1));
    assert_eq!(bytes.len(), LONGEST);
    assert_eq!(decode(&bytes, &ring()), Ok(longest));
    let mut padded = bytes;
    padded.resize(MAX_DATAGRAM + 1, 0);
    assert_eq!(decode(&padded, &ring()), Err(Refusal::Malformed));
}

fn corpus() -> Vec<Announcement> {
    let contents: Vec<ContentId> = (0..120).map(|number| ContentId([number; 20])).collect();
    let mut announcements = vec![
        sample(),
        Announcement {
            body: Body::Goodbye,
            ..sample()
        },
    ];
    for page in Page::all(9, &contents) {
        announcements.push(Announcement {
            body: Body::Page(page),
            ..sample()
        });
    }
    announcements
}

/// What is under the signature, behind its flags.
fn content(announcement: &Announcement) -> Vec<u8> {
    let mut bytes = vec![flags(announcement)];
    write(announcement, &mut bytes);
    bytes
}

fn read_content(bytes: &[u8]) -> Option<Announcement> {
    let (flags, content) = bytes.split_first()?;
    read(*flags, content).ok()
}

#[test]
fn fuzz_announcements() {
    let corpus: Vec<_> = corpus().iter().map(content).collect();
    crate::fuzzing::run("announcement", &corpus, fuzzed::announcement);
}

#[test]
fn fuzz_raw_announcements() {
    let key = crate::fuzzing::RING.current();
    let corpus: Vec<_> = corpus().iter().map(|one| encode(one, key)).collect();
    crate::fuzzing::run("announcement_raw", &corpus, fuzzed::announcement_raw);
}

proptest! {
    #[test]
    fn announcements_survive_the_wire(announcement in announcements()) {
        let bytes = encode(&announcement, &key(1));
        prop_assert!(bytes.len() <= MAX_DATAGRAM);
        prop_assert_eq!(decode(&bytes, &ring()), Ok(announcement));
    }

    /// Every bit is under the signature, or is the signature.
    #[test]
    fn no_bit_can_be_changed(announcement in announcements(), which: prop::sample::Index) {
        let (key, ring) = (key(1), ring());
        let mut bytes = encode(&announcement, &key);
        let bit = which.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes, &ring).is_err());
    }

    #[test]
    fn nothing_can_be_cut_off_or_added(announcement in announcements(), which: prop::sample::Index, more in 1_usize..40) {
        let (key, ring) = (key(1), ring());
        let mut bytes = encode(&announcement, &key);
        let len = which.index(bytes.len());
        prop_assert!(decode(&bytes[..len], &ring).is_err());
        bytes.resize(bytes.len() + more, 0);
        prop_assert!(decode(&bytes, &ring).is_err());
    }

    /// What is read is written the same way: there is no second form of anything.
    #[test]
    fn what_is_read_is_written_alike(announcement in announcements(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut bytes = content(&announcement);
        for (which, value) in flips {
            let at = which.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(read) = read_content(&bytes) {
            prop_assert_eq!(content(&read), bytes);
        }
    }

    #[test]
    fn anything_may_arrive(bytes in prop::collection::vec(any::<u8>(), 0..1500), near: bool) {
        let mut bytes = bytes;
        if near && bytes.len() > 4 {
            bytes[..4].copy_from_slice(b"MCA\x01");
        }
        let _ = read_content(&bytes);
        prop_assert!(decode(&bytes, &ring()).is_err());
    }
}
