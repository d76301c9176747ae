//! The connection to the MQTT broker: a task of its own that only polls, and tells.
//!
//! What is subscribed changes while it stands, with the partitions that the bridge owns. Clean sessions and nothing published at QoS 1: what is lost on the way is repaired by Headwater's own positions, so
//! nothing has to be carried over from one connection to the next, and everything the client library would carry over is
//! cleared. Hello, series, status and replies are subscribed before data, so that what the broker kept of them comes first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headwater_proto::topic::Kind;
use rumqttc::SubscribeReasonCode;
use rumqttc::{AsyncClient, ClientError, ConnectionError, EventLoop, Packet, QoS, SubscribeFilter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::fleet::Message;
use super::ownership::Share;
use crate::mqtt::route::Homing;
use crate::mqtt::{Route, random};

/// Acks on their way to the socket.
const QUEUE: usize = 4096;
/// Messages read and not yet handled. When handling cannot keep up, reading waits for it: never for Kafka.
const BACKLOG: usize = 1024;
/// Bytes of their payloads, for the same.
const BACKLOG_BYTES: usize = 8 << 20;
/// Shortest wait between two attempts to connect, or two rounds of them where there are several brokers.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longest one.
const BACKOFF: Duration = Duration::from_secs(5);

/// What the connection tells.
#[derive(Debug)]
pub enum Event {
    /// It stands; nothing is subscribed yet.
    Connected,
    /// The topics of these are subscribed, and what the broker had kept of them but data is on its way already.
    Subscribed(Vec<Share>),
    /// It is gone, or cannot be made, for this reason.
    Disconnected(String),
    /// A message came. While the permit lives, its bytes count as not handled.
    Message(Message, OwnedSemaphorePermit),
}

/// The connection.
#[derive(Debug)]
pub struct Mqtt {
    subscriptions: Subscriptions,
    poller: JoinHandle<()>,
}

impl Mqtt {
    /// Connects, and keeps connecting. Payloads longer than `longest` are cut.
    pub fn start(route: Route, longest: usize) -> (Self, mpsc::Receiver<Event>) {
        let (client, mut events) = AsyncClient::new(route.bare(), QUEUE);
        events.set_network_options(route.network());
        let subscriptions = Subscriptions {
            client,
            state: Arc::default(),
        };
        let (tell, told) = mpsc::channel(BACKLOG);
        let poller = Poller {
            subscriptions: subscriptions.clone(),
            events,
            route,
            tell,
            longest: longest.min(BACKLOG_BYTES),
            backlog: Arc::new(Semaphore::new(BACKLOG_BYTES)),
        };
        let poller = tokio::spawn(poller.run());
        let connection = Self {
            subscriptions,
            poller,
        };
        (connection, told)
    }

    /// Subscribes the topics of these, now and on every connection to come.
    pub fn subscribe(&self, shares: Vec<Share>) {
        let mut state = self.subscriptions.lock();
        state.wanted.extend(shares.iter().copied());
        if state.connected {
            state.todo.push_back(Request::Subscribe(shares, Phase::Told));
            self.subscriptions.send(&mut state);
        }
    }

    /// Ends the subscriptions of these.
    pub fn unsubscribe(&self, shares: &[Share]) {
        let mut state = self.subscriptions.lock();
        for share in shares {
            state.wanted.remove(share);
            if state.connected {
                let filters = Phase::ALL.iter().flat_map(|phase| phase.filters(&[*share]));
                let requests: Vec<_> = filters.map(|filter| Request::Unsubscribe(filter.path)).collect();
                state.todo.extend(requests);
            }
        }
        self.subscriptions.send(&mut state);
    }

    /// Puts a message on its way, QoS 0.
    ///
    /// # Errors
    /// Topic and payload, where there is no room now.
    pub fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), (String, Vec<u8>)> {
        let sent = self
            .subscriptions
            .client
            .try_publish(topic, QoS::AtMostOnce, false, payload);
        match sent {
            Err(ClientError::TryRequest(rumqttc::Request::Publish(publish))) => {
                Err((publish.topic, publish.payload.into()))
            }
            // The client asks for no more than that, and takes whatever topic of ours it is given.
            _ => Ok(()),
        }
    }

    /// Sends what is on its way, and disconnects.
    pub async fn stop(self) {
        let _ = self.subscriptions.client.try_disconnect();
        // The poller ends when the broker closes the connection; a broker that does not is not waited for.
        let mut poller = self.poller;
        if tokio::time::timeout(Duration::from_millis(500), &mut poller)
            .await
            .is_err()
        {
            poller.abort();
        }
    }
}

/// Hello, series, status and replies are subscribed before data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Told,
    Data,
}

impl Phase {
    const ALL: [Self; 2] = [Self::Told, Self::Data];

    fn filters(self, shares: &[Share]) -> Vec<SubscribeFilter> {
        let kinds: &[(Kind, QoS)] = match self {
            Self::Told => &[
                (Kind::Hello, QoS::AtLeastOnce),
                (Kind::Series, QoS::AtLeastOnce),
                (Kind::Status, QoS::AtLeastOnce),
                (Kind::Reply, QoS::AtLeastOnce),
            ],
            Self::Data => &[(Kind::Data, QoS::AtMostOnce)],
        };
        let of_kind = |&(kind, qos): &(Kind, QoS)| {
            let filters = shares.iter().flat_map(move |share| share.filters(kind));
            filters.map(move |path| SubscribeFilter::new(path, qos))
        };
        kinds.iter().flat_map(of_kind).collect()
    }
}

