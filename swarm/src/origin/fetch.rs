//! Fetching one segment: bounded ranges of the files its extents lie in, in order, small ones several at a time.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use tokio::sync::mpsc;
use url::Url;

use super::error::OriginError;
use super::http::{Answer, Http, Subject, network, protocol, unavailable};
use super::links::Links;
use super::retry::Patience;
use super::{headers, sink};
use crate::gate::{CloseOnDrop, Gate};
use crate::segment::{PieceHashes, Segment, SegmentIo};
use crate::snapshot::Snapshot;

/// Most that is asked for at once. Never a request without a range: the hub refuses those for very large files.
const REQUEST_BYTES: u64 = 16 << 20;
/// Files up to this size may come whole although a range was asked for; the range is then cut out here.
const WHOLE_FILE_BYTES: u64 = 8 << 20;
/// Requests up to this size are made [`SMALL_AT_ONCE`] at a time, because each costs a round trip or two.
const SMALL_BYTES: u64 = 512 << 10;
const SMALL_AT_ONCE: usize = 8;

/// One request: a range of one file.
struct Part<'a> {
    path: &'a str,
    file_size: u64,
    first: u64,
    len: u64,
}

/// The requests of one segment, in the order of its bytes.
fn parts<'a>(snapshot: &'a Snapshot, segment: &Segment) -> Result<Vec<Part<'a>>, OriginError> {
    // A segment has its extents in the order of the files, so each is looked for where the last one was found.
    let mut files = snapshot.files.iter().cycle();
    let mut parts = Vec::new();
    for extent in &segment.extents {
        let file = files
            .by_ref()
            .take(snapshot.files.len())
            .find(|file| file.blob == extent.blob)
            .filter(|file| {
                extent
                    .offset
                    .checked_add(extent.len)
                    .is_some_and(|end| end <= file.size)
            })
            .ok_or_else(|| OriginError::Config {
                message: format!(
                    "segment {} is not one of snapshot '{}': no file has {} bytes of blob {} at {}",
                    segment.index, snapshot.name, extent.len, extent.blob, extent.offset
                ),
            })?;
        let end = extent.offset + extent.len;
        let mut first = extent.offset;
        while first < end {
            let len = REQUEST_BYTES.min(end - first);
            parts.push(Part {
                path: &file.path,
                file_size: file.size,
                first,
                len,
            });
            first += len;
        }
    }
    Ok(parts)
}

/// A fetch of one segment.
pub(super) struct Fetch<'a> {
    pub(super) http: &'a Http,
    pub(super) links: &'a Links,
    pub(super) snapshot: &'a Snapshot,
    pub(super) segment: &'a Segment,
    pub(super) on_bytes: &'a (dyn Fn(u64) + Sync),
}

