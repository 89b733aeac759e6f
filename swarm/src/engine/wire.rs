//! The few messages of BEP 3 and 10 that a holder needs, and one who takes from a holder, as pure functions over untrusted bytes.

use rand::Rng;
use thiserror::Error;

use super::storage::BLOCK_BYTES;
use crate::verify::piece_count;

/// Length of a handshake in bytes.
pub(super) const HANDSHAKE_BYTES: usize = 68;
/// Length of what stands before the bytes of a block.
pub(super) const PIECE_HEADER_BYTES: usize = 13;
/// Longest block that may be asked for at once.
pub(super) const MAX_BLOCK_BYTES: u32 = 128 << 10;
/// Longest message that is taken in; those we know are far shorter, foreign extended handshakes stay below it.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 10;

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

const CHOKE: u8 = 0;
const UNCHOKE: u8 = 1;
const INTERESTED: u8 = 2;
const BITFIELD: u8 = 5;
const REQUEST: u8 = 6;
const PIECE: u8 = 7;
/// Extension messages (BEP 10).
pub(super) const EXTENDED: u8 = 20;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum WireError {
    #[error("not a BitTorrent handshake")]
    Handshake,
    #[error("message of {0} bytes")]
    TooLong(usize),
    #[error("request of {0} bytes")]
    RequestLength(usize),
    #[error("request outside of the segment")]
    OutOfBounds,
    #[error("request for more than all of the segment")]
    Repeated,
}

/// One block of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) piece: u32,
    pub(super) begin: u32,
    pub(super) len: u32,
}

/// What a receiver says, as far as a holder cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Request(Request),
    /// What follows the byte 20.
    Extended(&'a [u8]),
    /// Interest, what the receiver has, keep-alives: nothing that a holder of everything acts upon.
    Other,
}

/// What a holder says, as far as a receiver cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    Choke,
    Unchoke,
    Block {
        piece: u32,
        begin: u32,
        data: &'a [u8],
    },
    /// What follows the byte 20.
    Extended(&'a [u8]),
    /// What it has, keep-alives, and what it asks for.
    Other,
}

/// Where the bit stands that says "I know extension messages" (BEP 10).
const EXTENSIONS: (usize, u8) = (25, 0x10);

/// Whether a handshake says that its sender knows extension messages.
pub(super) fn knows_extensions(bytes: &[u8; HANDSHAKE_BYTES]) -> bool {
    bytes[EXTENSIONS.0] & EXTENSIONS.1 != 0
}

/// Has a handshake of ours say that we know extension messages.
pub(super) fn know_extensions(handshake: &mut [u8]) {
    if let Some(reserved) = handshake.get_mut(EXTENSIONS.0) {
        *reserved |= EXTENSIONS.1;
    }
}

/// The info hash that a handshake asks for.
pub(super) fn parse_handshake(bytes: &[u8; HANDSHAKE_BYTES]) -> Result<[u8; 20], WireError> {
    if !bytes.starts_with(PROTOCOL) {
        return Err(WireError::Handshake);
    }
    let mut info_hash = [0; 20];
    info_hash.copy_from_slice(&bytes[28..48]);
    Ok(info_hash)
}

/// A peer id of ours, different each time and not to be guessed.
pub(super) fn peer_id() -> [u8; 20] {
    let mut id = *b"-MC0001-............";
    rand::rng().fill_bytes(&mut id[8..]);
    id
}

/// Our handshake. No extension bit is set: members of a cluster know the metadata, and peers come from the coordinator only.
pub(super) fn handshake(info_hash: &[u8; 20], peer_id: &[u8; 20]) -> Vec<u8> {
    [&PROTOCOL[..], &[0; 8], info_hash, peer_id].concat()
}

