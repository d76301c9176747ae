//! A local broker (zigbee2mqtt, Tasmota, anything that publishes) whose messages are readings.
//!
//! What is promised: a message that the agent has received becomes readings. What the broker sends while the agent is not connected
//! is not received: the session is a clean one, for a broker that keeps messages for who is away would send old values as new
//! ones. So are retained messages left out: they are old, and how old nobody can tell. Subscriptions are QoS 1, so that the broker
//! waits for this client instead of dropping when it is slow.
//!
//! The connection is of the same kind as the uplink's (`crate::mqtt`): TLS, certificates of its own, both versions of MQTT, keep-alive.

use std::borrow::Cow;

use headwater_foreign::topic;

use super::foreign::{Foreign, Metrics};
use super::{Cadence, Output, Running, Source};
use crate::broker::Broker;
use crate::config::{self, MqttSource, Protocol};
use crate::error::SourceError;
use crate::mqtt::socket::Ways;
use crate::mqtt::{Cause, Connection, End, Event, Options, Version};

/// The largest message, bytes: one that is larger ends the connection in MQTT 3.1.1, and is left out by a broker of MQTT 5. What is longer
/// than `max_payload` is refused one by one, long before.
const INCOMING_MAX: u32 = 16 * 1024 * 1024;

/// The source.
pub(crate) struct Mqtt {
    settings: MqttSource,
    broker: Broker,
    client_id: String,
    credentials: Option<(String, String)>,
    subscriptions: Vec<Subscription>,
    /// What the broker is spoken to in.
    version: Version,
    /// From the first run on.
    ways: Option<Ways>,
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
            crate::Error::Broker { address, why } => {
                wrong("broker", format!("{address:?} {}", own_keys(why)))
            }
            other => wrong("broker", other.to_string()),
        })?;
        settings
            .tls
            .check()
            .map_err(|(key, why)| wrong(key, why.into()))?;
        if settings.tls != config::Tls::default() && !broker.tls {
            let why = format!(
                "{:?} does not ask for TLS; write mqtts:// or wss://",
                settings.broker
            );
            return Err(wrong("tls", why));
        }
        if !(1..=300).contains(&settings.connect_timeout.as_secs()) {
            let why = format!("{:?} is not in 1s..=5m", settings.connect_timeout);
            return Err(wrong("connect_timeout", why));
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
        let client_id = match &settings.client_id {
            Some(client_id) => client_id.clone(),
            None => {
                let random = getrandom::u64().map_err(|error| SourceError::System {
                    what: "random numbers",
                    why: error.to_string(),
                })?;
                format!("hw-{random:016x}")
            }
        };
        let credentials = settings
            .user
            .as_ref()
            .map(|user| (user.clone(), password.unwrap_or_default()));
        Ok(Self {
            settings: settings.clone(),
            broker,
            client_id,
            credentials,
            subscriptions,
            version: match settings.protocol {
                Protocol::Auto | Protocol::V5 => Version::V5,
                Protocol::V311 => Version::V311,
            },
            ways: None,
        })
    }

    fn options(&self, version: Version) -> Options {
        let topics: Vec<String> = self
            .subscriptions
            .iter()
            .map(|subscription| subscription.topic.clone())
            .collect();
        Options {
            version,
            client_id: self.client_id.clone(),
            credentials: self.credentials.clone(),
            keep_alive: self.settings.keep_alive,
            connect_timeout: self.settings.connect_timeout,
            will: None,
            needed: topics.len(),
            topics,
            incoming_max: INCOMING_MAX,
        }
    }

    /// Listens until the connection is lost for a reason that another one made at once would not mend.
    async fn listen(&mut self, output: &Output) -> Result<(), SourceError> {
        let ways = self
            .ways
            .get_or_insert_with(|| Ways::new(&self.settings.tls, output.clock().clone()))
            .clone();
        let mut version = self.version;
        loop {
            let end = self.converse(ways.clone(), version, output).await;
            match (end.cause, version, self.settings.protocol) {
                (Cause::Renewed, ..) => {
                    log::info!("{}: {}; connecting anew", self.settings.broker, end.why);
                }
                // It says that it does not know MQTT 5.
                (Cause::Version, Version::V5, Protocol::Auto) => {
                    (version, self.version) = (Version::V311, Version::V311);
                }
                // It may have closed in place of answering for any reason: 5 is tried again the next time.
                (Cause::Unanswered, Version::V5, Protocol::Auto) => version = Version::V311,
                (cause, ..) => {
                    if (cause, self.settings.protocol) == (Cause::Version, Protocol::Auto) {
                        self.version = Version::V5;
                    }
                    return Err(SourceError::Link {
                        what: self.settings.broker.clone(),
                        why: own_keys(&end.why).into_owned(),
                    });
                }
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn converse(&self, ways: Ways, version: Version, output: &Output) -> End {
        let mut connection = Connection::open(ways, self.broker.clone(), self.options(version));
        loop {
            match connection.event().await {
                Event::Open => {
                    log::info!("subscribed at {} by MQTT {version}", self.settings.broker);
                    output.alive();
                }
                Event::Message {
                    topic,
                    payload,
                    retained,
                } => {
                    // A broker lets no topic pass that is not UTF-8 (MQTT-1.5.4-1).
                    let topic = String::from_utf8_lossy(&topic);
                    self.take(&topic, &payload, retained, output).await;
                }
                Event::Closed(end) => return end,
                Event::Sent | Event::Confirmed => {}
            }
        }
    }

    async fn take(&self, topic: &str, payload: &[u8], retained: bool, output: &Output) {
        let subscription = self.subscriptions.iter().find(|subscription| {
            let stands_for = |filter: &String| topic::matches(filter, topic);
            stands_for(&subscription.topic) && !subscription.except.iter().any(stands_for)
        });
        // An empty message is how a retained one is taken back.
        if let Some(subscription) = subscription
            && (subscription.retained || !retained)
            && !payload.is_empty()
        {
            subscription.foreign.take(output, topic, payload).await;
        }
    }
}

/// What is said of a connection names the keys of `[uplink]`: a source has them without that.
fn own_keys(why: &str) -> Cow<'_, str> {
    match why.contains("uplink.") {
        true => why.replace("uplink.", "").into(),
        false => why.into(),
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

#[cfg(test)]
mod tests;
