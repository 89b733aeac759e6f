//! Tests what a node needs: its secret, disk, local network, peers, coordinator, hub and clock: `modelcache-agent doctor`.
//!
//! It works beside the agent of the node and without one. Each module looks at one thing and judges it apart from that;
//! what is found is told by [`finding`].

pub mod clock;
pub mod disk;
pub mod far;
pub mod finding;
pub mod lan;
pub mod peers;
pub mod secret;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use modelcache_swarm::discovery::named::NamedPeer;
use modelcache_swarm::link::{Mode, Security};
use modelcache_swarm::secret::{Keyring, Keys, Purpose};
use thiserror::Error;

use crate::args::{DoctorArgs, Output};
use crate::lan::settings;

use finding::Finding;
use lan::Heard;
use peers::Peer;

/// Why nothing can be told.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// Standard output is closed.
    #[error("cannot write what was found: {0}")]
    Output(#[from] std::io::Error),
    /// It cannot be told as JSON.
    #[error("cannot write what was found as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Looks at everything, prints it, and says how many checks failed.
pub async fn doctor(args: DoctorArgs) -> Result<usize, DoctorError> {
    let output = args.output;
    let findings = examine(args).await;
    let text = match output {
        Output::Table => finding::table(&findings),
        Output::Json => finding::json(&findings)?,
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(finding::failures(&findings))
}

async fn examine(args: DoctorArgs) -> Vec<Finding> {
    let path = args.key.key.clone();
    let loaded = Keyring::load(&path);
    let mut findings = vec![secret::judge_file(
        &path.display().to_string(),
        loaded.as_ref(),
    )];
    findings.extend(disk::check(args.cache_dir.clone()).await);
    if let Ok(ring) = loaded {
        findings.extend(examine_others(args, ring).await);
        return findings;
    }
    let why = "needs the secret";
    let without = ["multicast", "broadcast", "peers", "coordinator"];
    findings.extend(without.map(|check| Finding::skipped(check, why)));
    let hub = far::hub(args.hub, args.hub_ca).await;
    findings.push(hub.finding);
    findings.extend(hub.clock.as_ref().map(clock::judge));
    findings
}

/// What takes others, most of them members.
async fn examine_others(args: DoctorArgs, ring: Keyring) -> Vec<Finding> {
    // Nobody sets them again: what is examined is one state.
    let (_setter, keys) = Keys::set_by_hand(ring.clone());
    let security = |purpose, mode| Security::new(keys.clone(), purpose, mode);
    let links = security(Purpose::PeerLink, args.peer_links.into());
    let coordination = security(Purpose::Coordination, Mode::Encrypted);
    let udp_port = args.lan.lan_port;

    let (own, stand_in) = peers::own_port(&links, args.node_ip, args.peer_port).await;
    let time = Duration::from_secs(args.seconds);
    eprintln!("listening for {} s", args.seconds);
    let (heard, coordinator, hub) = tokio::join!(
        lan::listen(settings(args.lan, keys.clone(), None), args.peer_port, time),
        far::coordinator(&coordination, args.coordinator.as_deref()),
        far::hub(args.hub, args.hub_ca),
    );
    let mut findings = Vec::new();
    let heard = match heard {
        Ok(heard) => {
            findings.extend(lan::judge(&heard, udp_port));
            heard
        }
        Err(error) => {
            let advice = "nodes are found by the coordinator only";
            findings.push(Finding::fail("multicast", error.to_string(), advice));
            Heard::default()
        }
    };
    findings.push(own);
    let here = args.node_ip.map(|ip| (ip, args.peer_port).into());
    let (peers, unknown) = to_dial(&heard, args.peer, here).await;
    findings.extend(unknown);
    if peers.is_empty() {
        findings.push(Finding::skipped(
            "peers",
            "no other node announces itself or is named by --peer",
        ));
    }
    let dialled = peers::dial(&links, peers, args.peer_port).await;
    drop(stand_in);
    findings.extend(dialled.findings);

    let mut proofs = dialled.proofs;
    proofs.extend(
        coordinator
            .proof
            .map(|proof| ("coordinator".to_owned(), proof)),
    );
    let members = heard.nodes().count();
    let equal = secret::judge_equal(&ring, &proofs, members, heard.strangers());
    findings.extend([equal, coordinator.finding, hub.finding]);
    let clocks = dialled.clocks.iter().chain(&coordinator.clock);
    findings.extend(clocks.chain(&hub.clock).map(clock::judge));
    findings
}

/// Whom to dial: those that were heard and those that were named, each once and not this node; and what is wrong with the
/// names.
async fn to_dial(
    heard: &Heard,
    named: Vec<NamedPeer>,
    here: Option<SocketAddr>,
) -> (Vec<Peer>, Vec<Finding>) {
    let mut known: BTreeSet<SocketAddr> = here.into_iter().collect();
    let mut peers = Vec::new();
    for (node, address) in heard.nodes() {
        if known.insert(address) {
            peers.push(Peer {
                name: node.to_string(),
                address,
            });
        }
    }
    let mut unknown = Vec::new();
    for name in named {
        match tokio::net::lookup_host(name.to_string()).await {
            Ok(addresses) => peers.extend(addresses.filter(|address| known.insert(*address)).map(
                |address| Peer {
                    // A name may stand for many.
                    name: address.to_string(),
                    address,
                },
            )),
            Err(error) => unknown.push(Finding::fail(
                format!("peer {name}"),
                format!("it is not known: {error}"),
                "write --peer HOST:PORT with a name that the DNS has, or an address",
            )),
        }
    }
    (peers, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peers_are_named_by_address_or_name_and_dialled_once() {
        let names = ["127.0.0.1:9492", "127.0.0.1:9492", "nowhere.invalid:1"];
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let (peers, unknown) = to_dial(&Heard::default(), parsed(&names), None).await;
        let addresses: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(addresses, ["127.0.0.1:9492"]);
        assert_eq!(unknown.len(), 1);
        // All agents have the same name; this node is behind it too.
        let here = Some("127.0.0.1:9492".parse().unwrap());
        let (peers, _) = to_dial(&Heard::default(), parsed(&names), here).await;
        assert!(peers.is_empty(), "{peers:?}");
        let (peers, _) = to_dial(&Heard::default(), parsed(&["localhost:1"]), None).await;
        assert!(
            !peers.is_empty() && peers.iter().all(|peer| peer.address.ip().is_loopback()),
            "{peers:?}"
        );
    }
}
