//! An entry's own connection to the MQTT broker: a task that only polls, and tells.
//!
//! MQTT 5, for what the promises rest on: the broker keeps a session while nobody is connected, and sends no more unacknowledged messages
//! than the window has room for. Messages of QoS 1 are acknowledged by hand. Every message is tagged with the connection it came on, and an
//! acknowledgement of an earlier connection is dropped: on a resumed session the broker gives packet ids out anew.
//! Everything that the client library would carry over to the next connection is cleared.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, Publish,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, EventLoop, MqttOptions, StateError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::intake::Receipt;
use super::presence::Presence;
use crate::bridge::device::Now;
use crate::mqtt::route::Homing;
use crate::mqtt::{Route, random};

/// The largest packet MQTT knows. One that is larger than a client allows is thrown away by the broker as if it had been sent.
const MAX_PACKET: u32 = 268_435_455;
/// Requests on their way to the socket, beside acknowledgements.
const REQUESTS: usize = 256;
/// Messages read and not yet handled. When handling cannot keep up, reading waits for it: never for Kafka.
const BACKLOG: usize = 1024;
/// Waits between two rounds of attempts to connect: the first, and the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF: Duration = Duration::from_secs(5);
/// The library wants no shorter one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What an entry wants of its connection.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The client id, under which the broker keeps the session.
    pub client_id: String,
    /// How long it keeps it.
    pub session_expiry: Duration,
    /// Messages that may come before the oldest is acknowledged.
    pub window: u16,
    /// What is subscribed, at QoS 1.
    pub filters: Vec<String>,
    /// Longer payloads are cut.
    pub longest: usize,
    /// Whom it is told that we are there.
    pub presence: Option<Presence>,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// What it is acknowledged by; `None` where it wants no acknowledgement.
    pub receipt: Option<Receipt>,
    /// Whether the broker says that it may have sent it before.
    pub again: bool,
    /// Whether the broker had kept it.
    pub retained: bool,
    /// The topic.
    pub topic: String,
    /// The payload, perhaps cut.
    pub payload: Bytes,
    /// The payload's length before it was cut.
    pub length: usize,
}

/// What the connection tells.
#[derive(Debug)]
pub enum Event {
    /// It stands; `resumed`: the broker has kept the session, so nothing of QoS 1 is missing.
    Connected {
        /// Whether it has.
        resumed: bool,
    },
    /// Everything is subscribed.
    Subscribed,
    /// It is gone, or cannot be made, or its subscriptions are refused, for this reason.
    Failing(String),
    /// It is gone: no acknowledgement of what came on it is taken any more.
    Disconnected,
    /// A message came.
    Message(Message),
}

#[derive(Debug, Default)]
struct State {
    /// The number of the connection; those before are gone.
    connection: u64,
    stands: bool,
    /// Acknowledgements that found no room in the client's queue.
    todo: VecDeque<Receipt>,
}

/// The connection.
#[derive(Debug)]
pub struct Connection {
    client: AsyncClient,
    state: Arc<Mutex<State>>,
    presence: Option<Presence>,
    poller: JoinHandle<()>,
}

impl Connection {
    /// Connects, and keeps connecting.
    pub fn start(route: Route, plan: Plan) -> (Self, mpsc::Receiver<Event>) {
        let capacity = REQUESTS + usize::from(plan.window);
        let (client, events) = AsyncClient::new(of_five(&route.bare(), &route, &plan, 0), capacity);
        let state = Arc::new(Mutex::new(State::default()));
        let (tell, told) = mpsc::channel(BACKLOG);
        let poller = Poller {
            client: client.clone(),
            state: Arc::clone(&state),
            events,
            route,
            tell,
            plan: plan.clone(),
            since_ms: 0,
        };
        let connection = Self {
            client,
            state,
            presence: plan.presence,
            poller: tokio::spawn(poller.run()),
        };
        (connection, told)
    }

    /// Acknowledges a message, unless its connection is gone. In the order in which messages came.
    pub fn acknowledge(&self, receipt: Receipt) {
        let mut state = lock(&self.state);
        if state.stands && state.connection == receipt.connection {
            state.todo.push_back(receipt);
            send(&self.client, &mut state);
        }
    }

    /// Puts a message on its way, QoS 0. Returns whether there was room.
    pub fn publish(&self, topic: &str, payload: Vec<u8>) -> bool {
        let state = lock(&self.state);
        state.stands
            && self
                .client
                .try_publish(topic, QoS::AtMostOnce, false, payload)
                .is_ok()
    }

    /// Ends the subscriptions, so that the broker gives what comes from now on to others.
    pub fn unsubscribe(&self, filters: &[String]) {
        for filter in filters {
            let _ = self.client.try_unsubscribe(filter);
        }
    }

