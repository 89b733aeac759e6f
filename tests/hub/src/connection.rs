//! Connections that know how many body bytes went out, and that can be cut at a byte; ports that can be closed.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::admin::Mode;
use crate::counting::Meter;
use crate::locks::lock;

/// Time for the bytes before a reset to reach the client: a reset discards what is still queued.
const BEFORE_RESET: Duration = Duration::from_millis(100);
/// The end of an HTTP/1.1 head.
const HEAD_END: &[u8; 4] = b"\r\n\r\n";

/// Where the body of an answer is cut off.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Body bytes that still go out.
    pub after: u64,
    /// With a reset instead of an orderly end.
    pub reset: bool,
}

/// The server's side of one connection, as handlers see it.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    end: CancellationToken,
    reset: AtomicBool,
    answer: Mutex<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    meter: Option<Arc<Meter>>,
    cut: Option<Cut>,
    /// How much of [`HEAD_END`] was seen; all of it: the body follows.
    head_end: usize,
    body: u64,
}

impl Client {
    /// The client's address; that of an IPv4 client on an IPv6 port is told as IPv4.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    /// To be called before the answer is returned: the next bytes on this connection are its head, then its body.
    pub fn begin(&self, meter: Arc<Meter>, cut: Option<Cut>) {
        *lock(&self.link.answer) = Answer {
            meter: Some(meter),
            cut,
            head_end: 0,
            body: 0,
        };
    }

    /// Ends the connection at once.
    pub fn end(&self, reset: bool) {
        self.link.reset.store(reset, Ordering::Relaxed);
        self.link.end.cancel();
    }
}

impl Connected<IncomingStream<'_, Port>> for Client {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Self {
        Self {
            address: *stream.remote_addr(),
            link: stream.io().link.clone(),
        }
    }
}

impl Answer {
    /// How many bytes of `data` may be written.
    fn allowed(&self, data: &[u8]) -> usize {
        let Some(cut) = self.cut else {
            return data.len();
        };
        let head = self.head_part(data).0;
        let body = usize::try_from(cut.after - self.body.min(cut.after)).unwrap_or(usize::MAX);
        data.len().min(head.saturating_add(body))
    }

    /// How many bytes of `data` belong to the head, and how much of its end is seen after them.
    fn head_part(&self, data: &[u8]) -> (usize, usize) {
        let mut seen = self.head_end;
        for (index, byte) in data.iter().enumerate() {
            if seen == HEAD_END.len() {
                return (index, seen);
            }
            seen = if *byte == HEAD_END[seen] {
                seen + 1
            } else {
                usize::from(*byte == HEAD_END[0])
            };
        }
        (data.len(), seen)
    }

    fn written(&mut self, data: &[u8]) {
        let (head, seen) = self.head_part(data);
        self.head_end = seen;
        let body = (data.len() - head) as u64;
        self.body += body;
        if let Some(meter) = &self.meter {
            meter.add(body);
        }
    }
}

/// A connection.
pub struct Stream {
    transport: Transport,
    link: Arc<Link>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    before_reset: Option<Pin<Box<Sleep>>>,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn new(transport: Transport, end: CancellationToken) -> Self {
        Self {
            transport,
            ended: Box::pin(end.clone().cancelled_owned()),
            link: Arc::new(Link {
                end,
                reset: AtomicBool::new(false),
                answer: Mutex::default(),
            }),
            before_reset: None,
        }
    }

    fn check_ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.ended.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        if self.link.reset.load(Ordering::Relaxed) {
            self.reset_on_drop()?;
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        match &self.transport {
            Transport::Plain(tcp) => tcp.set_zero_linger(),
            Transport::Tls(tls) => tls.get_ref().0.set_zero_linger(),
        }
    }

