use proptest::prelude::*;

use super::*;
use crate::discovery::announcement::{Delivery, Listening};

fn address(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    ([10, 0, high, low], 9492).into()
}

fn id(number: u8) -> ContentId {
    ContentId([number; 20])
}

fn page(node: &str, addresses: &[u16], generation: u32, contents: &[ContentId]) -> Announcement {
    Announcement {
        node: NodeName::new(node).unwrap(),
        boot: UnixMillis(1),
        sequence: 1,
        sent_at: UnixMillis(1),
        listening: Listening::new(addresses.iter().copied().map(address)).unwrap(),
        delivery: Delivery::default(),
        body: Body::Page(Page::all(generation, contents).remove(0)),
    }
}

fn goodbye(node: &str) -> Announcement {
    Announcement {
        body: Body::Goodbye,
        ..page(node, &[1], 0, &[])
    }
}

fn known(table: &PeerTable, now: Instant) -> Vec<SocketAddr> {
    table.peers(now).into_iter().map(|(at, _)| at).collect()
}

fn asked(table: &PeerTable, content: ContentId, now: Instant) -> Vec<SocketAddr> {
    let candidates = table.candidates(content, now);
    candidates.into_iter().map(|one| one.address).collect()
}

#[test]
fn a_peer_is_fresh_then_usable_then_gone() {
    let start = Instant::now();
    let mut table = PeerTable::default();
    table.announced(&page("a", &[1], 0, &[]), start);
    for (after, age) in [
        (0, Some(Age::Fresh)),
        (120, Some(Age::Fresh)),
        (121, Some(Age::Usable)),
        (900, Some(Age::Usable)),
        (901, None),
    ] {
        let now = start + Duration::from_secs(after);
        let peers = table.peers(now);
        assert_eq!(
            peers.first().and_then(|(_, peer)| peer.age(now)),
            age,
            "{after} s"
        );
    }
    table.expire(start + USABLE);
    assert_eq!(table.len(), 1);
    table.expire(start + USABLE + Duration::from_secs(1));
    assert!(table.is_empty() && table.nodes.is_empty());
}

#[test]
fn an_address_says_from_where_and_since_when_it_is_known() {
    let start = Instant::now();
    let later = start + Duration::from_secs(30);
    let mut table = PeerTable::default();
    table.heard(address(1), Origin::LocalService, &[id(1)], start);
    table.announced(&page("a", &[1], 0, &[id(2)]), later);
    let peers = table.peers(later);
    let [(at, peer)] = peers.as_slice() else {
        panic!("one peer: {peers:?}");
    };
    assert_eq!(*at, address(1));
    assert_eq!((peer.first_seen, peer.last_seen), (start, later));
    let origins = [(Origin::LocalService, start), (Origin::Announcement, later)];
    assert_eq!(peer.origins, BTreeMap::from(origins));
    assert_eq!(peer.node.as_ref().unwrap().as_str(), "a");
    assert!(peer.verified.is_none());
    for content in [id(1), id(2)] {
        assert_eq!(asked(&table, content, later), [address(1)]);
    }
}

#[test]
fn a_goodbye_takes_a_node_out_and_nobody_else() {
    let now = Instant::now();
    let mut table = PeerTable::default();
    table.announced(&page("a", &[1, 2], 0, &[id(1)]), now);
    table.announced(&page("b", &[3], 0, &[id(1)]), now);
    table.heard(address(2), Origin::Static, &[], now);
    table.heard(address(4), Origin::LocalService, &[id(1)], now);
    table.announced(&goodbye("a"), now);
    assert_eq!(known(&table, now), [address(2), address(4), address(3)]);
    assert_eq!(asked(&table, id(1), now), [2, 3].map(address));
}

#[test]
fn a_node_that_moves_leaves_its_old_address() {
    let now = Instant::now();
    let mut table = PeerTable::default();
    table.announced(&page("a", &[1, 2], 0, &[]), now);
    table.announced(&page("a", &[2, 3], 0, &[]), now);
    assert_eq!(known(&table, now), [address(2), address(3)]);
}