/// "I have every piece" and "ask what you like", the two messages after the handshake.
pub(super) fn greeting(pieces: u32) -> Vec<u8> {
    let mut bits = vec![0xff_u8; pieces.div_ceil(8) as usize];
    if let Some(last) = bits.last_mut() {
        *last <<= (8 - pieces % 8) % 8;
    }
    let len = u32::try_from(bits.len() + 1).unwrap_or(u32::MAX);
    [
        &len.to_be_bytes()[..],
        &[BITFIELD],
        &bits,
        &[0, 0, 0, 1, UNCHOKE],
    ]
    .concat()
}

/// How many bytes a holder says after its handshake when it is asked for each block of a segment once: its greeting and the blocks.
pub(super) fn said_of_all(segment_len: u64, piece_bytes: u32) -> u64 {
    let bits = piece_count(segment_len, piece_bytes).div_ceil(8);
    let blocks = segment_len.div_ceil(BLOCK_BYTES as u64);
    10 + bits + blocks * PIECE_HEADER_BYTES as u64 + segment_len
}

/// An extension message (BEP 10): `parts`, one behind the other, are what follows the byte 20.
pub(super) fn extended(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
    [&len.to_be_bytes()[..], &[EXTENDED], &body].concat()
}

/// The first message in `bytes` and how many bytes it took; `None` when it is not complete yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, WireError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*prefix) as usize;
    if len > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLong(len));
    }
    if let Some(&REQUEST) = rest.first()
        && len != 13
        && len > 0
    {
        return Err(WireError::RequestLength(len));
    }
    let Some(body) = rest.get(..len) else {
        return Ok(None);
    };
    let message = match body {
        [REQUEST, numbers @ ..] => {
            let (words, _) = numbers.as_chunks::<4>();
            match words {
                [piece, begin, len] => Message::Request(Request {
                    piece: u32::from_be_bytes(*piece),
                    begin: u32::from_be_bytes(*begin),
                    len: u32::from_be_bytes(*len),
                }),
                _ => return Err(WireError::RequestLength(body.len())),
            }
        }
        [EXTENDED, body @ ..] => Message::Extended(body),
        _ => Message::Other,
    };
    Ok(Some((message, 4 + len)))
}

/// How long that is in `bytes` which a peer says after it was given all of a segment and before it begins with another, and whether
/// its handshake follows whole. As the length of a message, the first word of a handshake would be far too long.
pub(super) fn until_handshake(bytes: &[u8]) -> Result<(usize, bool), WireError> {
    let mut passed = 0;
    loop {
        let rest = &bytes[passed..];
        if rest.len() >= 4 && rest[..4] == PROTOCOL[..4] {
            return Ok((passed, rest.len() >= HANDSHAKE_BYTES));
        }
        match parse(rest)? {
            Some((Message::Request(_), _)) => return Err(WireError::Repeated),
            Some((_, len)) => passed += len,
            None => return Ok((passed, false)),
        }
    }
}

/// What a holder says with a message, given without its length.
pub(super) fn said(message: &[u8]) -> Said<'_> {
    match message {
        [CHOKE] => Said::Choke,
        [UNCHOKE] => Said::Unchoke,
        [PIECE, body @ ..] => block(body).unwrap_or(Said::Other),
        [EXTENDED, body @ ..] => Said::Extended(body),
        _ => Said::Other,
    }
}

fn block(body: &[u8]) -> Option<Said<'_>> {
    let (piece, rest) = body.split_first_chunk()?;
    let (begin, data) = rest.split_first_chunk()?;
    Some(Said::Block {
        piece: u32::from_be_bytes(*piece),
        begin: u32::from_be_bytes(*begin),
        data,
    })
}

/// "I want what you have."
pub(super) const WISH: [u8; 5] = [0, 0, 0, 1, INTERESTED];

/// Asks for a block.
pub(super) fn request(request: Request) -> Vec<u8> {
    let words = [request.piece, request.begin, request.len].map(u32::to_be_bytes);
    [&[0, 0, 0, 13, REQUEST][..], words.as_flattened()].concat()
}

