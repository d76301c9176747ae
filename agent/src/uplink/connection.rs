//! One connection to the broker, over rumqttc.
//!
//! Every connection has a client of its own: what rumqttc keeps across reconnects (unsent publishes, packet ids, events of the
//! connection before) is exactly what must not be kept here, since the journal keeps it. A task of its own polls it, so that
//! nothing the agent does delays a keep-alive; that task never publishes, so that it cannot wait for itself.

use std::time::Duration;

use headwater_proto::topic::{Kind, topic};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, EventLoop, LastWill, MqttOptions, Outgoing, Packet, QoS,
    StateError, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Publication;
use crate::broker::Broker;

/// Messages handed over that the network has not taken.
const QUEUE: usize = 8;
/// Largest packets: an `Ack` with many streams; a series set of the most series.
const INCOMING_MAX: usize = 1024 * 1024;
const OUTGOING_MAX: usize = 16 * 1024 * 1024;
/// Time to connect, shake hands, and flush.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where and as whom to connect.
#[derive(Clone, PartialEq)]
pub(crate) struct Address {
    pub(crate) broker: Broker,
    pub(crate) device: String,
    pub(crate) client_id: String,
    /// User and password.
    pub(crate) credentials: Option<(String, String)>,
    pub(crate) keep_alive: Duration,
}

/// What a connection reports.
#[derive(Debug)]
pub(crate) enum Event {
    /// It stands, and acknowledgements are subscribed to.
    Open,
    /// An acknowledgement's payload.
    Ack(Vec<u8>),
    /// A command's payload.
    Command(Vec<u8>),
    /// The network has taken a message.
    Sent,
    /// The broker has a message of QoS 1.
    Confirmed,
    /// It is over; nothing follows.
    Closed(String),
}

/// A connection, being made or standing. Dropping it breaks it off without a word, so that the Last Will speaks.
pub(crate) struct Connection {
    client: AsyncClient,
    device: String,
    events: mpsc::Receiver<Event>,
    queued: usize,
    poller: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

impl Connection {
    /// Begins to connect.
    pub(crate) fn open(address: &Address, last_will: Publication) -> Self {
        let mut options = MqttOptions::new(
            address.client_id.clone(),
            address.broker.host.clone(),
            address.broker.port,
        );
        options
            .set_keep_alive(address.keep_alive)
            .set_clean_session(true)
            .set_max_packet_size(INCOMING_MAX, OUTGOING_MAX)
            .set_inflight(QUEUE as u16 * 2)
            .set_last_will(LastWill::new(
                topic(&address.device, last_will.kind),
                last_will.payload,
                QoS::AtLeastOnce,
                true,
            ));
        if let Some((user, password)) = &address.credentials {
            options.set_credentials(user.clone(), password.clone());
        }
        // One place for each message in the queue, and for the subscription and the goodbye.
        let (client, mut eventloop) = AsyncClient::new(options, QUEUE + 2);
        let mut network = eventloop.network_options();
        network.set_connection_timeout(TIMEOUT.as_secs());
        network.set_tcp_nodelay(true);
        eventloop.set_network_options(network);
        let (sender, events) = mpsc::channel(QUEUE);
        let subscriber = client.clone();
        let topics = [Kind::Ack, Kind::Command].map(|kind| topic(&address.device, kind));
        let user = address.credentials.as_ref().map(|(user, _)| user.clone());
        let poller = tokio::spawn(async move {
            let why = poll(eventloop, &subscriber, &topics, &sender, user.as_deref()).await;
            let _ = sender.send(Event::Closed(why)).await;
        });
        Self {
            client,
            device: address.device.clone(),
            events,
            queued: 0,
            poller,
        }
    }

    /// What happens next. May be dropped at any time without loss.
    pub(crate) async fn event(&mut self) -> Event {
        let event = self.events.recv().await;
        if let Some(Event::Sent) = event {
            self.queued = self.queued.saturating_sub(1);
        }
        event.unwrap_or_else(|| Event::Closed("the connection's task has ended".into()))
    }

