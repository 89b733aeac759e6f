//! What was heard of whom, in bounded memory. Pure, with time passed in.
//!
//! Whoever is forgotten raises the floor for all that are unknown to the time of its latest message, so that none of what was
//! heard of it can be heard again.

use std::collections::HashMap;
use std::hash::Hash;

use super::clock::{Now, UnixMillis};
use super::window::{Tolerance, Window};

/// What was heard of one sender.
#[derive(Debug)]
pub(crate) struct Sender<H> {
    /// The latest time in any of its messages.
    pub(crate) latest: UnixMillis,
    /// The floor when it became known: what was sent before that may have been heard then.
    floor: UnixMillis,
    /// What tells a new message from an old one.
    pub(crate) heard: H,
}

/// All senders that are remembered, by name.
#[derive(Debug)]
pub(crate) struct Senders<K, H> {
    window: Window,
    /// How many may be known.
    pub(crate) most: usize,
    known: HashMap<K, Sender<H>>,
}

impl<K: Clone + Eq + Hash, H> Senders<K, H> {
    /// Knows nobody, and will know at most so many.
    pub(crate) fn new(tolerance: Tolerance, most: usize, now: Now) -> Self {
        Self {
            window: Window::new(tolerance, now),
            most,
            known: HashMap::new(),
        }
    }

    /// Moves to `now`. A clock that was set back brings all floors along.
    pub(crate) fn follow(&mut self, now: Now) {
        if self.window.follow(now) {
            for sender in self.known.values_mut() {
                sender.floor = sender.floor.min(self.window.floor());
            }
        }
    }

    /// Whether what was sent then is stale, or from the future.
    pub(crate) fn is_stale(&self, sent_at: UnixMillis) -> bool {
        self.window.is_stale(sent_at)
    }

    /// What was heard of a sender.
    pub(crate) fn get(&self, name: &K) -> Option<&Sender<H>> {
        self.known.get(name)
    }

    /// What is believed of a sender must be later than this.
    pub(crate) fn floor(&self, name: &K) -> UnixMillis {
        self.get(name)
            .map_or(self.window.floor(), |sender| sender.floor)
    }

    /// Remembers a message that is believed: as the `first` of its sender, or by a `change` of what was heard of it.
    pub(crate) fn note(
        &mut self,
        name: &K,
        sent_at: UnixMillis,
        first: H,
        change: impl FnOnce(&mut H),
    ) {
        if let Some(sender) = self.known.get_mut(name) {
            sender.latest = sender.latest.max(sent_at);
            change(&mut sender.heard);
            return;
        }
        let floor = self.window.floor();
        if self.known.len() >= self.most {
            self.forget_one();
        }
        let sender = Sender {
            latest: sent_at,
            floor,
            heard: first,
        };
        self.known.insert(name.clone(), sender);
    }

    /// Forgets senders of which everything that was heard is stale by now: it would be refused without them too.
    pub(crate) fn forget_stale(&mut self, now: Now) {
        self.follow(now);
        let oldest = self.window.oldest();
        self.known.retain(|_, sender| sender.latest >= oldest);
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Makes room, and raises the floor above what was heard of the sender that is forgotten.
    fn forget_one(&mut self) {
        let oldest = self.known.iter().min_by_key(|(_, sender)| sender.latest);
        if let Some((name, latest)) = oldest.map(|(name, sender)| (name.clone(), sender.latest)) {
            self.known.remove(&name);
            self.window.raise_floor(latest);
        }
    }
}