/// Where in the segment a request's bytes lie, if all of them do.
pub(super) fn locate(
    request: Request,
    segment_len: u64,
    piece_bytes: u32,
) -> Result<u64, WireError> {
    let within_piece = u64::from(request.begin) + u64::from(request.len);
    let offset = u64::from(request.piece) * u64::from(piece_bytes) + u64::from(request.begin);
    let inside = request.len > 0
        && request.len <= MAX_BLOCK_BYTES
        && within_piece <= u64::from(piece_bytes)
        && offset + u64::from(request.len) <= segment_len;
    if inside {
        Ok(offset)
    } else {
        Err(WireError::OutOfBounds)
    }
}

/// What stands before the bytes of a block.
pub(super) fn piece_header(request: Request) -> [u8; PIECE_HEADER_BYTES] {
    let mut header = [0; PIECE_HEADER_BYTES];
    // Nine bytes of header count into the length; a request is never longer than MAX_BLOCK_BYTES.
    header[..4].copy_from_slice(&(request.len + 9).to_be_bytes());
    header[4] = PIECE;
    header[5..9].copy_from_slice(&request.piece.to_be_bytes());
    header[9..].copy_from_slice(&request.begin.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bitfield_has_one_bit_a_piece() {
        assert_eq!(greeting(1), [0, 0, 0, 2, 5, 0x80, 0, 0, 0, 1, 1]);
        assert_eq!(greeting(8), [0, 0, 0, 2, 5, 0xff, 0, 0, 0, 1, 1]);
        assert_eq!(greeting(9), [0, 0, 0, 3, 5, 0xff, 0x80, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn other_messages_are_passed_over() {
        for bytes in [
            &[0, 0, 0, 0][..],
            &[0, 0, 0, 1, 2],
            &[0, 0, 0, 5, 4, 0, 0, 0, 1],
        ] {
            assert_eq!(parse(bytes), Ok(Some((Message::Other, bytes.len()))));
        }
        let extended = Message::Extended(&[0, b'd']);
        let bytes = [0, 0, 0, 3, 20, 0, b'd'];
        assert_eq!(parse(&bytes), Ok(Some((extended, bytes.len()))));
    }

    #[test]
    fn extension_messages_are_read_as_they_are_written() {
        let bytes = extended(&[&[3], b"de", b"block"]);
        assert_eq!(bytes, b"\0\0\0\x09\x14\x03deblock");
        let message = Message::Extended(b"\x03deblock");
        assert_eq!(parse(&bytes), Ok(Some((message, bytes.len()))));
    }

    #[test]
    fn a_handshake_of_another_protocol_is_refused() {
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes.copy_from_slice(&handshake(&[7; 20], &[8; 20]));
        assert_eq!(parse_handshake(&bytes), Ok([7; 20]));
        assert!(!knows_extensions(&bytes));
        know_extensions(&mut bytes);
        assert!(knows_extensions(&bytes) && bytes[25] == 0x10);
        bytes[3] ^= 1;
        assert_eq!(parse_handshake(&bytes), Err(WireError::Handshake));
    }

    #[test]
    fn what_is_no_word_before_a_handshake_is_refused() {
        let request = request(Request {
            piece: 0,
            begin: 0,
            len: 1,
        });
        assert_eq!(until_handshake(&request), Err(WireError::Repeated));
        assert_eq!(
            until_handshake(&[0xff; 4]),
            Err(WireError::TooLong(0xffff_ffff))
        );
    }

    proptest! {
        #[test]
        fn what_is_said_of_all_of_a_segment_is_as_long_as_expected(len in 1_u64..5_000_000, shift in 14_u32..21) {
            let piece_bytes = 1_u64 << shift;
            let mut said = greeting(u32::try_from(len.div_ceil(piece_bytes)).unwrap()).len() as u64;
            for piece in (0..len).step_by(1 << shift) {
                let end = len.min(piece + piece_bytes);
                for block in (piece..end).step_by(BLOCK_BYTES) {
                    said += PIECE_HEADER_BYTES as u64 + end.min(block + BLOCK_BYTES as u64) - block;
                }
            }
            prop_assert_eq!(said_of_all(len, 1 << shift), said);
        }

        /// However the bytes come, what was said before a handshake is passed over, and the handshake is not.
        #[test]
        fn another_handshake_is_found(haves in prop::collection::vec(any::<u32>(), 0..9), alive in 0_usize..3, hash: [u8; 20]) {
            let haves = haves.iter().flat_map(|have| [&[0, 0, 0, 5, 4][..], &have.to_be_bytes()].concat());
            let before: Vec<u8> = haves.chain(vec![0; alive * 4]).collect();
            let all = [before.clone(), handshake(&hash, &[1; 20]), vec![9; 5]].concat();
            let (mut unread, mut found) = (Vec::new(), false);
            for (read, byte) in (1..).zip(&all) {
                unread.push(*byte);
                let (passed, whole) = until_handshake(&unread).unwrap();
                unread.drain(..passed);
                found = whole;
                prop_assert_eq!(found, read >= before.len() + HANDSHAKE_BYTES);
            }
            prop_assert!(found && unread == all[before.len()..]);
        }

        #[test]
        fn requests_survive_the_wire(piece: u32, begin: u32, len: u32, rest in prop::collection::vec(any::<u8>(), 0..20)) {
            let request = Request { piece, begin, len };
            let mut bytes = super::request(request);
            let whole = bytes.len();
            for cut in 0..whole {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
            }
            bytes.extend(rest);
            prop_assert_eq!(parse(&bytes), Ok(Some((Message::Request(request), whole))));
        }

        #[test]
        fn blocks_are_read_as_they_are_written(piece: u32, begin: u32, data in prop::collection::vec(any::<u8>(), 0..40)) {
            let header = piece_header(Request { piece, begin, len: u32::try_from(data.len()).unwrap() });
            let message = [&header[..], &data].concat();
            prop_assert_eq!(said(&message[4..]), Said::Block { piece, begin, data: &data });
            for cut in 4..PIECE_HEADER_BYTES {
                prop_assert_eq!(said(&message[4..cut]), Said::Other);
            }
        }

        /// Never a panic, and never more taken than there is.
        #[test]
        fn anything_may_arrive(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, taken))) = parse(&bytes) {
                prop_assert!(taken >= 4 && taken <= bytes.len());
            }
        }

        /// The same for frames that are nearly right, which random bytes hardly ever are.
        #[test]
        fn near_misses_may_arrive(len in 0_u32..40, id in 0_u8..25, body in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = [&len.to_be_bytes()[..], &[id], &body].concat();
            match parse(&bytes) {
                Ok(Some((_, taken))) => prop_assert!(taken <= bytes.len()),
                Ok(None) => prop_assert!(bytes.len() < 4 + len as usize),
                Err(error) => prop_assert_eq!(error, WireError::RequestLength(len as usize)),
            }
        }

        #[test]
        fn nothing_outside_of_the_segment_is_located(
            piece in 0_u32..12, begin in 0_u32..70_000, len: u32, segment in 1_u64..400_000, shift in 14_u32..17,
        ) {
            let piece_bytes = 1 << shift;
            for len in [len, len % 70_000] {
                if let Ok(offset) = locate(Request { piece, begin, len }, segment, piece_bytes) {
                    prop_assert!(offset + u64::from(len) <= segment);
                    prop_assert_eq!(offset / u64::from(piece_bytes), u64::from(piece));
                    prop_assert_eq!((offset + u64::from(len) - 1) / u64::from(piece_bytes), u64::from(piece));
                }
            }
        }

        #[test]
        fn huge_numbers_do_not_overflow(piece: u32, begin: u32, len: u32, segment: u64, piece_bytes: u32) {
            let _ = locate(Request { piece, begin, len }, segment, piece_bytes);
        }
    }
}
