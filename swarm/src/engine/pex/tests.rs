use proptest::prelude::*;

use super::*;
use crate::bencode::found::{Dictionary, Found};

const HASH: [u8; 20] = [7; 20];

/// The addresses of a message.
fn decode(body: &[u8]) -> [Vec<SocketAddr>; 2] {
    let said = Dictionary::read(body).unwrap();
    let bytes = |key: &str| match said.get(key.as_bytes()) {
        Some(Found::Bytes(bytes)) => bytes,
        other => panic!("{key}: {other:?}"),
    };
    let addresses = |v4: &str, v6: &str| -> Vec<SocketAddr> {
        let (four, rest) = bytes(v4).as_chunks::<6>();
        assert!(rest.is_empty());
        let (six, rest) = bytes(v6).as_chunks::<18>();
        assert!(rest.is_empty());
        let four = four.iter().map(|[a, b, c, d, high, low]| {
            SocketAddr::from(([*a, *b, *c, *d], u16::from_be_bytes([*high, *low])))
        });
        let six = six.iter().map(|bytes| {
            let (ip, port) = bytes.split_at(16);
            let ip: [u8; 16] = ip.try_into().unwrap();
            SocketAddr::from((ip, u16::from_be_bytes(port.try_into().unwrap())))
        });
        four.chain(six).collect()
    };
    let told = [
        addresses("added", "added6"),
        addresses("dropped", "dropped6"),
    ];
    let flags = [bytes("added.f"), bytes("added6.f")].concat();
    assert_eq!(flags, vec![0; told[0].len()]);
    told
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Clients of one listener at a time that passes as they like.
struct Lab {
    roster: Roster,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self {
            roster: Roster::default(),
            now: Instant::now() + Duration::from_secs(1),
        }
    }

    fn client(&self, ip: &str, port: i64) -> Exchange {
        let mut client = Exchange::new(self.roster.clone(), HASH, ip.parse().unwrap());
        client.named(3);
        client.listens(port);
        client
    }

    /// What the client is told, added and dropped.
    fn told(&self, client: &mut Exchange) -> Option<[Vec<SocketAddr>; 2]> {
        self.told_beside(client, Some(Vec::new()))
    }

    fn told_beside(
        &self,
        client: &mut Exchange,
        elsewhere: Option<Vec<SocketAddr>>,
    ) -> Option<[Vec<SocketAddr>; 2]> {
        let message = client.message(self.now, || elsewhere)?;
        assert_eq!(message[0], 3);
        Some(decode(&message[1..]))
    }
}

#[test]
fn a_message_is_as_bep_11_says() {
    let added = [address("1.2.3.4:258"), address("[2001:db8::1]:3")];
    let body = encode(&added, &[address("5.6.7.8:9")]);
    let six = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[1, 0, 3]].concat();
    let expected = [
        b"d5:added6:\x01\x02\x03\x04\x01\x027:added.f1:\0".as_slice(),
        b"6:added618:",
        &six,
        b"8:added6.f1:\0",
        b"7:dropped6:\x05\x06\x07\x08\0\x098:dropped60:e",
    ];
    assert_eq!(body, expected.concat());
}

#[test]
fn clients_are_told_of_each_other_once_a_minute() {
    let mut lab = Lab::new();
    let mut one = lab.client("10.0.0.1", 1111);
    // Alone; looked at again in a minute.
    assert_eq!(lab.told(&mut one), None);
    let mut two = lab.client("::ffff:10.0.0.2", 2222);
    assert_eq!(
        lab.told(&mut two),
        Some([vec![address("10.0.0.1:1111")], vec![]])
    );
    lab.now += Duration::from_secs(59);
    assert_eq!(lab.told(&mut one), None);
    assert!(one.due().unwrap() > lab.now);
    lab.now += Duration::from_secs(1);
    assert!(one.due().unwrap() <= lab.now);
    assert_eq!(
        lab.told(&mut one),
        Some([vec![address("10.0.0.2:2222")], vec![]])
    );
    lab.now += INTERVAL;
    assert_eq!(lab.told(&mut one), None, "nothing new");
    drop(two);
    lab.now += INTERVAL;
    assert_eq!(
        lab.told(&mut one),
        Some([vec![], vec![address("10.0.0.2:2222")]])
    );
}

#[test]
fn only_who_wants_it_is_told_and_only_who_listens_is_named() {
    let lab = Lab::new();
    let mut silent = Exchange::new(lab.roster.clone(), HASH, "10.0.0.9".parse().unwrap());
    silent.listens(999);
    assert_eq!(silent.due(), None);
    let mut others = [0, -1, 65_536, i64::MAX].map(|port| lab.client("10.0.0.1", port));
    for other in &mut others {
        let told = lab.told(other);
        assert_eq!(told, Some([vec![address("10.0.0.9:999")], vec![]]));
    }
    assert_eq!(silent.message(lab.now, || Some(vec![])), None);
    // Taken back, or never a number.
    for id in [0, -3, 256] {
        others[0].named(id);
        assert_eq!(others[0].due(), None);
    }
    // Somebody who moves has one place.
    silent.listens(998);
    assert_eq!(lab.roster.all(HASH), [address("10.0.0.9:998")]);
}