impl Fetch<'_> {
    pub(super) async fn run(&self, io: Arc<dyn SegmentIo>) -> Result<PieceHashes, OriginError> {
        let parts = parts(self.snapshot, self.segment)?;
        let gate = Gate::new(io);
        let _close = CloseOnDrop(gate.clone());
        let (sender, thread) = sink::start(gate, self.snapshot.sizes.piece_bytes);
        let fetched = self.all(&parts, &sender).await;
        if let Err(Stop::Origin(error)) = fetched {
            return Err(error);
        }
        // Either everything is sent, or the disk's end is gone: both ways it says how it ended.
        drop(sender);
        let hashes = thread
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        hashes.map_err(|source| OriginError::Io {
            snapshot: self.snapshot.name.clone(),
            segment: self.segment.index,
            source,
        })
    }

    async fn all(&self, parts: &[Part<'_>], out: &mpsc::Sender<Bytes>) -> Result<(), Stop> {
        for run in parts.chunk_by(|a, b| a.len <= SMALL_BYTES && b.len <= SMALL_BYTES) {
            if run.len() == 1 {
                self.part(&run[0], &mut Out::Sink(out)).await?;
                continue;
            }
            // Collected, because a stream that holds the closure cannot be proven Send by a caller that spawns this.
            let bodies: Vec<_> = run
                .iter()
                .map(|part| async move {
                    let mut body = Vec::new();
                    self.part(part, &mut Out::Memory(&mut body)).await?;
                    Ok::<_, Stop>(body)
                })
                .collect();
            stream::iter(bodies)
                .buffered(SMALL_AT_ONCE)
                .try_for_each(async |body| Out::Sink(out).put(body.into()).await)
                .await?;
        }
        Ok(())
    }

    /// Fetches one range, trying again from the byte reached.
    async fn part(&self, part: &Part<'_>, out: &mut Out<'_>) -> Result<(), Stop> {
        let asked = self
            .http
            .file_url(&self.snapshot.repository, &self.snapshot.commit, part.path);
        let mut patience = Patience::new();
        let mut done = 0;
        while done < part.len {
            let before = done;
            match self.attempt(part, &asked, &mut done, out).await {
                Ok(()) => {}
                Err(Stop::Origin(error)) => patience.after(error, done > before).await?,
                Err(Stop::Disk) => return Err(Stop::Disk),
            }
        }
        Ok(())
    }

    /// One request for what is missing of a range; counts what arrives in `done`.
    async fn attempt(
        &self,
        part: &Part<'_>,
        asked: &Url,
        done: &mut u64,
        out: &mut Out<'_>,
    ) -> Result<(), Stop> {
        let first = part.first + *done;
        let last = part.first + part.len - 1;
        let Answer { response, url, .. } = self.open(part, asked, (first, last)).await?;
        let from = Self::body_start(part, &response, &url, (first, last))?;
        // What comes before the wanted range when the whole file is sent, and what follows it.
        let mut skip = first - from;
        let mut follows = if response.status() == StatusCode::OK {
            part.file_size - 1 - last
        } else {
            0
        };
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(|error| network(error, &url))?;
            (self.on_bytes)(chunk.len() as u64);
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let mut wanted = chunk.split_off(index(skipped));
            let rest = wanted.split_off(index((part.len - *done).min(wanted.len() as u64)));
            if !wanted.is_empty() {
                *done += wanted.len() as u64;
                out.put(wanted).await?;
            }
            follows = follows.checked_sub(rest.len() as u64).ok_or_else(|| {
                protocol(&url, "it sends more bytes than it was asked for".to_owned())
            })?;
        }
        if *done < part.len || follows > 0 {
            return Err(unavailable(&url, "the answer ended too early".to_owned()).into());
        }
        Ok(())
    }

    /// Asks for a range, at the remembered place if there is one.
    async fn open(
        &self,
        part: &Part<'_>,
        asked: &Url,
        range: (u64, u64),
    ) -> Result<Answer, OriginError> {
        let subject = Subject {
            repository: &self.snapshot.repository,
            revision: &self.snapshot.commit,
            path: Some(part.path),
        };
        if let Some(known) = self.links.get(asked) {
            let answer = self.http.get(&known, Some(range), subject).await;
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error @ OriginError::RateLimited { .. }) => return Err(error),
                // Expired, most likely: the hub knows the new place.
                Err(_) => self.links.forget(asked),
            }
        }
        let answer = self.http.get(asked, Some(range), subject).await?;
        if answer.redirected {
            self.links.remember(asked, &answer.url);
        }
        Ok(answer)
    }

    /// The offset in the file at which the body begins, if the answer is one that can be used.
    fn body_start(
        part: &Part<'_>,
        response: &reqwest::Response,
        url: &Url,
        (first, last): (u64, u64),
    ) -> Result<u64, OriginError> {
        let refuse = |message: String| Err(protocol(url, message));
        if headers::is_encoded(response.headers()) {
            return refuse("it sends a compressed body although none was asked for".to_owned());
        }
        match response.status() {
            StatusCode::PARTIAL_CONTENT => match headers::content_range(response.headers()) {
                Some(range) if range == (first, last, part.file_size) => Ok(first),
                Some((from, to, total)) => refuse(format!(
                    "asked for bytes {first}-{last} of {}, it sends {from}-{to} of {total}",
                    part.file_size
                )),
                None => refuse("it sends a range without saying which".to_owned()),
            },
            StatusCode::OK if part.file_size <= WHOLE_FILE_BYTES => {
                let length = headers::text(response.headers(), CONTENT_LENGTH.as_str());
                match length {
                    Some(length) if length != part.file_size.to_string() => refuse(format!(
                        "file '{}' has {length} bytes there and {} in the listing",
                        part.path, part.file_size
                    )),
                    _ => Ok(0),
                }
            }
            StatusCode::OK => refuse(format!(
                "it sends all of file '{}' although bytes {first}-{last} were asked for; does a proxy on the way drop the Range header?",
                part.path
            )),
            status => refuse(format!("HTTP {}", status.as_u16())),
        }
    }
}

/// An index within a chunk, which is in memory and hence below `usize::MAX`.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Why a part was not fetched.
enum Stop {
    Origin(OriginError),
    /// The sink ended; it knows why.
    Disk,
}

impl From<OriginError> for Stop {
    fn from(error: OriginError) -> Self {
        Self::Origin(error)
    }
}

/// Where a part's bytes go.
enum Out<'a> {
    Sink(&'a mpsc::Sender<Bytes>),
    Memory(&'a mut Vec<u8>),
}

impl Out<'_> {
    async fn put(&mut self, bytes: Bytes) -> Result<(), Stop> {
        match self {
            Self::Sink(sender) => sender.send(bytes).await.map_err(|_| Stop::Disk),
            Self::Memory(body) => {
                body.extend_from_slice(&bytes);
                Ok(())
            }
        }
    }
}