#[test]
fn pages_add_up_within_a_generation_and_not_across() {
    let now = Instant::now();
    let mut table = PeerTable::default();
    let contents: Vec<_> = (0..100).map(id).collect();
    let pages = Page::all(7, &contents);
    let send = |table: &mut PeerTable, page: &Page| {
        let announcement = Announcement {
            body: Body::Page(page.clone()),
            ..super::tests::page("a", &[1], 0, &[])
        };
        table.announced(&announcement, now);
        table.holds(&announcement.node).len()
    };
    assert_eq!(send(&mut table, &pages[2]), 10);
    assert_eq!(send(&mut table, &pages[0]), 55);
    assert_eq!(send(&mut table, &pages[1]), 100);
    assert_eq!(send(&mut table, &pages[1]), 100);
    let next = Page::all(8, &contents[..3]);
    assert_eq!(send(&mut table, &next[0]), 3);
    assert_eq!(send(&mut table, &pages[0]), 3, "of an older generation");
    // Another life counts its generations anew.
    let reborn = Announcement {
        boot: UnixMillis(2),
        ..page("a", &[1], 0, &[id(200)])
    };
    table.announced(&reborn, now);
    assert_eq!(table.holds(&reborn.node), [id(200)]);
}

#[test]
fn who_was_reached_is_asked_first_and_who_was_not_last() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut table = PeerTable::default();
    for (node, number, seen) in [("b", 2, 0), ("c", 3, 5), ("d", 4, 1), ("f", 6, 4)] {
        table.announced(&page(node, &[number], 0, &[id(1)]), at(seen));
    }
    table.announced(&page("e", &[5], 0, &[id(2)]), at(1));
    assert_eq!(asked(&table, id(1), at(10)), [3, 6, 4, 2].map(address));
    table.verified(address(2), at(6));
    table.failed(address(3), at(7));
    table.failed(address(6), at(8));
    assert_eq!(asked(&table, id(1), at(10)), [2, 4, 3, 6].map(address));
    table.failed(address(2), at(9));
    assert_eq!(asked(&table, id(1), at(10)), [4, 3, 6, 2].map(address));
}

#[test]
fn a_node_is_asked_at_one_of_its_addresses() {
    let now = Instant::now();
    let mut table = PeerTable::default();
    table.announced(&page("a", &[7, 1, 5], 0, &[id(1)]), now);
    assert_eq!(asked(&table, id(1), now), [address(7)]);
    table.failed(address(7), now);
    assert_eq!(asked(&table, id(1), now), [address(1)]);
    table.failed(address(1), now);
    table.verified(address(5), now);
    let [candidate] = table.candidates(id(1), now).try_into().unwrap();
    assert_eq!(candidate.address, address(5));
    assert_eq!(candidate.node.unwrap().as_str(), "a");
}

#[test]
fn whom_nobody_vouches_for_is_not_asked() {
    let start = Instant::now();
    let mut table = PeerTable::default();
    table.heard(address(1), Origin::LocalService, &[id(1)], start);
    table.heard(address(2), Origin::Static, &[], start);
    table.announced(&page("c", &[3], 0, &[id(1)]), start);
    assert_eq!(asked(&table, id(1), start), [2, 3].map(address));
    // What strangers say of an address does not make older words of others worth more.
    let later = start + USABLE + Duration::from_secs(1);
    for number in [2, 3] {
        table.heard(address(number), Origin::LocalService, &[id(1)], later);
    }
    assert_eq!(known(&table, later).len(), 2);
    assert_eq!(asked(&table, id(1), later), []);
}

