//! The connection there is, or when there will be one.

use std::time::{Duration, Instant};

use headwater_proto::topic::{Kind, topic};
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::rotation::Rotation;
use super::{Publication, Uplink};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::mqtt::socket::Ways;
use crate::mqtt::traffic::Bytes;
use crate::mqtt::{self, Connection, End, Message, Options};
use crate::task;
use crate::{Error, config};

/// The largest packet that the relay may send: a command with a whole configuration in it is less.
pub(crate) const INCOMING_MAX: u32 = 1024 * 1024;

/// What the link reports.
#[derive(Debug)]
pub(crate) enum Event {
    /// The connection stands, and acknowledgements are subscribed to.
    Open,
    /// An acknowledgement's payload.
    Ack(Vec<u8>),
    /// A command's payload.
    Command(Vec<u8>),
    /// The network has taken a message.
    Sent,
    /// The broker has a message of QoS 1.
    Confirmed,
    /// The connection is over.
    Closed(End),
}

/// What a device subscribes to.
#[derive(Debug)]
struct Topics {
    ack: String,
    command: String,
}

impl Topics {
    fn new(device: &str) -> Self {
        Self {
            ack: topic(device, Kind::Ack),
            command: topic(device, Kind::Command),
        }
    }
}

/// Where and as whom to connect.
#[derive(Clone, PartialEq)]
pub(crate) struct Address {
    pub(crate) device: String,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) client_id: String,
    /// User and password.
    pub(crate) credentials: Option<(String, String)>,
    pub(crate) keep_alive: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) return_after: Duration,
    pub(crate) protocol: config::Protocol,
    pub(crate) tls: config::Tls,
}

impl Address {
    /// As the settings say for `device`.
    ///
    /// # Errors
    /// A broker's address, or the password's file.
    pub(crate) fn new(settings: &config::Uplink, device: &str) -> Result<Self, Error> {
        let password = settings
            .password_file
            .as_deref()
            .map(headwater_config::secret)
            .transpose()?;
        let user = settings.user.clone();
        let brokers = Broker::all(&settings.broker)?;
        if settings.tls != config::Tls::default() && brokers.iter().all(|broker| !broker.tls) {
            log::warn!(
                "uplink.tls is set, but no address in uplink.broker asks for TLS: all is sent in the clear"
            );
        }
        Ok(Self {
            device: device.to_string(),
            brokers,
            client_id: settings.client_id.clone().unwrap_or_else(|| device.to_string()),
            credentials: user.map(|user| (user, password.unwrap_or_default())),
            keep_alive: settings.keep_alive,
            connect_timeout: settings.connect_timeout,
            return_after: settings.return_after,
            protocol: settings.protocol,
            tls: settings.tls.clone(),
        })
    }
}

/// The connection there is, or when there will be one.
pub(crate) struct Link {
    address: Address,
    topics: Topics,
    rotation: Rotation,
    ways: Ways,
    connection: Option<Connection>,
    pub(crate) connect_at: Option<Instant>,
    /// Drawn for each connection.
    pub(crate) session: u64,
    /// Since when it stands.
    open_since: Option<Instant>,
    /// The look at the first broker that is under way.
    look: Option<JoinHandle<bool>>,
    /// Messages of QoS 1 that this connection was handed.
    pub(crate) promised: u64,
    /// How many of them the broker has.
    pub(crate) confirmed: u64,
    pub(crate) reconnects: u64,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end_look();
    }
}

impl Link {
    /// The first attempt to connect is due at once.
    pub(crate) fn new(address: Address, backoff: Backoff, clock: Clock) -> Self {
        let ways = Ways::new(&address.tls, clock);
        Self {
            topics: Topics::new(&address.device),
            rotation: Rotation::new(&address, backoff),
            ways,
            connection: None,
            connect_at: Some(Instant::now()),
            session: 0,
            open_since: None,
            look: None,
            promised: 0,
            confirmed: 0,
            reconnects: 0,
            address,
        }
    }

    /// Goes on with another address. Returns whether a connection had to be given up for it; then its Last Will speaks, and the
    /// next is made at once.
    pub(crate) fn reload(&mut self, now: Instant, address: Address, backoff: Backoff) -> bool {
        if self.address == address && self.connection.is_some() {
            self.rotation.wait_by(backoff);
            return false;
        }
        self.end_look();
        self.topics = Topics::new(&address.device);
        self.rotation = Rotation::new(&address, backoff);
        self.ways.reload(&address.tls);
        self.address = address;
        self.connection = None;
        self.open_since = None;
        self.connect_at = Some(now);
        true
    }

