//! One connection's protocol, as a state machine: frames in, frames out, time as an argument. The socket is elsewhere.
//!
//! Whoever drives it calls [`Session::receive`] with each message, [`Session::poll`] until it says [`Step::Wait`] (again
//! when something is new, or at the time it names), and hands over what reads from Kafka gave with
//! [`Session::fetched`] and [`Session::resolved`].

mod commands;
mod subscribe;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::{Message as _, pb};
use pb::client_frame::Frame as ClientFrame;
use pb::server_frame::Frame;

use super::caller::Caller;
use super::catchup::{self, Chunk, Range};
use super::close::Close;
use super::commands::order::Order;
use super::commands::{Commands, Place};
use super::deflate::prepared::Prepared;
use super::hub::Hub;
use super::metrics::Mode;
use super::rate::Rate;
use super::seats::Seat;
use super::subscription::{Counted, Kind, Subscription, Turn, encode};
use super::token::{Grant, Refusal};
use super::window::Window;
use commands::Orders;

/// How long the window may be closed before what was read ahead is let go.
const LET_GO: Duration = Duration::from_secs(1);
/// Answers that may wait to be sent; while there are more, nothing is read from the client.
const ANSWERS: usize = 32;
/// What a subscription costs of the rate of messages: its globs are compiled.
const SUBSCRIBE_COST: u32 = 10;

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Send this message.
    Send(Arc<Prepared>),
    /// Read this from Kafka for that subscription.
    Read(Ticket, Range),
    /// Find the offsets of that time for that subscription.
    Resolve(Ticket, i64),
    /// Nothing, until something is new, or until then.
    Wait(Option<Instant>),
    /// Have this command carried out, and hand over what came of it with [`Session::answered`].
    Carry(Arc<Commands>, Box<Order>, Place),
    /// Close.
    Close(Close),
}

/// Names a subscription: a later one of the same id is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    id: u32,
    number: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    hub: Arc<Hub>,
    caller: Caller,
    /// The token of the handshake.
    token: Option<String>,
    state: State,
    began: Instant,
    rate: Rate,
    /// Its subject's.
    seat: Option<Seat<String>>,
    answers: VecDeque<Frame>,
    orders: Orders,
    subscriptions: BTreeMap<u32, Entry>,
    /// The id whose turn was last.
    turn: u32,
    number: u64,
    /// Since when frames have been waiting for a closed window.
    closed_since: Option<Instant>,
    /// Since when something has been unacknowledged without news.
    unacked_since: Option<Instant>,
    wire_bytes: u64,
    /// The frame whose way to the client and back is timed: the count with it, and when it went out.
    timed: Option<(u64, Instant)>,
}

#[derive(Debug)]
enum State {
    AwaitHello,
    Open { window: Window, grant: Grant },
}

#[derive(Debug)]
struct Entry {
    number: u64,
    globs: usize,
    subscription: Waiting,
}

#[derive(Debug)]
enum Waiting {
    /// For the offsets of a time.
    Resolving(Box<subscribe::Pending>),
    /// For nothing.
    Open(Subscription),
}

impl Entry {
    fn open(&mut self) -> Option<&mut Subscription> {
        match &mut self.subscription {
            Waiting::Open(open) => Some(open),
            Waiting::Resolving(_) => None,
        }
    }
}

impl Session {
    /// A connection that begins, with the token of its handshake.
    ///
    /// # Errors
    /// [`Close`] where that token is no good: nothing is served then.
    pub fn new(hub: Arc<Hub>, caller: Caller, token: Option<String>, now: Instant) -> Result<Self, Close> {
        if let Some(token) = &token {
            hub.keys.check(Some(token)).map_err(|refusal| refused(&refusal))?;
        }
        let hub_messages = hub.settings.limits.messages;
        Ok(Self {
            hub,
            caller,
            token,
            state: State::AwaitHello,
            began: now,
            rate: Rate::new(hub_messages, now),
            seat: None,
            answers: VecDeque::new(),
            orders: Orders::default(),
            subscriptions: BTreeMap::new(),
            turn: 0,
            number: 0,
            closed_since: None,
            unacked_since: None,
            wire_bytes: 0,
            timed: None,
        })
    }

    /// Whether messages of the client are to be read: not while it does not take its answers.
    pub fn is_listening(&self) -> bool {
        self.answers.len() < ANSWERS
    }

