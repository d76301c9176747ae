//! Drives one session over its WebSocket.
//!
//! Backpressure is held in two places: the session sends no more than its window, and the driver queues no more than `BUFFER` bytes (and one
//! frame) that the socket has not taken. Nothing is read from a client that does not take its answers.
//!
//! Data frames go past tungstenite (see [`Shim`]); it writes pings, pongs and the close frame alone.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, Stream, StreamExt};
use headwater_proto::pb;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WsFrame;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::catchup::{Chunk, Error as ReadError, Range};
use super::close::Close;
use super::commands::order::Answer;
use super::deflate::inflate::{self, inflate};
use super::deflate::prepared::Prepared;
use super::deflate::shim::Shim;
use super::hub::{Hub, now_us};
use super::metrics::Code;
use super::session::{self, Session, Step, Ticket};
use super::subscription::encode;
use crate::mqtt::random;

/// Bytes that may be queued before another frame is made.
const BUFFER: usize = 32 << 10;
/// Bytes read at once: what an idle connection costs is mostly this.
const READ_BUFFER: usize = 1 << 10;
/// Bytes of pings, pongs and close frames that may wait for the socket.
const CONTROL: usize = 1 << 10;
/// Frames that one connection sends before others have their turn.
const FRAMES: usize = 32;
/// How long a client may take to take the close frame, and to close in turn.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client is told to wait before it comes back, and by how much more at most, milliseconds.
const RETRY_MS: u32 = 1000;

/// What a read from Kafka gave, or a command.
enum Read {
    Chunk(Ticket, Range, Result<Chunk, ReadError>),
    Times(Ticket, Result<Vec<i64>, ReadError>),
    Answer(String, Option<Answer>),
}

enum Event {
    Message(Option<Result<Message, WsError>>),
    /// There is room for more frames.
    Drained(Result<(), WsError>),
}

/// A connection's socket.
pub struct Socket<S> {
    stream: WebSocketStream<Shim<S>>,
    deflated: bool,
    /// Tungstenite may have something to write.
    unflushed: bool,
    /// There is more to send than may be queued.
    full: bool,
    wire_bytes: u64,
    heard: Instant,
    pinged: bool,
    inbound: usize,
    /// The code with which the client has closed.
    closed: Option<u16>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// After the handshake. `deflated`: permessage-deflate was agreed; `inbound`: the greatest message, bytes.
    pub async fn new(transport: S, deflated: bool, inbound: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            // Pongs of a client that does not read: of those that find no room the last alone is kept.
            .max_write_buffer_size(CONTROL)
            .max_message_size(Some(inbound))
            .max_frame_size(Some(inbound));
        let shim = Shim::new(transport, deflated);
        let stream = WebSocketStream::from_raw_socket(shim, Role::Server, Some(config)).await;
        Self {
            stream,
            deflated,
            unflushed: false,
            full: false,
            wire_bytes: 0,
            heard: Instant::now(),
            pinged: false,
            inbound,
            closed: None,
        }
    }

    /// Serves the session until one side ends it.
    pub async fn serve(
        mut self,
        hub: &Arc<Hub>,
        caller: Caller,
        token: Option<String>,
        shutdown: &CancellationToken,
    ) {
        if let Some(token) = &token {
            hub.keys.prepare(token).await;
        }
        let close = match Session::new(Arc::clone(hub), caller, token, Instant::now()) {
            Ok(session) => self.run(hub, session, shutdown).await,
            Err(close) => Some(close),
        };
        let code = close
            .as_ref()
            .map_or(self.closed.map_or(0, known), |close| close.code);
        hub.metrics
            .closes
            .get_or_create(&Code { code: code.into() })
            .inc();
        match close {
            Some(close) => {
                if close.code >= Close::PROTOCOL {
                    tracing::debug!(code, "closing: {}", close.reason);
                }
                self.close(close).await;
            }
            // Tungstenite has an answer to the client's close frame in hand.
            None => drop(tokio::time::timeout(LINGER, self.stream.flush()).await),
        }
    }

