//! A node and a machine that speaks hali's protocol, each on a host of its own. The machine is written from the protocol's
//! description and shares no code with the node.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use modelcache_swarm::discovery::announcement::ContentId;
use modelcache_swarm::discovery::hali::packet::Seed;
use modelcache_swarm::discovery::hali::secret::HaliSecret;
use modelcache_swarm::discovery::refusal::Refusal;
use modelcache_swarm::discovery::table::Origin;
use serde_json::Value;
use sha2::Sha256;
use socket2::SockRef;

use super::lab::{Lab, PORT, Stop, address, ring, until};

const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 42, 1);
const HALI_PORT: u16 = 4269;

fn signature(json: &str) -> String {
    let key = hex::decode(SECRET).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(json.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// A packet that says that `info_hash` can be had at port 7000.
fn packet(node: &str, sent_at: u64, info_hash: &str) -> String {
    let json = format!(
        r#"{{"v":"1","nid":"{node}","ts":{sent_at},"p":7000,"models":[{{"id":"a:1b:base:q8_0","ih":"{info_hash}","repo":"acme/a"}}]}}"#
    );
    let open = json.strip_suffix('}').unwrap();
    format!(r#"{open},"sig":"{}"}}"#, signature(&json))
}

/// The machine's socket, in the group.
fn machine(lab: &Lab, host: u8) -> UdpSocket {
    lab.inside(host, || {
        let IpAddr::V4(own) = address(host) else {
            panic!("not IPv4");
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, HALI_PORT)).unwrap();
        socket.join_multicast_v4(&GROUP, &own).unwrap();
        SockRef::from(&socket).set_multicast_if_v4(&own).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        socket
    })
}

/// Says something again and again, slowly enough to be listened to, until it has happened.
fn say_until(what: &str, mut say: impl FnMut(), mut happened: impl FnMut() -> bool) {
    let mut next = Instant::now();
    until(what, || {
        if next <= Instant::now() {
            say();
            next += Duration::from_millis(200);
        }
        happened()
    });
}

fn seed(number: u8) -> Seed {
    let name = format!("tiny:{number}b:base:q8_0");
    Seed::new(&name, [number; 20], [number; 32], "acme/tiny", "abc").unwrap()
}

/// What a node says that it seeds: by name the info hash, as hali reads it.
fn heard(socket: &UdpSocket) -> (SocketAddr, BTreeSet<(String, String)>) {
    let mut buffer = vec![0; 65_535];
    let (len, from) = loop {
        match socket.recv_from(&mut buffer) {
            // A child of another test ended.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    assert!(len <= 1400, "{len}");
    let text = std::str::from_utf8(&buffer[..len]).unwrap();
    let said: Value = serde_json::from_str(text).unwrap();
    let (json, _) = text.rsplit_once(",\"sig\":").unwrap();
    assert_eq!(said["sig"], signature(&format!("{json}}}")));
    assert_eq!((&said["v"], &said["p"]), (&"1".into(), &PORT.into()));
    assert!(said["ts"].as_u64().unwrap().abs_diff(now()) < 5);
    let models = said["models"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let seeds = models.map(|model| (text(&model["id"]), text(&model["ih"])));
    (from, seeds.collect())
}

#[test]
fn a_machine_with_hali_finds_what_a_node_seeds_and_the_other_way_round() {
    let Some(lab) = Lab::new(2) else { return };
    let seeds: Vec<Seed> = (1..=12).map(seed).collect();
    let socket = machine(&lab, 2);
    let secret = HaliSecret::parse(SECRET).unwrap();
    let ((peers, seeds), counters, end) = lab.start_hali(1, secret, seeds);

    // Twelve do not fit into one packet.
    let mut all = BTreeSet::new();
    while all.len() < 12 {
        let (from, seeds) = heard(&socket);
        assert_eq!(from.ip(), address(1));
        all.extend(seeds);
    }
    let expected = |number: u8| {
        (
            format!("tiny:{number}b:base:q8_0"),
            hex::encode([number; 20]),
        )
    };
    assert_eq!(all, (1..=12).map(expected).collect());

    let group = (GROUP, HALI_PORT);
    let say = |text: &str| {
        socket.send_to(text.as_bytes(), group).unwrap();
    };
    let known = || -> Vec<(SocketAddr, usize)> {
        let table = peers.lock();
        let known = table.peers(Instant::now()).into_iter();
        known
            .inspect(|(_, peer)| {
                assert_eq!(
                    peer.origins.keys().collect::<Vec<_>>(),
                    [&Origin::Hali],
                    "and nobody vouches for it"
                );
                assert_eq!(peer.verified, None);
            })
            .map(|(address, peer)| (address, peer.torrents()))
            .collect()
    };
    say_until(
        "the machine is known",
        || say(&packet("machine", now(), &"77".repeat(20))),
        || !known().is_empty(),
    );
    let machine = (SocketAddr::new(address(2), 7000), 1);
    assert_eq!(known(), [machine]);
    let seeded = || seeds.of("acme/a", Instant::now());
    let places = || -> Vec<_> { seeded().into_iter().map(|(place, _)| place).collect() };
    assert_eq!(places(), [(machine.0, [0x77; 20])]);
    // Nor is it asked for a part of a snapshot.
    let content = ContentId([0x77; 20]);
    let candidates = peers.lock().candidates(content, Instant::now());
    assert_eq!(candidates, []);

    assert!(counters.accepted() > 0);
    let forged = packet("other", now(), &"04".repeat(20)).replace("7000", "7001");
    say(&forged);
    say(&packet("other", now() - 60, &"04".repeat(20)));
    say(r#"{"v":"1","nid":"other","ts":0,"models":[]}"#);
    say("{");
    let earlier = packet("machine", now() - 25, &"04".repeat(20));
    say(&earlier);
    for (reason, count) in [
        (Refusal::Wrong, 1),
        (Refusal::Stale, 1),
        (Refusal::Missing, 2),
        (Refusal::Replayed, 1),
    ] {
        until(&format!("{reason} is counted"), || {
            counters.refused(reason) == count
        });
    }
    assert_eq!(known(), [machine]);
    assert_eq!(places(), [(machine.0, [0x77; 20])]);
    end.end(Stop::Crash);
}

#[test]
fn who_repeats_a_packet_of_hali_becomes_nobodys_peer() {
    let Some(lab) = Lab::new(3) else { return };
    let secret = HaliSecret::parse(SECRET).unwrap();
    let ((peers, seeds), counters, end) = lab.start_hali(1, secret, Vec::new());
    let [honest, other] = [2, 3].map(|host| machine(&lab, host));
    let to = |socket: &UdpSocket, text: &str| {
        socket.send_to(text.as_bytes(), (GROUP, HALI_PORT)).unwrap();
    };
    let known = || peers.lock().peers(Instant::now()).len();
    let mut last = String::new();
    say_until(
        "the machine is known",
        || {
            last = packet("machine", now(), &"77".repeat(20));
            to(&honest, &last);
        },
        || known() == 1,
    );
    let before = counters.refused(Refusal::Replayed);
    to(&other, &last);
    until("the repetition is counted", || {
        counters.refused(Refusal::Replayed) > before
    });
    // From beyond the network, where no packet of hali's comes from.
    lab.ip(3, "addr add 10.99.0.3/32 dev eth0");
    let far = lab.inside(3, || UdpSocket::bind(("10.99.0.3", 0)).unwrap());
    // A way back, or the system would drop it.
    lab.ip(1, "route add 10.99.0.0/24 dev eth0");
    lab.inside(3, || {
        let fresh = packet("far", now(), &"77".repeat(20));
        far.send_to(fresh.as_bytes(), (address(1), HALI_PORT))
            .unwrap();
    });
    until("the stranger is counted", || {
        counters.refused(Refusal::Elsewhere) == 1
    });
    assert_eq!(known(), 1);
    assert_eq!(seeds.of("acme/a", Instant::now()).len(), 1);
    end.end(Stop::Crash);
}

#[test]
fn nodes_that_hear_hali_know_that_it_is_no_announcement() {
    let Some(lab) = Lab::new(2) else { return };
    let node = lab.start(1, ring(1), vec![]);
    let socket = machine(&lab, 2);
    until("it is counted", || {
        let text = packet("machine", now(), &"77".repeat(20));
        socket.send_to(text.as_bytes(), (GROUP, HALI_PORT)).unwrap();
        node.counters.refused(Refusal::Hali) > 0
    });
    assert_eq!(node.counters.refused(Refusal::Malformed), 0);
    assert!(node.peers.lock().is_empty());
    node.crash();
}

#[test]
fn a_machine_with_hali_is_reached_by_broadcast_where_multicast_is_not() {
    let Some(lab) = Lab::new(2) else { return };
    lab.block_multicast();
    let socket = machine(&lab, 2);
    let secret = HaliSecret::parse(SECRET).unwrap();
    let (_, _, end) = lab.start_hali(1, secret, vec![seed(1)]);
    assert_eq!(heard(&socket).0.ip(), address(1));
    end.end(Stop::Crash);
}
