//! The datagram: announcements as bytes, signed.
//!
//! ```text
//! "MCA"  version=1  flags   key id, 8 bytes
//! name length, 1 byte   name
//! boot, 8 bytes   sequence, 8   sent at, 8             milliseconds since 1970; all numbers big-endian
//! number of addresses, 1 byte;  each: 4 or 6, the 4 or 16 bytes of the host, port in 2 bytes
//! unless flags & 8 (goodbye):  generation, 4   page, 1   pages, 1   number of contents, 1   20 bytes each
//! HMAC-SHA256 over everything before it, 32 bytes
//! ```
//! Flags: 1 signed, which all are that are believed; 2 sent by broadcast, 4 deaf, 8 goodbye; the others are zero. There is one way to write each
//! announcement, and nothing may follow it. What is signed is what is on the wire, so the signature is checked before
//! anything behind the key id is looked at.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;

use super::announcement::{
    Announcement, Body, CONTENTS_PER_PAGE, ContentId, Delivery, Listening, MAX_ADDRESSES, NodeName,
    Page,
};
use super::clock::UnixMillis;
use super::hali;
use super::refusal::Refusal;
use crate::secret::{Key, KeyId, Keyring, Purpose};

/// Longest datagram in bytes: with the headers of IPv6 and UDP it fits any Ethernet, tunnels included.
pub const MAX_DATAGRAM: usize = 1_400;

const MAGIC: [u8; 3] = *b"MCA";
const VERSION: u8 = 1;
const SIGNED: u8 = 1;
const BROADCAST: u8 = 2;
const DEAF: u8 = 4;
const GOODBYE: u8 = 8;
const MAC: usize = 32;

const LONGEST: usize = MAGIC.len()
    + 2
    + KeyId::BYTES
    + (1 + 253)
    + 3 * 8
    + (1 + MAX_ADDRESSES * 19)
    + (7 + CONTENTS_PER_PAGE * 20)
    + MAC;
const _: () = assert!(LONGEST <= MAX_DATAGRAM);

/// The bytes of an announcement, signed with `key`.
#[must_use]
pub fn encode(announcement: &Announcement, key: &Key) -> Vec<u8> {
    let mut out = Vec::with_capacity(LONGEST);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, SIGNED | flags(announcement)]);
    out.extend_from_slice(key.id().as_bytes());
    write(announcement, &mut out);
    let mac = hmac::sign(&mac_key(key), &out);
    out.extend_from_slice(mac.as_ref());
    out
}

/// The flags that say something about the announcement itself.
fn flags(announcement: &Announcement) -> u8 {
    [
        (announcement.delivery.broadcast, BROADCAST),
        (announcement.delivery.deaf, DEAF),
        (announcement.body == Body::Goodbye, GOODBYE),
    ]
    .into_iter()
    .filter_map(|(set, flag)| set.then_some(flag))
    .sum()
}

/// Everything from the name on.
fn write(announcement: &Announcement, out: &mut Vec<u8>) {
    let name = announcement.node.as_str().as_bytes();
    out.push(count(name.len()));
    out.extend_from_slice(name);
    for number in [
        announcement.boot.0,
        announcement.sequence,
        announcement.sent_at.0,
    ] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let addresses = announcement.listening.as_slice();
    out.push(count(addresses.len()));
    for address in addresses {
        match address.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&address.port().to_be_bytes());
    }
    if let Body::Page(page) = &announcement.body {
        out.extend_from_slice(&page.generation().to_be_bytes());
        out.extend_from_slice(&[page.number(), page.pages(), count(page.contents().len())]);
        for content in page.contents() {
            out.extend_from_slice(&content.0);
        }
    }
}

/// The types allow no longer list than a byte can count.
fn count(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

fn mac_key(key: &Key) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.derive(Purpose::Announcement))
}

