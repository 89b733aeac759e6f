//! The stream after the handshake: records of up to 65,535 bytes, each a length (two bytes, big-endian) and a Noise
//! transport message.
//!
//! The end of the stream is not authenticated: what speaks over a link must know by itself when it has everything, as
//! BitTorrent's pieces and WebSocket's closing frame do. A record that is cut off is an error.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use snow::TransportState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Mode;
use super::crypto::TAG_BYTES;
use super::wire::Wire;
use crate::buffers::Buffer;
use crate::secret::KeyId;

const LENGTH_BYTES: usize = 2;
/// The longest Noise message.
const MAX_MESSAGE_BYTES: usize = 65_535;
/// The most text in one.
const MAX_TEXT_BYTES: usize = MAX_MESSAGE_BYTES - TAG_BYTES;
/// Text that is encrypted and sent at once: a batch of blocks, with their headers.
const MAX_BATCH_BYTES: usize = 3 * MAX_TEXT_BYTES;
/// Bytes that are read at once; must hold a record, and few system calls are cheap ones.
const READ_BYTES: usize = 256 << 10;
/// Lengths of longer buffers are multiples of this.
const STEP_BYTES: usize = 16 << 10;
/// Bytes that are read at first by a link that has no memory to read into.
const FIRST_BYTES: usize = 256;
/// A link that has read no more than this at last waits without such memory: little is said on it.
const LITTLE: usize = 4 << 10;

/// A stream to another member of the cluster.
///
/// Like other streams that transform what is written, it needs to be flushed: until then the last bytes may wait here.
///
/// It must be read and written by one task: the last one that did either is woken when the key is no longer good.
pub struct Link<S> {
    pub(super) stream: S,
    key: KeyId,
    /// Completes when the key is no longer good for this link; absent from then on.
    outlived: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Absent when the bytes travel as they are.
    records: Option<Box<Records>>,
}

impl<S> Link<S> {
    pub(super) fn new(
        stream: S,
        mode: Mode,
        noise: TransportState,
        key: KeyId,
        outlived: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let records = (mode == Mode::Encrypted).then(|| Box::new(Records::new(noise)));
        Self {
            stream,
            key,
            outlived: Some(Box::pin(outlived)),
            records,
        }
    }

    /// An error once the key is no longer good.
    fn check_key(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(outlived) = &mut self.outlived {
            if outlived.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.outlived = None;
        }
        Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the key of this link is no longer valid",
        ))
    }

    /// The key that both ends proved to have.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key
    }

    /// Gives back the memory of its buffers, as far as they are empty: nobody will use it for a while.
    pub fn rest(&mut self) {
        if let Some(records) = &mut self.records {
            records.rest();
        }
    }

    /// The stream below, to look at.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Bytes of its buffers.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let records = self.records.iter();
        records
            .map(|one| one.read.capacity() + one.text.capacity() + one.write.capacity())
            .sum()
    }

    /// Whether what is written is encrypted.
    #[cfg(test)]
    pub(super) fn is_encrypted(&self) -> bool {
        self.records.is_some()
    }
}

/// Fewer bytes than this that are missing are not worth the system call that says so.
const LEAST_AWAITED: usize = 4 << 10;

/// Both directions' buffers; ranges say which part of each counts.
struct Records {
    noise: TransportState,
    /// As it came from the wire.
    read: Buffer,
    read_start: usize,
    read_end: usize,
    /// How many bytes came at last.
    read_last: usize,
    /// With how many more bytes the wire wakes the reader.
    awaited: usize,
    /// Decrypted text for which the reader had no room.
    text: Buffer,
    text_start: usize,
    text_end: usize,
    /// As it goes to the wire.
    write: Buffer,
    write_start: usize,
    write_end: usize,
}