#[test]
fn another_torrent_and_what_cannot_be_dialled_are_not_told() {
    let lab = Lab::new();
    let mut other = Exchange::new(lab.roster.clone(), [8; 20], "10.0.0.7".parse().unwrap());
    other.listens(7);
    let _near = lab.client("10.0.0.2", 2);
    let _far = lab.client("192.0.0.9", 3);
    let told = |ip: &str| lab.told(&mut lab.client(ip, 4)).unwrap()[0].clone();
    assert_eq!(
        told("10.0.0.1"),
        [address("10.0.0.2:2"), address("192.0.0.9:3")]
    );
    assert_eq!(told("8.8.8.8"), [address("192.0.0.9:3")]);
}

#[test]
fn other_nodes_are_told_and_nobody_once_it_is_switched_off() {
    let mut lab = Lab::new();
    let mut one = lab.client("10.0.0.1", 1);
    let _two = lab.client("10.0.0.2", 2);
    let node = address("10.0.0.3:9493");
    let told = lab.told_beside(&mut one, Some(vec![node]));
    assert_eq!(told, Some([vec![address("10.0.0.2:2"), node], vec![]]));
    let _four = lab.client("10.0.0.4", 4);
    lab.now += INTERVAL;
    assert_eq!(lab.told_beside(&mut one, None), None);
    lab.now += INTERVAL;
    let told = lab.told_beside(&mut one, Some(vec![]));
    assert_eq!(told, Some([vec![address("10.0.0.4:4")], vec![node]]));
}

#[test]
fn many_are_told_a_part_at_a_time() {
    let mut lab = Lab::new();
    let all: Vec<_> = (1..=120)
        .map(|last| lab.client(&format!("10.0.1.{last}"), 5))
        .collect();
    let mut one = lab.client("10.0.0.1", 1);
    let mut heard = BTreeSet::new();
    for expected in [50, 50, 20] {
        let [added, dropped] = lab.told(&mut one).unwrap();
        assert_eq!((added.len(), dropped.len()), (expected, 0));
        heard.extend(added);
        lab.now += INTERVAL;
    }
    assert_eq!(heard.len(), all.len());
    drop(all);
    for expected in [50, 50, 20] {
        let [added, dropped] = lab.told(&mut one).unwrap();
        assert_eq!((added.len(), dropped.len()), (0, expected));
        lab.now += INTERVAL;
    }
    assert_eq!(lab.told(&mut one), None);
}

fn addresses() -> impl Strategy<Value = Vec<SocketAddr>> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ];
    let address = (ip, any::<u16>()).prop_map(SocketAddr::from);
    prop::collection::vec(address, 0..60)
}

proptest! {
    #[test]
    fn every_address_survives(added in addresses(), dropped in addresses()) {
        let body = encode(&added, &dropped);
        prop_assert!(Dictionary::read(&body).is_ok());
        let sorted = |mut addresses: Vec<SocketAddr>| {
            addresses.sort_by_key(SocketAddr::is_ipv6);
            addresses
        };
        prop_assert_eq!(decode(&body), [sorted(added), sorted(dropped)]);
    }

    /// Whoever comes and goes: what a client was told, put together, is who is there.
    #[test]
    fn what_was_told_adds_up(steps in prop::collection::vec((0_u8..120, any::<bool>()), 1..300)) {
        let mut lab = Lab::new();
        let mut one = lab.client("10.0.0.1", 1);
        let mut there = std::collections::BTreeMap::new();
        let mut known = BTreeSet::new();
        let mut hear = |lab: &mut Lab, one: &mut Exchange| {
            let told = lab.told(one);
            lab.now += INTERVAL;
            let Some([added, dropped]) = told else { return false };
            assert!(added.len() <= MAX_TOLD && dropped.len() <= MAX_TOLD);
            for address in dropped {
                assert!(known.remove(&address));
            }
            for address in added {
                assert!(known.insert(address));
            }
            true
        };
        for (who, comes) in steps {
            if comes {
                there.insert(who, lab.client(&format!("10.0.1.{who}"), 5));
            } else {
                there.remove(&who);
            }
            if who % 7 == 0 {
                hear(&mut lab, &mut one);
            }
        }
        while hear(&mut lab, &mut one) {}
        let expected: BTreeSet<_> = there.keys().map(|who| SocketAddr::from(([10, 0, 1, *who], 5))).collect();
        prop_assert_eq!(known, expected);
    }
}
