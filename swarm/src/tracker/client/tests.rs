use std::sync::Mutex;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::discovery::announcement::ContentId;
use crate::discovery::clock::UnixMillis;
use crate::secret::{Key, Keyring};
use crate::tracker::query::Event;
use crate::tracker::{Admission, Tracker};

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const ONE: ContentId = ContentId([1; 20]);
const TWO: ContentId = ContentId([2; 20]);

fn ring() -> Keyring {
    Keyring::new(Key::parse(SECRET).unwrap(), None)
}

/// A tracker on loopback that passes on what it was asked. It was started long ago.
struct Served {
    url: String,
    heard: mpsc::UnboundedReceiver<Announce>,
}

type Shared = (Arc<Mutex<Tracker>>, mpsc::UnboundedSender<Announce>);

async fn serve(answer: Option<&'static [u8]>) -> Served {
    let began = Now::read();
    let long_ago = Now {
        wall: UnixMillis(began.wall.0 - 60_000),
        ..began
    };
    let mut tracker = Tracker::new(Admission::Private, 1, long_ago);
    tracker.register([ONE, TWO].into());
    let (sender, heard) = mpsc::unbounded_channel();
    let answering = move |State((tracker, heard)): State<Shared>, RawQuery(query): RawQuery| async move {
        let query = query.unwrap();
        heard.send(Announce::parse(&query).unwrap()).unwrap();
        let source = std::net::Ipv4Addr::LOCALHOST.into();
        let answered = tracker
            .lock()
            .unwrap()
            .announce(&query, source, &ring(), Now::read());
        answer.map_or_else(|| answered.unwrap(), <[u8]>::to_vec)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new()
        .route("/announce", get(answering))
        .with_state((Arc::new(Mutex::new(tracker)), sender));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Served { url, heard }
}

fn client(url: &str, host: u8, peers: &Peers) -> (Client, mpsc::UnboundedReceiver<&'static str>) {
    let (sender, results) = mpsc::unbounded_channel();
    let settings = Settings {
        tracker: url.parse().unwrap(),
        keys: Keys::set_by_hand(ring()).1,
        address: SocketAddr::new([10, 0, 0, host].into(), 9492),
        count: Arc::new(move |result| {
            let _ = sender.send(result);
        }),
    };
    (Client::start(settings, peers.clone()).unwrap(), results)
}

#[tokio::test]
async fn nodes_find_each_other_by_the_tracker() {
    let mut served = serve(None).await;
    let [theirs, ours] = [Peers::default(), Peers::default()];
    let (seed, mut results) = client(&served.url, 1, &theirs);
    seed.announce([(ONE, 0)].into());
    assert_eq!(results.recv().await, Some(OK));
    let heard = served.heard.recv().await.unwrap();
    assert_eq!(
        (heard.info_hash, heard.left, heard.event),
        (ONE, 0, Some(Event::Started))
    );
    assert!(theirs.lock().is_empty(), "it is alone");

    let (leecher, mut results) = client(&format!("{}/announce", served.url), 2, &ours);
    leecher.announce([(ONE, 5), (TWO, 7)].into());
    assert_eq!(results.recv().await, Some(OK));
    assert_eq!(results.recv().await, Some(OK));
    {
        let table = ours.lock();
        let known = table.peers(Instant::now());
        let [(address, peer)] = known[..] else {
            panic!("{known:?}")
        };
        assert_eq!(address, "10.0.0.1:9492".parse().unwrap());
        assert_eq!(
            peer.origins.keys().copied().collect::<Vec<_>>(),
            [Origin::Tracker]
        );
        assert_eq!(peer.torrents(), 1);
    }
    served.heard.recv().await.unwrap();
    served.heard.recv().await.unwrap();
    leecher.announce([(ONE, 0), (TWO, 7)].into());
    let heard = served.heard.recv().await.unwrap();
    assert_eq!(
        (heard.info_hash, heard.left, heard.event),
        (ONE, 0, Some(Event::Completed))
    );
    assert_eq!(results.recv().await, Some(OK));
    leecher.stop().await;
    let mut left = [
        served.heard.recv().await.unwrap(),
        served.heard.recv().await.unwrap(),
    ];
    left.sort_by_key(|announce| announce.info_hash);
    assert_eq!(
        left.map(|announce| (announce.info_hash, announce.event)),
        [ONE, TWO].map(|torrent| (torrent, Some(Event::Stopped)))
    );
}

#[tokio::test]
async fn what_anybody_could_have_written_is_not_believed() {
    for (answer, result) in [
        (&b"d8:completei1e10:incompletei0e8:intervali120e12:min intervali30e5:peers6:\x0a\x00\x00\x09\x25\x14e"[..], "unsigned"),
        (b"d14:failure reason2:noe", "refused"),
        (b"", "unsigned"),
        (&[b'x'; MAX_ANSWER + 1], "malformed"),
    ] {
        let served = serve(Some(answer)).await;
        let peers = Peers::default();
        let (client, mut results) = client(&served.url, 1, &peers);
        client.announce([(ONE, 0)].into());
        assert_eq!(results.recv().await, Some(result));
        assert!(peers.lock().is_empty());
    }
}

#[tokio::test]
async fn a_tracker_that_is_away_or_none_is_told_of() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let served = serve(None).await;
    for (url, result) in [
        (url, "unreachable"),
        (format!("{}/elsewhere", served.url), "malformed"),
    ] {
        let (client, mut results) = client(&url, 1, &Peers::default());
        client.announce([(ONE, 0)].into());
        assert_eq!(results.recv().await, Some(result));
        client.stop().await;
    }
}

#[test]
fn addresses_of_trackers_are_read() {
    let url = |text: &str| text.parse::<TrackerUrl>().map(|url| url.0.to_string());
    assert_eq!(
        url("http://operator:9488").unwrap(),
        "http://operator:9488/announce"
    );
    assert_eq!(
        url("http://[fd00::1]:1/announce/x").unwrap(),
        "http://[fd00::1]:1/announce/x"
    );
    for bad in [
        "",
        "operator:9488",
        "https://operator",
        "udp://operator:1",
        "http://a@b",
        "http://a?b",
        "http://a#b",
    ] {
        assert!(url(bad).is_err(), "{bad}");
    }
}
