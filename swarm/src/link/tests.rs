mod ends;

use std::sync::Mutex;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::secret::{Key, Keyring};
use ends::{NEW, OLD, Recorded, answer_to, keys, meet, read, recorded, security, text, trickling};

#[tokio::test]
async fn who_reads_a_record_is_woken_when_it_is_whole() {
    let (mut dialer, mut listener) = trickling().await;
    // A record of 60 packets, a short one after it, and the end.
    let said = [text(60_000), b"and more".to_vec()];
    let whole = said.concat();
    tokio::spawn(async move {
        for part in said {
            listener.write_all(&part).await.unwrap();
            listener.flush().await.unwrap();
        }
    });
    let mut heard = Vec::new();
    let mut polls = 0;
    let mut reading = Box::pin(dialer.read_to_end(&mut heard));
    let end = std::future::poll_fn(|cx| {
        polls += 1;
        reading.as_mut().poll(cx)
    });
    end.await.unwrap();
    assert_eq!(heard, whole);
    assert!(polls <= 12, "woken {polls} times for two records");
}

/// How much memory the listener has while it waits for the next word.
async fn while_it_waits(link: &mut Recorded) -> usize {
    let mut word = [0; 9];
    let mut reading = Box::pin(link.listener.read_exact(&mut word));
    assert!(futures_util::poll!(&mut reading).is_pending());
    drop(reading);
    link.listener.memory()
}

#[tokio::test]
async fn a_link_that_waits_has_memory_only_when_much_is_said_on_it() {
    let mut link = recorded(Mode::Encrypted, 1 << 20).await;
    assert_eq!(while_it_waits(&mut link).await, 0);
    for (len, rests) in [
        (9, false),
        (238, false),
        (239, false),
        (1_000, false),
        (100_000, true),
    ] {
        let said = text(len);
        let (written, heard) = tokio::join!(
            async {
                link.dialer.write_all(&said).await?;
                link.dialer.flush().await
            },
            read(&mut link.listener, said.len())
        );
        written.unwrap();
        assert_eq!(heard, said);
        if rests {
            assert!(while_it_waits(&mut link).await > 0);
            link.listener.rest();
        }
        assert_eq!(while_it_waits(&mut link).await, 0, "after {len} bytes");
    }
}

#[tokio::test]
async fn members_meet_by_any_key_that_both_have() {
    for mode in [Mode::Authenticated, Mode::Encrypted] {
        for (dialer, listener, key) in [
            (keys(NEW, None), keys(NEW, None), NEW),
            (keys(NEW, Some(OLD)), keys(NEW, Some(OLD)), NEW),
            // One of them has the new key already, the other does not.
            (keys(NEW, Some(OLD)), keys(OLD, None), OLD),
            (keys(OLD, None), keys(NEW, Some(OLD)), OLD),
            // One of them has forgotten the old key already.
            (keys(NEW, Some(OLD)), keys(NEW, None), NEW),
            (keys(NEW, None), keys(NEW, Some(OLD)), NEW),
        ] {
            let pair = meet(&security(dialer, mode), &security(listener, mode)).await;
            let (mut near, mut far) = (pair.0.unwrap(), pair.1.unwrap());
            let key = Key::parse(key).unwrap().id();
            assert_eq!((near.key_id(), far.key_id()), (key, key));
            assert_eq!(near.is_encrypted(), mode == Mode::Encrypted);
            near.write_all(b"there").await.unwrap();
            far.write_all(b"and back").await.unwrap();
            near.flush().await.unwrap();
            far.flush().await.unwrap();
            assert_eq!(read(&mut far, 5).await, b"there");
            assert_eq!(read(&mut near, 8).await, b"and back");
        }
    }
}

#[tokio::test]
async fn an_old_key_is_refused_after_the_overlap() {
    let (setter, listener) = Keys::set_by_hand(Keyring::new(
        Key::parse(NEW).unwrap(),
        Some(Key::parse(OLD).unwrap()),
    ));
    let listener = security(listener, Mode::Encrypted);
    let late = security(keys(OLD, None), Mode::Encrypted);
    let (near, _far) = meet(&late, &listener).await;
    let mut near = near.unwrap();
    setter.set(Keyring::new(Key::parse(NEW).unwrap(), None));
    let pair = meet(&late, &listener).await;
    assert!(matches!(
        pair,
        (Err(LinkError::UnknownKey), Err(LinkError::UnknownKey))
    ));
    // What was made before goes on: no transfer is dropped.
    near.write_all(b"still here").await.unwrap();
    near.flush().await.unwrap();
}

