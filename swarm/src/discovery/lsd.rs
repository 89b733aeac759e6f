//! BitTorrent's local service discovery (BEP 14): how other clients on the network say which torrents they have.
//!
//! It is a way to find somebody to dial and no more: unsigned, and anybody may say anything. It must never name a private
//! torrent (BEP 27).

pub mod service;
pub mod timing;

use std::fmt::Write as _;
use std::net::SocketAddr;

use thiserror::Error;

use super::announcement::ContentId;
use super::net::Group;

/// The groups and their port (BEP 14).
pub const GROUP: Group = Group {
    v4: std::net::Ipv4Addr::new(239, 192, 152, 143),
    v6: std::net::Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f),
    port: 6771,
    ttl: 1,
};

/// Longest packet that is read; BEP 14 allows 1,400 bytes, and libtorrent reads a little more.
pub const MAX_PACKET: usize = 1_500;
/// Most info hashes that are taken from one packet; no more fit into 1,400 bytes.
const MAX_HASHES: usize = 32;
/// Longest cookie that is compared.
const MAX_COOKIE: usize = 64;

/// A packet that is not taken in.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LsdError {
    /// It is too long.
    #[error("longer than {MAX_PACKET} bytes")]
    TooLong,
    /// It is no BT-SEARCH message of HTTP/1.1.
    #[error("no BT-SEARCH message")]
    NotASearch,
    /// It names no port, or none that can be dialled.
    #[error("without a port")]
    Port,
    /// It names no info hash, or something else in the place of one.
    #[error("without an info hash of 40 hexadecimal digits")]
    InfoHash,
}

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Where the sender listens, on the address that the packet came from; not 0.
    pub port: u16,
    /// What the sender has or wants; at least one.
    pub info_hashes: Vec<ContentId>,
    /// Chosen by the sender, to know its own packets by.
    pub cookie: Option<String>,
}

/// A packet that says this node listens on `port` and has, or wants, this torrent.
///
/// One hash a packet, header names spelt as in BEP 14 and a short cookie: Transmission compares names exactly, aria2 reads
/// 200 bytes and the first hash only.
#[must_use]
pub fn encode(group: SocketAddr, port: u16, info_hash: ContentId, cookie: &str) -> Vec<u8> {
    let mut text = String::with_capacity(192);
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "BT-SEARCH * HTTP/1.1\r\nHost: {group}\r\nPort: {port}\r\nInfohash: {info_hash}\r\ncookie: {cookie}\r\n\r\n\r\n"
    );
    text.into_bytes()
}

