//! The WebSocket listener of the coordinator: `GET /v1/coordinate`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use modelcache_swarm::coordination::{AgentMessage, CoordinatorMessage, MAX_FRAME_BYTES, PROTOCOL};
use modelcache_swarm::link::Security;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::Coordinator;
use super::actor::Event;
use super::authenticate::{Authenticate, AuthenticateError};
use super::secure::SecureListener;

/// Where agents connect.
pub const PATH: &str = "/v1/coordinate";

/// Both sides ping this often, so that neither waits for a peer that is gone.
const PING_EVERY: Duration = Duration::from_secs(10);

/// A connection on which nothing came for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Orders that may wait for one agent. Its windows are a few dozen; more only after many changes in a moment.
const ORDER_QUEUE: usize = 1024;

/// Identifies connections within this process.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
struct Shared {
    coordinator: Coordinator,
    authenticate: Arc<dyn Authenticate>,
    shutdown: CancellationToken,
}

/// Serves agents that make a link with `security` on a TCP listener, until `shutdown`.
pub async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    security: Security,
    authenticate: Arc<dyn Authenticate>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = SecureListener::new(listener, security)?;
    let stop = shutdown.clone();
    let routes = Router::new()
        .route(PATH, any(coordinate))
        .with_state(Shared {
            coordinator,
            authenticate,
            shutdown,
        });
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn coordinate(
    State(shared): State<Shared>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let refuse = |status: StatusCode, why: String| {
        shared.coordinator.metrics.refused.inc();
        tracing::warn!(%status, why, "an agent was refused");
        (status, why).into_response()
    };
    let Some(token) = bearer(&headers) else {
        let why = "send the agent's service account token as bearer".to_owned();
        return refuse(StatusCode::UNAUTHORIZED, why);
    };
    let node = match shared.authenticate.node_of(token).await {
        Ok(node) => node,
        Err(AuthenticateError::Refused(why)) => return refuse(StatusCode::UNAUTHORIZED, why),
        Err(error @ AuthenticateError::Unavailable(_)) => {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
    };
    upgrade
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .on_upgrade(move |socket| talk(shared, node, socket))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Why a connection ends.
enum End {
    /// The agent went, or the connection broke: nothing more can be said.
    Gone,
    /// We end it and say why.
    Refused(String),
    /// The operator stops, or the agent has a newer connection.
    Closed,
}

async fn talk(shared: Shared, node: String, socket: WebSocket) {
    let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let events = shared.coordinator.events.clone();
    let (mut sink, mut stream) = socket.split();
    let end = match greet(&node, &mut stream).await {
        Ok((peer_address, resumes)) => {
            let (orders, inbox) = mpsc::channel(ORDER_QUEUE);
            let hello = Event::Connected {
                node: node.clone(),
                connection,
                peer_address,
                resumes,
                orders,
            };
            if events.send(hello).await.is_err() {
                return;
            }
            tracing::info!(node, %peer_address, "agent connected");
            let end = converse(&shared, &node, connection, &mut sink, &mut stream, inbox).await;
            let node = node.clone();
            // An error means that the task is gone, and its state with it.
            let _ = events.send(Event::Gone { node, connection }).await;
            end
        }
        Err(end) => end,
    };
    if let End::Refused(message) = &end {
        shared.coordinator.metrics.refused.inc();
        tracing::warn!(node, message, "an agent was refused");
        let refusal = CoordinatorMessage::Refused {
            message: message.clone(),
        };
        let _ = timeout(DEAD_AFTER, send(&mut sink, &refusal)).await;
    }
    if !matches!(end, End::Gone) {
        let _ = timeout(DEAD_AFTER, sink.send(Message::Close(None))).await;
    }
    tracing::info!(node, "agent disconnected");
}

/// Waits for the agent's Hello and checks it; gives the address of its uploader and whether it goes on.
async fn greet(
    node: &str,
    stream: &mut SplitStream<WebSocket>,
) -> Result<(std::net::SocketAddr, bool), End> {
    let late = || End::Refused("say hello within 30 seconds".to_owned());
    let first = loop {
        let frame = timeout(DEAD_AFTER, stream.next())
            .await
            .map_err(|_| late())?;
        if let Some(message) = read(frame)? {
            break message;
        }
    };
    match first {
        AgentMessage::Hello { protocol, .. } if protocol != PROTOCOL => Err(End::Refused(format!(
            "the agent speaks protocol {protocol}, this operator speaks {PROTOCOL}: install the same version of both"
        ))),
        AgentMessage::Hello { node: claimed, .. } if claimed != node => Err(End::Refused(format!(
            "the agent calls itself {claimed}, but its token is bound to node {node}"
        ))),
        AgentMessage::Hello { peer_address, .. }
            if peer_address.ip().is_unspecified() || peer_address.port() == 0 =>
        {
            Err(End::Refused(format!(
                "other nodes cannot reach {peer_address}: give the node's own address and port"
            )))
        }
        AgentMessage::Hello {
            peer_address,
            resumes,
            ..
        } => Ok((peer_address, resumes)),
        _ => Err(End::Refused("the first message must be hello".to_owned())),
    }
}

async fn converse(
    shared: &Shared,
    node: &str,
    connection: u64,
    sink: &mut SplitSink<WebSocket, Message>,
    stream: &mut SplitStream<WebSocket>,
    mut orders: mpsc::Receiver<CoordinatorMessage>,
) -> End {
    let write = async {
        let mut pings = tokio::time::interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => timeout(DEAD_AFTER, send(sink, &order)).await,
                    None => return End::Closed,
                },
                _ = pings.tick() => {
                    timeout(DEAD_AFTER, sink.send(Message::Ping(Vec::new().into()))).await
                }
                () = shared.shutdown.cancelled() => return End::Closed,
            };
            if !matches!(sent, Ok(Ok(()))) {
                tracing::warn!(node, "an agent does not read what is sent to it");
                return End::Gone;
            }
        }
    };
    let listen = async {
        let mut heard = Instant::now();
        loop {
            let Ok(frame) = tokio::time::timeout_at(heard + DEAD_AFTER, stream.next()).await else {
                tracing::warn!(node, "nothing heard of the agent for 30 seconds");
                return End::Gone;
            };
            heard = Instant::now();
            let message = match read(frame) {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(end) => return end,
            };
            if matches!(message, AgentMessage::Hello { .. }) {
                return End::Refused("hello must be said once, at the beginning".to_owned());
            }
            let event = Event::Message {
                node: node.to_owned(),
                connection,
                message,
            };
            if shared.coordinator.events.send(event).await.is_err() {
                return End::Closed;
            }
        }
    };
    // The connection lives as long as both directions do.
    tokio::select! {
        end = write => end,
        end = listen => end,
    }
}

/// Reads one frame: a message, nothing of interest, or the end.
fn read(frame: Option<Result<Message, axum::Error>>) -> Result<Option<AgentMessage>, End> {
    match frame {
        None | Some(Ok(Message::Close(_))) => Err(End::Gone),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| End::Refused(format!("this message is not understood: {error}"))),
        Some(Ok(Message::Binary(_))) => Err(End::Refused("messages are text".to_owned())),
        Some(Err(error)) => {
            tracing::debug!(%error, "reading from an agent failed");
            Err(End::Gone)
        }
    }
}

async fn send(
    sink: &mut SplitSink<WebSocket, Message>,
    message: &CoordinatorMessage,
) -> Result<(), axum::Error> {
    let text = serde_json::to_string(message).map_err(axum::Error::new)?;
    sink.send(Message::text(text)).await
}