impl Records {
    fn new(noise: TransportState) -> Self {
        Self {
            noise,
            read: Buffer::default(),
            read_start: 0,
            read_end: 0,
            read_last: 0,
            awaited: 1,
            text: Buffer::default(),
            text_start: 0,
            text_end: 0,
            write: Buffer::default(),
            write_start: 0,
            write_end: 0,
        }
    }

    fn rest(&mut self) {
        let buffers = [
            (&mut self.read, &mut self.read_start, &mut self.read_end),
            (&mut self.text, &mut self.text_start, &mut self.text_end),
            (&mut self.write, &mut self.write_start, &mut self.write_end),
        ];
        for (buffer, start, end) in buffers {
            if *start == *end {
                (*buffer, *start, *end) = (Buffer::default(), 0, 0);
            }
        }
    }

    /// Where in `read` the next message lies, once all of it is there.
    fn next_message(&self) -> io::Result<Option<(usize, usize)>> {
        let bytes = &self.read[self.read_start..self.read_end];
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length < TAG_BYTES {
            return Err(invalid("a record too short to be one"));
        }
        let start = self.read_start + LENGTH_BYTES;
        Ok((rest.len() >= length).then_some((start, start + length)))
    }

    /// Decrypts what is complete into `buf`, as far as there is room. Whether there was anything.
    fn take_text(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let before = buf.filled().len();
        self.drain_text(buf);
        while self.text_start == self.text_end
            && let Some((start, end)) = self.next_message()?
        {
            let message = &self.read[start..end];
            let length = end - start - TAG_BYTES;
            if length <= buf.remaining() {
                let room = buf.initialize_unfilled_to(length);
                open(&mut self.noise, message, room)?;
                buf.advance(length);
            } else if buf.filled().len() > before {
                // The next call may bring a buffer that has room for it.
                break;
            } else {
                grow(&mut self.text, length);
                open(&mut self.noise, message, &mut self.text[..length])?;
                (self.text_start, self.text_end) = (0, length);
                self.drain_text(buf);
            }
            self.read_start = end;
        }
        Ok(buf.filled().len() > before)
    }

    fn drain_text(&mut self, buf: &mut ReadBuf<'_>) {
        let len = buf.remaining().min(self.text_end - self.text_start);
        buf.put_slice(&self.text[self.text_start..self.text_start + len]);
        self.text_start += len;
    }

    /// How many bytes of a record that has begun are missing, if it is worth waiting for all of them; else 1.
    fn missing(&self) -> usize {
        let bytes = &self.read[self.read_start..self.read_end];
        let begun = bytes.split_first_chunk::<LENGTH_BYTES>();
        let missing = begun.map_or(0, |(length, rest)| {
            usize::from(u16::from_be_bytes(*length)).saturating_sub(rest.len())
        });
        if missing < LEAST_AWAITED { 1 } else { missing }
    }