    /// Bytes written to the socket so far.
    pub fn wrote(&mut self, wire_bytes: u64) {
        self.wire_bytes = wire_bytes;
    }

    /// A ping or pong of WebSocket's own.
    ///
    /// # Errors
    /// [`Close`] where there are too many.
    pub fn heard(&mut self, now: Instant) -> Result<(), Close> {
        self.spend(1, now)
    }

    fn spend(&mut self, cost: u32, now: Instant) -> Result<(), Close> {
        if self.rate.take(cost, now) {
            return Ok(());
        }
        let most = self.hub.settings.limits.messages;
        Err(Close::new(Close::LIMIT, format!("over {most} messages a second")))
    }

    /// A binary message of the client.
    ///
    /// # Errors
    /// [`Close`] where the connection is to end.
    pub fn receive(&mut self, message: &[u8], now: Instant, now_us: i64) -> Result<(), Close> {
        let bad = |why: String| Close::new(Close::BAD_FRAME, why);
        let frame = pb::ClientFrame::decode(message).map_err(|error| bad(format!("not a frame: {error}")))?;
        let frame = frame
            .frame
            .ok_or_else(|| bad("an empty frame, or one of a kind unknown here".into()))?;
        let cost = match frame {
            ClientFrame::Subscribe(_) => SUBSCRIBE_COST,
            _ => 1,
        };
        self.spend(cost, now)?;
        if let (State::AwaitHello, ClientFrame::Hello(hello)) = (&self.state, &frame) {
            return self.hello(hello, now_us);
        }
        let State::Open { window, grant } = &mut self.state else {
            return Err(bad("the first frame must be a hello".into()));
        };
        match frame {
            ClientFrame::Hello(_) => return Err(bad("a second hello".into())),
            ClientFrame::Subscribe(subscribe) => self.subscribe(subscribe, now),
            ClientFrame::Unsubscribe(unsubscribe) => self.remove(unsubscribe.id),
            ClientFrame::Ack(ack) => {
                self.hub.metrics.acks.inc();
                let news = window
                    .ack(&ack)
                    .map_err(|beyond| Close::new(Close::ACK, beyond.to_string()))?;
                if let Some((frames, sent)) = self.timed
                    && ack.frames_total >= frames
                {
                    self.timed = None;
                    let us = i64::try_from((now - sent).as_micros()).unwrap_or(i64::MAX);
                    self.hub.metrics.round_trip.observe_us(us);
                }
                if window.is_settled() {
                    self.unacked_since = None;
                } else if news {
                    self.unacked_since = Some(now);
                }
            }
            ClientFrame::Token(token) => {
                let fresh = self
                    .hub
                    .keys
                    .check(Some(&token.token))
                    .map_err(|refusal| refused(&refusal))?;
                if fresh.subject != grant.subject {
                    return Err(refused(&Refusal::Subject));
                }
                for entry in self.subscriptions.values_mut() {
                    if let Waiting::Open(subscription) = &mut entry.subscription {
                        subscription.narrow(&fresh);
                    }
                }
                *grant = fresh;
                let token_expires_us = grant.expires_us.unwrap_or(0);
                self.answers
                    .push_back(Frame::TokenAccepted(pb::TokenAccepted { token_expires_us }));
            }
            ClientFrame::Command(command) => self.command(command, now, now_us),
            ClientFrame::Ping(ping) => {
                let pong = pb::Pong {
                    nonce: ping.nonce,
                    time_us: now_us,
                    wire_bytes: 0,
                };
                self.answers.push_back(Frame::Pong(pong));
            }
        }
        Ok(())
    }

