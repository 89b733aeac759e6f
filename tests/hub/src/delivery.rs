//! Sending the content of a file: ranges, compression, and what faults do to a body.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, Stream};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, RANGE, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::admin::Effect;
use crate::answer::{header, text};
use crate::content::Content;
use crate::file::RepositoryFile;
use crate::range::{Selection, select};
use crate::throttle::Throttle;

/// Up to this size texts are compressed on the fly.
const COMPRESSIBLE: u64 = 1 << 20;
/// Smaller ones are not worth it.
const WORTH_COMPRESSING: u64 = 200;
/// Extensions of texts.
const TEXTS: [&str; 7] = ["json", "txt", "md", "py", "yaml", "yml", "jinja"];

/// How one content is to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    ignore_range: bool,
    gzip: bool,
    shift: u64,
    wrong_byte: Option<u64>,
    stall: Option<(u64, Duration)>,
}

impl Manner {
    /// What the faults of a request do to its body.
    #[must_use]
    pub fn of(effects: &[Effect]) -> Self {
        let mut manner = Self::default();
        for effect in effects {
            match effect {
                Effect::IgnoreRange => manner.ignore_range = true,
                Effect::Gzip => manner.gzip = true,
                Effect::ShiftContentRange { by } => manner.shift = *by,
                Effect::WrongByte { at } => manner.wrong_byte = Some(*at),
                Effect::Stall {
                    after,
                    milliseconds,
                } => {
                    manner.stall = Some((*after, Duration::from_millis(*milliseconds)));
                }
                _ => {}
            }
        }
        manner
    }

    /// The CDN's trap: a client that accepts gzip loses its range.
    #[must_use]
    pub fn ignoring_range(self, ignore: bool) -> Self {
        Self {
            ignore_range: self.ignore_range || ignore,
            ..self
        }
    }

    /// The hub's trap: small texts come compressed, without a length and without ranges.
    #[must_use]
    pub fn compressing(self, file: &RepositoryFile, headers: &HeaderMap) -> Self {
        let small_text = (WORTH_COMPRESSING..=COMPRESSIBLE).contains(&file.size)
            && extension(file).is_some_and(|extension| TEXTS.contains(&extension));
        Self {
            gzip: self.gzip || (small_text && accepts_gzip(headers)),
            ..self
        }
    }
}

/// Whether the client would take gzip.
#[must_use]
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim().eq_ignore_ascii_case("gzip") && weight.replace(' ', "") != "q=0"
    })
}

/// The answer with a file's content, or the asked part of it. With a `None` throttle only the head matters.
pub fn deliver(
    file: &Arc<RepositoryFile>,
    headers: &HeaderMap,
    manner: Manner,
    throttle: Option<Arc<Throttle>>,
) -> Response {
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let range = if manner.ignore_range || manner.gzip {
        None
    } else {
        range
    };
    let (first, len, status) = match select(range, file.size) {
        Selection::Whole => (0, file.size, StatusCode::OK),
        Selection::Part { first, last } => (first, last - first + 1, StatusCode::PARTIAL_CONTENT),
        Selection::Unsatisfiable => {
            let mut response = text(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "The range is not satisfiable",
            );
            response
                .headers_mut()
                .insert(CONTENT_RANGE, header(&format!("bytes */{}", file.size)));
            return response;
        }
    };
    let wrong_bytes = [
        file.wrong_byte_at,
        manner
            .wrong_byte
            .map(|at| first + at.min(len.saturating_sub(1))),
    ];
    let source = Source {
        content: file.content.clone(),
        position: first,
        end: first + len,
        wrong_bytes,
        stall: manner
            .stall
            .map(|(after, time)| (first.saturating_add(after), time)),
        throttle,
    };
    let mut response = Response::new(source.body(manner.gzip));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = if extension(file) == Some("json") {
        "application/json"
    } else {
        "application/octet-stream"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if manner.gzip {
        headers.insert(ETAG, header(&format!("W/\"{}\"", file.etag())));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        return response;
    }
    headers.insert(ETAG, header(&format!("\"{}\"", file.etag())));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, len.into());
    if status == StatusCode::PARTIAL_CONTENT {
        let (from, to) = (first + manner.shift, first + len - 1 + manner.shift);
        headers.insert(
            CONTENT_RANGE,
            header(&format!("bytes {from}-{to}/{}", file.size)),
        );
    }
    response
}

fn extension(file: &RepositoryFile) -> Option<&str> {
    Path::new(&file.path).extension()?.to_str()
}

struct Source {
    content: Content,
    position: u64,
    end: u64,
    wrong_bytes: [Option<u64>; 2],
    stall: Option<(u64, Duration)>,
    throttle: Option<Arc<Throttle>>,
}

impl Source {
    fn body(self, gzip: bool) -> Body {
        if self.throttle.is_none() {
            return Body::empty();
        }
        if gzip {
            Body::from_stream(compressed(self))
        } else {
            Body::from_stream(plain(self))
        }
    }

    /// The next bytes, none at the end.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let Some(throttle) = self.throttle.clone() else {
            return Ok(None);
        };
        if let Some((at, time)) = self.stall
            && self.position >= at
        {
            self.stall = None;
            tokio::time::sleep(time).await;
        }
        let mut left = self.end - self.position;
        if let Some((at, _)) = self.stall {
            left = left.min(at - self.position);
        }
        if left == 0 {
            return Ok(None);
        }
        let len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(throttle.step());
        throttle.pass(len).await;
        let mut bytes = self.read(len).await?;
        for at in self.wrong_bytes.into_iter().flatten() {
            if let Some(index) = at
                .checked_sub(self.position)
                .and_then(|index| usize::try_from(index).ok())
                && index < len
            {
                let mut changed = BytesMut::from(&bytes[..]);
                changed[index] ^= 0x55;
                bytes = changed.freeze();
            }
        }
        self.position += len as u64;
        Ok(Some(bytes))
    }

    async fn read(&self, len: usize) -> std::io::Result<Bytes> {
        let position = self.position;
        if matches!(self.content, Content::Disk { .. }) {
            let content = self.content.clone();
            let read = tokio::task::spawn_blocking(move || content.read(position, len)).await;
            return read.map_err(std::io::Error::other)?;
        }
        self.content.read(position, len)
    }
}

fn plain(source: Source) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::unfold(source, |mut source| async move {
        Some((source.next().await.transpose()?, source))
    })
}

fn compressed(source: Source) -> impl Stream<Item = std::io::Result<Bytes>> {
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    stream::unfold((source, encoder), |(mut source, encoder)| async move {
        let mut encoder = encoder?;
        let step = match source.next().await {
            Ok(Some(bytes)) => encoder.write_all(&bytes).map(|()| false),
            Ok(None) => Ok(true),
            Err(error) => Err(error),
        };
        Some(match step {
            Ok(false) => (
                Ok(std::mem::take(encoder.get_mut()).into()),
                (source, Some(encoder)),
            ),
            Ok(true) => (encoder.finish().map(Bytes::from), (source, None)),
            Err(error) => (Err(error), (source, None)),
        })
    })
}