    /// `None`: the other side is gone, or has closed (then tungstenite has answered).
    async fn run(
        &mut self,
        hub: &Arc<Hub>,
        mut session: Session,
        shutdown: &CancellationToken,
    ) -> Option<Close> {
        let mut changed = hub.listen();
        let mut reads: FuturesUnordered<BoxFuture<'static, Read>> = FuturesUnordered::new();
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        // When to go, once the gateway stops.
        let mut leave: Option<Instant> = None;
        // Heard once for all: to listen anew at every turn takes a lock that all connections share.
        let mut stopping = pin!(shutdown.cancelled());
        loop {
            if leave.is_some_and(|leave| leave <= Instant::now()) {
                if let Some(frame) = session.announced() {
                    self.send(hub, &frame);
                }
                return Some(self.goodbye("the gateway is stopping", session.cursors()).await);
            }
            // Marked before looking, so that what comes while looking wakes again.
            changed.mark_unchanged();
            let mut wake = match self.fill(hub, &mut session, &mut reads) {
                Ok(wake) => wake,
                Err(close) => return close,
            };
            let alive = match self.keep_alive(hub.settings.keep_alive, session.patience()) {
                Ok(alive) => alive,
                Err(close) => return Some(close),
            };
            wake = wake.into_iter().chain(leave).chain([alive]).min();
            if let Some(wake) = wake {
                if wake <= Instant::now() {
                    // There is more to send, and others have their turn first.
                    tokio::task::yield_now().await;
                }
                // One that is too early wakes for nothing, which is cheaper than to set it anew at every turn.
                if timer.is_elapsed() || timer.deadline() > wake.into() {
                    timer.as_mut().reset(wake.into());
                }
            }
            // A read whose subscription was replaced meanwhile still takes its place among the readers: whoever has
            // more of them than subscriptions is not listened to until some have come back.
            let listening = session.is_listening()
                && reads.len() <= hub.settings.limits.subscriptions + session.carried();
            tokio::select! {
                event = self.event(listening) => match event {
                    Event::Drained(Ok(())) => {}
                    Event::Drained(Err(_)) | Event::Message(None) => return None,
                    Event::Message(Some(Ok(message))) => match self.receive(hub, message, &mut session).await {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(close) => {
                            hub.metrics.refused("message");
                            return Some(close);
                        }
                    },
                    Event::Message(Some(Err(error))) => {
                        let close = told(&error);
                        if close.is_some() {
                            hub.metrics.refused("frame");
                        }
                        return close;
                    }
                },
                Some(read) = reads.next(), if !reads.is_empty() => match read {
                    Read::Chunk(ticket, range, result) => session.fetched(ticket, range, result, Instant::now()),
                    Read::Answer(id, answer) => session.answered(id, answer),
                    Read::Times(ticket, result) => session.resolved(ticket, result, Instant::now()),
                },
                changed = changed.changed() => if changed.is_err() { return None },
                () = timer.as_mut() => {}
                () = stopping.as_mut(), if leave.is_none() => {
                    let share = f64::from(random() % 1000) / 1000.0;
                    leave = Some(Instant::now() + hub.settings.drain.mul_f64(share));
                }
            }
        }
    }

    /// Sends what there is to send, up to what the buffer takes. Returns when to look again.
    fn fill(
        &mut self,
        hub: &Arc<Hub>,
        session: &mut Session,
        reads: &mut FuturesUnordered<BoxFuture<'static, Read>>,
    ) -> Result<Option<Instant>, Option<Close>> {
        let now = Instant::now();
        self.full = false;
        for _ in 0..FRAMES {
            if self.stream.get_ref().queued() >= BUFFER {
                self.full = true;
                // Room wakes us; deadlines are looked at in the meantime.
                return Ok(Some(now + Duration::from_secs(1)));
            }
            match session.poll(now, now_us()) {
                Step::Send(message) => {
                    self.send(hub, &message);
                    session.wrote(self.wire_bytes);
                }
                Step::Read(ticket, range) => {
                    let catch_up = hub.catch_up.clone();
                    let read = async move { Read::Chunk(ticket, range, catch_up.read(range).await) };
                    reads.push(Box::pin(read));
                }
                Step::Resolve(ticket, time_us) => {
                    let (catch_up, partitions) = (hub.catch_up.clone(), hub.log().partitions());
                    let read = async move { Read::Times(ticket, catch_up.times(time_us, partitions).await) };
                    reads.push(Box::pin(read));
                }
                Step::Carry(commands, order, place) => {
                    // A task of its own: it goes on, and is audited, when the client is gone.
                    let id = order.id.clone();
                    let task = tokio::spawn(commands.carry(*order, place));
                    let answered = async move { Read::Answer(id, task.await.ok()) };
                    reads.push(Box::pin(answered));
                }
                Step::Wait(wake) => return Ok(wake),
                Step::Close(close) => return Err(Some(close)),
            }
        }
        Ok(Some(now))
    }

    fn send(&mut self, hub: &Hub, message: &Prepared) {
        let (frame, deflated) = message.wire(self.deflated);
        let count = if deflated {
            &hub.metrics.deflated
        } else {
            &hub.metrics.plain
        };
        count.inc();
        hub.metrics.decoded_bytes.inc_by(message.len() as u64);
        hub.metrics.wire_bytes.inc_by(frame.len() as u64);
        self.wire_bytes += frame.len() as u64;
        self.stream.get_mut().queue(frame);
    }

    /// Pings a client that has been silent; gives up on one that does not answer, `patience` later where much is on its way. Returns when to look
    /// again.
    fn keep_alive(&mut self, every: Duration, patience: Duration) -> Result<Instant, Close> {
        let silent = self.heard.elapsed();
        let late = every * 2 + patience;
        if silent >= late {
            return Err(Close::new(Close::LATE, "no answer to pings"));
        }
        if silent < every {
            return Ok(self.heard + every);
        }
        if !self.pinged {
            self.pinged = true;
            let ping = WsFrame::ping(Vec::new());
            (self.unflushed, self.wire_bytes) = (true, self.wire_bytes + ping.len() as u64);
            // Where it cannot be written, the flush says so.
            let _ = self.stream.start_send_unpin(Message::Frame(ping));
        }
        Ok(self.heard + late)
    }