    /// The cut is reached: sees that everything before it goes out, then fails.
    fn poll_cut(&mut self, cx: &mut Context<'_>, reset: bool) -> Poll<io::Result<usize>> {
        ready!(self.transport.poll_flush(cx))?;
        if reset {
            let wait = self
                .before_reset
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(BEFORE_RESET)));
            ready!(wait.as_mut().poll(cx));
            self.reset_on_drop()?;
        }
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl Transport {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, data),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_ended(cx)?;
        match &mut this.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_ended(cx)?;
        let link = this.link.clone();
        let (allowed, cut) = {
            let answer = lock(&link.answer);
            (answer.allowed(data), answer.cut)
        };
        if allowed == 0 && !data.is_empty() {
            return this.poll_cut(cx, cut.is_some_and(|cut| cut.reset));
        }
        let written = ready!(this.transport.poll_write(cx, &data[..allowed]))?;
        lock(&link.answer).written(&data[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| &**slice))
    }

    /// Says so although only one slice is taken at a time: hyper then passes large bodies on without copying them.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_ended(cx)?;
        this.transport.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// A port whose [`Mode`] can change.
pub struct Port {
    connections: mpsc::Receiver<(Stream, SocketAddr)>,
    address: SocketAddr,
}

/// The switch of a [`Port`].
#[derive(Debug)]
pub struct Switch {
    wanted: watch::Sender<Mode>,
    applied: watch::Receiver<Mode>,
}

impl Switch {
    /// Changes the mode and waits until the port obeys.
    pub async fn set(&self, mode: Mode) {
        self.wanted.send_replace(mode);
        // An error means that the hub ends: nothing to wait for.
        let _ = self
            .applied
            .clone()
            .wait_for(|applied| *applied == mode)
            .await;
    }

    /// The mode now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        *self.wanted.borrow()
    }

    /// Waits until the mode is another than `mode`.
    pub async fn left(&self, mode: Mode) {
        let _ = self
            .wanted
            .subscribe()
            .wait_for(|wanted| *wanted != mode)
            .await;
    }
}

impl Port {
    /// Opens a port. It closes, and its connections end, with `stop`.
    pub async fn open(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        stop: CancellationToken,
    ) -> io::Result<(Self, Switch)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (wanted, wanted_by_us) = watch::channel(Mode::On);
        let (applied_by_us, applied) = watch::channel(Mode::On);
        let (accepted, connections) = mpsc::channel(64);
        let doorman = Doorman {
            address,
            tls,
            accepted,
            wanted: wanted_by_us,
            applied: applied_by_us,
        };
        tokio::spawn(doorman.run(listener, stop));
        Ok((
            Self {
                connections,
                address,
            },
            Switch { wanted, applied },
        ))
    }
}

impl Listener for Port {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

struct Doorman {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    accepted: mpsc::Sender<(Stream, SocketAddr)>,
    wanted: watch::Receiver<Mode>,
    applied: watch::Sender<Mode>,
}

impl Doorman {
    async fn run(mut self, listener: TcpListener, stop: CancellationToken) {
        let mut listener = Some(listener);
        let mut connections = stop.child_token();
        loop {
            let mode = *self.wanted.borrow_and_update();
            match mode {
                Mode::Refuse => {
                    listener = None;
                    connections.cancel();
                }
                Mode::Drop => connections.cancel(),
                Mode::On | Mode::Silent | Mode::Unavailable => {}
            }
            if mode != Mode::Refuse && listener.is_none() {
                listener = Some(rebind(self.address).await);
            }
            if connections.is_cancelled() {
                connections = stop.child_token();
            }
            self.applied.send_replace(mode);
            let accept = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.wanted.changed() => if changed.is_err() { return },
                accepted = accept => match accepted {
                    Ok((tcp, peer)) if mode != Mode::Drop => self.greet(tcp, peer, connections.child_token()),
                    Ok(_) => {}
                    // Out of file descriptors, or the client was gone already.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
            }
        }
    }

    /// Hands a connection over; a TLS handshake may take its time without holding up others.
    fn greet(&self, tcp: TcpStream, peer: SocketAddr, end: CancellationToken) {
        let (tls, accepted) = (self.tls.clone(), self.accepted.clone());
        tokio::spawn(async move {
            let _ = tcp.set_nodelay(true);
            let transport = match tls {
                None => Transport::Plain(tcp),
                Some(tls) => match tls.accept(tcp).await {
                    Ok(stream) => Transport::Tls(Box::new(stream)),
                    Err(error) => {
                        tracing::info!(%peer, %error, "TLS handshake failed");
                        return;
                    }
                },
            };
            let _ = accepted.send((Stream::new(transport, end), peer)).await;
        });
    }
}

async fn rebind(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot open the port again, trying on");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
