//! Nodes on hosts in network namespaces: they find each other by multicast and by broadcast, and beside an attacker, who
//! then turns to the port at which they serve. Needs root.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attack;
mod hali;
mod lab;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use modelcache_swarm::discovery::announcement::{
    Announcement, Body, ContentId, Delivery, Listening, Page,
};
use modelcache_swarm::discovery::clock::Now;
use modelcache_swarm::discovery::refusal::Refusal;
use modelcache_swarm::discovery::service::{GROUP, Peers};
use modelcache_swarm::discovery::wire::{MAX_DATAGRAM, decode, encode};

use lab::{Lab, Node, PORT, Stop, address, address_v6, key, name, ring, until};

const LATELY: Duration = Duration::from_secs(3);

fn id(number: u8) -> ContentId {
    ContentId([number; 20])
}

/// Each of the nodes knows the others, and what they hold.
fn wait_until_all_know_all(nodes: &[(u8, &Node)]) {
    for (host, node) in nodes {
        for (other, _) in nodes.iter().filter(|(other, _)| other != host) {
            until(&format!("host {host} knows host {other}"), || {
                let known = node.knows(*other, LATELY);
                let candidates = node.peers.lock().candidates(id(*other), Instant::now());
                known.contains(&address(*other))
                    && known.contains(&address_v6(*other))
                    && candidates.iter().any(|one| one.node == Some(name(*other)))
            });
        }
    }
}

#[test]
fn hosts_find_each_other_by_multicast() {
    let Some(lab) = Lab::new(4) else { return };
    let [one, two, three] = [1, 2, 3].map(|host| lab.start(host, ring(1), vec![id(host)]));
    wait_until_all_know_all(&[(1, &one), (2, &two), (3, &three)]);

    // Nobody is deaf, so nobody broadcasts any more: a host that has not joined the group hears nothing.
    let listener = lab.inside(4, || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, GROUP.port)).unwrap()
    });
    listener
        .set_read_timeout(Some(Duration::from_millis(1200)))
        .unwrap();
    until("broadcast ends", || listener.recv(&mut [0; 2000]).is_err());

    // Who says goodbye is gone at once, long before its entries would be too old.
    three.leave();
    for node in [&one, &two] {
        until("host 3 is gone", || node.knows(3, Duration::MAX).is_empty());
        assert_eq!(node.peers.lock().candidates(id(3), Instant::now()), []);
    }
    one.leave();
    two.leave();
}

#[test]
fn hosts_find_each_other_by_broadcast_where_multicast_does_not_arrive() {
    let Some(lab) = Lab::new(3) else { return };
    lab.block_multicast();
    let [one, two, three] = [1, 2, 3].map(|host| lab.start(host, ring(1), vec![id(host)]));
    wait_until_all_know_all(&[(1, &one), (2, &two), (3, &three)]);
    for node in [one, two, three] {
        node.leave();
    }
}

#[test]
fn interfaces_and_addresses_come_and_go() {
    let Some(lab) = Lab::new(2) else { return };
    lab.ip(2, "link set eth0 down");
    let [one, two] = [1, 2].map(|host| lab.start(host, ring(1), vec![id(host)]));
    lab.ip(2, "link set eth0 up");
    lab.ip(
        2,
        &format!("addr replace {}/64 dev eth0 nodad", address_v6(2)),
    );
    wait_until_all_know_all(&[(1, &one), (2, &two)]);

    let moved: IpAddr = Ipv4Addr::new(10, 83, 0, 99).into();
    lab.ip(2, &format!("addr del {}/16 dev eth0", address(2)));
    lab.ip(2, &format!("addr add {moved}/16 brd + dev eth0"));
    until("host 2 has moved", || {
        let known = one.knows(2, Duration::MAX);
        known.contains(&moved) && !known.contains(&address(2))
    });
    until("host 2 still hears", || {
        two.knows(1, LATELY).contains(&address(1))
    });
    one.leave();
    two.leave();
}

