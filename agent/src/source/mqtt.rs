//! A local broker (zigbee2mqtt, Tasmota, anything that publishes) whose messages are readings.
//!
//! What is promised: a message that the agent has received becomes readings. What the broker sends while the agent is not connected
//! is not received: the session is a clean one, for a broker that keeps messages for who is away would send old values as new
//! ones. So are retained messages left out: they are old, and how old nobody can tell. Subscriptions are QoS 1, so that the broker
//! waits for this client instead of dropping when it is slow.

mod topic;

use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, Publish, QoS,
    StateError, SubscribeFilter, SubscribeReasonCode,
};

use super::foreign::{Foreign, Metrics};
use super::{Cadence, Output, Running, Source};
use crate::broker::Broker;
use crate::config::MqttSource;
use crate::error::SourceError;

/// The largest message, bytes: one that is larger ends the connection, and comes again if the broker keeps it. What is longer than
/// `max_payload` is refused one by one, long before.
const INCOMING_MAX: usize = 16 * 1024 * 1024;
const OUTGOING_MAX: usize = 1024 * 1024;
/// Requests on their way to the broker: the subscription, and acknowledgements, which do not pass here.
const QUEUE: usize = 4;
/// Time to connect, shake hands, and flush.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The source.
pub(crate) struct Mqtt {
    settings: MqttSource,
    broker: Broker,
    password: Option<String>,
    subscriptions: Vec<Subscription>,
}

struct Subscription {
    topic: String,
    except: Vec<String>,
    retained: bool,
    foreign: Foreign,
}

impl Mqtt {
    pub(crate) fn open(settings: &MqttSource) -> Result<Self, SourceError> {
        let wrong = |key, why: String| SourceError::Setting { key, why };
        let broker = Broker::parse(&settings.broker).map_err(|error| match error {
            crate::Error::Broker { address, why } => wrong("broker", format!("{address:?} {why}")),
            other => wrong("broker", other.to_string()),
        })?;
        if broker.tls || broker.websocket {
            let why = format!("{:?} is not mqtt://host:1883", settings.broker);
            return Err(wrong("broker", why));
        }
        let keep_alive = settings.keep_alive;
        if keep_alive.subsec_nanos() != 0 || !(1..=u64::from(u16::MAX)).contains(&keep_alive.as_secs()) {
            let why = format!("{keep_alive:?} is not whole seconds in 1..=65535");
            return Err(wrong("keep_alive", why));
        }
        if settings.password_file.is_some() && settings.user.is_none() {
            let why = "there is no user whose password it is".to_string();
            return Err(wrong("password_file", why));
        }
        let password = settings.password_file.as_deref().map(headwater_config::secret);
        let password = password
            .transpose()
            .map_err(|error| wrong("password_file", error.to_string()))?;
        if settings.subscription.is_empty() {
            let why = "there is none; add a [[source.subscription]] table".to_string();
            return Err(wrong("subscription", why));
        }
        let metrics = Metrics::default();
        let mut subscriptions: Vec<Subscription> = Vec::new();
        for subscription in &settings.subscription {
            let own = &subscription.topic;
            for filter in subscription.except.iter().chain([own]) {
                if !topic::is_filter(filter) {
                    let why =
                        format!("{filter:?} is not a topic filter such as \"zigbee2mqtt/+\" or \"tele/#\"");
                    return Err(wrong("subscription", why));
                }
            }
            if subscriptions.iter().any(|other| other.topic == *own) {
                return Err(wrong("subscription", format!("{own:?} stands there twice")));
            }
            let foreign = Foreign::new(&subscription.map, true, &metrics)
                .map_err(|error| wrong("subscription", format!("{own:?}: {error}")))?;
            subscriptions.push(Subscription {
                topic: own.clone(),
                except: subscription.except.clone(),
                retained: subscription.retained,
                foreign,
            });
        }
        Ok(Self {
            settings: settings.clone(),
            broker,
            password,
            subscriptions,
        })
    }

