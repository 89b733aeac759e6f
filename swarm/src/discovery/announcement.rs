//! What a node says about itself on the local network.
//!
//! The types hold what fits into one datagram and nothing else: whatever can be made of them can be sent.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use super::clock::UnixMillis;

/// Most addresses in one announcement.
pub const MAX_ADDRESSES: usize = 8;
/// Most contents on one page.
pub const CONTENTS_PER_PAGE: usize = 45;
/// Most pages that are sent. A node that holds more tells the first ones; whoever dials it learns the rest.
pub const MAX_PAGES: usize = 8;

/// A name that no announcement can carry.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no node name: write 1 to 253 letters, digits, '-', '_' and '.'")]
pub struct NodeNameError(String);

/// Who a node is: in a cluster the name of its Node. 1 to 253 ASCII letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, NodeNameError> {
        let sound = (1..=253).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if sound {
            Ok(Self(name.to_owned()))
        } else {
            Err(NodeNameError(name.chars().take(80).collect()))
        }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A short name of something that a node holds, with 160 bits: a BitTorrent v1 info hash, or a digest of another name.
/// It serves to find peers; what they send is checked against the snapshot and never against this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub [u8; 20]);

impl ContentId {
    /// That of a snapshot: the first 160 bits of the SHA-256 of its name, which says repository and commit.
    #[must_use]
    pub fn of_snapshot(name: &str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        let mut id = [0; 20];
        for (to, from) in id.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(id)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a node listens for peers: 1 to [`MAX_ADDRESSES`] addresses that others can dial, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening(Vec<SocketAddr>);

impl Listening {
    /// Those of `addresses` that can be dialled, the first ones when there are many; `None` when there is none.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Option<Self> {
        let mut chosen = Vec::new();
        for address in addresses {
            if chosen.len() < MAX_ADDRESSES && can_be_dialled(address) && !chosen.contains(&address)
            {
                chosen.push(address);
            }
        }
        (!chosen.is_empty()).then_some(Self(chosen))
    }

    /// The addresses, the one to try first at the front.
    #[must_use]
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.0
    }

    /// Whether one of them is on this host address.
    #[must_use]
    pub fn names(&self, host: IpAddr) -> bool {
        self.0.iter().any(|address| address.ip() == host)
    }
}

/// Whether an address means the same host to everybody who hears of it. Loopback does not, and a link-local IPv6 address
/// says nothing without its interface.
#[must_use]
pub fn can_be_dialled(address: SocketAddr) -> bool {
    let sound = match address.ip() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_broadcast() || ip.octets()[0] == 0),
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.to_ipv4_mapped().is_some())
        }
    };
    sound && !address.ip().is_multicast() && address.port() != 0
}

/// A part of what a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    generation: u32,
    number: u8,
    pages: u8,
    contents: Vec<ContentId>,
}

impl Page {
    /// The pages that tell `contents`, at least one and at most [`MAX_PAGES`].
    #[must_use]
    pub fn all(generation: u32, contents: &[ContentId]) -> Vec<Self> {
        let told = &contents[..contents.len().min(CONTENTS_PER_PAGE * MAX_PAGES)];
        let pages = told.len().div_ceil(CONTENTS_PER_PAGE).max(1);
        let narrow = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        (0..pages)
            .map(|number| Self {
                generation,
                number: narrow(number),
                pages: narrow(pages),
                contents: told
                    .chunks(CONTENTS_PER_PAGE)
                    .nth(number)
                    .unwrap_or_default()
                    .to_vec(),
            })
            .collect()
    }

    /// A page as it was received; `None` when there can be no such page.
    pub(super) fn received(
        generation: u32,
        number: u8,
        pages: u8,
        contents: Vec<ContentId>,
    ) -> Option<Self> {
        let sound = number < pages
            && usize::from(pages) <= MAX_PAGES
            && contents.len() <= CONTENTS_PER_PAGE;
        sound.then_some(Self {
            generation,
            number,
            pages,
            contents,
        })
    }

    /// Grows each time that what the node holds changes. Pages of different generations do not belong together.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Which page of the generation, from 0.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many pages the generation has, at least 1.
    #[must_use]
    pub fn pages(&self) -> u8 {
        self.pages
    }

    /// What is held.
    #[must_use]
    pub fn contents(&self) -> &[ContentId] {
        &self.contents
    }
}

/// How a datagram was sent, and what its sender hears on that link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// By directed broadcast, not by multicast.
    pub broadcast: bool,
    /// The sender hears nobody's multicast on this link: who wants to be heard by it must broadcast.
    pub deaf: bool,
}

/// What an announcement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The node is there and holds this.
    Page(Page),
    /// The node leaves.
    Goodbye,
}

/// One announcement: one datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who sends it.
    pub node: NodeName,
    /// When the sender started, by its own clock: tells its lives apart and puts them in order.
    pub boot: UnixMillis,
    /// Grows with each datagram of one life.
    pub sequence: u64,
    /// When it was sent, by the sender's clock.
    pub sent_at: UnixMillis,
    /// Where the sender listens for peers; among them the address that this datagram comes from.
    pub listening: Listening,
    /// How it was sent.
    pub delivery: Delivery,
    /// What it is about.
    pub body: Body,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_spoil_a_table_or_a_log_are_refused() {
        for bad in ["", "a b", "ä", "a\n", "a/b", &"x".repeat(254)] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "node-1.example.org", "Bench_7", &"x".repeat(253)] {
            assert!(NodeName::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn only_addresses_that_others_can_dial_are_told() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for bad in [
            "127.0.0.1:1",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "255.255.255.255:1",
            "239.1.1.1:1",
            "10.0.0.1:0",
            "[::]:1",
            "[::1]:1",
            "[fe80::1]:1",
            "[ff02::1]:1",
            "[::ffff:10.0.0.1]:1",
        ] {
            assert!(Listening::new([address(bad)]).is_none(), "{bad}");
        }
        let many = (0..20).map(|port| address(&format!("10.0.0.1:{port}")));
        let listening = Listening::new(many.clone().chain(many)).unwrap();
        assert_eq!(listening.as_slice().len(), MAX_ADDRESSES);
        assert_eq!(listening.as_slice()[0], address("10.0.0.1:1"));
        assert!(listening.names("10.0.0.1".parse().unwrap()));
        assert!(!listening.names("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn everything_held_is_on_one_page_until_there_are_too_many() {
        for held in [0, 1, 44, 45, 46, 90, 45 * 8, 45 * 8 + 1, 5000_usize] {
            let contents: Vec<ContentId> = (0..held)
                .map(|number| {
                    let mut id = [0; 20];
                    id[..8].copy_from_slice(&number.to_be_bytes());
                    ContentId(id)
                })
                .collect();
            let pages = Page::all(9, &contents);
            assert!((1..=MAX_PAGES).contains(&pages.len()));
            let mut told = Vec::new();
            for (number, page) in pages.iter().enumerate() {
                assert_eq!(usize::from(page.number()), number);
                assert_eq!(usize::from(page.pages()), pages.len());
                assert_eq!(page.generation(), 9);
                told.extend_from_slice(page.contents());
            }
            assert_eq!(told, contents[..held.min(CONTENTS_PER_PAGE * MAX_PAGES)]);
        }
    }

    #[test]
    fn a_snapshot_has_the_same_id_on_every_node() {
        let id = ContentId::of_snapshot("tiny-0123abcd");
        // As sha256sum computes it.
        assert_eq!(id.to_string(), "135bf8a085f7d2e63609429109335bbfadc74bd4");
        assert_ne!(id, ContentId::of_snapshot("tiny-0123abce"));
    }
}
