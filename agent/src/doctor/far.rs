//! The servers: the operator's coordinator and the hub.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelcache_swarm::coordination::OriginAccess;
use modelcache_swarm::discovery::clock::Now;
use modelcache_swarm::link::{LinkError, Security};
use modelcache_swarm::origin::{OriginClient, OriginError};
use modelcache_swarm::secret::KeyId;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::clock::{Reading, Whose, http_date};
use super::finding::Finding;
use super::secret::Proof;
use crate::coordinator::address_of;

/// For everything that a server is asked.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The coordinator answers with less.
const MAX_HEAD_BYTES: u64 = 8 << 10;
/// An HTTP date has whole seconds, and an answer takes its time.
const BLUR: Duration = Duration::from_secs(1);

/// What was learned of a server.
#[derive(Debug)]
pub struct Learned {
    /// Whether it is reached.
    pub finding: Finding,
    /// What it showed of its keys.
    pub proof: Option<Proof>,
    /// Its clock.
    pub clock: Option<Reading>,
}

impl From<Finding> for Learned {
    fn from(finding: Finding) -> Self {
        Self {
            finding,
            proof: None,
            clock: None,
        }
    }
}

fn clock(whose: &'static str, date: Option<&str>) -> Option<Reading> {
    Some(Reading {
        whose: Whose::Server(whose),
        theirs: http_date(date?)?,
        ours: Now::read().wall,
        blur: BLUR,
    })
}

/// Why the coordinator was not examined.
#[derive(Debug, Error)]
enum CoordinatorError {
    #[error("'{0}' is no address of a coordinator")]
    Url(String),
    #[error("{0} cannot be reached: {1}")]
    Connect(String, io::Error),
    #[error("{0} is reached, but there is no link: {1}")]
    Link(String, LinkError),
    #[error("{0} does not answer over the link: {1}")]
    Talk(String, io::Error),
    #[error("no answer within {} seconds", TIMEOUT.as_secs())]
    Slow,
}

/// Makes a link to the coordinator, and asks for a page that it does not have: so the agent of this node, if it runs,
/// keeps its connection.
pub async fn coordinator(security: &Security, url: Option<&str>) -> Learned {
    let Some(url) = url else {
        return Finding::skipped("coordinator", "give its address with --coordinator").into();
    };
    let asked = timeout(TIMEOUT, ask_coordinator(security, url)).await;
    match asked.unwrap_or(Err(CoordinatorError::Slow)) {
        Ok((address, key, date)) => Learned {
            finding: Finding::ok("coordinator", format!("{address}: a link stands")),
            proof: Some(Proof::Shared(key)),
            clock: clock("coordinator", date.as_deref()),
        },
        Err(error) => {
            let proof = match &error {
                CoordinatorError::Link(_, error) => Proof::of_failure(error),
                _ => None,
            };
            let advice = match &error {
                CoordinatorError::Url(_) => "write ws://host:port",
                CoordinatorError::Link(..) => {
                    "see 'secret, equal'; or another program listens there"
                }
                _ => {
                    "does the operator run, and do network policies and firewalls let this node reach its port?"
                }
            };
            Learned {
                finding: Finding::fail("coordinator", error.to_string(), advice),
                proof,
                clock: None,
            }
        }
    }
}

async fn ask_coordinator(
    security: &Security,
    url: &str,
) -> Result<(String, KeyId, Option<String>), CoordinatorError> {
    let address = url.parse().ok().as_ref().and_then(address_of);
    let address = address.ok_or_else(|| CoordinatorError::Url(url.to_owned()))?;
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|error| CoordinatorError::Connect(address.clone(), error))?;
    let mut link = security
        .dial(stream)
        .await
        .map_err(|error| CoordinatorError::Link(address.clone(), error))?;
    let date = date_of(&mut link, &address)
        .await
        .map_err(|error| CoordinatorError::Talk(address.clone(), error))?;
    Ok((address, link.key_id(), date))
}

/// The header `Date` of an answer to a request for nothing.
async fn date_of<S>(stream: &mut S, host: &str) -> io::Result<Option<String>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!("HEAD /doctor HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    stream.take(MAX_HEAD_BYTES).read_to_end(&mut head).await?;
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.1 ") {
        return Err(io::Error::other("this is not HTTP"));
    }
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date")
            .then(|| value.trim().to_owned())
    });
    Ok(date)
}

/// Asks the hub for an answer, whatever it is.
pub async fn hub(endpoint: Option<String>, ca_file: Option<PathBuf>) -> Learned {
    let Some(endpoint) = endpoint else {
        return Finding::skipped("hub", "give its address with --hub").into();
    };
    let ca_bundle = match ca_file.as_deref().map(read).transpose() {
        Ok(bundle) => bundle,
        Err((seen, advice)) => return Finding::fail("hub", seen, advice).into(),
    };
    let access = OriginAccess {
        endpoint: endpoint.clone(),
        ca_bundle,
        token: None,
    };
    let client = match OriginClient::new(&access) {
        Ok(client) => client,
        Err(error) => {
            return Finding::fail("hub", error.to_string(), "correct --hub or --hub-ca").into();
        }
    };
    let knocked = timeout(TIMEOUT, client.knock()).await;
    let Ok(knocked) = knocked else {
        let seen = format!("{endpoint}: no answer within {} seconds", TIMEOUT.as_secs());
        return Finding::fail("hub", seen, UNREACHED).into();
    };
    let date = knocked.as_ref().ok().and_then(|(_, date)| date.clone());
    Learned {
        finding: judge_hub(&endpoint, knocked.map(|(status, _)| status)),
        proof: None,
        clock: clock("hub", date.as_deref()),
    }
}

