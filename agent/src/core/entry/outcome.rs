//! What comes of a snapshot's tasks: remembered, told to the coordinator, fed to the state machine.

use std::sync::Arc;
use std::time::Instant;

use modelcache_swarm::coordination::{AgentMessage, Held};
use modelcache_swarm::segment::BlobId;
use modelcache_swarm::store::{StoreError, Verdict};

use super::super::failure::{Blame, Failure, of_store, words_of_store};
use super::super::transfer::{Order, Outcome};
use super::super::{Context, Link};
use super::{Done, Entry};
use crate::work::{Input, Step};

impl Entry {
    /// Something that took time came to an end.
    pub(in crate::core) fn done(&mut self, context: &Arc<Context>, link: &Link, done: Done) {
        let failed = |step, error: &StoreError| Input::Failed {
            step,
            reason: of_store(error),
            message: words_of_store(error),
        };
        match done {
            Done::Opened(Ok((store, held))) => {
                self.held = held.into_iter().map(|held| (held.segment, held)).collect();
                let input = Input::Opened {
                    full: self.held.len() == store.segments().len(),
                    published: store.published(),
                };
                self.fresh |= !store.published();
                self.store = Some(store);
                self.feed(context, link, input);
            }
            Done::Opened(Err(error)) | Done::Verified(Err(error)) => {
                self.feed(context, link, failed(Step::Open, &error));
            }
            Done::Reserved(Ok(())) => self.feed(context, link, Input::Reserved),
            Done::Reserved(Err(error)) => self.feed(context, link, failed(Step::Reserve, &error)),
            Done::Transferred(index, outcome) => self.transferred(context, link, index, outcome),
            Done::Adopted(held) => self.have(context, link, held),
            Done::Answered(node, answer) => self.answered(&node, answer),
            Done::Sought(place, sought) => self.sought(context, link, place, sought),
            Done::Verified(Ok(verdicts)) => self.verified(context, link, verdicts),
            Done::Discarded(segments, result) => {
                for segment in &segments {
                    self.discarding.remove(segment);
                }
                match result {
                    Ok(dropped) => {
                        self.drop_held(context, &dropped);
                        if !dropped.is_empty() {
                            self.feed(context, link, Input::Discarded);
                        }
                        self.track(link);
                    }
                    Err(error) => self.feed(context, link, failed(Step::Open, &error)),
                }
            }
            Done::Published(Ok(verified_at)) => {
                self.verified_at = Some(verified_at);
                tracing::info!(snapshot = self.snapshot.name, "published");
                self.feed(context, link, Input::Published);
            }
            Done::Published(Err(error)) => {
                let step = match error {
                    // Something removed a content since: begin again from the disk.
                    StoreError::NotWhole { .. } => Step::Open,
                    _ => Step::Publish,
                };
                self.feed(context, link, failed(step, &error));
            }
        }
    }

    fn transferred(&mut self, context: &Arc<Context>, link: &Link, index: u32, outcome: Outcome) {
        let Some(running) = self.running.remove(&index) else {
            return;
        };
        match outcome {
            Outcome::Held(held) => {
                let fetched = (running.order == Order::Fetch).then_some(index);
                self.alone.progressed(Instant::now(), fetched);
                if fetched.is_some() {
                    self.strangers.fetched(true);
                }
                self.have(context, link, vec![held]);
            }
            Outcome::Failed(failure) => {
                tracing::info!(
                    snapshot = self.snapshot.name,
                    segment = index,
                    order = ?running.order,
                    error = failure.message,
                    "a transfer failed"
                );
                match running.instead {
                    Some(order) if failure.blame == Blame::Chance => {
                        self.order(context, link, index, order);
                    }
                    _ => self.failed(context, link, index, &running.order, failure),
                }
            }
            Outcome::Cancelled => {}
        }
    }

