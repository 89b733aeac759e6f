//! What clients ask: the query strings of `/announce` (BEP 3, 7, 21, 23) and `/scrape` (BEP 48).
//!
//! They come from strangers: each is at most [`MAX_QUERY`] bytes, and what is not known is skipped. A `+` means itself, as
//! RFC 1738 says, on which BEP 3 rests.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU16;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use thiserror::Error;

use crate::discovery::announcement::ContentId;

/// Longest query that is read, in bytes. Clients write some 400.
pub const MAX_QUERY: usize = 4_096;
/// Most torrents that one scrape may name.
pub const MAX_SCRAPED: usize = 32;

/// What is wrong with a query.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    /// Too many bytes.
    #[error("the query is longer than {MAX_QUERY} bytes")]
    TooLong,
    /// Something that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The same twice: which one counts?
    #[error("{0} stands there twice")]
    Repeated(&'static str),
    /// A value that the parameter cannot have.
    #[error("{0} has a value that it cannot have")]
    Value(&'static str),
    /// More torrents than one scrape may name.
    #[error("more than {MAX_SCRAPED} torrents at once")]
    TooMany,
}

/// What a client calls itself: 20 bytes of its own choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

/// What a client tells beside that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It begins.
    Started,
    /// It has just become whole.
    Completed,
    /// It leaves.
    Stopped,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
        }
    }
}

/// How a client wants to be told of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As strings of addresses (BEP 23, 7): unless it asks for the other.
    Compact,
    /// As a list of dictionaries (BEP 3).
    Dictionaries {
        /// With the ids of the peers.
        ids: bool,
    },
}

/// A client tells where it is and how much it has of a torrent, and asks who else is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Which torrent.
    pub info_hash: ContentId,
    /// Who it is.
    pub peer_id: PeerId,
    /// Where it listens.
    pub port: NonZeroU16,
    /// The address that it gives as its own. Parameters for a second address (`ipv4`, `ipv6` of BEP 7) are not read.
    pub ip: Option<IpAddr>,
    /// Bytes that it has given.
    pub uploaded: u64,
    /// Bytes that it has taken.
    pub downloaded: u64,
    /// Bytes that it lacks; none when it is whole.
    pub left: u64,
    /// What happened. Events that BEP 3 does not know, such as `paused` of BEP 21, are none.
    pub event: Option<Event>,
    /// How many peers it wants; without it, as many as the tracker likes.
    pub numwant: Option<u32>,
    /// How it wants them.
    pub form: Form,
}

