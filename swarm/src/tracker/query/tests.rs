use proptest::prelude::*;

use super::*;

/// As aria2 1.36 writes it, all in one line.
const ARIA2: &str = "info_hash=%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA&peer_id=A2-1-36-0-%F1%05%AA%00xyzabc&uploaded=0&downloaded=0&left=16384&compact=1&key=A2-1-36-0-&numwant=50&no_peer_id=1&port=6881&event=started&supportcrypto=1";
/// As libtorrent 2.0.8 writes it.
const LIBTORRENT: &str = "info_hash=abcdefghijklmnopqrst&peer_id=-LT2080-abcdefghijkl&port=6881&uploaded=0&downloaded=0&left=0&corrupt=0&key=1A2B3C4D&event=completed&numwant=200&compact=1&no_peer_id=1&supportcrypto=1&redundant=0&ipv6=fd00%3A%3A1";

/// A sound query with one more parameter.
fn with(more: &str) -> String {
    format!(
        "info_hash=abcdefghijklmnopqrst&peer_id=-XX0000-abcdefghijkl&port=1&uploaded=0&downloaded=0&left=5&{more}"
    )
}

#[test]
fn what_aria2_writes_is_read() {
    let leecher = Announce::parse(ARIA2).unwrap();
    assert_eq!(leecher.info_hash, ContentId([0xaa; 20]));
    assert_eq!(&leecher.peer_id.0, b"A2-1-36-0-\xf1\x05\xaa\x00xyzabc");
    assert_eq!(leecher.port.get(), 6881);
    assert_eq!(leecher.left, 16384);
    assert_eq!(leecher.event, Some(Event::Started));
    assert_eq!(leecher.form, Form::Compact);
}

#[test]
fn what_libtorrent_writes_is_read() {
    let seed = Announce::parse(LIBTORRENT).unwrap();
    assert_eq!(seed.info_hash, ContentId(*b"abcdefghijklmnopqrst"));
    assert_eq!(seed.left, 0);
    assert_eq!(seed.event, Some(Event::Completed));
    assert_eq!(seed.numwant, Some(200));
    assert_eq!(seed.ip, None);
}

#[test]
fn what_may_be_said_in_several_ways_is_understood() {
    let parse = |more: &str| Announce::parse(&with(more)).unwrap();
    assert_eq!(parse("event=").event, None);
    assert_eq!(parse("event=paused").event, None);
    assert_eq!(parse("event=stopped").event, Some(Event::Stopped));
    assert_eq!(parse("numwant=-1").numwant, None);
    assert_eq!(parse("numwant=99999999999").numwant, Some(u32::MAX));
    assert_eq!(parse("compact=0").form, Form::Dictionaries { ids: true });
    assert_eq!(
        parse("compact=0&no_peer_id=1").form,
        Form::Dictionaries { ids: false }
    );
    assert_eq!(parse("no_peer_id=1").form, Form::Compact);
    assert_eq!(parse("ip=fd00%3A%3A1").ip, Some("fd00::1".parse().unwrap()));
    assert_eq!(parse("ip=host.example").ip, None);
    assert_eq!(parse("&&=&x&y=1=2").left, 5);
}

#[test]
fn what_is_missing_twice_or_impossible_is_named() {
    for name in [
        "info_hash",
        "peer_id",
        "port",
        "uploaded",
        "downloaded",
        "left",
    ] {
        let sound = with("numwant=1");
        let without: Vec<&str> = sound
            .split('&')
            .filter(|part| !part.starts_with(&format!("{name}=")))
            .collect();
        assert_eq!(
            Announce::parse(&without.join("&")),
            Err(QueryError::Missing(name))
        );
    }
    for (more, error) in [
        ("left=5", QueryError::Repeated("left")),
        (
            "info_hash=abcdefghijklmnopqrst",
            QueryError::Repeated("info_hash"),
        ),
        ("numwant=many", QueryError::Value("numwant")),
    ] {
        assert_eq!(Announce::parse(&with(more)), Err(error), "{more}");
    }
    for (sound, bad, name) in [
        ("info_hash=a", "info_hash=", "info_hash"),
        ("-abcdefghijkl", "-abcdefghijklm", "peer_id"),
        ("-abcdefghijkl", "-abcdefghij%6b%zz", "peer_id"),
        ("port=1", "port=0", "port"),
        ("port=1", "port=65536", "port"),
        ("left=5", "left=-5", "left"),
        ("left=5", "left=+5", "left"),
        ("left=5", "left=", "left"),
        ("left=5", "left=18446744073709551616", "left"),
    ] {
        let query = with("numwant=1").replacen(sound, bad, 1);
        assert_eq!(
            Announce::parse(&query),
            Err(QueryError::Value(name)),
            "{query}"
        );
    }
    assert_eq!(
        Announce::parse(&with(&"x".repeat(MAX_QUERY))),
        Err(QueryError::TooLong)
    );
}

