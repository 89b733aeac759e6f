//! What the API server holds, kept in memory by a watch and reduced to what is needed of it.
//!
//! A watch survives anything that the API server does: it is taken up again with a growing wait, and until then the last
//! state stands. Only a change of the reduced form wakes the reconciler, so that a kubelet's heartbeat costs nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, pin_mut};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Objects by key: their name, or `namespace/name`.
pub type Objects<T> = BTreeMap<String, Arc<T>>;

/// The objects of one kind, in their reduced form.
pub struct Mirror<T> {
    state: Arc<Mutex<State<T>>>,
    synced: watch::Receiver<bool>,
}

/// What is known, and the list under way.
struct State<T> {
    objects: Objects<T>,
    /// Collects the objects of a new list; they replace all others when it is complete.
    listed: Objects<T>,
}

impl<T: PartialEq> State<T> {
    /// Takes in what happened; true when what is known has changed.
    fn take(&mut self, event: Event<(String, T)>) -> bool {
        match event {
            Event::Init => {
                self.listed.clear();
                false
            }
            Event::InitApply((key, object)) => {
                self.listed.insert(key, Arc::new(object));
                false
            }
            Event::InitDone => {
                let before = mem::replace(&mut self.objects, mem::take(&mut self.listed));
                before != self.objects
            }
            Event::Apply((key, object)) => {
                if self.objects.get(&key).is_some_and(|old| **old == object) {
                    return false;
                }
                self.objects.insert(key, Arc::new(object));
                true
            }
            Event::Delete((key, _)) => self.objects.remove(&key).is_some(),
        }
    }
}

impl<T: PartialEq + Send + Sync + 'static> Mirror<T> {
    /// Begins to watch; `reduce` makes the form that is kept. `wake` is notified of each change, `failed` is called for
    /// each failure of the watch.
    pub fn start<K>(
        api: Api<K>,
        config: watcher::Config,
        reduce: impl Fn(K) -> T + Send + 'static,
        wake: Arc<Notify>,
        failed: impl Fn() + Send + 'static,
        stop: CancellationToken,
    ) -> Self
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        let state = Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            listed: BTreeMap::new(),
        }));
        let (told, synced) = watch::channel(false);
        let mirror = Self {
            state: Arc::clone(&state),
            synced,
        };
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        tokio::spawn(async move {
            let events = watcher::watcher(api, config).default_backoff();
            pin_mut!(events);
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(event)) => {
                        let done = matches!(event, Event::InitDone);
                        let event = reduced(event, &reduce);
                        let changed = state
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .take(event);
                        if done {
                            told.send_if_modified(|synced| !mem::replace(synced, true));
                        }
                        if changed {
                            wake.notify_one();
                        }
                    }
                    Some(Err(error)) => {
                        failed();
                        tracing::warn!(kind, %error, "the watch failed and is taken up again");
                    }
                    None => return,
                }
            }
        });
        mirror
    }

    /// Waits until the first complete list has arrived.
    pub async fn synced(&self) {
        // An error means that the watch has ended with the process.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// All objects as they were last seen.
    #[must_use]
    pub fn objects(&self) -> Objects<T> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .objects
            .clone()
    }
}

fn reduced<K: Resource, T>(event: Event<K>, reduce: &impl Fn(K) -> T) -> Event<(String, T)> {
    let pair = |object: K| (key(&object), reduce(object));
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(pair(object)),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(pair(object)),
        Event::Delete(object) => Event::Delete(pair(object)),
    }
}

fn key<K: Resource>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: u32) -> (String, u32) {
        (key.to_owned(), value)
    }

    fn state() -> State<u32> {
        State {
            objects: BTreeMap::new(),
            listed: BTreeMap::new(),
        }
    }

    #[test]
    fn a_new_list_replaces_the_old_one_only_when_it_is_complete() {
        let mut state = state();
        state.take(Event::Init);
        state.take(Event::InitApply(pair("a", 1)));
        state.take(Event::InitApply(pair("b", 2)));
        assert!(state.objects.is_empty());
        assert!(state.take(Event::InitDone));
        // The connection breaks in the middle of a relist, and another one begins.
        state.take(Event::Init);
        state.take(Event::InitApply(pair("x", 9)));
        assert_eq!(state.objects.len(), 2);
        state.take(Event::Init);
        state.take(Event::InitApply(pair("b", 2)));
        assert!(state.take(Event::InitDone));
        assert_eq!(state.objects.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_changes_nothing_wakes_nobody() {
        let mut state = state();
        assert!(state.take(Event::Apply(pair("a", 1))));
        assert!(!state.take(Event::Apply(pair("a", 1))));
        assert!(state.take(Event::Apply(pair("a", 2))));
        state.take(Event::Init);
        state.take(Event::InitApply(pair("a", 2)));
        assert!(!state.take(Event::InitDone));
        assert!(state.take(Event::Delete(pair("a", 2))));
        assert!(!state.take(Event::Delete(pair("a", 2))));
    }
}
