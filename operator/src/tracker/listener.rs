//! Connections that are few, short and say little: anybody who reaches the port can open them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use modelcache_swarm::crowd::{Crowd, Place};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

/// Connections at once; more are closed at once.
const MAX_CONNECTIONS: usize = 1_024;
/// Connections at once of one [`source`](modelcache_swarm::crowd::source).
const MAX_PER_SOURCE: usize = 64;
/// How long a connection may last: one request and its answer.
const LIFETIME: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// How much a client may send, in bytes: a query of the greatest length and its headers.
const MAX_REQUEST: usize = 16 * 1_024;

/// Accepts connections within the limits.
#[derive(Debug)]
pub(super) struct BriefListener {
    listener: TcpListener,
    crowd: Crowd,
}

impl BriefListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            crowd: Crowd::new(MAX_CONNECTIONS, MAX_PER_SOURCE),
        }
    }
}

impl Listener for BriefListener {
    type Io = Brief;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // axum's own way of accepting, which waits when the system has no more descriptors.
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            let Some(place) = self.crowd.enter(peer.ip()) else {
                tracing::debug!(%peer, "too many connections, closing");
                continue;
            };
            let brief = Brief {
                stream,
                end: Box::pin(tokio::time::sleep(LIFETIME)),
                left: MAX_REQUEST,
                _place: place,
            };
            return (brief, peer);
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Who is at the other end, for the handlers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source(pub(super) IpAddr);

impl Connected<IncomingStream<'_, BriefListener>> for Source {
    fn connect_info(stream: IncomingStream<'_, BriefListener>) -> Self {
        Self(stream.remote_addr().ip())
    }
}

/// A connection that ends after [`LIFETIME`] or [`MAX_REQUEST`], whatever the other end does.
pub(super) struct Brief {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    left: usize,
    _place: Place,
}

impl Brief {
    /// Also wakes the task when the time has come.
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Brief {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::other("the request is too long"))),
        }
    }
}

impl AsyncWrite for Brief {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::ConnectInfo;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn served() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route(
                "/",
                get(|ConnectInfo(Source(ip)): ConnectInfo<Source>| async move { ip.to_string() }),
            )
            .into_make_service_with_connect_info::<Source>();
        tokio::spawn(async move { axum::serve(BriefListener::new(listener), routes).await });
        address
    }

    async fn answer(stream: &mut TcpStream, request: &[u8]) -> String {
        // The other end may be closed already.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn silent_connections_are_few_and_end() {
        let address = served().await;
        let connect = || async { TcpStream::connect(address).await.unwrap() };
        let mut silent = Vec::new();
        for _ in 0..MAX_PER_SOURCE {
            silent.push(connect().await);
        }
        assert_eq!(answer(&mut connect().await, REQUEST).await, "");
        for stream in &mut silent {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        }
        let answer = answer(&mut connect().await, REQUEST).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_request_without_end_is_cut_off() {
        let mut stream = TcpStream::connect(served().await).await.unwrap();
        let endless = [
            b"GET / HTTP/1.1\r\nHost: x\r\nX: ".to_vec(),
            vec![b'x'; 2 * MAX_REQUEST],
        ]
        .concat();
        assert_eq!(answer(&mut stream, &endless).await, "");
    }
}
