//! What librqbit asks for, gathered, so that one record and one packet carry many requests.

use super::REQUEST_WINDOW;
use super::storage::BLOCK_BYTES;
use super::wire::{self, Message, WireError};

/// So many requests are handed on, whatever else is true.
const BATCH: u64 = 32;
/// Fewer wait for more only while the holder still has so many blocks to send: half a MiB, a millisecond at 4 Gbit/s.
const AHEAD: u64 = 32;

/// Room for all that librqbit asks for ahead, 17 bytes each, and what it says beside that: one reading brings all of a burst.
const ROOM: usize = REQUEST_WINDOW * 17 + 64;

/// What librqbit has said and its holder has not heard yet.
#[derive(Debug)]
pub(super) struct Requests {
    said: Vec<u8>,
    /// How much of it is whole messages.
    whole: usize,
    /// How many of these are requests.
    waiting: u64,
    /// Blocks that the holder has been asked for.
    asked: u64,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            said: Vec::with_capacity(ROOM),
            whole: 0,
            waiting: 0,
            asked: 0,
        }
    }

    /// What librqbit says is appended here; then [`Self::look`] must be called.
    pub(super) fn said_mut(&mut self) -> &mut Vec<u8> {
        &mut self.said
    }

    /// Looks at what has been appended, and gives the number of requests in it.
    pub(super) fn look(&mut self) -> Result<u64, WireError> {
        let before = self.waiting;
        while let Some((message, len)) = wire::parse(&self.said[self.whole..])? {
            self.waiting += u64::from(matches!(message, Message::Request(_)));
            self.whole += len;
        }
        Ok(self.waiting - before)
    }

    /// Whether anything waits to be handed on.
    pub(super) fn any(&self) -> bool {
        self.whole > 0
    }

    /// What is to be handed on now, after so many bytes have come from the holder.
    pub(super) fn due(&self, received: u64) -> Option<&[u8]> {
        let under_way = self.asked.saturating_sub(received / BLOCK_BYTES as u64);
        let due = self.any() && (self.waiting >= BATCH || under_way < AHEAD);
        due.then(|| &self.said[..self.whole])
    }

    /// What was due is on its way.
    pub(super) fn handed_on(&mut self) {
        self.asked += self.waiting;
        self.waiting = 0;
        self.said.drain(..self.whole);
        self.whole = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::Request;
    use super::*;

    fn request(block: u32) -> Vec<u8> {
        let (piece, begin, len) = (block, 0, 16 << 10);
        wire::request(Request { piece, begin, len })
    }

    /// Says it, and gives what is due.
    fn say(requests: &mut Requests, words: &[u8], received: u64) -> Vec<u8> {
        requests.said_mut().extend_from_slice(words);
        requests.look().unwrap();
        let due = requests.due(received).map(<[u8]>::to_vec);
        due.inspect(|_| requests.handed_on()).unwrap_or_default()
    }

    #[test]
    fn other_messages_and_the_first_requests_do_not_wait() {
        let mut requests = Requests::new();
        assert_eq!(say(&mut requests, &wire::WISH, 0), wire::WISH);
        let all: Vec<Vec<u8>> = (0..40).map(request).collect();
        assert_eq!(say(&mut requests, &all.concat(), 0), all.concat());
    }

    #[test]
    fn while_the_holder_has_enough_to_send_many_go_together() {
        let mut requests = Requests::new();
        let mut handed_on = 0;
        for block in 0..256 {
            handed_on += usize::from(!say(&mut requests, &request(block), 0).is_empty());
        }
        assert_eq!(handed_on, 32 + 7);
    }

    #[test]
    fn half_a_message_waits_for_the_rest() {
        let mut requests = Requests::new();
        let both = [request(0), request(1)].concat();
        assert_eq!(say(&mut requests, &both[..20], 0), request(0));
        assert_eq!(say(&mut requests, &both[20..], 0), request(1));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut requests = Requests::new();
        requests.said_mut().extend([0, 0, 0, 2, 6, 6]);
        assert_eq!(requests.look(), Err(WireError::RequestLength(2)));
    }

    proptest! {
        /// A receiver asks for at most `window` blocks ahead; a holder sends a block whenever it was asked for one. However many
        /// bytes of requests arrive at once, all blocks come, and every request is heard once and in order.
        #[test]
        fn nothing_waits_for_ever(blocks in 1_u32..400, window in 1_u32..300, cuts in prop::collection::vec(1_usize..200, 1..20)) {
            let mut requests = Requests::new();
            let (mut said, mut heard, mut sent) = (0, Vec::new(), 0_u32);
            let mut unread = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while sent < blocks {
                while said < blocks && said - sent < window {
                    unread.extend(request(said));
                    said += 1;
                }
                let cut = cuts.next().unwrap_or(1).min(unread.len());
                let received = u64::from(sent) * BLOCK_BYTES as u64;
                heard.extend(say(&mut requests, &unread[..cut], received));
                unread.drain(..cut);
                let asked = u32::try_from(heard.len() / 17).unwrap();
                prop_assert!(sent < asked || !unread.is_empty(), "after {sent} of {blocks} blocks all wait for each other");
                sent += u32::from(sent < asked);
            }
            prop_assert_eq!(heard, (0..blocks).flat_map(request).collect::<Vec<u8>>());
        }
    }
}