#[derive(Debug)]
enum Request {
    Subscribe(Vec<Share>, Phase),
    Unsubscribe(String),
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    wanted: BTreeSet<Share>,
    /// Requests that found no room in the client's queue yet.
    todo: VecDeque<Request>,
    /// Subscriptions not answered yet. Brokers answer in order.
    sent: VecDeque<(Vec<Share>, Phase)>,
}

#[derive(Clone, Debug)]
struct Subscriptions {
    client: AsyncClient,
    state: Arc<Mutex<State>>,
}

impl Subscriptions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what there is room for.
    fn send(&self, state: &mut State) {
        while let Some(request) = state.todo.pop_front() {
            let sent = match &request {
                Request::Subscribe(shares, phase) => self.client.try_subscribe_many(phase.filters(shares)),
                Request::Unsubscribe(filter) => self.client.try_unsubscribe(filter.clone()),
            };
            match (sent, request) {
                (Ok(()), Request::Subscribe(shares, phase)) => state.sent.push_back((shares, phase)),
                (Ok(()), Request::Unsubscribe(_)) => {}
                (Err(_), request) => {
                    state.todo.push_front(request);
                    return;
                }
            }
        }
    }

    /// A new connection: nothing is subscribed on it.
    fn connected(&self) {
        let mut state = self.lock();
        state.connected = true;
        if !state.wanted.is_empty() {
            let wanted = state.wanted.iter().copied().collect();
            state.todo.push_back(Request::Subscribe(wanted, Phase::Told));
        }
        self.send(&mut state);
    }

    /// The broker has answered the oldest subscription. Returns what is subscribed wholly with it.
    fn answered(&self) -> Option<Vec<Share>> {
        let mut state = self.lock();
        let (shares, phase) = state.sent.pop_front()?;
        match phase {
            Phase::Told => {
                state.todo.push_back(Request::Subscribe(shares, Phase::Data));
                self.send(&mut state);
                None
            }
            Phase::Data => Some(shares),
        }
    }

    /// The connection is gone, with everything on its way: on the next one nothing of it may appear.
    fn disconnected(&self, events: &mut EventLoop) {
        let mut state = self.lock();
        (state.connected, state.todo, state.sent) = (false, VecDeque::new(), VecDeque::new());
        events.clean();
        events.state.events.clear();
        events.pending.clear();
    }
}

struct Poller {
    subscriptions: Subscriptions,
    events: EventLoop,
    route: Route,
    tell: mpsc::Sender<Event>,
    longest: usize,
    /// A permit a byte.
    backlog: Arc<Semaphore>,
}

impl Poller {
    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let reason = match self.route.options().await {
                Ok(options) => {
                    self.events.mqtt_options = options;
                    match self.connection(&mut backoff).await {
                        Some(reason) => reason,
                        None => return,
                    }
                }
                Err(error) => error.to_string(),
            };
            let (reasons, pause) = self.route.failed(reason);
            if self.tell.send(Event::Disconnected(reasons)).await.is_err() {
                return;
            }
            if pause {
                tokio::time::sleep(backoff.mul_f64(0.5 + f64::from(random() % 1000) / 2000.0)).await;
                backoff = (backoff * 2).min(BACKOFF);
            }
        }
    }

    /// One connection, from the attempt to its end. Returns why it ended; `None`: because it was to end.
    async fn connection(&mut self, backoff: &mut Duration) -> Option<String> {
        let mut homing = Homing::never();
        loop {
            let polled = tokio::select! {
                polled = self.events.poll() => polled,
                () = homing.wait() => {
                    self.subscriptions.disconnected(&mut self.events);
                    return Some(self.route.going_home());
                }
            };
            let event = match polled {
                Ok(rumqttc::Event::Incoming(packet)) => match packet {
                    Packet::ConnAck(_) => {
                        homing = self.route.homing();
                        self.subscriptions.connected();
                        Event::Connected
                    }
                    Packet::SubAck(ack) => {
                        if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                            let broker = self.route.broker();
                            let reason =
                                format!("{broker} refuses our subscriptions; look at its access rules");
                            Event::Disconnected(reason)
                        } else {
                            *backoff = FIRST_BACKOFF;
                            self.route.stands();
                            match self.subscriptions.answered() {
                                Some(shares) => Event::Subscribed(shares),
                                None => continue,
                            }
                        }
                    }
                    Packet::Publish(publish) => {
                        let message = self.message(publish);
                        let bytes = message.payload.len() as u32;
                        // Never closed.
                        let Ok(room) = Arc::clone(&self.backlog).acquire_many_owned(bytes).await else {
                            return None;
                        };
                        Event::Message(message, room)
                    }
                    _ => continue,
                },
                Ok(rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return None,
                Ok(rumqttc::Event::Outgoing(_)) => {
                    let mut state = self.subscriptions.lock();
                    if !state.todo.is_empty() {
                        self.subscriptions.send(&mut state);
                    }
                    continue;
                }
                Err(ConnectionError::RequestsDone) => return None,
                Err(error) => {
                    self.subscriptions.disconnected(&mut self.events);
                    return Some(self.route.explain(&error));
                }
            };
            if self.tell.send(event).await.is_err() {
                return None;
            }
        }
    }

    fn message(&self, publish: rumqttc::Publish) -> Message {
        let length = publish.payload.len();
        let payload = if length > self.longest {
            // A copy, so that the rest is freed.
            Bytes::copy_from_slice(&publish.payload[..self.longest])
        } else {
            publish.payload
        };
        Message {
            topic: publish.topic,
            retained: publish.retain,
            payload,
            length,
        }
    }
}
