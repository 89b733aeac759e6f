//! Peers, dialled both ways: this node makes a link to each, and asks it to dial back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use modelcache_swarm::engine::{
    AskError, Back, Examined, SegmentSource, Served, Uploader, UploaderError, examine,
};
use modelcache_swarm::link::Security;
use tokio::task::JoinSet;

use super::clock::{Reading, Whose};
use super::finding::Finding;
use super::secret::Proof;

/// Peers that are dialled at once.
const DIALS: usize = 32;
/// Peers that are dialled at all.
pub const MAX_PEERS: usize = 256;

/// One peer to dial.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What it is called.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What was learned of all peers.
#[derive(Debug, Default)]
pub struct Learned {
    /// One for each direction.
    pub findings: Vec<Finding>,
    /// What they showed of their keys.
    pub proofs: Vec<(String, Proof)>,
    /// Their clocks.
    pub clocks: Vec<Reading>,
}

/// Dials each of them; those beyond [`MAX_PEERS`] are left out.
pub async fn dial(security: &Security, peers: Vec<Peer>, own_port: u16) -> Learned {
    let mut learned = Learned::default();
    let mut waiting = peers.into_iter().take(MAX_PEERS);
    let mut dials = JoinSet::new();
    let mut results = Vec::new();
    loop {
        while dials.len() < DIALS
            && let Some(peer) = waiting.next()
        {
            let security = security.clone();
            dials.spawn(async move {
                let examined = examine(&security, peer.address, own_port).await;
                (peer, examined)
            });
        }
        match dials.join_next().await {
            Some(Ok(result)) => results.push(result),
            Some(Err(error)) => tracing::warn!(%error, "a dial ended badly"),
            None => break,
        }
    }
    results.sort_by_key(|(peer, _)| (peer.name.clone(), peer.address));
    for (peer, examined) in results {
        learned.note(&peer, examined, own_port);
    }
    learned
}

impl Learned {
    fn note(&mut self, peer: &Peer, examined: Result<Examined, AskError>, own_port: u16) {
        let Peer { name, address } = peer;
        let there = format!("peer {name}, from here");
        let back = format!("peer {name}, to here");
        let examined = match examined {
            Ok(examined) => examined,
            Err(error) => {
                if let AskError::Link(error) = &error
                    && let Some(proof) = Proof::of_failure(error)
                {
                    self.proofs.push((name.clone(), proof));
                }
                let advice = match &error {
                    AskError::Slow | AskError::Unreachable(_) => {
                        "open this TCP port there, or the agent there is down"
                    }
                    AskError::Link(_) => {
                        "see 'secret, equal'; and give all agents the same --peer-links"
                    }
                    AskError::HungUp(_) | AskError::Answer(_) => {
                        "install the same version of the agent on both"
                    }
                };
                let seen = format!("{address}: {error}");
                self.findings.push(Finding::fail(there, seen, advice));
                let why = "it was not reached, so it was not asked";
                self.findings.push(Finding::skipped(back, why));
                return;
            }
        };
        self.proofs
            .push((name.clone(), Proof::Shared(examined.key)));
        self.findings
            .push(Finding::ok(there, format!("{address}: a link stands")));
        self.findings
            .push(judge_back(back, &examined.back, own_port));
        self.clocks.push(Reading {
            whose: Whose::Peer(name.clone()),
            theirs: examined.clock,
            ours: examined.read_at.wall,
            blur: Duration::ZERO,
        });
    }
}

fn judge_back(check: String, back: &Back, own_port: u16) -> Finding {
    match back {
        Back::Linked => Finding::ok(check, format!("it reaches port {own_port} here")),
        Back::NoLink(why) => Finding::fail(
            check,
            format!("it reaches port {own_port} here, but there is no link: {why}"),
            "see 'own port': another program may listen there, or with another secret",
        ),
        Back::Unreachable(why) => Finding::fail(
            check,
            format!("it does not reach port {own_port} here: {why}"),
            "open this TCP port in this node's firewall and on the way; others cannot take models from here",
        ),
        Back::Busy => Finding::skipped(
            check,
            "it was asked too often lately; try again in a minute",
        ),
    }
}

/// Serves nothing: what stands in for an agent that does not run.
struct Nothing;

impl SegmentSource for Nothing {
    fn find(&self, _: [u8; 20]) -> Option<Served> {
        None
    }
}

