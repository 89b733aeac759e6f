//! Questions between nodes and their answers, of which the first is what a node has of a snapshot; see [`crate::inventory`].
//!
//! After the handshakes each side sends one frame: the length in four bytes, the id of an extension message (BEP 10),
//! and JSON.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::source::SegmentSource;
use super::wire::{self, EXTENDED, HANDSHAKE_BYTES, WireError};
use crate::inventory::{Answer, MAX_ANSWER_BYTES, MAX_QUESTION_BYTES, MAX_WANTS, Question, topic};
use crate::link::{Link, LinkError, Security};

/// For everything from dialling to the end of the answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nothing, or not all, came in time.
    #[error("it did not answer within {} seconds", TIMEOUT.as_secs())]
    Slow,
    /// It cannot be reached.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// It hung up.
    #[error("it hung up, as a node does that has nothing of what it is asked for: {0}")]
    HungUp(#[from] io::Error),
    /// It is none of us, or we are none of its.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It speaks something else.
    #[error("it does not answer as a node of this version does: {0}")]
    Answer(String),
}

impl AskError {
    /// Whether a link to the node stood all the same: it is there, and one of us.
    #[must_use]
    pub fn linked(&self) -> bool {
        matches!(self, Self::HungUp(_) | Self::Answer(_))
    }
}

impl From<WireError> for AskError {
    fn from(error: WireError) -> Self {
        Self::Answer(error.to_string())
    }
}

/// Asks the node that serves at `holder` about a snapshot.
pub(super) async fn ask(
    security: &Security,
    holder: SocketAddr,
    snapshot: &str,
    question: &Question,
) -> Result<Answer, AskError> {
    in_time(async {
        let mut link = dial(security, holder).await?;
        exchange(&mut link, topic(snapshot), question, MAX_ANSWER_BYTES).await
    })
    .await
}

/// Whether there is anything to say under that info hash; says it if so.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    source: &dyn SegmentSource,
    info_hash: [u8; 20],
) -> Result<bool, AskError> {
    if source.answer(info_hash, &[]).is_none() {
        return Ok(false);
    }
    in_time(async {
        let question: Question = read(stream, MAX_QUESTION_BYTES).await?;
        let wants = question.wants.get(..MAX_WANTS).unwrap_or(&question.wants);
        let Some(answer) = source.answer(info_hash, wants) else {
            return Ok(false);
        };
        say(stream, info_hash, &answer).await?;
        Ok(true)
    })
    .await
}

/// What `talk` comes to, if it does within [`TIMEOUT`].
pub(super) async fn in_time<T>(
    talk: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    timeout(TIMEOUT, talk).await.map_err(|_| AskError::Slow)?
}

/// Makes a link to the node that serves at `peer`.
pub(super) async fn dial(
    security: &Security,
    peer: SocketAddr,
) -> Result<Link<TcpStream>, AskError> {
    let stream = TcpStream::connect(peer)
        .await
        .map_err(AskError::Unreachable)?;
    stream.set_nodelay(true).map_err(AskError::Unreachable)?;
    Ok(security.dial(stream).await?)
}

/// Asks one question under that info hash, and reads the answer of at most `most` bytes.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin, A: DeserializeOwned>(
    stream: &mut S,
    info_hash: [u8; 20],
    question: &impl Serialize,
    most: usize,
) -> Result<A, AskError> {
    say(stream, info_hash, question).await?;
    let mut hello = [0; HANDSHAKE_BYTES];
    stream.read_exact(&mut hello).await?;
    if wire::parse_handshake(&hello)? != info_hash {
        return Err(AskError::Answer("it speaks of something else".to_owned()));
    }
    read(stream, most).await
}

/// Says one thing under that info hash: a question as well as the answer to it.
pub(super) async fn say<S: AsyncWrite + Unpin>(
    stream: &mut S,
    info_hash: [u8; 20],
    message: &impl Serialize,
) -> Result<(), AskError> {
    let json = serde_json::to_vec(message).map_err(|error| AskError::Answer(error.to_string()))?;
    let mut out = wire::handshake(&info_hash, &wire::peer_id());
    out.extend(wire::extended(&[&json]));
    stream.write_all(&out).await?;
    // An encrypted link keeps sealed records back while the socket is full, and may be dropped after this.
    Ok(stream.flush().await?)
}