    /// Sends what is on its way, and disconnects; the broker keeps the session.
    pub async fn stop(self) {
        if let Some(presence) = &self.presence {
            let told = presence.told(false, Now::read().us / 1000);
            let _ = self
                .client
                .try_publish(presence.topic(), QoS::AtLeastOnce, true, told);
        }
        let _ = self.client.try_disconnect();
        // The poller ends when the broker closes the connection; a broker that does not is not waited for.
        let mut poller = self.poller;
        if tokio::time::timeout(Duration::from_millis(500), &mut poller)
            .await
            .is_err()
        {
            poller.abort();
        }
    }

    /// Ends it without a word, as if the network had.
    pub fn drop_it(self) {
        self.poller.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the acknowledgements there is room for.
fn send(client: &AsyncClient, state: &mut State) {
    while let Some(receipt) = state.todo.front() {
        // The library takes the packet id out of the message.
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            pkid: receipt.packet,
            ..Publish::default()
        };
        if client.try_ack(&publish).is_err() {
            return;
        }
        state.todo.pop_front();
    }
}

struct Poller {
    client: AsyncClient,
    state: Arc<Mutex<State>>,
    events: EventLoop,
    route: Route,
    tell: mpsc::Sender<Event>,
    plan: Plan,
    /// When this connection was begun, milliseconds since the Unix epoch.
    since_ms: i64,
}

impl Poller {
    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let reason = match self.route.options().await {
                Ok(options) => {
                    self.since_ms = Now::read().us / 1000;
                    self.events.options = of_five(&options, &self.route, &self.plan, self.since_ms);
                    match self.connection(&mut backoff).await {
                        Some(reason) => reason,
                        None => return,
                    }
                }
                Err(error) => error.to_string(),
            };
            let (reasons, pause) = self.route.failed(reason);
            for event in [Event::Disconnected, Event::Failing(reasons)] {
                if self.tell.send(event).await.is_err() {
                    return;
                }
            }
            if pause {
                tokio::time::sleep(backoff.mul_f64(0.5 + f64::from(random() % 1000) / 2000.0)).await;
                backoff = (backoff * 2).min(BACKOFF);
            }
        }
    }

    /// One connection, from the attempt to its end. Returns why it ended; `None`: because it was to end.
    async fn connection(&mut self, backoff: &mut Duration) -> Option<String> {
        let (mut homing, mut connection) = (Homing::never(), 0);
        // The answer to a ping at least comes in this time, or the connection is dead, whatever the system says: the library waits
        // for ever to get rid of what it sends.
        let silence = self.events.options.keep_alive() * 3;
        loop {
            // What is polled may be dropped at any time: the connection then ends.
            let polled = tokio::select! {
                polled = tokio::time::timeout(silence, self.events.poll()) => polled,
                () = homing.wait() => {
                    self.disconnected();
                    return Some(self.route.going_home());
                }
            };
            let event = match polled {
                Ok(Ok(rumqttc::v5::Event::Incoming(packet))) => match packet {
                    Packet::ConnAck(ack) => {
                        homing = self.route.homing();
                        connection = self.connected();
                        Event::Connected {
                            resumed: ack.session_present,
                        }
                    }
                    Packet::SubAck(ack) => match refused(&ack.return_codes) {
                        Some(code) => Event::Failing(format!(
                            "{} refuses our subscriptions ({code:?}); look at its access rules",
                            self.route.broker()
                        )),
                        None => {
                            *backoff = FIRST_BACKOFF;
                            self.route.stands();
                            self.tell_presence();
                            Event::Subscribed
                        }
                    },
                    Packet::Publish(publish) if self.is_of_presence(&publish) => continue,
                    Packet::Publish(publish) => Event::Message(self.message(publish, connection)),
                    _ => continue,
                },
                Ok(Ok(rumqttc::v5::Event::Outgoing(rumqttc::Outgoing::Disconnect))) => return None,
                Ok(Ok(rumqttc::v5::Event::Outgoing(_))) => {
                    send(&self.client, &mut lock(&self.state));
                    continue;
                }
                Ok(Err(ConnectionError::RequestsDone)) => return None,
                Ok(Err(error)) => {
                    self.disconnected();
                    return Some(self.explain(error));
                }
                Err(_) => {
                    self.disconnected();
                    return Some(format!("{} is silent", self.route.broker()));
                }
            };
            if self.tell.send(event).await.is_err() {
                return None;
            }
        }
    }

    fn explain(&self, error: ConnectionError) -> String {
        use rumqttc::ConnectionError as Of;
        let (broker, id) = (self.route.broker(), &self.plan.client_id);
        match error {
            ConnectionError::Tls(error) => self.route.explain(&Of::Tls(error)),
            ConnectionError::Io(error) => self.route.explain(&Of::Io(error)),
            ConnectionError::Timeout(_) => self.route.explain(&Of::NetworkTimeout),
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
            ) => self
                .route
                .explain(&Of::ConnectionRefused(rumqttc::ConnectReturnCode::NotAuthorized)),
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion,
            ) => format!("{broker} does not know MQTT 5, which foreign devices need"),
            ConnectionError::ConnectionRefused(code) => format!("{broker} refuses us: {code:?}"),
            ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::SessionTakenOver,
                ..
            }) => format!(
                "another client has taken the session {id:?} over: is there a bridge with the same mqtt.client_id, or another \
                 installation with the same kafka.prefix?"
            ),
            error => format!("no connection to {broker}: {error}"),
        }
    }

    /// A new connection. Returns its number.
    fn connected(&self) -> u64 {
        let mut state = lock(&self.state);
        state.connection += 1;
        state.stands = true;
        let filters = self.plan.filters.iter().map(|path| Filter {
            // On a session that was kept, what was retained has been told.
            retain_forward_rule: RetainForwardRule::OnNewSubscribe,
            ..Filter::new(path, QoS::AtLeastOnce)
        });
        // Without acknowledgements, which would have their place in the order of the others.
        let presence = self.plan.presence.as_ref();
        let filters = filters.chain(presence.map(|presence| Filter::new(presence.topic(), QoS::AtMostOnce)));
        // The queue is empty: this is the first on this connection.
        let _ = self.client.try_subscribe_many(filters);
        state.connection
    }

    fn tell_presence(&self) {
        if let Some(presence) = &self.plan.presence {
            let told = presence.told(true, self.since_ms);
            // There is room: it is among the first on this connection, or comes once in a while.
            let _ = self
                .client
                .try_publish(presence.topic(), QoS::AtLeastOnce, true, told);
        }
    }

    /// Whether the message is about our own presence. A will of an earlier connection is contradicted.
    fn is_of_presence(&self, publish: &Publish) -> bool {
        let Some(presence) = &self.plan.presence else {
            return false;
        };
        let is = publish.topic == presence.topic();
        if is && presence.is_denied(&publish.payload) {
            self.tell_presence();
        }
        is
    }

    /// The connection is gone, with everything on its way.
    fn disconnected(&mut self) {
        let mut state = lock(&self.state);
        (state.stands, state.todo) = (false, VecDeque::new());
        self.events.clean();
        self.events.state.events.clear();
        self.events.pending.clear();
    }

    fn message(&self, publish: Publish, connection: u64) -> Message {
        let length = publish.payload.len();
        Message {
            receipt: (publish.qos != QoS::AtMostOnce).then_some(Receipt {
                connection,
                packet: publish.pkid,
            }),
            again: publish.dup,
            retained: publish.retain,
            // A broker lets no topic pass that is not UTF-8 (MQTT-1.5.4-1).
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: if length > self.plan.longest {
                // A copy, so that the rest is freed.
                Bytes::copy_from_slice(&publish.payload[..self.plan.longest])
            } else {
                publish.payload
            },
            length,
        }
    }
}