/// Makes sure that somebody listens on this node's own port: its agent, or else an uploader without segments, which is
/// to be kept until peers have dialled back.
pub async fn own_port(
    security: &Security,
    host: Option<IpAddr>,
    port: u16,
) -> (Finding, Option<Uploader>) {
    let check = "own port";
    let any = match host {
        Some(IpAddr::V6(_)) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let address = SocketAddr::new(any, port);
    let told = Arc::new(|_, _| {});
    match Uploader::bind(address, security.clone(), Arc::new(Nothing), told).await {
        Ok(uploader) => (
            Finding::ok(
                check,
                format!("no agent runs here; port {port} is listened on meanwhile"),
            ),
            Some(uploader),
        ),
        Err(UploaderError::Bind { source, .. })
            if source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            let own = SocketAddr::new(host.unwrap_or(Ipv4Addr::LOCALHOST.into()), port);
            let finding = match examine(security, own, port).await {
                Ok(_) => Finding::ok(check, format!("the agent of this node listens on {port}")),
                Err(error) => Finding::fail(
                    check,
                    format!("port {port} is taken, but not by an agent with this secret: {error}"),
                    "end the program that holds it, or choose another --peer-port on this node",
                ),
            };
            (finding, None)
        }
        Err(error) => (
            Finding::fail(check, error.to_string(), "choose another --peer-port"),
            None,
        ),
    }
}

#[cfg(test)]
mod tests {
    use modelcache_swarm::link::Mode;
    use modelcache_swarm::secret::{Key, Keyring, Keys, Purpose};
    use tokio::net::TcpListener;

    use super::super::finding::Verdict;
    use super::*;

    fn with_key(number: u8) -> Security {
        let key = Key::parse(&format!("{}00", format!("{number:02x}").repeat(31))).unwrap();
        let (_, keys) = Keys::set_by_hand(Keyring::new(key, None));
        Security::new(keys, Purpose::PeerLink, Mode::Encrypted)
    }

    async fn node(number: u8) -> Uploader {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let told = Arc::new(|_, _| {});
        Uploader::bind(anywhere, with_key(number), Arc::new(Nothing), told)
            .await
            .unwrap()
    }

    fn words(learned: &Learned) -> Vec<&Verdict> {
        learned.findings.iter().map(|one| &one.verdict).collect()
    }

    async fn dialled(far: &Uploader, own: &Uploader) -> Learned {
        let peer = Peer {
            name: "node-b".to_owned(),
            address: far.local_addr(),
        };
        dial(&with_key(1), vec![peer], own.local_addr().port()).await
    }

    #[tokio::test]
    async fn a_peer_is_dialled_both_ways() {
        let learned = dialled(&node(1).await, &node(1).await).await;
        assert_eq!(words(&learned), [&Verdict::Ok, &Verdict::Ok]);
        assert_eq!(learned.clocks.len(), 1);
        assert!(matches!(learned.proofs[..], [(_, Proof::Shared(_))]));
        // What listens here has another secret.
        let learned = dialled(&node(1).await, &node(2).await).await;
        assert!(matches!(
            words(&learned)[..],
            [Verdict::Ok, Verdict::Fail(_)]
        ));
    }

    #[tokio::test]
    async fn a_peer_with_another_secret_shows_that() {
        let learned = dialled(&node(2).await, &node(1).await).await;
        assert!(matches!(
            words(&learned)[..],
            [Verdict::Fail(_), Verdict::Skipped]
        ));
        assert!(matches!(learned.proofs[..], [(_, Proof::Different)]));
    }

    #[tokio::test]
    async fn somebody_listens_on_the_own_port() {
        let agent = node(1).await;
        let port = agent.local_addr().port();
        let (finding, stand_in) = own_port(&with_key(1), None, port).await;
        assert_eq!(finding.verdict, Verdict::Ok);
        assert!(stand_in.is_none());
        drop(agent);
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        drop(tokio::spawn(async move { other.accept().await }));
        let (finding, _) = own_port(&with_key(1), None, port).await;
        assert!(matches!(finding.verdict, Verdict::Fail(_)), "{finding:?}");
        let (finding, stand_in) = own_port(&with_key(1), None, 0).await;
        assert_eq!(finding.verdict, Verdict::Ok);
        assert!(stand_in.is_some());
    }

    #[test]
    fn a_port_that_is_not_reached_fails_and_a_busy_peer_does_not() {
        let found = |back| judge_back("back".to_owned(), &back, 9492).verdict;
        let closed = Back::Unreachable("connection refused".to_owned());
        assert!(matches!(found(closed), Verdict::Fail(_)));
        assert_eq!(found(Back::Busy), Verdict::Skipped);
    }
}
