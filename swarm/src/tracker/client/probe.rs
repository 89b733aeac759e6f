//! Asks the tracker whether it takes this node for a member, and proves that it is the cluster's.

use std::num::NonZeroU16;

use super::ask::{Asker, Failure};
use super::{ClientError, TrackerUrl, peer_id};
use crate::discovery::announcement::ContentId;
use crate::discovery::clock::Now;
use crate::secret::{KeyId, Keyring};
use crate::tracker::proof::sign;
use crate::tracker::query::{Announce, Event, Form};

/// What came of it.
#[derive(Debug)]
pub struct Probed {
    /// The key that both have; or why there is none, or no answer.
    pub result: Result<KeyId, Failure>,
    /// The header `Date` of the answer, whatever that was.
    pub date: Option<String>,
}

/// Says that this node leaves a swarm that there never is: whoever has the cluster's key is answered, with a signature, and
/// nobody is in a swarm, or not in one, because of it.
pub async fn probe(tracker: &TrackerUrl, ring: &Keyring) -> Result<Probed, ClientError> {
    let asker = Asker::new().map_err(ClientError::Http)?;
    let announce = Announce {
        // No snapshot has an empty name.
        info_hash: ContentId::of_snapshot(""),
        peer_id: peer_id(),
        // It must be there, and names nobody.
        port: NonZeroU16::MIN,
        ip: None,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: Some(Event::Stopped),
        numwant: Some(0),
        form: Form::Compact,
    };
    let key = ring.current();
    let request = sign(announce.to_query(), key, Now::read().wall);
    let replied = asker.ask(tracker, &request).await;
    Ok(match replied {
        Ok(reply) => Probed {
            result: reply.read(&request).map(|_| key.id()),
            date: reply.date,
        },
        Err(failure) => Probed {
            result: Err(failure),
            date: None,
        },
    })
}