    fn hello(&mut self, hello: &pb::ClientHello, now_us: i64) -> Result<(), Close> {
        // The one in the hello is the later.
        let token = Some(hello.token.clone())
            .filter(|token| !token.is_empty())
            .or(self.token.take());
        let grant = self
            .hub
            .keys
            .check(token.as_deref())
            .map_err(|refusal| refused(&refusal))?;
        if !grant.subject.is_empty() {
            let seat = self.hub.subjects.take(&grant.subject);
            self.seat = Some(seat.ok_or_else(|| {
                self.hub.metrics.refused("subject");
                let most = self.hub.settings.limits.per_subject;
                Close::new(
                    Close::LIMIT,
                    format!("{most} connections with this token's subject are open"),
                )
            })?);
        }
        let window = Window::new(hello.window, self.hub.settings.window());
        let size = window.size();
        let client: String = hello.client.chars().take(64).collect();
        tracing::debug!(client, subject = %grant.subject, peer = %self.caller.peer, "hello");
        self.answers.push_back(Frame::Welcome(pb::Welcome {
            server: concat!("headwater-relay ", env!("CARGO_PKG_VERSION")).into(),
            window: Some(pb::Window {
                frames: size.frames,
                bytes: size.bytes,
            }),
            partitions: self.hub.log().partitions(),
            time_us: now_us,
            token_expires_us: grant.expires_us.unwrap_or(0),
            subject: grant.subject.clone(),
            may_command: self.may_command(&grant),
        }));
        self.state = State::Open { window, grant };
        Ok(())
    }

    fn error(&mut self, id: u32, code: pb::ErrorCode, message: String) {
        self.answers.push_back(Frame::Error(pb::ServerError {
            id,
            code: code as i32,
            message,
            command: String::new(),
        }));
    }