#[tokio::test]
async fn a_key_for_one_purpose_is_none_for_another() {
    let listener = security(keys(NEW, None), Mode::Encrypted);
    let dialer = Security::new(keys(NEW, None), Purpose::Coordination, Mode::Encrypted);
    let pair = meet(&dialer, &listener).await;
    assert!(matches!(
        pair,
        (Err(LinkError::Io(_)), Err(LinkError::WrongKey))
    ));
}

#[tokio::test]
async fn who_encrypts_accepts_nothing_less() {
    let clear = security(keys(NEW, None), Mode::Authenticated);
    let strict = security(keys(NEW, None), Mode::Encrypted);
    let pair = meet(&clear, &strict).await;
    assert!(matches!(
        pair,
        (Err(LinkError::TooWeak), Err(LinkError::TooWeak))
    ));
    let pair = meet(&strict, &clear).await;
    assert!(pair.0.unwrap().is_encrypted() && pair.1.unwrap().is_encrypted());
}

/// What an end says first, as recorded from a genuine one.
async fn recorded_hello(mode: Mode) -> Vec<u8> {
    let link = recorded(mode, 1 << 20).await;
    let mut bytes = link.wire[0].lock().unwrap().clone();
    bytes.truncate(10 + 8 + 48);
    bytes
}

#[tokio::test]
async fn the_mode_cannot_be_changed_on_the_way() {
    let listener = security(keys(NEW, None), Mode::Authenticated);
    let mut hello = recorded_hello(Mode::Encrypted).await;
    hello[8] = recorded_hello(Mode::Authenticated).await[8];
    assert!(matches!(
        answer_to(&hello, &listener).await,
        LinkError::WrongKey
    ));
}

#[tokio::test]
async fn a_recorded_handshake_opens_nothing() {
    let link = recorded(Mode::Encrypted, 1 << 20).await;
    let whole = link.wire[0].lock().unwrap().clone();
    let listener = security(keys(NEW, None), Mode::Encrypted);
    assert!(matches!(
        answer_to(&whole, &listener).await,
        LinkError::WrongKey
    ));
    // The same with the listener's half, for the dialer.
    let answer = link.wire[1].lock().unwrap().clone();
    let (near, mut far) = duplex(1 << 20);
    far.write_all(&answer).await.unwrap();
    assert!(matches!(
        listener.dial(near).await,
        Err(LinkError::WrongKey)
    ));
}

#[tokio::test]
async fn garbage_is_refused() {
    let listener = security(keys(NEW, None), Mode::Encrypted);
    let hello = recorded_hello(Mode::Encrypted).await;
    for (index, value, word) in [
        (0, b'M', "malformed"),
        (7, b'2', "malformed"),
        (8, 0, "malformed"),
        (8, 3, "malformed"),
        (9, 0, "malformed"),
        (9, 3, "malformed"),
        (10, !hello[10], "unknown_key"),
        (18, !hello[18], "wrong_key"),
        (65, !hello[65], "wrong_key"),
    ] {
        let mut bytes = hello.clone();
        bytes[index] = value;
        assert_eq!(answer_to(&bytes, &listener).await.label(), word, "{index}");
    }
    let http = b"GET /v1/coordinate HTTP/1.1\r\n\r\n";
    assert_eq!(answer_to(http, &listener).await.label(), "malformed");
    // A listener that answers with something else.
    for answer in [&[2][..], &[0xfd], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(answer).await.unwrap();
        assert_eq!(
            listener.dial(near).await.map(|_| ()).unwrap_err().label(),
            "malformed"
        );
    }
}