const UNREACHED: &str =
    "open the way to it, or set HTTPS_PROXY; models that other nodes hold arrive without it";

fn read(path: &Path) -> Result<String, (String, &'static str)> {
    std::fs::read_to_string(path).map_err(|error| {
        let seen = format!("{} cannot be read: {error}", path.display());
        (seen, "give a PEM file with --hub-ca")
    })
}

fn judge_hub(endpoint: &str, knocked: Result<u16, OriginError>) -> Finding {
    match knocked {
        Ok(status) if status < 500 => Finding::ok("hub", format!("{endpoint}: HTTP {status}")),
        Ok(status) => Finding::warn(
            "hub",
            format!("{endpoint}: HTTP {status}"),
            "it is reached but has trouble, or a proxy in between has: try again later",
        ),
        Err(error @ OriginError::Certificate { .. }) => Finding::fail(
            "hub",
            error.to_string(),
            "give its certificate authority with --hub-ca, and in the ModelCache as CA bundle",
        ),
        Err(error) => Finding::fail("hub", error.to_string(), UNREACHED),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use modelcache_swarm::link::Mode;
    use modelcache_swarm::secret::{Key, Keyring, Keys, Purpose};
    use tokio::net::TcpListener;

    use super::super::finding::Verdict;
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n";

    fn with_key(number: u8) -> Security {
        let key = Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap();
        let (_, keys) = Keys::set_by_hand(Keyring::new(key, None));
        Security::new(keys, Purpose::Coordination, Mode::Encrypted)
    }

    /// Answers one request: over a link, or as it is.
    async fn server(security: Option<Security>) -> SocketAddr {
        async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
            let _ = stream.read(&mut [0; 1000]).await;
            stream.write_all(ANSWER).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            match security {
                Some(security) => {
                    if let Ok(link) = security.accept(stream).await {
                        answer(link).await;
                    }
                }
                None => answer(stream).await,
            }
        });
        address
    }

    #[tokio::test]
    async fn a_coordinator_with_the_same_secret_is_found() {
        let address = server(Some(with_key(1))).await;
        let url = format!("ws://{address}/v1/coordinate");
        let learned = coordinator(&with_key(1), Some(&url)).await;
        assert_eq!(learned.finding.verdict, Verdict::Ok);
        assert!(matches!(learned.proof, Some(Proof::Shared(_))));
        assert!(learned.clock.is_some());
    }

    #[tokio::test]
    async fn others_are_not_taken_for_it() {
        for security in [Some(with_key(2)), None] {
            let different = security.is_some();
            let address = server(security).await;
            let learned = coordinator(&with_key(1), Some(&format!("ws://{address}"))).await;
            assert!(matches!(learned.finding.verdict, Verdict::Fail(_)));
            assert_eq!(learned.proof == Some(Proof::Different), different);
        }
        let nonsense = coordinator(&with_key(1), Some("operator")).await.finding;
        assert!(matches!(nonsense.verdict, Verdict::Fail(_)), "{nonsense:?}");
        let unasked = coordinator(&with_key(1), None).await.finding;
        assert_eq!(unasked.verdict, Verdict::Skipped);
    }

    #[tokio::test]
    async fn a_hub_is_found_whatever_it_answers() {
        let address = server(None).await;
        let learned = hub(Some(format!("http://{address}")), None).await;
        assert_eq!(learned.finding.verdict, Verdict::Ok, "{learned:?}");
        assert!(learned.clock.is_some());
        let gone = hub(Some(format!("http://{address}")), None).await.finding;
        assert!(matches!(gone.verdict, Verdict::Fail(_)), "{gone:?}");
        let missing = hub(Some("http://x".to_owned()), Some("/nowhere".into())).await;
        assert!(matches!(missing.finding.verdict, Verdict::Fail(_)));
    }

    #[test]
    fn trouble_of_the_hub_is_no_failure_of_ours() {
        assert!(matches!(
            judge_hub("https://hub", Ok(503)).verdict,
            Verdict::Warn(_)
        ));
        let untrusted = OriginError::Certificate {
            url: "https://hub".to_owned(),
            message: "unknown issuer".to_owned(),
        };
        let finding = judge_hub("https://hub", Err(untrusted));
        assert!(
            matches!(&finding.verdict, Verdict::Fail(advice) if advice.contains("--hub-ca")),
            "{finding:?}"
        );
    }
}