    fn add(&mut self, id: u32, subscription: Waiting) -> Ticket {
        self.remove(id);
        self.number += 1;
        if let Waiting::Open(open) = &subscription {
            self.gauge(open).inc();
        }
        self.subscriptions.insert(
            id,
            Entry {
                number: self.number,
                globs: 0,
                subscription,
            },
        );
        Ticket {
            id,
            number: self.number,
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(Entry {
            subscription: Waiting::Open(open),
            ..
        }) = self.subscriptions.remove(&id)
        {
            self.gauge(&open).dec();
        }
    }

    fn gauge(&self, subscription: &Subscription) -> prometheus_client::metrics::gauge::Gauge {
        let mode = Mode {
            mode: subscription.mode(),
        };
        self.hub.metrics.subscriptions.get_or_create_owned(&mode)
    }

    /// What is to be done next.
    pub fn poll(&mut self, now: Instant, now_us: i64) -> Step {
        if let Some(mut answer) = self.answers.pop_front() {
            if let Frame::Pong(pong) = &mut answer {
                pong.wire_bytes = self.wire_bytes;
            }
            return Step::Send(Arc::new(Prepared::new(encode(answer))));
        }
        if let Some(step) = self.order() {
            return step;
        }
        let (mut wake, open) = match self.deadlines(now, now_us) {
            Ok(found) => found,
            Err(close) => return Step::Close(close),
        };
        if let Some(step) = self.resolve() {
            return step;
        }
        if !open {
            return self.closed(now, wake);
        }
        if let Some(since) = self.closed_since.take() {
            self.hub.metrics.window_closed.inc_by((now - since).as_secs_f64());
        }
        // Each subscription once, beginning after the one whose turn was last.
        let ids = self
            .subscriptions
            .range(self.turn.saturating_add(1)..)
            .chain(self.subscriptions.range(..=self.turn));
        let ids: Vec<u32> = ids.map(|(&id, _)| id).collect();
        let State::Open { window, grant } = &mut self.state else {
            return Step::Wait(wake);
        };
        let mut again = false;
        for id in ids {
            let Some(Entry {
                number,
                subscription: Waiting::Open(open),
                ..
            }) = self.subscriptions.get_mut(&id)
            else {
                continue;
            };
            match open.poll(now, &self.hub, grant) {
                Turn::Frame(counted) => {
                    self.turn = id;
                    window.sent(counted.frame.len());
                    self.timed.get_or_insert((window.sent_frames(), now));
                    self.unacked_since.get_or_insert(now);
                    count(&self.hub, &counted, now_us);
                    return Step::Send(counted.frame);
                }
                Turn::Tell(frame) => return Step::Send(Arc::new(Prepared::new(encode(frame)))),
                Turn::Read(range) => return Step::Read(Ticket { id, number: *number }, range),
                Turn::Again => again = true,
                Turn::Idle(until) => wake = earliest(wake, until),
            }
        }
        Step::Wait(if again { Some(now) } else { wake })
    }

    /// When to look again, and whether the window is open.
    fn deadlines(&self, now: Instant, now_us: i64) -> Result<(Option<Instant>, bool), Close> {
        let settings = &self.hub.settings;
        let State::Open { window, grant } = &self.state else {
            let until = self.began + settings.hello_timeout;
            let late = || {
                Close::new(
                    Close::LATE,
                    format!("no hello within {:?}", settings.hello_timeout),
                )
            };
            return if now < until {
                Ok((Some(until), false))
            } else {
                Err(late())
            };
        };
        let mut wake = None;
        if let Some(expires_us) = grant.expires_us {
            let left = expires_us.saturating_sub(now_us);
            if left <= 0 {
                return Err(refused(&Refusal::Expired));
            }
            // A far expiry is looked at again now and then; so a clock that is set is noticed too.
            let left = Duration::from_micros(left.unsigned_abs()).min(Duration::from_secs(60));
            wake = Some(now + left);
        }
        if let Some(since) = self.unacked_since {
            let until = since + settings.ack_timeout;
            if now >= until {
                let reason = format!("nothing acknowledged for {:?}", settings.ack_timeout);
                return Err(Close::new(Close::LATE, reason));
            }
            wake = earliest(wake, Some(until));
        }
        Ok((wake, window.is_open()))
    }

    /// Nothing can be sent for now.
    fn closed(&mut self, now: Instant, wake: Option<Instant>) -> Step {
        let State::Open { grant, .. } = &self.state else {
            return Step::Wait(wake);
        };
        let mut again = false;
        for open in self.subscriptions.values_mut().filter_map(Entry::open) {
            again |= open.closed(&self.hub, grant);
        }
        let wake = if again { Some(now) } else { wake };
        let since = *self.closed_since.get_or_insert(now);
        if now < since + LET_GO {
            return Step::Wait(earliest(wake, Some(since + LET_GO)));
        }
        for open in self.subscriptions.values_mut().filter_map(Entry::open) {
            open.let_go();
        }
        Step::Wait(wake)
    }

    /// Where another gateway can go on from, for each subscription that has a cursor.
    pub fn cursors(&self) -> Vec<pb::SubscriptionCursor> {
        let cursor = |(&id, entry): (&u32, &Entry)| match &entry.subscription {
            Waiting::Open(open) => Some(pb::SubscriptionCursor {
                id,
                cursor: Some(open.cursor()?),
            }),
            Waiting::Resolving(_) => None,
        };
        self.subscriptions.iter().filter_map(cursor).collect()
    }

    /// What a read gave.
    pub fn fetched(
        &mut self,
        ticket: Ticket,
        range: Range,
        result: Result<Chunk, catchup::Error>,
        now: Instant,
    ) {
        self.hub.metrics.catch_up_reads.inc();
        let entry = self
            .subscriptions
            .get_mut(&ticket.id)
            .filter(|entry| entry.number == ticket.number);
        let Some(open) = entry.and_then(Entry::open) else {
            return;
        };
        let told = open.fetched(now, range, result);
        self.answers.extend(told);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for id in self.subscriptions.keys().copied().collect::<Vec<_>>() {
            self.remove(id);
        }
    }
}

/// The token in a message, where it has one.
pub fn token(message: &[u8]) -> Option<String> {
    // The tags of `hello` and `token`: no other message is decoded for this.
    if !matches!(message.first(), Some(0x0a | 0x2a)) {
        return None;
    }
    match pb::ClientFrame::decode(message).ok()?.frame? {
        ClientFrame::Hello(hello) => Some(hello.token),
        ClientFrame::Token(token) => Some(token.token),
        _ => None,
    }
}

fn refused(refusal: &Refusal) -> Close {
    Close::new(Close::TOKEN, refusal.to_string())
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn count(hub: &Hub, counted: &Counted, now_us: i64) {
    match counted.kind {
        Kind::Data { shared, live } => {
            hub.metrics.deliveries.inc();
            if shared {
                hub.metrics.shared.inc();
            }
            if let Some(live) = live {
                hub.metrics
                    .kafka_to_socket
                    .observe_us(now_us.saturating_sub(live.arrival_us));
                if let Some(newest_us) = live.newest_us {
                    hub.metrics
                        .sample_to_socket
                        .observe_us(now_us.saturating_sub(newest_us));
                }
            }
        }
        Kind::Gap => drop(hub.metrics.gaps.inc()),
        Kind::Merged => {}
    }
}