    /// Whether another message may be handed over.
    pub(crate) fn has_room(&self) -> bool {
        self.queued < QUEUE
    }

    /// Whether the network has yet to take something.
    pub(crate) fn is_sending(&self) -> bool {
        self.queued > 0
    }

    /// Hands a message over and returns the bytes of its packet; `None` if the connection is over.
    pub(crate) fn publish(&mut self, publication: Publication) -> Option<u64> {
        let qos = if publication.at_least_once() {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let topic = topic(&self.device, publication.kind);
        let packet_id = if publication.at_least_once() { 2 } else { 0 };
        let rest = 2 + topic.len() + packet_id + publication.payload.len();
        let length_bytes = [0x80, 0x4000, 0x20_0000]
            .iter()
            .filter(|bound| rest >= **bound)
            .count()
            + 1;
        self.client
            .try_publish(topic, qos, publication.retained(), publication.payload)
            .ok()?;
        self.queued += 1;
        Some((1 + length_bytes + rest) as u64)
    }

    /// Ends the connection in good order: the Last Will stays unsaid. [`Event::Closed`] follows.
    pub(crate) fn disconnect(&mut self) {
        // Should there be no room, dropping the connection ends it as well.
        let _ = self.client.try_disconnect();
    }
}

/// Polls until the connection is over; returns why it is.
async fn poll(
    mut eventloop: EventLoop,
    client: &AsyncClient,
    [acks, commands]: &[String; 2],
    events: &mpsc::Sender<Event>,
    user: Option<&str>,
) -> String {
    loop {
        let event = match eventloop.poll().await {
            Ok(rumqttc::Event::Incoming(Packet::ConnAck(_))) => {
                let filters =
                    [acks, commands].map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
                if client.try_subscribe_many(filters).is_err() {
                    return "the subscription cannot be sent".into();
                }
                continue;
            }
            Ok(rumqttc::Event::Incoming(Packet::SubAck(suback))) => {
                // One answer for each topic, in their order.
                let refused = |at| {
                    matches!(
                        suback.return_codes.get(at),
                        None | Some(SubscribeReasonCode::Failure)
                    )
                };
                if refused(0) {
                    return format!("the broker refuses the subscription to {acks}; check its access rules");
                }
                if refused(1) {
                    log::warn!(
                        "the broker refuses the subscription to {commands}; readings go on, commands will not come: \
                         check its access rules"
                    );
                }
                Event::Open
            }
            Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) if publish.topic == *acks => {
                Event::Ack(publish.payload.to_vec())
            }
            Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) if publish.topic == *commands => {
                Event::Command(publish.payload.to_vec())
            }
            Ok(rumqttc::Event::Incoming(Packet::PubAck(_))) => Event::Confirmed,
            Ok(rumqttc::Event::Outgoing(Outgoing::Publish(_))) => Event::Sent,
            Ok(rumqttc::Event::Outgoing(Outgoing::Disconnect)) => return "closed by this agent".into(),
            Ok(_) => continue,
            Err(error) => return reason(&error, user),
        };
        if events.send(event).await.is_err() {
            return "the agent has stopped".into();
        }
    }
}

fn reason(error: &ConnectionError, user: Option<&str>) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized),
        ) => match user {
            Some(user) => {
                format!(
                    "the broker refuses user {user:?} ({code:?}); check uplink.user and uplink.password_file"
                )
            }
            None => {
                format!("the broker wants credentials ({code:?}); set uplink.user and uplink.password_file")
            }
        },
        ConnectionError::ConnectionRefused(code) => format!("the broker refuses the connection ({code:?})"),
        ConnectionError::NetworkTimeout => {
            format!("the broker did not answer within {} s", TIMEOUT.as_secs())
        }
        ConnectionError::FlushTimeout => format!("the network took nothing for {} s", TIMEOUT.as_secs()),
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            "the broker did not answer a keep-alive".into()
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "the broker closed the connection".into()
        }
        ConnectionError::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}