#[test]
fn a_scrape_names_some_torrents_and_not_all() {
    let one = "info_hash=abcdefghijklmnopqrst";
    assert_eq!(
        parse_scrape(&format!("{one}&x=y&{one}")),
        Ok(vec![ContentId(*b"abcdefghijklmnopqrst"); 2])
    );
    assert_eq!(parse_scrape(""), Err(QueryError::Missing("info_hash")));
    assert_eq!(
        parse_scrape("info_hash=abc"),
        Err(QueryError::Value("info_hash"))
    );
    let many = vec![one; MAX_SCRAPED + 1].join("&");
    assert_eq!(parse_scrape(&many), Err(QueryError::TooMany));
    assert_eq!(
        parse_scrape(&"x".repeat(MAX_QUERY + 1)),
        Err(QueryError::TooLong)
    );
}

#[test]
fn fuzz_queries() {
    let corpus = [
        ARIA2,
        LIBTORRENT,
        &with("compact=0&ip=10.0.0.1&event=stopped&numwant=-1"),
    ];
    let corpus = corpus.map(|query| query.as_bytes().to_vec());
    crate::fuzz::run("tracker query", &corpus, |bytes| {
        let query = String::from_utf8_lossy(bytes);
        if let Ok(announce) = Announce::parse(&query) {
            assert_eq!(Announce::parse(&announce.to_query()), Ok(announce));
        }
        if let Ok(torrents) = parse_scrape(&query) {
            assert!((1..=MAX_SCRAPED).contains(&torrents.len()));
        }
    });
}

pub(in crate::tracker) fn announces() -> impl Strategy<Value = Announce> {
    let event = prop::option::of(prop::sample::select(vec![
        Event::Started,
        Event::Completed,
        Event::Stopped,
    ]));
    let form = prop::sample::select(vec![
        Form::Compact,
        Form::Dictionaries { ids: true },
        Form::Dictionaries { ids: false },
    ]);
    let who = (
        any::<[u8; 20]>(),
        any::<[u8; 20]>(),
        any::<NonZeroU16>(),
        any::<Option<IpAddr>>(),
    );
    let numbers = (
        any::<u64>(),
        any::<u64>(),
        any::<u64>(),
        any::<Option<u32>>(),
    );
    (who, numbers, event, form).prop_map(
        |((info_hash, peer_id, port, ip), (uploaded, downloaded, left, numwant), event, form)| {
            Announce {
                info_hash: ContentId(info_hash),
                peer_id: PeerId(peer_id),
                port,
                ip,
                uploaded,
                downloaded,
                left,
                event,
                numwant,
                form,
            }
        },
    )
}

proptest! {
    #[test]
    fn queries_survive(announce in announces()) {
        prop_assert_eq!(Announce::parse(&announce.to_query()), Ok(announce));
    }

    #[test]
    fn anything_may_be_asked(query in "\\PC{0,200}", parts in prop::collection::vec("(info_hash|peer_id|port|left|ip|event)=[a-z0-9%+:.-]{0,24}", 0..12)) {
        let _ = Announce::parse(&query);
        let _ = parse_scrape(&query);
        let _ = Announce::parse(&parts.join("&"));
        let _ = parse_scrape(&parts.join("&"));
    }
}
