//! Links that have carried a whole segment and wait for another from the same holder.
//!
//! A new one costs two round trips, through queues that are full when it matters, and a handshake's processor time on both sides.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

/// How long one waits. Shorter than a holder waits for its peers.
pub(super) const KEEP: Duration = Duration::from_mins(1);
/// So many wait at once; one more ends the one that has waited longest.
const MAX_KEPT: usize = 64;

/// The links that wait. Clones share them.
pub(super) struct Kept<L> {
    keep: Duration,
    waiting: Arc<Mutex<Waiting<L>>>,
}

struct Waiting<L> {
    next: u64,
    /// In the order in which they came.
    links: VecDeque<One<L>>,
}

struct One<L> {
    number: u64,
    holder: SocketAddr,
    link: L,
    _end: AbortOnDropHandle<()>,
}

impl<L> Clone for Kept<L> {
    fn clone(&self) -> Self {
        Self {
            keep: self.keep,
            waiting: Arc::clone(&self.waiting),
        }
    }
}

impl<L: Send + 'static> Kept<L> {
    /// One in which each waits so long.
    pub(super) fn new(keep: Duration) -> Self {
        let waiting = Waiting {
            next: 0,
            links: VecDeque::new(),
        };
        Self {
            keep,
            waiting: Arc::new(Mutex::new(waiting)),
        }
    }

    /// Keeps a link to `holder` for a while. Must be called within a tokio runtime.
    pub(super) fn put(&self, holder: SocketAddr, link: L) {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        let kept = self.clone();
        let end = tokio::spawn(async move {
            tokio::time::sleep(kept.keep).await;
            kept.end(|one| one.number == number);
        });
        waiting.links.push_back(One {
            number,
            holder,
            link,
            _end: AbortOnDropHandle::new(end),
        });
        if waiting.links.len() > MAX_KEPT {
            waiting.links.pop_front();
        }
    }

    /// The link to `holder` that has waited least, if there is one.
    pub(super) fn take(&self, holder: SocketAddr) -> Option<L> {
        let mut waiting = self.waiting();
        let place = waiting.links.iter().rposition(|one| one.holder == holder)?;
        waiting.links.remove(place).map(|one| one.link)
    }

    /// Ends all links to `holder`.
    pub(super) fn forget(&self, holder: SocketAddr) {
        self.end(|one| one.holder == holder);
    }

    fn end(&self, which: impl Fn(&One<L>) -> bool) {
        self.waiting().links.retain(|one| !which(one));
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<L>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[tokio::test]
    async fn each_link_is_given_once_and_to_its_holder_only() {
        let kept = Kept::new(KEEP);
        for (port, link) in [(1, "a"), (2, "b"), (1, "c")] {
            kept.put(holder(port), link);
        }
        assert_eq!(kept.take(holder(3)), None);
        assert_eq!(kept.take(holder(1)), Some("c"));
        assert_eq!(kept.take(holder(1)), Some("a"));
        assert_eq!(kept.take(holder(1)), None);
        kept.put(holder(1), "d");
        kept.forget(holder(2));
        assert_eq!(kept.take(holder(2)), None);
        assert_eq!(kept.take(holder(1)), Some("d"));
    }

    #[tokio::test]
    async fn none_waits_for_ever() {
        let kept = Kept::new(Duration::from_millis(1));
        let (link, mut ended) = tokio::sync::oneshot::channel::<()>();
        kept.put(holder(1), link);
        let waited = tokio::time::timeout(Duration::from_mins(1), &mut ended).await;
        assert!(waited.is_ok_and(|ended| ended.is_err()), "it still waits");
        assert!(kept.take(holder(1)).is_none());
    }

    #[tokio::test]
    async fn there_are_never_many() {
        let kept = Kept::new(KEEP);
        for port in 0..100 {
            kept.put(holder(port), port);
        }
        let left = (0..100).filter_map(|port| kept.take(holder(port)));
        assert_eq!(left.collect::<Vec<_>>(), (36..100).collect::<Vec<_>>());
    }
}