    /// Reads once more from the wire; `false` at its end.
    fn poll_fill<S: Wire>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        self.read.copy_within(self.read_start..self.read_end, 0);
        self.read_end -= self.read_start;
        self.read_start = 0;
        let mut first = [0; FIRST_BYTES];
        let resting = self.read.is_empty();
        let room = if resting {
            &mut first[..]
        } else {
            &mut self.read[self.read_end..]
        };
        let mut free = ReadBuf::new(room);
        let read = Pin::new(&mut *stream).poll_read(cx, &mut free);
        let len = free.filled().len();
        if read.is_pending() {
            let missing = self.missing();
            if std::mem::replace(&mut self.awaited, missing) != missing {
                stream.wake_at(missing);
            }
            if self.read_end == 0 && self.read_last <= LITTLE {
                self.read = Buffer::default();
            }
        }
        ready!(read)?;
        if len == 0 && self.read_end > 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if resting && len > 0 {
            self.read = Buffer::of(READ_BYTES);
            self.read[..len].copy_from_slice(&first[..len]);
        }
        self.read_end += len;
        self.read_last = len;
        Poll::Ready(Ok(len > 0))
    }

    /// Encrypts a batch. Must be called only when nothing waits to be written.
    fn seal(&mut self, text: &[u8]) -> io::Result<()> {
        let records = text.len().div_ceil(MAX_TEXT_BYTES);
        grow(
            &mut self.write,
            text.len() + records * (LENGTH_BYTES + TAG_BYTES),
        );
        (self.write_start, self.write_end) = (0, 0);
        for text in text.chunks(MAX_TEXT_BYTES) {
            let length = text.len() + TAG_BYTES;
            let record = &mut self.write[self.write_end..][..LENGTH_BYTES + length];
            let (head, message) = record.split_at_mut(LENGTH_BYTES);
            head.copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
            match self.noise.write_message(text, message) {
                Ok(written) if written == length => self.write_end += LENGTH_BYTES + length,
                _ => return Err(invalid("the text cannot be encrypted")),
            }
        }
        Ok(())
    }

    /// Sends what was encrypted.
    fn poll_drain<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        while self.write_start < self.write_end {
            let bytes = &self.write[self.write_start..self.write_end];
            let len = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.write_start += len;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a batch, once the one before it is sent.
    fn poll_write<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        text: &[u8],
    ) -> Poll<io::Result<usize>>
    where
        S: AsyncWrite + Unpin,
    {
        ready!(self.poll_drain(stream, cx))?;
        let len = text.len().min(MAX_BATCH_BYTES);
        self.seal(&text[..len])?;
        match self.poll_drain(stream, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the wire does not take now goes with the next write or the flush.
            _ => Poll::Ready(Ok(len)),
        }
    }
}

/// Makes a buffer of which nothing counts any more at least so long.
fn grow(buffer: &mut Buffer, len: usize) {
    if buffer.len() < len {
        // The longer ones by few sizes, so that they can be used again and seldom grow.
        let step = if len < STEP_BYTES { 1 } else { STEP_BYTES };
        *buffer = Buffer::of(len.next_multiple_of(step));
    }
}

fn open(noise: &mut TransportState, message: &[u8], text: &mut [u8]) -> io::Result<()> {
    match noise.read_message(message, text) {
        Ok(len) if len == text.len() => Ok(()),
        _ => Err(invalid("a record that was changed on the way")),
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl<S: Wire> AsyncRead for Link<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let link = self.get_mut();
        link.check_key(cx)?;
        let Self {
            stream, records, ..
        } = link;
        let Some(records) = records else {
            return Pin::new(stream).poll_read(cx, buf);
        };
        while buf.remaining() > 0 && !records.take_text(buf)? {
            if !ready!(records.poll_fill(stream, cx))? {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let link = self.get_mut();
        link.check_key(cx)?;
        let Self {
            stream, records, ..
        } = link;
        match records {
            Some(records) => records.poll_write(stream, cx, buf),
            None => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let link = self.get_mut();
        link.check_key(cx)?;
        let Self {
            stream, records, ..
        } = link;
        let Some(records) = records else {
            return Pin::new(stream).poll_write_vectored(cx, bufs);
        };
        // Before the copy, which would be for nothing.
        ready!(records.poll_drain(stream, cx))?;
        let mut text = Vec::new();
        for buf in bufs {
            let len = buf.len().min(MAX_BATCH_BYTES - text.len());
            text.extend_from_slice(&buf[..len]);
        }
        records.poll_write(stream, cx, &text)
    }

    fn is_write_vectored(&self) -> bool {
        self.records.is_some() || self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = self.get_mut();
        link.check_key(cx)?;
        let Self {
            stream, records, ..
        } = link;
        if let Some(records) = records {
            ready!(records.poll_drain(stream, cx))?;
        }
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            stream, records, ..
        } = self.get_mut();
        if let Some(records) = records {
            ready!(records.poll_drain(stream, cx))?;
        }
        Pin::new(stream).poll_shutdown(cx)
    }
}