#[tokio::test]
async fn a_handshake_that_ends_early_is_no_link() {
    let listener = security(keys(NEW, None), Mode::Encrypted);
    let hello = recorded_hello(Mode::Encrypted).await;
    for len in 0..hello.len() {
        let (mut near, far) = duplex(1 << 20);
        near.write_all(&hello[..len]).await.unwrap();
        drop(near);
        assert_eq!(
            listener.accept(far).await.map(|_| ()).unwrap_err().label(),
            "closed"
        );
    }
}

#[tokio::test]
async fn nobody_waits_for_a_silent_end() {
    let counted = Arc::new(Mutex::new(Vec::new()));
    let log = counted.clone();
    let security =
        security(keys(NEW, None), Mode::Encrypted).counted(Arc::new(move |side, word| {
            log.lock().unwrap().push((side, word));
        }));
    let (silent, _far) = duplex(1 << 20);
    let (mut near, half) = duplex(1 << 20);
    near.write_all(&recorded_hello(Mode::Encrypted).await)
        .await
        .unwrap();
    let (dialed, accepted) = tokio::join!(security.dial(silent), security.accept(half));
    assert!(matches!(dialed, Err(LinkError::Timeout)));
    assert!(matches!(accepted, Err(LinkError::Timeout)));
    let (near, far) = meet(&security, &security).await;
    assert!(near.is_ok() && far.is_ok());
    let mut counted = counted.lock().unwrap().split_off(0);
    counted[..2].sort_by_key(|(side, _)| *side == Side::Accepted);
    counted[2..].sort_by_key(|(side, _)| *side == Side::Accepted);
    assert_eq!(
        counted,
        [
            (Side::Dialed, "timeout"),
            (Side::Accepted, "timeout"),
            (Side::Dialed, "ok"),
            (Side::Accepted, "ok")
        ]
    );
}

#[tokio::test]
async fn nothing_of_the_text_is_on_the_wire_when_encrypted() {
    for mode in [Mode::Encrypted, Mode::Authenticated] {
        let mut link = recorded(mode, 1 << 20).await;
        let text = text(300_000);
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut link.dialer, &mut link.listener];
            let [near, far] = if from < to {
                ends
            } else {
                let [a, b] = ends;
                [b, a]
            };
            let (written, got) = tokio::join!(
                async {
                    near.write_all(&text).await?;
                    near.flush().await
                },
                read(far, text.len())
            );
            written.unwrap();
            assert_eq!(got, text);
            let wire = link.wire[from].lock().unwrap();
            let windows: std::collections::HashSet<_> = wire.windows(64).collect();
            let found = text
                .windows(64)
                .filter(|window| windows.contains(window))
                .count();
            // The other way round, to see that the search finds what is there.
            let expected = if mode == Mode::Encrypted {
                0
            } else {
                text.len() - 63
            };
            assert_eq!(found, expected);
        }
    }
}