/// Checks the signature of a datagram and reads it. Says nothing about its time or whether it was heard before.
pub fn decode(datagram: &[u8], ring: &Keyring) -> Result<Announcement, Refusal> {
    if hali::is_packet(datagram) {
        return Err(Refusal::Hali);
    }
    if datagram.len() > MAX_DATAGRAM {
        return Err(Refusal::Malformed);
    }
    let mut reader = Reader(datagram);
    if reader.array()? != MAGIC {
        return Err(Refusal::Malformed);
    }
    if reader.byte()? != VERSION {
        return Err(Refusal::Version);
    }
    let flags = reader.byte()?;
    if flags & SIGNED == 0 {
        return Err(Refusal::Missing);
    }
    let id = KeyId::from(reader.array::<{ KeyId::BYTES }>()?);
    let (content, _) = reader
        .0
        .split_last_chunk::<MAC>()
        .ok_or(Refusal::Malformed)?;
    let (signed, mac) = datagram
        .split_last_chunk::<MAC>()
        .ok_or(Refusal::Malformed)?;
    let key = ring.by_id(id).ok_or(Refusal::UnknownKey)?;
    // Compares in constant time.
    hmac::verify(&mac_key(key), signed, mac).map_err(|_| Refusal::Wrong)?;
    read(flags & !SIGNED, content)
}

/// The reverse of [`write`].
fn read(flags: u8, content: &[u8]) -> Result<Announcement, Refusal> {
    let mut reader = Reader(content);
    let announcement = reader.announcement(flags)?;
    if reader.0.is_empty() {
        Ok(announcement)
    } else {
        Err(Refusal::Malformed)
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Refusal::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        self.array().map(|[byte]| byte)
    }

    fn long(&mut self) -> Result<u64, Refusal> {
        self.array().map(u64::from_be_bytes)
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8], Refusal> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Refusal::Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn announcement(&mut self, flags: u8) -> Result<Announcement, Refusal> {
        if flags & !(BROADCAST | DEAF | GOODBYE) != 0 {
            return Err(Refusal::Malformed);
        }
        let len = self.byte()?;
        let name = self.slice(usize::from(len))?;
        let node = std::str::from_utf8(name)
            .ok()
            .and_then(|name| NodeName::new(name).ok())
            .ok_or(Refusal::Malformed)?;
        let boot = UnixMillis(self.long()?);
        let sequence = self.long()?;
        let sent_at = UnixMillis(self.long()?);
        let listening = self.listening()?;
        let body = if flags & GOODBYE == 0 {
            Body::Page(self.page()?)
        } else {
            Body::Goodbye
        };
        Ok(Announcement {
            node,
            boot,
            sequence,
            sent_at,
            listening,
            delivery: Delivery {
                broadcast: flags & BROADCAST != 0,
                deaf: flags & DEAF != 0,
            },
            body,
        })
    }

    fn listening(&mut self) -> Result<Listening, Refusal> {
        let count = usize::from(self.byte()?);
        let mut addresses = Vec::with_capacity(MAX_ADDRESSES);
        for _ in 0..count {
            let ip = match self.byte()? {
                4 => IpAddr::from(self.array::<4>()?),
                6 => IpAddr::from(self.array::<16>()?),
                _ => return Err(Refusal::Malformed),
            };
            let port = self.array().map(u16::from_be_bytes)?;
            addresses.push(SocketAddr::new(ip, port));
        }
        // Each of them must be one that can be told, or another way of writing the same would be accepted.
        Listening::new(addresses)
            .filter(|listening| listening.as_slice().len() == count)
            .ok_or(Refusal::Malformed)
    }

    fn page(&mut self) -> Result<Page, Refusal> {
        let generation = self.array().map(u32::from_be_bytes)?;
        let [number, pages, count] = self.array()?;
        let (contents, _) = self.slice(usize::from(count) * 20)?.as_chunks::<20>();
        let contents = contents.iter().copied().map(ContentId).collect();
        Page::received(generation, number, pages, contents).ok_or(Refusal::Malformed)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
#[cfg(test)]
mod tests;