/// While a secret follows another, some nodes know both and some only one of them.
#[test]
fn nodes_hear_each_other_while_keys_change() {
    let Some(lab) = Lab::new(3) else { return };
    let both = modelcache_swarm::secret::Keyring::new(key(2), Some(key(1)));
    let old = lab.start(1, ring(1), vec![id(1)]);
    let changing = lab.start(2, both, vec![id(2)]);
    let new = lab.start(3, ring(2), vec![id(3)]);
    wait_until_all_know_all(&[(1, &old), (2, &changing)]);
    wait_until_all_know_all(&[(2, &changing), (3, &new)]);
    assert!(old.knows(3, Duration::MAX).is_empty() && new.knows(1, Duration::MAX).is_empty());
    until("strangers are counted", || {
        old.counters.refused(Refusal::UnknownKey) > 0
    });
    for node in [old, changing, new] {
        node.leave();
    }
}

/// What an honest node with this name would send from the attacker's host.
fn forged(sequence: u64) -> Announcement {
    let now = Now::read();
    Announcement {
        node: name(9),
        boot: now.wall,
        sequence,
        sent_at: now.wall,
        listening: Listening::new([(address(3), PORT).into()]).unwrap(),
        delivery: Delivery::default(),
        body: Body::Page(Page::all(0, &[id(9)]).remove(0)),
    }
}

/// Sends until the victim has counted it: UDP may lose any datagram.
fn sent_until_counted(
    victim: &Node,
    reason: Refusal,
    attacker: &UdpSocket,
    mut datagram: impl FnMut(u64) -> Vec<u8>,
) {
    let before = victim.counters.refused(reason);
    let mut sequence = 0;
    until(&format!("{reason} is counted"), || {
        sequence += 1;
        attacker
            .send_to(&datagram(sequence), (GROUP.v4, GROUP.port))
            .unwrap();
        std::thread::sleep(Duration::from_millis(150));
        victim.counters.refused(reason) > before
    });
}

/// As from a program that knows the format but has no key.
fn unsigned(announcement: &Announcement) -> Vec<u8> {
    let mut datagram = encode(announcement, &key(2));
    datagram[4] &= !1;
    datagram.drain(5..13);
    datagram.truncate(datagram.len() - 32);
    datagram
}

