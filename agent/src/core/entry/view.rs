//! How a snapshot stands, for the outside.

use std::time::{Duration, Instant};

use modelcache_crds::model_cache::SourcePolicy;
use modelcache_crds::model_cache_node::Phase;

use super::super::node::{Outlook, time_of};
use super::super::{Learn, PublicSnapshot};
use super::Entry;
use crate::reasons;
use crate::state::{Problem, SnapshotState};
use crate::work::Stage;

/// How long no order from the coordinator is no problem yet.
const ORDER_PATIENCE: Duration = Duration::from_secs(20);

impl Entry {
    pub(in crate::core) fn phase(&self, now: Instant) -> (Phase, Option<&'static str>) {
        let (phase, fault) = self.work.view(now);
        (phase, fault.map(|fault| fault.reason))
    }

    /// The snapshot, if other BitTorrent clients may take its files now.
    pub(in crate::core) fn public(&self, now: Instant) -> Option<PublicSnapshot> {
        let peers = self.wanted.peers;
        let ready = self.phase(now).0 == Phase::Ready;
        let store = self
            .store
            .as_ref()
            .filter(|_| ready && peers.plain_bit_torrent)?;
        let learn = Learn {
            pex: peers.pex.then(|| self.alone.members().collect()),
            dht: peers.dht,
        };
        Some(PublicSnapshot {
            store: store.clone(),
            learn,
        })
    }

    /// Everything about it for the outside.
    pub(in crate::core) fn state(&mut self, now: Instant, outlook: &Outlook) -> SnapshotState {
        if let Some(store) = &self.store {
            self.progress = store.progress();
        }
        let retry_at = self.work.view(now).1.and_then(|fault| fault.retry_at);
        self.retry = retry_at.map(|moment| match self.retry {
            Some((same, time)) if same == moment => (moment, time),
            _ => (moment, time_of(now, moment)),
        });
        let (phase, fault) = self.work.view(now);
        let problem = match fault {
            Some(fault) => Some(Problem {
                reason: fault.reason,
                message: fault.message.clone(),
                retry_at: self.retry.map(|(_, time)| time),
            }),
            None => self.quiet(now, outlook),
        };
        SnapshotState {
            name: self.wanted.name.clone(),
            repository: Some(self.snapshot.repository.clone()),
            models: self.wanted.models.clone(),
            phase,
            size_bytes: self.progress.size_bytes,
            held_bytes: self.progress.held_bytes,
            origin_bytes: self.progress.origin_bytes,
            peer_bytes: self.progress.peer_bytes,
            problem,
            verified_at: self.verified_at.filter(|_| phase == Phase::Ready),
            fresh: self.fresh,
        }
    }

    /// Why nothing comes in although nothing failed here.
    fn quiet(&self, now: Instant, outlook: &Outlook) -> Option<Problem> {
        let full = self
            .store
            .as_ref()
            .is_some_and(|store| store.segments().len() == self.held.len());
        if self.work.stage() != Stage::Filling || full {
            return None;
        }
        if let Some(since) = outlook.alone {
            return Some(Problem {
                reason: reasons::NO_COORDINATOR,
                message: format!(
                    "no connection to the operator's coordinator since {since}; {}; check that the operator runs and that this node can reach its Service",
                    self.by_itself().words()
                ),
                retry_at: None,
            });
        }
        if !self.running.is_empty() {
            return None;
        }
        let (reason, message) = if outlook.connected_for? >= ORDER_PATIENCE
            && now.saturating_duration_since(self.last_order) >= ORDER_PATIENCE
        {
            match self.wanted.source {
                SourcePolicy::PeersOnly => (
                    reasons::WAITING_FOR_PEERS,
                    "no other node has what is missing, and the policy PeersOnly keeps this one from the hub; let one node have the model or change spec.source of the ModelCache",
                ),
                SourcePolicy::PeersFirst => (
                    reasons::WAITING_FOR_PEERS,
                    "waiting for other nodes to fetch what is missing, or for a turn at the hub, which is left alone for a while after errors; the status of the other nodes says which",
                ),
                SourcePolicy::OriginOnly => return None,
            }
        } else {
            return None;
        };
        Some(Problem {
            reason,
            message: message.to_owned(),
            retry_at: None,
        })
    }
}