#[test]
fn this_node_is_no_peer_of_its_own_whoever_names_it() {
    let now = Instant::now();
    let mut table = PeerTable::default();
    let own = [address(1).ip(), "fd00::1".parse().unwrap()];
    table.heard(address(1), Origin::Static, &[], now);
    table.set_here(BTreeSet::from(own), 9492);
    assert!(table.is_empty(), "known before");
    table.announced(&page("a", &[1, 2], 0, &[id(1)]), now);
    for named in [
        "[fd00::1]:9492",
        "127.0.0.1:9492",
        "[::1]:9492",
        "0.0.0.0:9492",
        "[::ffff:10.0.0.1]:9492",
    ] {
        table.heard(named.parse().unwrap(), Origin::Static, &[], now);
    }
    assert_eq!(known(&table, now), [address(2)]);
    table.heard("10.0.0.1:9493".parse().unwrap(), Origin::Static, &[], now);
    assert_eq!(table.len(), 2, "another agent on this host");
}

#[test]
fn a_flood_of_unsigned_addresses_displaces_only_its_own() {
    let start = Instant::now();
    let mut table = PeerTable::default();
    for number in 0..3500 {
        table.announced(&page(&format!("n{number}"), &[number], 0, &[id(1)]), start);
    }
    for number in 10_000..13_000 {
        table.heard(address(number), Origin::LocalService, &[id(1)], start);
    }
    assert!(table.len() <= MAX_PEERS);
    let vouched = |table: &PeerTable| table.peers.values().filter(|peer| peer.vouched()).count();
    assert_eq!(vouched(&table), 3500);
    // Announcements take the place of what nobody vouches for.
    for number in 3500..4000 {
        table.announced(&page(&format!("n{number}"), &[number], 0, &[id(1)]), start);
    }
    assert_eq!(vouched(&table), 4000);
    for number in 4000..4200 {
        table.announced(&page(&format!("n{number}"), &[number], 0, &[id(1)]), start);
    }
    table.heard(address(9999), Origin::LocalService, &[], start);
    assert_eq!((vouched(&table), table.len()), (MAX_PEERS, MAX_PEERS));
}

#[test]
fn what_the_tracker_names_is_vouched_for_and_may_be_as_much_as_a_node_announces() {
    let start = Instant::now();
    let mut table = PeerTable::default();
    for number in 0..400_u16 {
        let [high, low] = number.to_be_bytes();
        let content = ContentId([[high; 10], [low; 10]].concat().try_into().unwrap());
        table.heard(address(1), Origin::LocalService, &[content], start);
        table.heard(address(2), Origin::Tracker, &[content], start);
    }
    let torrents: Vec<usize> = table
        .peers(start)
        .iter()
        .map(|(_, peer)| peer.torrents())
        .collect();
    assert_eq!(torrents, [64, 360]);
    for number in 10_000..13_000 {
        table.heard(address(number), Origin::LocalService, &[], start);
    }
    assert!(known(&table, start).contains(&address(2)));
    assert_eq!(Origin::Tracker.name(), "tracker");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_table_is_bounded(events in prop::collection::vec((0_u8..3, any::<u16>(), 0_u64..100), 0..300), seed: u16) {
        let mut now = Instant::now();
        let mut table = PeerTable::default();
        // Nearly full from the start.
        for number in 0..4090_u16 {
            table.heard(address(number.wrapping_add(seed)), Origin::Static, &[], now);
        }
        for (what, number, after) in events {
            now += Duration::from_secs(after);
            match what {
                0 => table.heard(address(number), Origin::LocalService, &[id(1), id(2)], now),
                1 => table.announced(&page(&format!("m{number}"), &[number, number ^ 1], 0, &[id(1)]), now),
                _ => table.announced(&goodbye(&format!("m{number}")), now),
            }
            prop_assert!(table.len() <= MAX_PEERS);
            prop_assert!(table.nodes.len() <= table.len() + 1);
        }
        table.expire(now);
        for (_, peer) in table.peers(now) {
            prop_assert!(peer.age(now).is_some() && peer.first_seen <= peer.last_seen);
        }
    }
}
