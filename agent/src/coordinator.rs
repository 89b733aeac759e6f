//! The connection to the operator's coordinator: one WebSocket over an encrypted link, opened again for ever.
//!
//! The coordinator keeps nothing across connections. So after each [`LinkEvent::Connected`] the owner says
//! `AgentMessage::Track` for every snapshot it has, and what is sent while there is no connection is dropped.
//!
//! When a new key of the cluster arrives, another connection is made with it, and the one before it ends: with the old key
//! it would end some time later, and the coordinator would take what is under way for lost.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, MAX_FRAME_BYTES, PROTOCOL};
use modelcache_swarm::link::{self, Security};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

/// First and longest wait between two tries to connect. The coordinator counts on the longest one: it does not give
/// away sooner what a node held that lost its connection.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A connection that lasted so long was a good one: the next try starts with the shortest wait.
const STEADY: Duration = Duration::from_secs(10);

/// Time for connecting, and for saying hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Both sides ping this often, so that neither waits for a peer that is gone.
const PING_EVERY: Duration = Duration::from_secs(10);

/// A connection on which nothing came for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Messages that may wait in either direction.
const QUEUE: usize = 4096;

/// How to reach the coordinator, and as whom.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// `ws://host:port/v1/coordinate`.
    pub url: String,
    /// File with the service account token; read at each connect, because it is renewed.
    pub token_file: PathBuf,
    /// Name of the Node that the token is bound to.
    pub node: String,
    /// Where other agents reach this agent's uploader.
    pub peer_address: SocketAddr,
    /// How this agent and the coordinator know each other.
    pub security: Security,
}

/// What the link tells its owner. `Connected` and `Disconnected` alternate.
#[derive(Debug)]
pub enum LinkEvent {
    /// A new connection stands; the coordinator knows nothing of this agent's snapshots yet.
    Connected,
    /// An order.
    Message(CoordinatorMessage),
    /// The connection is gone; the link is trying again.
    Disconnected,
}

/// Sends to the coordinator. Cheap to clone; the link ends when all handles and the receiver of events are dropped.
#[derive(Clone, Debug)]
pub struct LinkHandle {
    messages: mpsc::Sender<AgentMessage>,
    overflow: Arc<Notify>,
}

impl LinkHandle {
    /// Sends a message, or drops it when there is no connection: the state is told anew on the next one.
    pub fn send(&self, message: AgentMessage) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.messages.try_send(message) {
            // A lost message would leave the coordinator with a wrong picture; a new connection gives it the right one.
            self.overflow.notify_one();
        }
    }
}

/// The connection to the coordinator.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    messages: mpsc::Receiver<AgentMessage>,
    overflow: Arc<Notify>,
    events: mpsc::Sender<LinkEvent>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
enum LinkError {
    #[error("the service account token {0} cannot be read: {1}; mount a projected token there")]
    Token(PathBuf, std::io::Error),
    #[error("the service account token is no header value; write one line of text")]
    TokenText,
    #[error("'{0}' is no address of a coordinator; write ws://host:port/v1/coordinate")]
    Url(String),
    #[error("the coordinator at {0} cannot be reached: {1}")]
    Connect(String, std::io::Error),
    #[error("the coordinator at {0} is reached, but there is no link: {1}")]
    Handshake(String, link::LinkError),
    #[error("the coordinator did not answer within {} seconds", CONNECT_TIMEOUT.as_secs())]
    Slow,
    #[error("the coordinator refused the connection with {0}: {1}")]
    Status(u16, String),
    #[error("the coordinator refused this agent: {0}")]
    Refused(String),
    #[error("the connection to the coordinator failed: {0}")]
    Socket(Box<tungstenite::Error>),
    #[error("nothing heard of the coordinator for {} seconds", DEAD_AFTER.as_secs())]
    Silent,
    #[error("the coordinator closed the connection")]
    Closed,
    #[error(
        "the coordinator sent a message that is not understood: {0}; install the same version of both"
    )]
    Message(serde_json::Error),
    #[error("more messages were waiting than the connection carries")]
    Overflow,
}

impl From<tungstenite::Error> for LinkError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => {
                let body = response.body().as_deref().unwrap_or_default();
                let text = String::from_utf8_lossy(body).chars().take(300).collect();
                Self::Status(response.status().as_u16(), text)
            }
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
                Self::Closed
            }
            other => Self::Socket(Box::new(other)),
        }
    }
}

/// A connection on which Hello was said.
struct Connection {
    socket: WebSocketStream<link::Link<TcpStream>>,
    /// Completes when the cluster has another key than when it was made.
    replaced: BoxFuture<'static, ()>,
}

