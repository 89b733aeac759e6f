//! Who takes from whom, by the links between them.

use tokio::net::TcpSocket;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_gives_nothing_to_strangers() {
    let bytes = content(100_000, 1);
    let (take, _) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, sent) = holder(&[(&take, bytes)]).await;
    let mut stream = TcpStream::connect(uploader.local_addr()).await.unwrap();
    let hello = wire::handshake(&hash_of(&take), &[1; 20]);
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");
    assert_eq!(sent.load(Ordering::Relaxed), 0);
}

/// More connections than there are places for strangers, all of which say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_member_out() {
    let bytes = content(100_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, _) = holder(&[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    let mut silent = Vec::new();
    for _ in 0..200 {
        let flood = TcpSocket::new_v4().unwrap();
        flood.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(flood.connect(take.holder).await.unwrap());
    }
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
    // The first ones had to make room, and were not left open.
    let closed = silent[0].read(&mut [0]).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_of_the_same_cluster_take_from_each_other() {
    let bytes = content(100_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, sent) = holder(&[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    for (security, label) in [
        (with_key(2, Mode::Encrypted), "unknown_key"),
        (members(Mode::Authenticated), "too_weak"),
    ] {
        let engine = Engine::start(security).unwrap();
        let error = engine.take(take.clone(), |_| ()).await.unwrap_err();
        assert!(
            matches!(&error, TakeError::Link { source, .. } if source.label() == label),
            "{error}"
        );
    }
    assert_eq!(sent.load(Ordering::Relaxed), 0);

    let clear = members(Mode::Authenticated);
    let (uploader, _) = holder_with(clear.clone(), &[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    let engine = Engine::start(clear).unwrap();
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transfer_is_dropped_while_keys_change() {
    let security = || {
        let (setter, keys) = Keys::set_by_hand(Keyring::new(key(1), None));
        let security = Security::new(keys, Purpose::PeerLink, Mode::Encrypted);
        (setter, security)
    };
    let ((near, receiver), (far, sender)) = (security(), security());
    let segments: Vec<_> = (0..20).map(|index| content(300_000, index)).collect();
    let takes: Vec<_> = (0..)
        .zip(&segments)
        .map(|(index, bytes)| request(index, bytes, PIECE, NOWHERE.parse().unwrap()))
        .collect();
    let claimed: Vec<_> = takes
        .iter()
        .zip(&segments)
        .map(|((take, _), bytes)| (take, bytes.clone()))
        .collect();
    let (uploader, _) = holder_with(sender, &claimed).await;
    let engine = Engine::start(receiver).unwrap();
    let both = || Keyring::new(key(2), Some(key(1)));
    let mut tasks = tokio::task::JoinSet::<Result<(), TakeError>>::new();
    for (index, (take, _)) in takes.iter().enumerate() {
        // The two ends hear of it at different times, and transfers are under way. Before the old key goes, handshakes
        // that know no other have come to an end: so much time an overlap gives.
        while index == 12
            && let Some(result) = tasks.join_next().await
        {
            result.unwrap().unwrap();
        }
        match index {
            4 => far.set(both()),
            8 => near.set(both()),
            12 => near.set(Keyring::new(key(2), None)),
            16 => far.set(Keyring::new(key(2), None)),
            _ => {}
        }
        let (engine, mut take) = (engine.clone(), take.clone());
        take.holder = uploader.local_addr();
        tasks.spawn(async move { engine.take(take, |_| ()).await });
        if index % 4 == 3 {
            // One of four, so that three may still be under way when keys change.
            tasks.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    for ((_, io), bytes) in takes.iter().zip(&segments) {
        assert!(io.take() == *bytes);
    }
    let (mut take, _) = takes[0].clone();
    take.holder = uploader.local_addr();
    let late = Engine::start(with_key(1, Mode::Encrypted)).unwrap();
    let error = late.take(take, |_| ()).await.unwrap_err();
    assert!(
        matches!(
            error,
            TakeError::Link {
                source: LinkError::UnknownKey,
                ..
            }
        ),
        "{error}"
    );
}

/// Other processes of the node reach the forwarder too.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_engine_is_led_to_a_holder() {
    let bytes = content(100_000, 1);
    let (mut take, io) = request(0, &bytes, PIECE, NOWHERE.parse().unwrap());
    let (uploader, sent) = holder(&[(&take, bytes.clone())]).await;
    take.holder = uploader.local_addr();
    let engine = Engine::start(members(Mode::Encrypted)).unwrap();
    let forwarder = engine.inner.forwarder.clone();
    let hash = hash_of(&take);
    let way = {
        let (forwarder, holder) = (forwarder.clone(), take.holder);
        let lead = async move { forwarder.lead(hash, holder).await };
        engine.inner.runtime.spawn(lead).await.unwrap().unwrap()
    };
    for said in [
        wire::handshake(&hash, &wire::peer_id()),
        wire::handshake(&hash, &[0; 20]),
        b"GET / HTTP/1.1\r\n".repeat(5),
    ] {
        let mut stream = TcpStream::connect(forwarder.local_addr()).await.unwrap();
        stream.write_all(&said).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    drop(way);
    assert_eq!(sent.load(Ordering::Relaxed), 0);
    engine.take(take, |_| ()).await.unwrap();
    assert!(io.take() == bytes);
}