/// Reads one frame of at most `most` bytes of JSON. The buffer grows with what arrives, not with what is announced.
pub(super) async fn read<S: AsyncRead + Unpin, T: DeserializeOwned>(
    stream: &mut S,
    most: usize,
) -> Result<T, AskError> {
    let len = stream.read_u32().await? as usize;
    if len == 0 || len > most + 1 {
        return Err(AskError::Answer(format!("a message of {len} bytes")));
    }
    let id = stream.read_u8().await?;
    if id != EXTENDED {
        return Err(AskError::Answer(format!("message {id}")));
    }
    let mut body = Vec::new();
    stream.take(len as u64 - 1).read_to_end(&mut body).await?;
    serde_json::from_slice(&body).map_err(|error| AskError::Answer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Served, Uploader};
    use super::*;
    use crate::coordination::Held;
    use crate::link::Mode;
    use crate::secret::{Key, Keyring, Keys, Purpose};
    use crate::segment::PieceHashes;

    /// Holds segment 3 of the snapshot "known".
    struct One;

    impl SegmentSource for One {
        fn find(&self, _: [u8; 20]) -> Option<Served> {
            None
        }

        fn answer(&self, info_hash: [u8; 20], wants: &[u32]) -> Option<Answer> {
            let held = Held {
                segment: 3,
                pieces: PieceHashes::new(vec![[1; 20]]),
                verified: true,
            };
            (info_hash == topic("known")).then(|| Answer {
                held: [3].into_iter().collect(),
                pieces: wants
                    .iter()
                    .filter(|one| **one == 3)
                    .map(|_| held.clone())
                    .collect(),
                ..Answer::default()
            })
        }
    }

    fn keys_of(number: u8) -> Security {
        let key = Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap();
        let (_, keys) = Keys::set_by_hand(Keyring::new(key, None));
        Security::new(keys, Purpose::PeerLink, Mode::Encrypted)
    }

    async fn one() -> Uploader {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        Uploader::bind(anywhere, keys_of(1), Arc::new(One), Arc::new(|_, _| {}))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn members_are_asked_over_links_and_answer_nobody_else() {
        let node = one().await;
        let question = Question { wants: vec![3] };
        let stranger = ask(&keys_of(2), node.local_addr(), "known", &question).await;
        let error = stranger.unwrap_err();
        assert!(
            matches!(error, AskError::Link(_)) && !error.linked(),
            "{error:?}"
        );
        let mut plain = TcpStream::connect(node.local_addr()).await.unwrap();
        let unasked = exchange::<_, Answer>(&mut plain, topic("known"), &question, 1 << 10).await;
        assert!(matches!(unasked, Err(AskError::HungUp(_))), "{unasked:?}");
    }

    #[tokio::test]
    async fn a_node_says_what_it_has() {
        let node = one().await;
        let question = Question { wants: vec![2, 3] };
        let answer = ask(&keys_of(1), node.local_addr(), "known", &question)
            .await
            .unwrap();
        assert!(answer.held.contains(3) && !answer.held.contains(2));
        assert_eq!(answer.pieces.len(), 1);
        let more = Question {
            wants: vec![3; MAX_WANTS + 5],
        };
        let answer = ask(&keys_of(1), node.local_addr(), "known", &more)
            .await
            .unwrap();
        assert_eq!(answer.pieces.len(), MAX_WANTS);
    }

    #[tokio::test]
    async fn a_node_that_does_not_know_it_hangs_up() {
        let node = one().await;
        let asked = ask(
            &keys_of(1),
            node.local_addr(),
            "unknown",
            &Question::default(),
        )
        .await;
        let error = asked.unwrap_err();
        assert!(
            matches!(error, AskError::HungUp(_)) && error.linked(),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn who_is_not_there_is_unreachable() {
        let gone = one().await.local_addr();
        let asked = ask(&keys_of(1), gone, "known", &Question::default()).await;
        let error = asked.unwrap_err();
        assert!(
            matches!(error, AskError::Unreachable(_)) && !error.linked(),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read() {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let liar = async {
            let mut asked = vec![0; HANDSHAKE_BYTES];
            far.read_exact(&mut asked).await.unwrap();
            far.write_all(&wire::handshake(&topic("s"), &[0; 20]))
                .await
                .unwrap();
            far.write_all(&[0xff, 0xff, 0xff, 0xff, EXTENDED])
                .await
                .unwrap();
        };
        let question = Question::default();
        let asking = exchange::<_, Answer>(&mut near, topic("s"), &question, MAX_ANSWER_BYTES);
        let (asked, ()) = tokio::join!(asking, liar);
        assert!(matches!(asked, Err(AskError::Answer(_))), "{asked:?}");
    }
    /// More than the socket and the link take in at once.
    #[tokio::test]
    async fn a_long_answer_arrives_at_a_slow_reader() {
        let long = Answer {
            fetching: (1_000_000..1_200_000).collect(),
            ..Answer::default()
        };
        let (near, far) = tokio::io::duplex(1 << 10);
        let (dialer, listener) = (keys_of(1), keys_of(1));
        let (near, far) = tokio::join!(dialer.dial(near), listener.accept(far));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        let answering = async {
            let asked = &mut [0; HANDSHAKE_BYTES];
            far.read_exact(asked).await.unwrap();
            let _: Question = read(&mut far, MAX_QUESTION_BYTES).await.unwrap();
            say(&mut far, topic("s"), &long).await.unwrap();
            drop(far);
        };
        let question = Question::default();
        let asking = exchange(&mut near, topic("s"), &question, MAX_ANSWER_BYTES);
        let (asked, ()): (Result<Answer, _>, _) = tokio::join!(asking, answering);
        assert!(serde_json::to_vec(&long).unwrap().len() > 1 << 20);
        assert_eq!(asked.unwrap(), long);
    }
}