#[test]
fn an_attacker_teaches_nobody_anything() {
    let Some(lab) = Lab::new(3) else { return };
    let [victim, honest] = [1, 2].map(|host| lab.start(host, ring(1), vec![id(host)]));
    wait_until_all_know_all(&[(1, &victim), (2, &honest)]);
    let attacker = lab.inside(3, || UdpSocket::bind((address(3), 0)).unwrap());

    sent_until_counted(&victim, Refusal::Missing, &attacker, |n| {
        unsigned(&forged(n))
    });
    sent_until_counted(&victim, Refusal::UnknownKey, &attacker, |n| {
        encode(&forged(n), &key(2))
    });
    sent_until_counted(&victim, Refusal::Wrong, &attacker, |n| {
        let mut datagram = encode(&forged(n), &key(2));
        datagram[5..13].copy_from_slice(key(1).id().as_bytes());
        datagram
    });
    sent_until_counted(&victim, Refusal::Malformed, &attacker, |_| b"MC".to_vec());
    sent_until_counted(&victim, Refusal::Malformed, &attacker, |_| {
        vec![0x4d; MAX_DATAGRAM + 1]
    });
    sent_until_counted(&victim, Refusal::Malformed, &attacker, |_| {
        vec![0x4d; 60_000]
    });
    sent_until_counted(&victim, Refusal::Version, &attacker, |n| {
        let mut datagram = encode(&forged(n), &key(1));
        datagram[3] = 9;
        datagram
    });

    // What the honest node says, recorded and repeated from here: whole, and cut short.
    let recorder = lab.inside(3, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, GROUP.port)).unwrap();
        let IpAddr::V4(own) = address(3) else {
            panic!("an IPv4 address")
        };
        socket.join_multicast_v4(&GROUP.v4, &own).unwrap();
        socket
    });
    let record = || loop {
        let mut datagram = vec![0; 2000];
        let (len, from) = recorder.recv_from(&mut datagram).unwrap();
        datagram.truncate(len);
        if from.ip() == address(2) {
            return datagram;
        }
    };
    sent_until_counted(&victim, Refusal::Replayed, &attacker, |_| record());
    sent_until_counted(&victim, Refusal::Wrong, &attacker, |_| {
        let mut datagram = record();
        datagram.pop();
        datagram
    });
    // Heard here and never there, it is refused for where it comes from.
    let relayed = Announcement {
        node: name(2),
        boot: Now::read().wall.plus(Duration::from_secs(5)),
        listening: Listening::new([(address(2), PORT).into()]).unwrap(),
        ..forged(1)
    };
    sent_until_counted(&victim, Refusal::Elsewhere, &attacker, |_| {
        let now = Now::read().wall;
        encode(
            &Announcement {
                sent_at: now,
                ..relayed.clone()
            },
            &key(1),
        )
    });

    flood(&lab, &victim);
    until("the honest node is still heard", || {
        victim
            .knows(2, Duration::from_millis(700))
            .contains(&address(2))
    });
    let now = Instant::now();
    assert!(
        victim
            .peers
            .lock()
            .peers(now)
            .iter()
            .all(|(_, peer)| peer.node == Some(name(2)))
    );
    assert_eq!(victim.peers.lock().candidates(id(9), now), []);
    honest.leave();
    victim.leave();
}

/// An announcement that names a key but is signed with another.
fn wrong(named: u8) -> Vec<u8> {
    let mut datagram = encode(&forged(1), &key(9));
    datagram[5..13].copy_from_slice(key(named).id().as_bytes());
    datagram
}