    /// The next message, or that there is room for more frames; writes meanwhile.
    async fn event(&mut self, listening: bool) -> Event {
        poll_fn(|cx| {
            match self.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Drained(Err(error))),
                Poll::Ready(Ok(())) if self.full => return Poll::Ready(Event::Drained(Ok(()))),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if !listening {
                return Poll::Pending;
            }
            Pin::new(&mut self.stream).poll_next(cx).map(Event::Message)
        })
        .await
    }

    /// Writes what is queued, then what tungstenite has.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        match self.stream.get_mut().poll_drain(cx) {
            Poll::Ready(Ok(())) if self.unflushed => {}
            other => return other.map_err(WsError::Io),
        }
        let flushed = self.stream.poll_flush_unpin(cx);
        if flushed.is_ready() {
            self.unflushed = false;
        }
        flushed
    }

    /// Hands a message on. `false`: the client has closed.
    async fn receive(&mut self, hub: &Hub, message: Message, session: &mut Session) -> Result<bool, Close> {
        self.heard = Instant::now();
        self.pinged = false;
        let text = message.is_text();
        let body = match message {
            Message::Binary(_) | Message::Text(_) => message.into_data(),
            Message::Close(frame) => {
                // RFC 6455 §7.1.5: 1005 stands for a close frame without a code.
                self.closed = Some(frame.map_or(1005, |frame| frame.code.into()));
                return Ok(false);
            }
            // Tungstenite answers pings.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                session.heard(self.heard)?;
                return Ok(true);
            }
        };
        let kind = self.stream.get_mut().take_kind(text);
        if kind.text {
            return Err(Close::new(
                Close::TEXT,
                "messages are binary: headwater.v1.ClientFrame",
            ));
        }
        if kind.deflated {
            let inflated = inflate(&body, self.inbound).map_err(|error| match error {
                inflate::Error::Damaged(_) => Close::new(Close::DATA, error.to_string()),
                inflate::Error::TooBig { .. } => Close::new(Close::TOO_BIG, error.to_string()),
            })?;
            prepare(hub, &inflated).await;
            session.receive(&inflated, self.heard, now_us())?;
        } else {
            prepare(hub, &body).await;
            session.receive(&body, self.heard, now_us())?;
        }
        Ok(true)
    }

    /// The last frame before the gateway closes.
    pub async fn goodbye(&mut self, reason: &str, cursors: Vec<pb::SubscriptionCursor>) -> Close {
        let goodbye = pb::Goodbye {
            reason: reason.to_string(),
            retry_after_ms: RETRY_MS + random() % RETRY_MS,
            cursors,
        };
        let (frame, _) = Prepared::new(encode(pb::server_frame::Frame::Goodbye(goodbye))).wire(self.deflated);
        self.stream.get_mut().queue(frame);
        // Whether it arrives is told by nobody; the close frame follows in any case.
        let _ = tokio::time::timeout(LINGER, poll_fn(|cx| self.poll_flush(cx))).await;
        Close::new(Close::GOING_AWAY, reason)
    }

    /// Sends the close frame, and waits a little for the client to take it: a socket closed with unread bytes in it would
    /// be reset, and the close frame lost.
    pub async fn close(mut self, close: Close) {
        let frame = CloseFrame {
            code: close.code.into(),
            reason: close.reason.into(),
        };
        let linger = async {
            self.stream.send(Message::Close(Some(frame))).await.ok()?;
            let transport = self.stream.get_mut();
            transport.shutdown().await.ok()?;
            let mut rest = [0; 1024];
            while transport.read(&mut rest).await.ok()? > 0 {}
            Some(())
        };
        let _ = tokio::time::timeout(LINGER, linger).await;
    }
}

/// A token of a key that is not known yet waits for the key.
async fn prepare(hub: &Hub, message: &[u8]) {
    if !hub.keys.sets().is_empty()
        && let Some(token) = session::token(message)
    {
        hub.keys.prepare(&token).await;
    }
}

/// A close code of the client's; 4000 stands for those that a client makes up, since each is a series of its own in `/metrics`.
fn known(code: u16) -> u16 {
    if (1000..=1015).contains(&code) { code } else { 4000 }
}

/// What a client is told of an error that tungstenite found; `None`: there is nobody to tell.
fn told(error: &WsError) -> Option<Close> {
    match error {
        WsError::Protocol(error) => match error {
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake => None,
            error => Some(Close::new(Close::PROTOCOL, error.to_string())),
        },
        WsError::Capacity(CapacityError::MessageTooLong { max_size, .. }) => Some(Close::new(
            Close::TOO_BIG,
            format!("a message may have {max_size} bytes"),
        )),
        WsError::Capacity(error) => Some(Close::new(Close::TOO_BIG, error.to_string())),
        // Only text must be UTF-8, and there is to be no text.
        WsError::Utf8(_) => Some(Close::new(
            Close::TEXT,
            "messages are binary: headwater.v1.ClientFrame",
        )),
        _ => None,
    }
}
