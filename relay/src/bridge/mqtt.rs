//! The connection to the MQTT broker: a task of its own that only polls, and tells.
//!
//! What is subscribed changes while it stands, with the partitions that the bridge owns. Clean sessions and nothing published at QoS 1: what is lost on the way is repaired by Headwater's own positions, so
//! nothing has to be carried over from one connection to the next, and everything the client library would carry over is
//! cleared. Hello, series and status are subscribed before data, so that what the broker kept of them comes first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headwater_proto::topic::Kind;
use rumqttc::{AsyncClient, ConnectionError, EventLoop, MqttOptions, Packet, QoS, SubscribeFilter};
use rumqttc::{ConnectReturnCode, SubscribeReasonCode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Error;
use super::fleet::Message;
use super::ownership::Share;
use super::settings::MqttSettings;

/// The largest packet MQTT knows. The broker's own limit is the one that counts: a lower one here would end the connection
/// at each packet above it, and a kept one would come again for ever.
const MAX_PACKET: usize = 268_435_455;
/// Acks on their way to the socket.
const QUEUE: usize = 4096;
/// Messages read and not yet handled. When handling cannot keep up, reading waits for it: never for Kafka.
const BACKLOG: usize = 1024;
/// Longest wait between two attempts to connect.
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
    /// A message came.
    Message(Message),
}

/// The connection.
#[derive(Debug)]
pub struct Mqtt {
    subscriptions: Subscriptions,
    poller: JoinHandle<()>,
}

impl Mqtt {
    /// Connects, and keeps connecting. Payloads longer than `longest` are cut.
    pub fn start(options: MqttOptions, broker: &str, longest: usize) -> (Self, mpsc::Receiver<Event>) {
        let (client, events) = AsyncClient::new(options, QUEUE);
        let subscriptions = Subscriptions {
            client,
            state: Arc::default(),
        };
        let (tell, told) = mpsc::channel(BACKLOG);
        let poller = Poller {
            subscriptions: subscriptions.clone(),
            events,
            tell,
            longest,
        };
        let poller = tokio::spawn(poller.run(broker.to_owned()));
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

    /// Puts a message on its way, QoS 0. Returns whether there was room.
    pub fn publish(&self, topic: String, payload: Vec<u8>) -> bool {
        self.subscriptions
            .client
            .try_publish(topic, QoS::AtMostOnce, false, payload)
            .is_ok()
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

/// Hello, series and status are subscribed before data.
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
    tell: mpsc::Sender<Event>,
    longest: usize,
}

impl Poller {
    async fn run(mut self, broker: String) {
        let mut backoff = Duration::from_millis(200);
        loop {
            let event = match self.events.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => match packet {
                    Packet::ConnAck(_) => {
                        self.subscriptions.connected();
                        Event::Connected
                    }
                    Packet::SubAck(ack) => {
                        if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                            let reason =
                                format!("{broker} refuses our subscriptions; look at its access rules");
                            Event::Disconnected(reason)
                        } else {
                            backoff = Duration::from_millis(200);
                            match self.subscriptions.answered() {
                                Some(shares) => Event::Subscribed(shares),
                                None => continue,
                            }
                        }
                    }
                    Packet::Publish(publish) => Event::Message(self.message(publish)),
                    _ => continue,
                },
                Ok(rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                Ok(rumqttc::Event::Outgoing(_)) => {
                    let mut state = self.subscriptions.lock();
                    if !state.todo.is_empty() {
                        self.subscriptions.send(&mut state);
                    }
                    continue;
                }
                Err(ConnectionError::RequestsDone) => return,
                Err(error) => {
                    self.subscriptions.disconnected(&mut self.events);
                    if self
                        .tell
                        .send(Event::Disconnected(reason(&broker, &error)))
                        .await
                        .is_err()
                    {
                        return;
                    }
                    tokio::time::sleep(backoff.mul_f64(0.5 + f64::from(random() % 1000) / 2000.0)).await;
                    backoff = (backoff * 2).min(BACKOFF);
                    continue;
                }
            };
            if self.tell.send(event).await.is_err() {
                return;
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

/// The settings as the client takes them.
///
/// # Errors
/// [`Error::Broker`] for a URL that is none, and a password that cannot be read.
pub fn options(settings: &MqttSettings) -> Result<MqttOptions, Error> {
    let (host, port) = address(&settings.broker)?;
    let id = if settings.client_id.is_empty() {
        format!("headwater-relay-{:08x}", random())
    } else {
        settings.client_id.clone()
    };
    let mut options = MqttOptions::new(id, host, port);
    options.set_keep_alive(settings.keep_alive);
    options.set_clean_session(true);
    options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
    if !settings.user.is_empty() {
        let password = match &settings.password_file {
            Some(path) => headwater_config::secret(path).map_err(Error::Secret)?,
            None => String::new(),
        };
        options.set_credentials(&settings.user, password);
    }
    Ok(options)
}

/// Host and port of `mqtt://host:port`.
pub(crate) fn address(url: &str) -> Result<(String, u16), Error> {
    let wrong = |why: &str| Error::Broker {
        url: url.to_string(),
        why: why.to_string(),
    };
    let rest = match url.split_once("://") {
        Some(("mqtt" | "tcp", rest)) => rest,
        None => url,
        Some((scheme, _)) => {
            return Err(wrong(&format!(
                "{scheme}:// is not supported; write mqtt://host:port"
            )));
        }
    };
    let rest = rest.trim_end_matches('/');
    if rest.contains(['/', '?', '@']) {
        return Err(wrong(
            "write mqtt://host:port; the user goes to mqtt.user, the password to a file",
        ));
    }
    // A port follows the last colon, but not one inside the brackets of an IPv6 address.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (
            host,
            port.parse()
                .map_err(|_| wrong(&format!("{port:?} is not a port")))?,
        ),
        _ => (rest, 1883),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port == 0 {
        return Err(wrong("write mqtt://host:port"));
    }
    Ok((host.to_string(), port))
}

fn reason(broker: &str, error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => {
            format!("{broker} refuses us: look at mqtt.user and mqtt.password_file")
        }
        ConnectionError::ConnectionRefused(code) => format!("{broker} refuses us: {code:?}"),
        ConnectionError::NetworkTimeout => format!("{broker} does not answer"),
        error => format!("no connection to {broker}: {error}"),
    }
}

/// Not for secrets: ids and jitter.
pub(super) fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_urls() {
        let ok = |url| address(url).unwrap();
        assert_eq!(ok("mqtt://broker"), ("broker".into(), 1883));
        assert_eq!(ok("mqtt://10.0.0.1:2883/"), ("10.0.0.1".into(), 2883));
        assert_eq!(ok("broker:2883"), ("broker".into(), 2883));
        assert_eq!(ok("mqtt://[::1]:2883"), ("::1".into(), 2883));
        assert_eq!(ok("mqtt://[::1]"), ("::1".into(), 1883));
        let error = |url| address(url).unwrap_err().to_string();
        assert!(error("http://broker").contains("http:// is not supported"));
        assert!(error("mqtt://u:p@broker").contains("mqtt.user"));
        assert!(error("mqtt://broker:99999").contains("is not a port"));
        assert!(error("mqtt://").contains("mqtt://host:port"));
    }
}
