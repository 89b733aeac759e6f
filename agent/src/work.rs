//! What to do next about one snapshot: a state machine without effects.
//!
//! ```text
//! Opening → Reserving → Filling → Publishing → Ready
//!    └──────────────────────────────┘ (published before: straight to Publishing)
//! any of them → Waiting (a failure on this node) → the step that failed
//! ```
//! The driver ([`crate::core`]) carries out the [`Action`]s and feeds back what came of them as [`Input`]s.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use modelcache_crds::model_cache_node::Phase;

use crate::reasons;

/// First wait after a failure on this node; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait after a failure on this node.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Free space is looked at this often while there is too little: that costs nothing.
const SPACE_WAIT: Duration = Duration::from_secs(5);
/// How long the words about too little space stay, although the sizes in them change all the time.
const SPACE_WORDS: Duration = Duration::from_mins(5);
/// A transfer that failed is a problem only when nothing comes in for so long afterwards.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a snapshot stands on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its journal is being read.
    Opening,
    /// Space is being reserved.
    Reserving,
    /// Segments come in and blobs are verified.
    Filling,
    /// Every blob is verified; being made visible.
    Publishing,
    /// Visible.
    Ready,
    /// This node failed; the step is done again at that moment.
    Waiting {
        /// When.
        until: Instant,
        /// What.
        then: Step,
    },
}

/// A step that can fail on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the journal, then reserve or publish as it says.
    Open,
    /// Reserve space.
    Reserve,
    /// Make visible.
    Publish,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The journal was read.
    Opened {
        /// Every segment is held.
        full: bool,
        /// It was published before and its files are still as they should be.
        published: bool,
    },
    /// Space is reserved.
    Reserved,
    /// A transfer began.
    Started,
    /// A segment is durable.
    Committed {
        /// Every segment is held now.
        full: bool,
    },
    /// Another snapshot of this node may have verified contents of this one.
    Recheck,
    /// A verification pass ended.
    Verified {
        /// Segments that are proven now.
        good: Vec<u32>,
        /// Segments that were thrown away, with what to tell people.
        bad: Option<(Vec<u32>, String)>,
        /// Every blob is proven.
        whole: bool,
    },
    /// Segments were thrown away because another node found them wrong.
    Discarded,
    /// It is visible under the names it should have.
    Published,
    /// The names it should be visible under changed.
    ModelsChanged,
    /// Something failed on this node.
    Failed {
        /// What is to be done again.
        step: Step,
        /// One of [`reasons`].
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// A transfer failed.
    TransferFailed {
        /// One of [`reasons`].
        reason: &'static str,
        /// For people.
        message: String,
        /// How long the origin wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// Time passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop all transfers, tell the coordinator that nothing is wanted or served, then read the journal.
    Open,
    /// Stop all transfers and tell the coordinator that nothing is wanted or served.
    Withdraw,
    /// Reserve space.
    Reserve,
    /// Tell the coordinator what is held and wanted, and serve what is held.
    Track,
    /// Verify what is complete.
    Verify,
    /// Make visible.
    Publish,
}

/// Why a snapshot does not get on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One of [`reasons`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When the agent tries again, if that is known.
    pub retry_at: Option<Instant>,
    /// Failures of transfers count only when they last; the others at once.
    visible_from: Instant,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Transfer,
    Corrupt,
}

/// Passes of verification run one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verification {
    Idle,
    Running,
    /// A segment came in since the pass began, so that another one must follow.
    Outdated,
}

/// The state of one snapshot.
#[derive(Clone, Debug)]
pub struct Work {
    stage: Stage,
    full: bool,
    started: bool,
    verification: Verification,
    failures: u32,
    fault: Option<Fault>,
    corrupt: BTreeSet<u32>,
}