    fn connect(&self) -> Result<(AsyncClient, EventLoop), SourceError> {
        let client_id = match &self.settings.client_id {
            Some(client_id) => client_id.clone(),
            None => {
                let random = getrandom::u64().map_err(|error| SourceError::System {
                    what: "random numbers",
                    why: error.to_string(),
                })?;
                format!("hw-{random:016x}")
            }
        };
        let mut options = MqttOptions::new(client_id, self.broker.host.clone(), self.broker.port);
        options
            .set_keep_alive(self.settings.keep_alive)
            .set_clean_session(true)
            .set_max_packet_size(INCOMING_MAX, OUTGOING_MAX);
        if let Some(user) = &self.settings.user {
            options.set_credentials(user.clone(), self.password.clone().unwrap_or_default());
        }
        let (client, mut eventloop) = AsyncClient::new(options, QUEUE);
        let mut network = eventloop.network_options();
        network.set_connection_timeout(TIMEOUT.as_secs());
        eventloop.set_network_options(network);
        Ok((client, eventloop))
    }

    fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::Link {
            what: self.settings.broker.clone(),
            why: why.into(),
        }
    }

    async fn listen(&self, output: &Output) -> Result<(), SourceError> {
        let (client, mut eventloop) = self.connect()?;
        loop {
            let event = eventloop
                .poll()
                .await
                .map_err(|error| self.failed(reason(&error, &self.settings)))?;
            match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    let filters = self.subscriptions.iter().map(|subscription| {
                        SubscribeFilter::new(subscription.topic.clone(), QoS::AtLeastOnce)
                    });
                    client
                        .try_subscribe_many(filters)
                        .map_err(|error| self.failed(format!("cannot subscribe: {error}")))?;
                }
                Event::Incoming(Packet::SubAck(suback)) => {
                    let answers = suback.return_codes.iter().zip(&self.subscriptions);
                    for (code, subscription) in answers {
                        if *code == SubscribeReasonCode::Failure {
                            let topic = &subscription.topic;
                            let why = format!(
                                "the broker refuses the subscription to {topic:?}; check its access rules"
                            );
                            return Err(self.failed(why));
                        }
                    }
                    log::info!("subscribed at {}", self.settings.broker);
                    output.alive();
                }
                Event::Incoming(Packet::Publish(publish)) => self.take(&publish, output).await,
                _ => {}
            }
        }
    }

    async fn take(&self, publish: &Publish, output: &Output) {
        let subscription = self.subscriptions.iter().find(|subscription| {
            let stands_for = |filter: &String| topic::matches(filter, &publish.topic);
            stands_for(&subscription.topic) && !subscription.except.iter().any(stands_for)
        });
        // An empty message is how a retained one is taken back.
        if let Some(subscription) = subscription
            && (subscription.retained || !publish.retain)
            && !publish.payload.is_empty()
        {
            subscription
                .foreign
                .take(output, &publish.topic, &publish.payload)
                .await;
        }
    }
}

impl Source for Mqtt {
    fn cadence(&self) -> Cadence {
        Cadence::Pushed
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(self.listen(output))
    }
}

fn reason(error: &ConnectionError, settings: &MqttSource) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized),
        ) => match &settings.user {
            Some(user) => format!("it refuses user {user:?} ({code:?}); check user and password_file"),
            None => format!("it wants credentials ({code:?}); set user and password_file"),
        },
        ConnectionError::ConnectionRefused(code) => format!("it refuses the connection ({code:?})"),
        ConnectionError::NetworkTimeout => format!("it did not answer within {} s", TIMEOUT.as_secs()),
        ConnectionError::FlushTimeout => format!("the network took nothing for {} s", TIMEOUT.as_secs()),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "it did not answer a keep-alive".into(),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "it closed the connection".into(),
        ConnectionError::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
