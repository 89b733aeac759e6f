//! Asking another node to dial back: the only way to know that a port of one's own is reached from there.
//!
//! Over a link, like a question about a snapshot ([`super::ask`]), with a topic of its own as info hash. The asker names
//! a port and nothing else: the other node dials that port at the address from which it was asked, makes a link, hangs
//! up and says what came of it. So no member can make it connect to a third machine, and how often it dials is limited.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ask::{self, AskError, exchange, in_time, read, say};
use crate::discovery::clock::{Now, UnixMillis};
use crate::discovery::rate::{Bucket, Rate};
use crate::link::Security;
use crate::secret::KeyId;
use crate::verify::piece_hash;

/// For dialling back; shorter than the asker's patience.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a node dials back, whoever asks: all nodes of a pool may be examined at once.
const DIALS: Rate = Rate {
    every: Duration::from_millis(250),
    burst: 32,
};
/// Longest question and longest answer in bytes.
const MAX_BYTES: usize = 1 << 10;

/// The info hash of the question.
fn topic() -> [u8; 20] {
    piece_hash(b"modelcache dial back")
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    port: u16,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    came_of_it: Back,
    wall_millis: u64,
}

/// What came of dialling back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Back {
    /// A link was made.
    Linked,
    /// The port is reached, but there is no link.
    NoLink(String),
    /// The port is not reached.
    Unreachable(String),
    /// The other node was asked too often lately, and did not dial.
    Busy,
}

/// What was learned of a node that was dialled and asked to dial back.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The key that both ends proved to have.
    pub key: KeyId,
    /// What came of dialling back.
    pub back: Back,
    /// Its wall clock.
    pub clock: UnixMillis,
    /// This node's clocks at the same moment, wrong by less than the time that an answer travels.
    pub read_at: Now,
}

/// Makes a link to the node that serves at `peer`, and has it dial `port` at the address that this node has for it.
pub async fn examine(
    security: &Security,
    peer: SocketAddr,
    port: u16,
) -> Result<Examined, AskError> {
    in_time(async {
        let mut link = ask::dial(security, peer).await?;
        let question = Question { port };
        let answer: Answer = exchange(&mut link, topic(), &question, MAX_BYTES).await?;
        Ok(Examined {
            key: link.key_id(),
            back: answer.came_of_it,
            clock: UnixMillis(answer.wall_millis),
            read_at: Now::read(),
        })
    })
    .await
}

/// The answering side's means: shared by all connections.
pub(super) struct DialBack {
    security: Security,
    budget: Mutex<Bucket>,
}

impl DialBack {
    pub(super) fn new(security: Security) -> Self {
        Self {
            security,
            budget: Mutex::new(Bucket::new(Instant::now())),
        }
    }

    /// Whether this info hash asks for it; answers if so. `asker` is where the question came from.
    pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        info_hash: [u8; 20],
        asker: IpAddr,
    ) -> Result<bool, AskError> {
        if info_hash != topic() {
            return Ok(false);
        }
        in_time(async {
            let Question { port } = read(stream, MAX_BYTES).await?;
            let came_of_it = self.dial(SocketAddr::new(asker, port)).await;
            let answer = Answer {
                came_of_it,
                wall_millis: Now::read().wall.0,
            };
            say(stream, info_hash, &answer).await?;
            Ok(true)
        })
        .await
    }

    async fn dial(&self, asker: SocketAddr) -> Back {
        if !self.may_dial(Instant::now()) {
            return Back::Busy;
        }
        let dialled = async {
            let stream = TcpStream::connect(asker)
                .await
                .map_err(|error| Back::Unreachable(error.to_string()))?;
            let linked = self.security.dial(stream).await;
            linked.map_err(|error| Back::NoLink(error.to_string()))
        };
        match timeout(DIAL_TIMEOUT, dialled).await {
            Ok(Ok(_)) => Back::Linked,
            Ok(Err(back)) => back,
            Err(_) => Back::Unreachable(format!(
                "no answer within {} seconds",
                DIAL_TIMEOUT.as_secs()
            )),
        }
    }

    fn may_dial(&self, now: Instant) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.take(now, DIALS)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::super::{SegmentSource, Served, Uploader};
    use super::*;
    use crate::link::Mode;
    use crate::secret::{Key, Keyring, Keys, Purpose};

    struct Nothing;

    impl SegmentSource for Nothing {
        fn find(&self, _: [u8; 20]) -> Option<Served> {
            None
        }
    }

    fn with_key(number: u8) -> Security {
        let key = Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap();
        let (_, keys) = Keys::set_by_hand(Keyring::new(key, None));
        Security::new(keys, Purpose::PeerLink, Mode::Encrypted)
    }

    async fn node(security: Security) -> Uploader {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let told = Arc::new(|_, _| {});
        Uploader::bind(anywhere, security, Arc::new(Nothing), told)
            .await
            .unwrap()
    }

    async fn back_to(port: u16) -> Back {
        let peer = node(with_key(1)).await;
        let examined = examine(&with_key(1), peer.local_addr(), port).await;
        examined.unwrap().back
    }

    #[tokio::test]
    async fn a_node_says_whether_it_reaches_the_asker() {
        let own = node(with_key(1)).await;
        assert_eq!(back_to(own.local_addr().port()).await, Back::Linked);
        let other = node(with_key(2)).await;
        let back = back_to(other.local_addr().port()).await;
        assert!(matches!(back, Back::NoLink(_)), "{back:?}");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let back = back_to(port).await;
        assert!(matches!(back, Back::Unreachable(_)), "{back:?}");
        // Open, but nobody there speaks.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = back_to(silent.local_addr().unwrap().port()).await;
        assert!(matches!(back, Back::Unreachable(_)), "{back:?}");
    }

    #[tokio::test]
    async fn a_node_tells_its_clock_and_proves_its_key() {
        let (own, peer) = (node(with_key(1)).await, node(with_key(1)).await);
        let port = own.local_addr().port();
        let examined = examine(&with_key(1), peer.local_addr(), port).await;
        let Examined {
            key,
            clock,
            read_at,
            ..
        } = examined.unwrap();
        assert!(read_at.wall.0.abs_diff(clock.0) < 5_000);
        assert_eq!(key.to_string().len(), 16);
        let stranger = examine(&with_key(2), peer.local_addr(), port).await;
        assert!(matches!(stranger, Err(AskError::Link(_))), "{stranger:?}");
    }

    #[test]
    fn how_often_a_node_dials_back_is_limited() {
        let dial_back = DialBack::new(with_key(1));
        let now = Instant::now();
        let allowed = (0..1000).filter(|_| dial_back.may_dial(now)).count();
        assert_eq!(allowed, DIALS.burst as usize);
        assert!(dial_back.may_dial(now + DIALS.every));
        assert!(!dial_back.may_dial(now + DIALS.every));
    }
}