impl Announce {
    /// Reads a query.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut info_hash = None;
        let mut peer_id = None;
        let mut port = None;
        let mut ip = None;
        let mut transferred = [None; 3];
        let [uploaded, downloaded, left] = &mut transferred;
        let mut event = None;
        let mut numwant = None;
        let mut compact = None;
        let mut no_peer_id = None;
        for (name, value) in parameters(query)? {
            match name {
                "info_hash" => once(&mut info_hash, "info_hash", bytes(value))?,
                "peer_id" => once(&mut peer_id, "peer_id", bytes(value))?,
                "port" => once(&mut port, "port", port_of(value))?,
                // It may be a host name too (BEP 3), which nobody here asks a name server about.
                "ip" => once(&mut ip, "ip", Some(value))?,
                "uploaded" => once(uploaded, "uploaded", number(value))?,
                "downloaded" => once(downloaded, "downloaded", number(value))?,
                "left" => once(left, "left", number(value))?,
                "event" => once(&mut event, "event", Some(value))?,
                "numwant" => once(&mut numwant, "numwant", value.parse().ok())?,
                "compact" => once(&mut compact, "compact", Some(value != "0"))?,
                "no_peer_id" => once(&mut no_peer_id, "no_peer_id", Some(value != "0"))?,
                _ => {}
            }
        }
        let [uploaded, downloaded, left] = transferred;
        Ok(Self {
            info_hash: info_hash
                .map(ContentId)
                .ok_or(QueryError::Missing("info_hash"))?,
            peer_id: peer_id.map(PeerId).ok_or(QueryError::Missing("peer_id"))?,
            port: port.ok_or(QueryError::Missing("port"))?,
            ip: ip.and_then(|ip| text(ip).parse().ok()),
            uploaded: uploaded.ok_or(QueryError::Missing("uploaded"))?,
            downloaded: downloaded.ok_or(QueryError::Missing("downloaded"))?,
            left: left.ok_or(QueryError::Missing("left"))?,
            event: event.and_then(event_named),
            numwant: numwant.and_then(how_many),
            form: match compact {
                Some(false) => Form::Dictionaries {
                    ids: no_peer_id != Some(true),
                },
                Some(true) | None => Form::Compact,
            },
        })
    }

    /// Writes the query.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut query = format!(
            "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}",
            percent_encode(&self.info_hash.0, NON_ALPHANUMERIC),
            percent_encode(&self.peer_id.0, NON_ALPHANUMERIC),
            self.port,
            self.uploaded,
            self.downloaded,
            self.left
        );
        query.push_str(match self.form {
            Form::Compact => "&compact=1",
            Form::Dictionaries { ids: true } => "&compact=0",
            Form::Dictionaries { ids: false } => "&compact=0&no_peer_id=1",
        });
        // Writing to a string does not fail.
        if let Some(event) = self.event {
            let _ = write!(query, "&event={}", event.name());
        }
        if let Some(numwant) = self.numwant {
            let _ = write!(query, "&numwant={numwant}");
        }
        if let Some(ip) = self.ip {
            let ip = ip.to_string();
            let _ = write!(
                query,
                "&ip={}",
                percent_encode(ip.as_bytes(), NON_ALPHANUMERIC)
            );
        }
        query
    }
}

/// Which torrents a scrape names, at least one: no client is told all that there are.
pub fn parse_scrape(query: &str) -> Result<Vec<ContentId>, QueryError> {
    let mut torrents = Vec::new();
    for (name, value) in parameters(query)? {
        if name == "info_hash" {
            if torrents.len() == MAX_SCRAPED {
                return Err(QueryError::TooMany);
            }
            torrents.push(
                bytes(value)
                    .map(ContentId)
                    .ok_or(QueryError::Value("info_hash"))?,
            );
        }
    }
    if torrents.is_empty() {
        return Err(QueryError::Missing("info_hash"));
    }
    Ok(torrents)
}

/// Names and values, still encoded.
fn parameters(query: &str) -> Result<impl Iterator<Item = (&str, &str)>, QueryError> {
    if query.len() > MAX_QUERY {
        return Err(QueryError::TooLong);
    }
    let parts = query.split('&');
    Ok(parts.map(|part| part.split_once('=').unwrap_or((part, ""))))
}

/// Fills what must be there once at most; `value` is `None` when it is none that the parameter can have.
fn once<T>(slot: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), QueryError> {
    if slot.is_some() {
        return Err(QueryError::Repeated(name));
    }
    *slot = Some(value.ok_or(QueryError::Value(name))?);
    Ok(())
}

/// 20 bytes, percent-encoded.
fn bytes(value: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    let mut decoded = percent_decode_str(value);
    for byte in &mut bytes {
        *byte = decoded.next()?;
    }
    decoded.next().is_none().then_some(bytes)
}

fn text(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// Digits only: a sign is not allowed.
fn number(value: &str) -> Option<u64> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits)
}

fn port_of(value: &str) -> Option<NonZeroU16> {
    let port = u16::try_from(number(value)?).ok()?;
    NonZeroU16::new(port)
}

/// Some clients say -1 where they mean the tracker's own number.
fn how_many(numwant: i64) -> Option<u32> {
    u32::try_from(numwant.min(u32::MAX.into())).ok()
}

fn event_named(value: &str) -> Option<Event> {
    [Event::Started, Event::Completed, Event::Stopped]
        .into_iter()
        .find(|event| event.name() == value)
}

#[cfg(test)]
pub(super) mod tests;
