//! Remembered targets of redirects: one call to the hub per file and hour instead of one per range.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

/// Signed URLs of the hub live an hour.
const LIFETIME: Duration = Duration::from_mins(50);
/// More files than that are in use only when they are small, and then each is asked for once.
const CAPACITY: usize = 4096;

/// Where files were found, by the URL they were asked for at.
#[derive(Default)]
pub(super) struct Links(Mutex<HashMap<Url, (Url, Instant)>>);

impl Links {
    pub(super) fn get(&self, asked: &Url) -> Option<Url> {
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links
            .get(asked)
            .filter(|(_, since)| since.elapsed() < LIFETIME)
            .map(|(target, _)| target.clone())
    }

    pub(super) fn remember(&self, asked: &Url, target: &Url) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= CAPACITY && !links.contains_key(asked) {
            links.retain(|_, (_, since)| since.elapsed() < LIFETIME);
            if links.len() >= CAPACITY {
                links.clear();
            }
        }
        links.insert(asked.clone(), (target.clone(), Instant::now()));
    }

    pub(super) fn forget(&self, asked: &Url) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.remove(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded() {
        let links = Links::default();
        let url = |n: usize| Url::parse(&format!("https://hub/{n}")).unwrap();
        for n in 0..3 * CAPACITY {
            links.remember(&url(n), &url(0));
        }
        assert!(links.0.lock().unwrap().len() <= CAPACITY);
        assert_eq!(links.get(&url(3 * CAPACITY - 1)), Some(url(0)));
        links.forget(&url(3 * CAPACITY - 1));
        assert_eq!(links.get(&url(3 * CAPACITY - 1)), None);
    }
}