/// Reads a packet. Header names in any case, unknown ones ignored, several hashes allowed: as other clients write them.
pub fn decode(packet: &[u8]) -> Result<Search, LsdError> {
    if packet.len() > MAX_PACKET {
        return Err(LsdError::TooLong);
    }
    let text = std::str::from_utf8(packet).map_err(|_| LsdError::NotASearch)?;
    let mut lines = text.split("\r\n");
    let minor = lines
        .next()
        .and_then(|line| line.strip_prefix("BT-SEARCH * HTTP/1."))
        .ok_or(LsdError::NotASearch)?;
    if !minor.parse::<u8>().is_ok_and(|minor| minor >= 1) {
        return Err(LsdError::NotASearch);
    }
    let mut port = None;
    let mut info_hashes = Vec::new();
    let mut cookie = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("port") {
            port = value.parse::<u16>().ok().filter(|port| *port != 0);
        } else if name.eq_ignore_ascii_case("infohash") {
            let mut hash = [0; 20];
            hex::decode_to_slice(value, &mut hash).map_err(|_| LsdError::InfoHash)?;
            if info_hashes.len() < MAX_HASHES {
                info_hashes.push(ContentId(hash));
            }
        } else if name.eq_ignore_ascii_case("cookie") && value.len() <= MAX_COOKIE {
            cookie = Some(value.to_owned());
        }
    }
    let port = port.ok_or(LsdError::Port)?;
    if info_hashes.is_empty() {
        return Err(LsdError::InfoHash);
    }
    Ok(Search {
        port,
        info_hashes,
        cookie,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP_V4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(GROUP.v4), GROUP.port);
    const GROUP_V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(GROUP.v6), GROUP.port);
    const COOKIE: &str = "0123456789abcdef";

    #[test]
    fn packets_are_written_as_the_strictest_clients_want_them() {
        let packet = encode(GROUP_V4, 9493, ContentId([0xab; 20]), COOKIE);
        let expected = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 9493\r\nInfohash: {}\r\ncookie: {COOKIE}\r\n\r\n\r\n",
            "ab".repeat(20)
        );
        assert_eq!(String::from_utf8(packet).unwrap(), expected);
        let v6 = encode(GROUP_V6, u16::MAX, ContentId([0xab; 20]), COOKIE);
        assert!(
            v6.len() <= 200,
            "aria2 reads no more than 200 bytes: {}",
            v6.len()
        );
        assert!(
            String::from_utf8(v6)
                .unwrap()
                .contains("Host: [ff15::efc0:988f]:6771\r\n")
        );
    }

    #[test]
    fn what_other_clients_write_is_read() {
        let hash = "AB".repeat(20);
        let upper = format!(
            "BT-SEARCH * HTTP/1.1\r\nHOST: 239.192.152.143:6771\r\nPORT: 51413\r\nINFOHASH: {hash}\r\nInfohash:{hash}\r\n\r\n\r\n"
        );
        assert_eq!(
            decode(upper.as_bytes()),
            Ok(Search {
                port: 51413,
                info_hashes: vec![ContentId([0xab; 20]); 2],
                cookie: None,
            })
        );
        // A later minor version, unknown headers, and an end without blank lines.
        let odd = format!("BT-SEARCH * HTTP/1.2\r\nPort: 1\r\nX-Odd\r\nX: y\r\nInfohash: {hash}");
        assert_eq!(decode(odd.as_bytes()).unwrap().port, 1);
    }

    #[test]
    fn what_names_nobody_or_nothing_is_refused() {
        let hash = "ab".repeat(20);
        for (packet, error) in [
            (String::new(), LsdError::NotASearch),
            ("M-SEARCH * HTTP/1.1\r\n".to_owned(), LsdError::NotASearch),
            (
                format!("BT-SEARCH * HTTP/1.0\r\nPort: 1\r\nInfohash: {hash}\r\n\r\n"),
                LsdError::NotASearch,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nInfohash: {hash}\r\n\r\n"),
                LsdError::Port,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {hash}\r\n\r\n"),
                LsdError::Port,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: {hash}\r\n\r\n"),
                LsdError::Port,
            ),
            (
                "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\r\n".to_owned(),
                LsdError::InfoHash,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {hash}0\r\n\r\n"),
                LsdError::InfoHash,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\r\nInfohash: {hash}\r\n"),
                LsdError::InfoHash,
            ),
            ("x".repeat(MAX_PACKET + 1), LsdError::TooLong),
        ] {
            assert_eq!(decode(packet.as_bytes()), Err(error), "{packet}");
        }
        assert_eq!(decode(&[0xff; 100]), Err(LsdError::NotASearch));
    }

    proptest! {
        #[test]
        fn packets_survive_the_wire(hash: [u8; 20], port in 1_u16.., cookie in "[0-9a-f]{1,20}") {
            let hash = ContentId(hash);
            let search = Search { port, info_hashes: vec![hash], cookie: Some(cookie.clone()) };
            prop_assert_eq!(decode(&encode(GROUP_V4, port, hash, &cookie)), Ok(search));
        }

        #[test]
        fn anything_may_arrive(
            hash: [u8; 20],
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            noise in prop::collection::vec(any::<u8>(), 0..1600),
        ) {
            let _ = decode(&noise);
            let mut packet = encode(GROUP_V4, 1, ContentId(hash), COOKIE);
            for (which, value) in changes {
                let at = which.index(packet.len());
                packet[at] = value;
            }
            if let Ok(search) = decode(&packet) {
                prop_assert!(search.port != 0 && !search.info_hashes.is_empty());
            }
        }
    }
}