#[tokio::test]
async fn a_change_on_the_way_ends_the_link() {
    let mut link = recorded(Mode::Encrypted, 1 << 20).await;
    let start = link.wire[0].lock().unwrap().len();
    link.dialer.write_all(&text(100)).await.unwrap();
    link.dialer.flush().await.unwrap();
    let record = link.wire[0].lock().unwrap()[start..].to_vec();
    assert_eq!(record.len(), 2 + 100 + 16);
    // The same record again: the counter has moved on.
    link.dialer.stream.write_all(&record).await.unwrap();
    assert_eq!(read(&mut link.listener, 100).await, text(100));
    let error = link.listener.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(
        link.listener.read_u8().await.unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );

    for (bytes, kind) in [
        (vec![0, 15], io::ErrorKind::InvalidData),
        (
            [&[0xff, 0xff][..], &vec![7; 65_535]].concat(),
            io::ErrorKind::InvalidData,
        ),
        (vec![0, 16, 1, 2], io::ErrorKind::UnexpectedEof),
        (vec![0], io::ErrorKind::UnexpectedEof),
    ] {
        let mut link = recorded(Mode::Encrypted, 1 << 20).await;
        link.dialer.stream.write_all(&bytes).await.unwrap();
        drop(link.dialer);
        let error = link.listener.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{:?}", &bytes[..2]);
    }
    // The end between two records is the end of the stream.
    let mut link = recorded(Mode::Encrypted, 1 << 20).await;
    link.dialer.shutdown().await.unwrap();
    assert_eq!(link.listener.read(&mut [0; 10]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_link_does_not_outlive_its_key() {
    let key = |text| Key::parse(text).unwrap();
    for mode in [Mode::Authenticated, Mode::Encrypted] {
        let (setter, keys) = Keys::set_by_hand(Keyring::new(key(OLD), None));
        let ours = Security::new(keys, Purpose::Coordination, mode);
        let theirs = Security::new(self::keys(OLD, None), Purpose::Coordination, mode);
        let (theirs, ours) = meet(&theirs, &ours).await;
        let (mut theirs, mut ours) = (theirs.unwrap(), ours.unwrap());
        let mut byte = [0];
        // Beside the next one it is still good.
        setter.set(Keyring::new(key(NEW), Some(key(OLD))));
        theirs.write_all(b"1").await.unwrap();
        theirs.flush().await.unwrap();
        ours.read_exact(&mut byte).await.unwrap();
        // Somebody who waits for bytes is woken, whatever the other end does.
        let retire = async {
            tokio::task::yield_now().await;
            setter.set(Keyring::new(key(NEW), None));
        };
        let (read, ()) = tokio::join!(ours.read(&mut byte), retire);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        theirs.write_all(b"2").await.unwrap();
        theirs.flush().await.unwrap();
        assert!(ours.read(&mut byte).await.is_err());
        assert!(ours.write(b"3").await.is_err());
        assert!(ours.flush().await.is_err());
        assert!(
            ours.write_vectored(&[io::IoSlice::new(b"4")])
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn only_links_of_segments_have_time_to_end() {
    let security = |purpose| Security::new(keys(NEW, None), purpose, Mode::Encrypted);
    assert_eq!(security(Purpose::PeerLink).grace, GRACE);
    assert_eq!(security(Purpose::Coordination).grace, Duration::ZERO);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However it is cut by who writes, by the wire and by who reads.
    #[test]
    fn any_text_arrives_in_any_chunks(
        writes in prop::collection::vec(0_usize..200_000, 1..6),
        wire in 1_usize..300_000,
        room in 1_usize..200_000,
        vectored: bool,
        clear: bool,
    ) {
        // One byte at a time over everything would take minutes.
        let (wire, room) = (wire.max(700), room.max(500));
        let mode = if clear { Mode::Authenticated } else { Mode::Encrypted };
        let total: usize = writes.iter().sum();
        let text = text(total);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let got = runtime.block_on(async {
            let Recorded { mut dialer, mut listener, .. } = recorded(mode, wire).await;
            let send = async {
                let mut rest = &text[..];
                for len in writes {
                    let (mut chunk, after) = rest.split_at(len);
                    rest = after;
                    while !chunk.is_empty() {
                        let (one, two) = chunk.split_at(chunk.len() / 3);
                        let taken = if vectored {
                            let slices = [io::IoSlice::new(one), io::IoSlice::new(two)];
                            dialer.write_vectored(&slices).await.unwrap()
                        } else {
                            dialer.write(chunk).await.unwrap()
                        };
                        chunk = &chunk[taken..];
                    }
                    dialer.flush().await.unwrap();
                }
                dialer.shutdown().await.unwrap();
                drop(dialer);
            };
            let receive = async {
                let mut got: Vec<u8> = Vec::new();
                let mut buffer = vec![0; room];
                loop {
                    let len = listener.read(&mut buffer).await.unwrap();
                    if len == 0 {
                        return got;
                    }
                    got.extend(&buffer[..len]);
                }
            };
            tokio::join!(send, receive).1
        });
        prop_assert!(got == text);
    }

    #[test]
    fn anything_may_be_said_to_a_listener(bytes in prop::collection::vec(any::<u8>(), 0..300), genuine in 0_usize..67) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut said = recorded_hello(Mode::Encrypted).await;
            said.truncate(genuine);
            said.extend(bytes);
            let (mut near, far) = duplex(1 << 20);
            near.write_all(&said).await.unwrap();
            near.shutdown().await.unwrap();
            let listener = security(keys(NEW, None), Mode::Encrypted);
            assert!(listener.accept(far).await.is_err());
        });
    }
}