/// How a connection ends.
enum End {
    /// It broke, or the coordinator ended it.
    Broken(LinkError),
    /// This one takes its place.
    Renewed(Box<Connection>),
}

/// Where a coordinator is dialled, as `host:port`; absent when the URL names no host.
#[must_use]
pub fn address_of(url: &Uri) -> Option<String> {
    let host = url.host()?;
    Some(format!("{host}:{}", url.port_u16().unwrap_or(80)))
}

/// The owner is gone, so the link has nothing left to do.
struct OwnerGone;

impl LinkConfig {
    /// Opens a connection and says hello; `resumes`: beside another one, which it replaces.
    async fn connect(&self, resumes: bool) -> Result<Connection, LinkError> {
        // From before the handshake: a key that comes while it lasts is news too.
        let replaced = self.security.replaced().boxed();
        let attempt = async {
            let url = || LinkError::Url(self.url.clone());
            let mut request = self.url.as_str().into_client_request().map_err(|_| url())?;
            let address = address_of(request.uri()).ok_or_else(url)?;
            let file = &self.token_file;
            let token = tokio::fs::read_to_string(file)
                .await
                .map_err(|error| LinkError::Token(file.clone(), error))?;
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| LinkError::TokenText)?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
            let stream = TcpStream::connect(&address)
                .await
                .map_err(|error| LinkError::Connect(address.clone(), error))?;
            stream
                .set_nodelay(true)
                .map_err(|error| LinkError::Connect(address.clone(), error))?;
            let stream = self
                .security
                .dial(stream)
                .await
                .map_err(|error| LinkError::Handshake(address, error))?;
            tracing::debug!(key = %stream.key_id(), "linked with the coordinator");
            let socket = self.greet(request, stream, resumes).await?;
            Ok(Connection { socket, replaced })
        };
        timeout(CONNECT_TIMEOUT, attempt)
            .await
            .map_err(|_| LinkError::Slow)?
    }

    /// Makes a WebSocket of a stream.
    async fn greet(
        &self,
        request: tungstenite::handshake::client::Request,
        stream: link::Link<TcpStream>,
        resumes: bool,
    ) -> Result<WebSocketStream<link::Link<TcpStream>>, LinkError> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        let (mut socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        let hello = AgentMessage::Hello {
            protocol: PROTOCOL,
            node: self.node.clone(),
            peer_address: self.peer_address,
            resumes,
        };
        send(&mut socket, &hello).await?;
        if resumes {
            entered(&mut socket).await?;
        }
        Ok(socket)
    }

    /// Makes another connection while the one that it is to replace stands; also when that ends meanwhile, because the coordinator
    /// ends it as soon as it knows of the other.
    async fn renewed_or(
        &self,
        mut broken: Pin<&mut impl Future<Output = Result<LinkError, OwnerGone>>>,
    ) -> Result<End, OwnerGone> {
        let renewed = |connection| Ok(End::Renewed(Box::new(connection)));
        let mut renewal = pin!(self.renew());
        let error = tokio::select! {
            connection = &mut renewal => return renewed(connection),
            error = &mut broken => error?,
        };
        match timeout(CONNECT_TIMEOUT, renewal).await {
            Ok(connection) => renewed(connection),
            Err(_) => Ok(End::Broken(error)),
        }
    }

    /// Makes another connection with the cluster's new key, however often that takes.
    async fn renew(&self) -> Connection {
        tracing::info!(
            "the cluster's key was replaced: connecting to the coordinator with the new one"
        );
        loop {
            match self.connect(true).await {
                Ok(connection) => return connection,
                Err(error) => tracing::debug!(%error, "no new connection to the coordinator yet"),
            }
            tokio::time::sleep(jittered(RETRY.1)).await;
        }
    }
}

