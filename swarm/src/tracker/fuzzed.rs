//! Fuzz targets of the tracker, see [`crate::fuzzing`].

// Targets are tests: they panic.
#![allow(clippy::missing_panics_doc)]

use super::answer::{Answer, AnswerError, MAX_ANSWER, MAX_PEERS};
use super::proof::{Proof, Signed, sign};
use super::query::{Announce, MAX_SCRAPED, parse_scrape};
use crate::discovery::clock::UnixMillis;
use crate::fuzzing::RING;

const TIME: UnixMillis = UnixMillis(1_700_000_000_000);
/// All that was ever signed, but for what a target signs itself.
const SIGNED: [&str; 2] = ["port=1", "a&b=c"];

/// A query: what is understood is written so that it is understood the same.
pub fn tracker_query(bytes: &[u8]) {
    let query = String::from_utf8_lossy(bytes);
    if let Ok(announce) = Announce::parse(&query) {
        assert_eq!(Announce::parse(&announce.to_query()), Ok(announce));
    }
    if let Ok(torrents) = parse_scrape(&query) {
        assert!((1..=MAX_SCRAPED).contains(&torrents.len()));
    }
}

/// A query from somebody without the key: believed only if it was signed before. And whatever a member signs is.
pub fn tracker_signature(bytes: &[u8]) {
    let query = String::from_utf8_lossy(bytes);
    if let Ok(Some(proof)) = Proof::find(&query)
        && proof.check(&RING).is_ok()
    {
        // Hexadecimal digits may be capitals in the signature itself.
        let mut known = SIGNED.iter().map(|query| signed_query(query));
        assert!(known.any(|one| one.eq_ignore_ascii_case(&query)));
    }
    let signed = signed_query(&query);
    let proof = Proof::find(&signed);
    assert!(
        matches!(&proof, Ok(Some(proof)) if proof.sent_at == TIME && proof.check(&RING).is_ok())
    );
}

fn signed_query(query: &str) -> String {
    sign(query.to_owned(), RING.current(), TIME).query
}

/// An answer, as it is and with the tracker's signature: few peers, each with a port, and no long reasons.
pub fn tracker_answer(bytes: &[u8]) {
    let request = sign("port=1".to_owned(), RING.current(), TIME);
    match Answer::read(bytes, &request) {
        Ok(answer) => judge(&answer),
        Err(AnswerError::Refused(reason)) => {
            assert!(reason.chars().count() <= 200);
            assert!(!reason.contains(char::is_control));
        }
        Err(AnswerError::Unsigned | AnswerError::Malformed) => {}
    }
    let signed = signed_answer(bytes.to_vec(), &request);
    match Answer::read(&signed, &request) {
        Ok(answer) => {
            assert!(signed.len() <= MAX_ANSWER);
            judge(&answer);
        }
        Err(error) => assert_eq!(error, AnswerError::Malformed),
    }
}

fn judge(answer: &Answer) {
    assert!(answer.peers.len() <= MAX_PEERS);
    assert!(answer.peers.iter().all(|peer| peer.address.port() != 0));
}

fn signed_answer(mut answer: Vec<u8>, request: &Signed) -> Vec<u8> {
    if let Ok(Some(proof)) = Proof::find(&request.query)
        && let Ok(key) = proof.check(&RING)
    {
        key.sign(&mut answer);
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::answer::{Listed, failure};
    use super::super::query::{Form, PeerId};
    use super::*;
    use crate::fuzzing::run;

    #[test]
    fn fuzz_queries() {
        let sound = "info_hash=abcdefghijklmnopqrst&peer_id=-XX0000-abcdefghijkl&port=1&uploaded=0&downloaded=0&left=5";
        let corpus = [
            // As aria2 1.36 and libtorrent 2.0.8 write it, and ourselves.
            "info_hash=%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA%AA&peer_id=A2-1-36-0-%F1%05%AA%00xyzabc&uploaded=0&downloaded=0&left=16384&compact=1&key=A2-1-36-0-&numwant=50&no_peer_id=1&port=6881&event=started&supportcrypto=1".to_owned(),
            format!("{sound}&corrupt=0&event=completed&no_peer_id=1&ipv6=fd00%3A%3A1"),
            format!("{sound}&compact=0&ip=10.0.0.1&event=stopped&numwant=-1"),
            format!("{sound}&ip=fd00%3A%3A1&no_peer_id=0&numwant=99999999999"),
        ];
        run(
            "tracker_query",
            &corpus.map(String::into_bytes),
            tracker_query,
        );
    }

    #[test]
    fn fuzz_signed_queries() {
        let corpus = SIGNED.map(|query| signed_query(query).into_bytes());
        run("tracker_signature", &corpus, tracker_signature);
    }

    #[test]
    fn fuzz_answers() {
        let peer = |text: &str| Listed {
            address: text.parse().unwrap(),
            id: Some(PeerId(*b"-XX0000-abcdefghijkl")),
        };
        let answer = Answer {
            interval: Duration::from_mins(2),
            min_interval: Duration::from_secs(30),
            complete: 3,
            incomplete: 4,
            peers: vec![peer("10.1.2.3:258"), peer("[fd00::1]:9492")],
        };
        let request = sign("port=1".to_owned(), RING.current(), TIME);
        let corpus = [
            answer.encode(Form::Compact),
            signed_answer(answer.encode(Form::Compact), &request),
            answer.encode(Form::Dictionaries { ids: true }),
            failure("no torrent of this info hash is tracked here"),
        ];
        run("tracker_answer", &corpus, tracker_answer);
    }
}
