//! Fuzz targets of announcements, see [`crate::fuzzing`].

// Targets are tests: they panic.
#![allow(clippy::missing_panics_doc)]

use aws_lc_rs::hmac;

use super::{MAGIC, SIGNED, VERSION, decode, encode, mac_key};
use crate::fuzzing::RING;

/// Flags and content, which are signed here so that they are looked at: there is one way to write what is read.
pub fn announcement(bytes: &[u8]) {
    let Some((flags, content)) = bytes.split_first() else {
        return;
    };
    let key = RING.current();
    let head = [&MAGIC[..], &[VERSION, SIGNED | flags], key.id().as_bytes()].concat();
    let signed = [&head, content].concat();
    let mac = hmac::sign(&mac_key(key), &signed);
    announcement_raw(&[&signed, mac.as_ref()].concat());
}

/// A datagram from the network: if it is believed, it is one that a member writes, with all of its signature.
pub fn announcement_raw(bytes: &[u8]) {
    if let Ok(announcement) = decode(bytes, &RING) {
        assert_eq!(encode(&announcement, RING.current()), bytes);
    }
}