    /// The broker whose turn it is.
    pub(crate) fn name(&self) -> String {
        self.address
            .brokers
            .get(self.rotation.current())
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// Bytes since the start, over all connections: what a metered link pays for, and what of it was payload.
    pub(crate) fn bytes(&self) -> Bytes {
        self.ways.traffic.bytes()
    }

    pub(crate) fn open(&mut self, session: u64) {
        // 0 stands for "no session" in acknowledgements.
        self.session = session.max(1);
        self.connect_at = None;
        (self.promised, self.confirmed) = (0, 0);
        let Some(broker) = self.address.brokers.get(self.rotation.current()) else {
            return;
        };
        let will = Uplink::last_will(self.session);
        let options = Options {
            version: self.rotation.version(),
            client_id: self.address.client_id.clone(),
            credentials: self.address.credentials.clone(),
            keep_alive: self.address.keep_alive,
            connect_timeout: self.address.connect_timeout,
            will: Some((topic(&self.address.device, will.kind), will.payload)),
            topics: vec![self.topics.ack.clone(), self.topics.command.clone()],
            needed: 1,
            incoming_max: INCOMING_MAX,
        };
        self.connection = Some(Connection::open(self.ways.clone(), broker.clone(), options));
    }

    pub(crate) fn opened(&mut self, now: Instant) {
        log::info!("connected to {} by MQTT {}", self.name(), self.rotation.version());
        self.open_since = Some(now);
        self.rotation.opened(now);
    }

    /// The connection is over. Returns how long until the next is made.
    pub(crate) fn closed(&mut self, now: Instant, end: &End, random: u64) -> Duration {
        self.connection = None;
        self.end_look();
        let stood = self.open_since.take();
        self.reconnects += u64::from(stood.is_some());
        let at = self.rotation.closed(now, stood, end.cause, random);
        self.connect_at = Some(at);
        at - now
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open_since.is_some()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.is_open() && self.connection.as_ref().is_some_and(Connection::has_room)
    }

    /// When [`Link::tick`] has something to do, or a connection is to be opened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let look = self.rotation.look_at().filter(|_| self.look.is_none());
        self.connect_at.into_iter().chain(look).min()
    }

    /// Does what is due on a connection that stands: looks whether the first broker is there again.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.look.is_none() && self.rotation.look_at().is_some_and(|at| now >= at) {
            let (ways, first, by) = (
                self.ways.clone(),
                self.address.brokers[0].clone(),
                now + self.address.connect_timeout,
            );
            self.look = Some(task::spawn(async move {
                ways.connect(&first, by.into()).await.is_ok()
            }));
        }
    }

    fn end_look(&mut self) {
        if let Some(look) = self.look.take() {
            look.abort();
        }
    }

    pub(crate) fn publish(&mut self, publication: Publication) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        self.promised += u64::from(publication.at_least_once());
        // If it is over, its last event says so, and everything is sent again on the next.
        connection.publish(Message {
            topic: topic(&self.address.device, publication.kind),
            at_least_once: publication.at_least_once(),
            retain: publication.retained(),
            frequent: publication.kind == Kind::Data,
            payload: publication.payload,
        });
    }

    /// What happens next; never, without a connection. May be dropped at any time without loss.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            let Some(connection) = &mut self.connection else {
                return std::future::pending().await;
            };
            let event = tokio::select! {
                event = connection.event() => event,
                answers = looked(&mut self.look) => {
                    self.look = None;
                    if self.rotation.looked(Instant::now(), answers) {
                        log::info!("{} is there again; going back to it", self.address.brokers[0]);
                        connection.disconnect();
                    }
                    continue;
                }
            };
            return match event {
                mqtt::Event::Open => Event::Open,
                mqtt::Event::Message { topic, payload, .. } if topic == self.topics.ack => {
                    Event::Ack(payload.into())
                }
                mqtt::Event::Message { topic, payload, .. } if topic == self.topics.command => {
                    Event::Command(payload.into())
                }
                mqtt::Event::Message { .. } => continue,
                mqtt::Event::Sent => Event::Sent,
                mqtt::Event::Confirmed => Event::Confirmed,
                mqtt::Event::Closed(end) => Event::Closed(end),
            };
        }
    }

    /// Sends what the uplink still has to say, waits until the broker has it, and disconnects.
    pub(crate) async fn goodbye(&mut self, uplink: &mut Uplink, journal: &mut dyn Journal) {
        let mut unconfirmed = 0u32;
        let mut disconnecting = false;
        while self.is_open() {
            while self.has_room()
                && let Some(publication) = uplink.next(Instant::now(), journal)
            {
                unconfirmed += u32::from(publication.at_least_once());
                self.publish(publication);
            }
            if unconfirmed == 0 && !disconnecting {
                disconnecting = true;
                if let Some(connection) = &mut self.connection {
                    connection.disconnect();
                }
            }
            match self.event().await {
                Event::Confirmed => unconfirmed = unconfirmed.saturating_sub(1),
                Event::Closed(_) => return,
                _ => {}
            }
        }
    }
}

/// The end of a look; never, without one.
async fn looked(look: &mut Option<JoinHandle<bool>>) -> bool {
    match look {
        Some(look) => look.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}