/// Unsigned, forged and random datagrams from 200 addresses at once, as fast as two threads can.
fn flood(lab: &Lab, victim: &Node) {
    let hosts: Vec<Ipv4Addr> = (1..=200)
        .map(|last| Ipv4Addr::new(10, 83, 7, last))
        .collect();
    for host in &hosts {
        lab.ip(3, &format!("addr add {host}/32 dev eth0"));
    }
    let sockets: Vec<UdpSocket> = lab.inside(3, || {
        let bind = |host: &Ipv4Addr| {
            let socket = UdpSocket::bind((*host, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        hosts.iter().map(bind).collect()
    });
    let kinds = [wrong(1), unsigned(&forged(1)), vec![0x55; 1400]];
    let refused = || {
        Refusal::ALL
            .map(|reason| victim.counters.refused(reason))
            .iter()
            .sum::<u64>()
    };
    let (before, accepted) = (refused(), victim.counters.accepted());
    let began = Instant::now();
    let sent: usize = std::thread::scope(|scope| {
        let threads = [0, 1].map(|thread| {
            let (sockets, kinds) = (&sockets, &kinds);
            scope.spawn(move || {
                let turns = (0..100_000).filter(|turn| {
                    let socket = &sockets[(turn * 2 + thread) % sockets.len()];
                    let datagram = &kinds[turn % kinds.len()];
                    socket.send_to(datagram, (GROUP.v4, GROUP.port)).is_ok()
                });
                turns.count()
            })
        });
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    let seconds = began.elapsed().as_secs_f64();
    until("the flood is dropped for its size", || {
        victim.counters.refused(Refusal::TooMany) > 0
    });
    until("the honest node is heard after it", || {
        victim.counters.accepted() > accepted
    });
    eprintln!(
        "{sent} datagrams in {seconds:.1} s; {} read and refused, {} of them for being too many; {} accepted meanwhile",
        refused() - before,
        victim.counters.refused(Refusal::TooMany),
        victim.counters.accepted() - accepted,
    );
}

/// A datagram recorded before the victim's restart is refused after it, even from the sender's own address.
#[test]
fn a_replay_is_refused_after_a_restart() {
    let Some(lab) = Lab::new(3) else { return };
    let [victim, honest] = [1, 2].map(|host| lab.start(host, ring(1), vec![id(host)]));
    let recorder = lab.inside(3, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, GROUP.port)).unwrap();
        let IpAddr::V4(own) = address(3) else {
            panic!("an IPv4 address")
        };
        socket.join_multicast_v4(&GROUP.v4, &own).unwrap();
        socket
    });
    wait_until_all_know_all(&[(1, &victim), (2, &honest)]);
    let mut earlier = Vec::new();
    while earlier.len() < 3 {
        let mut datagram = vec![0; 2000];
        let (len, from) = recorder.recv_from(&mut datagram).unwrap();
        datagram.truncate(len);
        if from.ip() == address(2) {
            assert!(decode(&datagram, &ring(1)).is_ok());
            earlier.push(datagram);
        }
    }
    honest.crash();
    victim.crash();
    lab.ip(2, "link set eth0 down");
    lab.ip(3, &format!("addr add {}/16 dev eth0", address(2)));
    let attacker = lab.inside(3, || UdpSocket::bind((address(2), 0)).unwrap());

    let victim = lab.start(1, ring(1), Vec::new());
    // Long enough for the victim to believe those that are news.
    let began = Instant::now();
    until("replays are refused", || {
        for datagram in &earlier {
            attacker.send_to(datagram, (GROUP.v4, GROUP.port)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        began.elapsed() > Duration::from_secs(3)
            && victim.counters.refused(Refusal::PossiblyReplayed) > 10
    });
    assert_eq!(victim.counters.accepted(), 0);
    assert!(victim.peers.lock().is_empty());
    victim.leave();
}

/// Whether a client is known that listens there and names torrents.
fn names_torrents(peers: &Peers, address: SocketAddr) -> bool {
    let table = peers.lock();
    let known = table.peers(Instant::now());
    known
        .iter()
        .any(|(at, peer)| *at == address && peer.torrents() > 0)
}

/// Clients that have the same torrent find each other, and believe nothing from an address outside their networks.
#[test]
fn bittorrent_clients_find_each_other() {
    let Some(lab) = Lab::new(3) else { return };
    let (one, one_end) = lab.start_client(1, vec![id(1), id(7)]);
    let (two, two_end) = lab.start_client(2, vec![id(7)]);
    for (peers, other) in [(&one, 2), (&two, 1)] {
        until("the other client is known", || {
            names_torrents(peers, (address(other), PORT).into())
        });
    }
    lab.ip(3, "addr add 192.0.2.3/24 dev eth0");
    let packet = modelcache_swarm::discovery::lsd::encode(
        (Ipv4Addr::new(239, 192, 152, 143), 6771).into(),
        4711,
        id(7),
        "x",
    );
    for (host, near) in [("192.0.2.3", false), ("10.83.0.3", true)] {
        let host: Ipv4Addr = host.parse().unwrap();
        let late = lab.inside(3, || {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            socket.set_multicast_if_v4(&host).unwrap();
            socket
                .bind(&std::net::SocketAddr::from((host, 0)).into())
                .unwrap();
            UdpSocket::from(socket)
        });
        let known = |peers: &Peers| names_torrents(peers, (host, 4711).into());
        if near {
            until("the late client is known", || {
                late.send_to(&packet, "239.192.152.143:6771").unwrap();
                std::thread::sleep(Duration::from_millis(150));
                known(&one) && known(&two)
            });
        } else {
            for _ in 0..5 {
                late.send_to(&packet, "239.192.152.143:6771").unwrap();
            }
        }
        assert_eq!(known(&one), near);
    }
    one_end.end(Stop::Goodbye);
    two_end.end(Stop::Goodbye);
}