fn refused(codes: &[SubscribeReasonCode]) -> Option<&SubscribeReasonCode> {
    codes
        .iter()
        .find(|code| !matches!(code, SubscribeReasonCode::Success(_)))
}

/// As the library takes them for MQTT 5: where to connect and as whom is as for every connection of the relay.
fn of_five(of: &rumqttc::MqttOptions, route: &Route, plan: &Plan, since_ms: i64) -> MqttOptions {
    let (host, port) = of.broker_address();
    let mut options = MqttOptions::new(&plan.client_id, host, port);
    options.set_transport(of.transport());
    options.set_network_options(route.network());
    if let Some(login) = of.credentials() {
        options.set_credentials(login.username, login.password);
    }
    options.set_keep_alive(of.keep_alive().max(KEEP_ALIVE));
    options.set_clean_start(false);
    options.set_manual_acks(true);
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(plan.session_expiry.as_secs() as u32);
    properties.receive_maximum = Some(plan.window);
    properties.max_packet_size = Some(MAX_PACKET);
    options.set_connect_properties(properties);
    if let Some(presence) = &plan.presence {
        let told = presence.told(false, since_ms);
        options.set_last_will(LastWill::new(
            presence.topic(),
            told,
            QoS::AtLeastOnce,
            true,
            None,
        ));
    }
    options
}