    /// Tells the coordinator and the state machine of a transfer that failed.
    pub(super) fn failed(
        &mut self,
        context: &Arc<Context>,
        link: &Link,
        index: u32,
        order: &Order,
        failure: Failure,
    ) {
        self.note_failure(index, order, &failure);
        let snapshot = self.snapshot.name.clone();
        let message = failure.message.clone();
        let (rate_limited, retry_after) = match failure.blame {
            Blame::Origin {
                rate_limited,
                retry_after,
                ..
            } => (rate_limited, retry_after),
            _ => (false, None),
        };
        // With this node's disk to blame it is withdrawn, which says enough; neither hub nor holder did anything wrong.
        if !matches!(failure.blame, Blame::Disk { .. }) {
            link.send(match order {
                Order::Fetch => AgentMessage::FetchFailed {
                    snapshot,
                    segment: index,
                    message,
                    rate_limited,
                    retry_after_seconds: retry_after
                        .map(|wait| u32::try_from(wait.as_secs().max(1)).unwrap_or(u32::MAX)),
                },
                Order::Take { holder, .. } => AgentMessage::TakeFailed {
                    snapshot,
                    segment: index,
                    holder: holder.clone(),
                    message,
                },
            });
        }
        match failure.blame {
            Blame::Disk { reason } => {
                let input = Input::Failed {
                    step: Step::Open,
                    reason,
                    message: failure.message,
                };
                self.feed(context, link, input);
            }
            Blame::Origin { reason, .. } => {
                let input = Input::TransferFailed {
                    reason,
                    message: failure.message,
                    retry_after,
                };
                self.feed(context, link, input);
            }
            Blame::Chance => {}
        }
    }

    /// Segments became durable: serves them and tells the coordinator.
    pub(super) fn have(&mut self, context: &Arc<Context>, link: &Link, held: Vec<Held>) {
        let Some(store) = self.store.clone() else {
            return;
        };
        if held.is_empty() {
            return self.feed(context, link, Input::Recheck);
        }
        for held in held {
            if self.tracked {
                context.serving.offer(&store, held.segment, &held.pieces);
                link.send(AgentMessage::Have {
                    snapshot: self.snapshot.name.clone(),
                    held: held.clone(),
                });
            }
            self.held.insert(held.segment, held);
        }
        let full = self.held.len() == store.segments().len();
        self.feed(context, link, Input::Committed { full });
    }

    fn drop_held(&mut self, context: &Context, segments: &[u32]) {
        for segment in segments {
            self.held.remove(segment);
        }
        context.serving.withdraw(&self.snapshot.name, segments);
    }

    fn verified(&mut self, context: &Arc<Context>, link: &Link, verdicts: Vec<Verdict>) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let snapshot = self.snapshot.name.clone();
        let mut good = Vec::new();
        let mut bad: Option<(Vec<u32>, String)> = None;
        for verdict in verdicts {
            match verdict {
                Verdict::Verified { segments } => {
                    for segment in &segments {
                        if let Some(held) = self.held.get_mut(segment) {
                            held.verified = true;
                        }
                    }
                    link.send(AgentMessage::Verified {
                        snapshot: snapshot.clone(),
                        segments: segments.clone(),
                    });
                    good.extend(segments);
                }
                Verdict::Corrupt {
                    segments,
                    blob,
                    message,
                } => {
                    let message = self.explain(blob, &message);
                    tracing::error!(snapshot, ?segments, message, "wrong hash");
                    context.metrics.verify_failures.inc();
                    self.drop_held(context, &segments);
                    self.alone.found_wrong(Instant::now(), &segments);
                    if !segments.is_empty() {
                        link.send(AgentMessage::Corrupt {
                            snapshot: snapshot.clone(),
                            segments: segments.clone(),
                            message: message.clone(),
                        });
                    }
                    bad.get_or_insert_with(|| (Vec::new(), message))
                        .0
                        .extend(segments);
                }
            }
        }
        let whole = store.is_whole();
        self.feed(context, link, Input::Verified { good, bad, whole });
    }

    /// A wrong hash in words that name the file.
    fn explain(&self, blob: BlobId, message: &str) -> String {
        let file = self.snapshot.files.iter().find(|file| file.blob == blob);
        let path = file.map_or("a file", |file| file.path.as_str());
        format!(
            "{path} of {} at commit {}: {message}; if this goes on, the hub serves other bytes than it lists",
            self.snapshot.repository, self.snapshot.commit
        )
    }
}