impl Link {
    /// Starts connecting. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(config: LinkConfig) -> (LinkHandle, mpsc::Receiver<LinkEvent>) {
        let (messages, outbox) = mpsc::channel(QUEUE);
        let (events, inbox) = mpsc::channel(QUEUE);
        let overflow = Arc::new(Notify::new());
        let link = Self {
            config,
            messages: outbox,
            overflow: Arc::clone(&overflow),
            events,
        };
        tokio::spawn(link.run());
        (LinkHandle { messages, overflow }, inbox)
    }

    async fn run(mut self) {
        let mut wait = RETRY.0;
        let mut told = false;
        let mut renewed = None;
        loop {
            let began = Instant::now();
            let connected = match renewed.take() {
                Some(connection) => Ok(connection),
                None => self.config.connect(false).await,
            };
            let error = match connected {
                Ok(connection) => {
                    told = false;
                    match self.converse(connection).await {
                        Ok(End::Broken(error)) => error,
                        Ok(End::Renewed(connection)) => {
                            renewed = Some(*connection);
                            continue;
                        }
                        Err(OwnerGone) => return,
                    }
                }
                Err(error) => error,
            };
            if began.elapsed() >= STEADY {
                wait = RETRY.0;
            }
            // The first failure is news, the following ones are not.
            if told {
                tracing::debug!(%error, "still no coordinator");
            } else {
                tracing::warn!(%error, "no coordinator; trying again");
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => {}
                () = self.events.closed() => return,
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// Carries messages until the connection ends, and tells the owner of both.
    async fn converse(&mut self, connection: Connection) -> Result<End, OwnerGone> {
        let Connection { socket, replaced } = connection;
        // What was meant for an earlier connection is in the state that the owner is about to tell.
        while self.messages.try_recv().is_ok() {}
        let _ = self.overflow.notified().now_or_never();
        tell(&self.events, LinkEvent::Connected).await?;
        tracing::info!(url = self.config.url, "connected to the coordinator");
        let (mut sink, mut stream) = socket.split();
        let end = {
            let mut broken = pin!(async {
                tokio::select! {
                    end = write(&mut sink, &mut self.messages, &self.overflow) => end,
                    end = listen(&mut stream, &self.events) => end,
                }
            });
            tokio::select! {
                end = &mut broken => end.map(End::Broken),
                () = replaced => self.config.renewed_or(broken).await,
            }
        };
        // Best effort: the coordinator notices a broken connection too.
        let _ = timeout(RETRY.0, sink.close()).await;
        let end = end?;
        tell(&self.events, LinkEvent::Disconnected).await?;
        Ok(end)
    }
}

/// Waits until the coordinator has read Hello: should it hear of the end of the connection before, it would count the agent as gone,
/// and give its fetches to others. Orders that come meanwhile are given again once the agent has said what it holds.
async fn entered(socket: &mut WebSocketStream<link::Link<TcpStream>>) -> Result<(), LinkError> {
    socket.send(Message::Ping(Vec::new().into())).await?;
    loop {
        match socket.next().await {
            None | Some(Ok(Message::Close(_))) => return Err(LinkError::Closed),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Text(text))) => {
                if let Ok(CoordinatorMessage::Refused { message }) = serde_json::from_str(&text) {
                    return Err(LinkError::Refused(message));
                }
            }
            Some(Ok(_)) => {}
        }
    }
}

async fn tell(events: &mpsc::Sender<LinkEvent>, event: LinkEvent) -> Result<(), OwnerGone> {
    events.send(event).await.map_err(|_| OwnerGone)
}

async fn write(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    messages: &mut mpsc::Receiver<AgentMessage>,
    overflow: &Notify,
) -> Result<LinkError, OwnerGone> {
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            message = messages.recv() => match message {
                Some(message) => timeout(DEAD_AFTER, send(sink, &message)).await,
                None => return Err(OwnerGone),
            },
            _ = pings.tick() => {
                let ping = async { Ok(sink.send(Message::Ping(Vec::new().into())).await?) };
                timeout(DEAD_AFTER, ping).await
            }
            () = overflow.notified() => return Ok(LinkError::Overflow),
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Ok(error),
            Err(_) => return Ok(LinkError::Silent),
        }
    }
}

async fn listen(
    stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    events: &mpsc::Sender<LinkEvent>,
) -> Result<LinkError, OwnerGone> {
    loop {
        let frame = match timeout(DEAD_AFTER, stream.next()).await {
            Err(_) => return Ok(LinkError::Silent),
            Ok(None) => return Ok(LinkError::Closed),
            Ok(Some(Err(error))) => return Ok(error.into()),
            Ok(Some(Ok(frame))) => frame,
        };
        match frame {
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(CoordinatorMessage::Refused { message }) => {
                    return Ok(LinkError::Refused(message));
                }
                Ok(message) => tell(events, LinkEvent::Message(message)).await?,
                Err(error) => return Ok(LinkError::Message(error)),
            },
            Message::Close(_) => return Ok(LinkError::Closed),
            _ => {}
        }
    }
}

async fn send(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    message: &AgentMessage,
) -> Result<(), LinkError> {
    let text = serde_json::to_string(message).map_err(LinkError::Message)?;
    Ok(sink.send(Message::text(text)).await?)
}

/// Between half of `wait` and all of it, so that agents do not come back all at once.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1024;
    let part = 0.5 + f64::from(u32::try_from(random).unwrap_or(0)) / 2048.0;
    wait.mul_f64(part)
}