impl Work {
    /// A snapshot that was just asked for. The first action is [`Action::Open`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Opening,
            full: false,
            started: false,
            verification: Verification::Idle,
            failures: 0,
            fault: None,
            corrupt: BTreeSet::new(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether orders of the coordinator can be carried out.
    #[must_use]
    pub fn takes_orders(&self) -> bool {
        self.stage == Stage::Filling
    }

    /// The phase for people, and why it does not get on if so.
    #[must_use]
    pub fn view(&self, now: Instant) -> (Phase, Option<&Fault>) {
        if let Some(fault) = &self.fault
            && now >= fault.visible_from
        {
            return (Phase::Failed, Some(fault));
        }
        let phase = match self.stage {
            Stage::Filling if self.full => Phase::Verifying,
            Stage::Filling if self.started => Phase::Downloading,
            Stage::Publishing => Phase::Verifying,
            Stage::Ready => Phase::Ready,
            Stage::Opening | Stage::Reserving | Stage::Filling | Stage::Waiting { .. } => {
                Phase::Pending
            }
        };
        (phase, None)
    }

    /// Takes note of what happened and says what to do now.
    pub fn next(&mut self, now: Instant, input: Input) -> Vec<Action> {
        match input {
            Input::Opened { full, published } => self.opened(full, published),
            Input::Reserved => {
                if self.stage != Stage::Reserving {
                    return Vec::new();
                }
                self.stage = Stage::Filling;
                self.clear(Kind::Local);
                let mut actions = vec![Action::Track];
                actions.extend(self.verify());
                actions
            }
            Input::Started => {
                self.started = true;
                Vec::new()
            }
            Input::Committed { full } => {
                self.full = full;
                // Not before: a disk that can be reserved may still not be written to.
                self.failures = 0;
                self.clear(Kind::Transfer);
                if self.stage == Stage::Filling {
                    self.verify().into_iter().collect()
                } else {
                    Vec::new()
                }
            }
            Input::Recheck if self.stage == Stage::Filling => self.verify().into_iter().collect(),
            Input::Recheck => Vec::new(),
            Input::Verified { good, bad, whole } => self.verified(now, &good, bad, whole),
            Input::Discarded => {
                self.full = false;
                Vec::new()
            }
            Input::Published => {
                self.stage = Stage::Ready;
                self.failures = 0;
                self.fault = None;
                self.corrupt.clear();
                Vec::new()
            }
            Input::ModelsChanged => match self.stage {
                Stage::Ready | Stage::Publishing => {
                    self.stage = Stage::Publishing;
                    vec![Action::Publish]
                }
                _ => Vec::new(),
            },
            Input::Failed {
                step,
                reason,
                message,
            } => self.failed(now, step, reason, message),
            Input::TransferFailed {
                reason,
                message,
                retry_after,
            } => {
                self.transfer_failed(now, reason, message, retry_after);
                Vec::new()
            }
            Input::Tick => self.tick(now),
        }
    }

    fn opened(&mut self, full: bool, published: bool) -> Vec<Action> {
        self.full = full;
        self.started |= full;
        if published {
            // Again, because the names it should have may have changed while the agent was away.
            self.stage = Stage::Publishing;
            return vec![Action::Track, Action::Publish];
        }
        self.stage = Stage::Reserving;
        vec![Action::Reserve]
    }

    fn verify(&mut self) -> Option<Action> {
        if self.verification == Verification::Idle {
            self.verification = Verification::Running;
            return Some(Action::Verify);
        }
        self.verification = Verification::Outdated;
        None
    }

    fn verified(
        &mut self,
        now: Instant,
        good: &[u32],
        bad: Option<(Vec<u32>, String)>,
        whole: bool,
    ) -> Vec<Action> {
        let again = self.verification == Verification::Outdated;
        self.verification = Verification::Idle;
        if self.stage != Stage::Filling {
            return Vec::new();
        }
        for segment in good {
            self.corrupt.remove(segment);
        }
        if self.corrupt.is_empty() {
            self.clear(Kind::Corrupt);
        }
        if let Some((segments, message)) = bad {
            self.full = false;
            self.corrupt.extend(segments);
            self.fault = Some(Fault {
                reason: reasons::HASH_MISMATCH,
                message,
                retry_at: None,
                visible_from: now,
                kind: Kind::Corrupt,
            });
        }
        if whole {
            self.stage = Stage::Publishing;
            return vec![Action::Publish];
        }
        if again {
            return self.verify().into_iter().collect();
        }
        Vec::new()
    }

    fn failed(
        &mut self,
        now: Instant,
        step: Step,
        reason: &'static str,
        message: String,
    ) -> Vec<Action> {
        if matches!(self.stage, Stage::Waiting { .. }) {
            // Several parts of one step failed; the first counts.
            return Vec::new();
        }
        if step == Step::Reserve && reason == reasons::NO_SPACE {
            self.no_space(now, message);
        } else {
            let until = now + back_off(self.failures);
            self.failures = self.failures.saturating_add(1);
            self.stage = Stage::Waiting { until, then: step };
            self.fault = Some(Fault {
                reason,
                message,
                retry_at: Some(until),
                visible_from: now,
                kind: Kind::Local,
            });
        }
        match step {
            // What is held stays good to serve while its names cannot be made.
            Step::Publish => Vec::new(),
            Step::Open | Step::Reserve => vec![Action::Withdraw],
        }
    }

    fn no_space(&mut self, now: Instant, message: String) {
        self.stage = Stage::Waiting {
            until: now + SPACE_WAIT,
            then: Step::Reserve,
        };
        let told = self.fault.as_ref().is_some_and(|fault| {
            fault.reason == reasons::NO_SPACE && now < fault.visible_from + SPACE_WORDS
        });
        if !told {
            self.fault = Some(Fault {
                reason: reasons::NO_SPACE,
                message,
                // So soon that a time in the status would only be out of date.
                retry_at: None,
                visible_from: now,
                kind: Kind::Local,
            });
        }
    }

    fn transfer_failed(
        &mut self,
        now: Instant,
        reason: &'static str,
        message: String,
        retry_after: Option<Duration>,
    ) {
        if self.stage != Stage::Filling {
            return;
        }
        let visible_from = match &self.fault {
            // A wrong hash says more than the transfers that fail while it is mended.
            Some(fault) if fault.kind != Kind::Transfer => return,
            Some(fault) => fault.visible_from,
            None => now + PATIENCE,
        };
        self.fault = Some(Fault {
            reason,
            message,
            retry_at: retry_after.map(|wait| now + wait),
            visible_from,
            kind: Kind::Transfer,
        });
    }

    fn tick(&mut self, now: Instant) -> Vec<Action> {
        match self.stage {
            Stage::Waiting { until, then } if now >= until => match then {
                Step::Open => {
                    self.restart();
                    vec![Action::Open]
                }
                Step::Reserve => {
                    self.stage = Stage::Reserving;
                    vec![Action::Reserve]
                }
                Step::Publish => {
                    self.stage = Stage::Publishing;
                    vec![Action::Publish]
                }
            },
            _ => Vec::new(),
        }
    }

    /// Begins again from what is on disk; what went wrong stays told until something goes right.
    fn restart(&mut self) {
        self.stage = Stage::Opening;
        self.full = false;
        self.verification = Verification::Idle;
    }

    fn clear(&mut self, kind: Kind) {
        if self.fault.as_ref().is_some_and(|fault| fault.kind == kind) {
            self.fault = None;
        }
    }
}

impl Default for Work {
    fn default() -> Self {
        Self::new()
    }
}

/// How long to wait after so many failures in a row.
#[must_use]
pub fn back_off(failures: u32) -> Duration {
    FIRST_WAIT
        .saturating_mul(1_u32 << failures.min(10))
        .min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests;
